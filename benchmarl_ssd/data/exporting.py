"""Writes a dataset as one HDF5 file, for whoever reads it elsewhere."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.files import expect_nothing
from benchmarl_ssd.data.layout import TensorInfo
from benchmarl_ssd.data.metadata import FORMAT, FORMAT_VERSION, DatasetMetadata
from benchmarl_ssd.data.validation import Check, validate

METADATA = "metadata.json"
"""Name of the string in the file that holds the dataset's ``metadata.json``."""
DTYPE = "torch_dtype"
"""Attribute of every array: the torch dtype of its values."""
BFLOAT16 = "bfloat16"
"""The one dtype that HDF5 lacks; it is stored as the bits, in uint16."""

_CHUNK = 1024**2
_PIECE = 8 * 1024**2


def export(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    compress: bool = True,
    check: Check = "auto",
    progress: bool = True,
) -> Path:
    """Write a dataset as an HDF5 file with the same keys, such as ``agents/observation``.

    The file appears under its name when it is whole, and replaces nothing. Every array carries a
    checksum that HDF5 verifies on reading. ``benchmarl-ssd import hdf5`` makes the very same
    dataset of it.

    Args:
        path: the dataset's folder.
        out: the file to write; it must not exist.
        compress: whether to compress the values, without loss.
        check: what to verify of the dataset before, as for
            :class:`~benchmarl_ssd.data.OfflineDataset`.
        progress: whether to draw a progress bar on stderr, if that is a terminal.

    Returns:
        The file.

    Raises:
        DatasetError: if the folder is no sound dataset, or the file exists or cannot be written.
        ImportError: if h5py is not installed.

    Example:
        >>> import h5py, tempfile
        >>> from benchmarl_ssd.data.examples import write_example
        >>> file = export(write_example(), tempfile.mkdtemp() + "/d.hdf5", progress=False)
        >>> with h5py.File(file) as archive:
        ...     archive["next/agents/reward"].shape
        (20, 2, 1)
    """
    from benchmarl_ssd.data.importers.hdf5 import import_h5py

    h5py = import_h5py()
    folder, file = Path(path), Path(os.path.abspath(out))  # noqa: PTH100 - keep links as they are
    expect_nothing(file)
    if file.resolve().is_relative_to(folder.resolve()):
        raise DatasetError(
            f"expected a file outside of {folder}, found {file}; a dataset stays as it is"
        )
    if not file.parent.is_dir():
        raise DatasetError(f"expected a folder at {file.parent}, found none; make it first")
    metadata = validate(folder, check)
    temporary = file.parent / f".{file.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with temporary.open("x+b", buffering=0) as raw:
            disk = _Disk(raw)
            with h5py.File(disk, "w") as archive:
                _write(archive, h5py, folder, metadata, compress, progress, disk.check)
            disk.check()
            os.fsync(raw.fileno())
        _commit(temporary, file)
    except OSError as error:
        raise DatasetError(
            f"cannot write {file}: {error.strerror or error}; "
            "choose a folder with room that can be written; nothing is left of this file"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return file


class _Disk:
    """A file for HDF5 that keeps a failure to itself, to be asked for.

    Told of a full disk in the middle of its work, HDF5 repeats its complaint for every object that
    it closes, straight to stderr.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._error: OSError | None = None
        self.seek, self.tell = file.seek, file.tell
        self.read, self.readinto = file.read, file.readinto

    def check(self) -> None:
        """Raise what has failed, if anything has."""
        if self._error is not None:
            raise self._error

    def write(self, content: Any) -> int:
        size = memoryview(content).nbytes
        try:
            rest = memoryview(content).cast("B")
            while self._error is None and len(rest):
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int) -> int:
        try:
            if self._error is None:
                self._file.truncate(size)
        except OSError as error:
            self._error = error
        return size

    def flush(self) -> None:
        pass


def _write(
    archive: Any,
    h5py: Any,
    folder: Path,
    metadata: DatasetMetadata,
    compress: bool,
    progress: bool,
    check: Callable[[], None],
) -> None:
    archive.attrs["format"] = FORMAT
    archive.attrs["format_version"] = FORMAT_VERSION
    text = h5py.string_dtype("utf-8")
    archive.create_dataset(METADATA, data=metadata.to_json(), dtype=text)
    off = None if progress else True
    with tqdm(total=metadata.size, unit="B", unit_scale=True, file=sys.stderr, disable=off) as bar:
        for name, info in metadata.tensors.items():
            dtype = numpy_dtype(info)
            row = max(1, info.bytes // info.shape[0])
            chunk = (max(1, min(info.shape[0], _CHUNK // row)), *info.shape[1:])
            dataset = archive.create_dataset(
                name,
                info.shape,
                dtype,
                chunks=chunk,
                fletcher32=True,
                **({"compression": "gzip", "compression_opts": 1, "shuffle": True}
                   if compress else {}),
            )  # fmt: skip
            dataset.attrs[DTYPE] = info.dtype
            rows = max(1, _PIECE // (row * chunk[0])) * chunk[0]  # whole chunks at a time
            with (folder / info.file).open("rb", buffering=0) as values:
                for start in range(0, info.shape[0], rows):
                    stop = min(start + rows, info.shape[0])
                    size = (stop - start) * row // dtype.itemsize
                    piece = np.fromfile(values, dtype, size)
                    dataset[start:stop] = piece.reshape(stop - start, *info.shape[1:])
                    check()
                    bar.update(piece.nbytes)


def numpy_dtype(info: TensorInfo) -> np.dtype:
    """Tell the numpy dtype that holds a tensor's values.

    Args:
        info: of the tensor.

    Example:
        >>> numpy_dtype(TensorInfo(4, "", "data/episode.memmap", "bfloat16", (2,)))
        dtype('uint16')
    """
    if info.dtype == BFLOAT16:
        return np.dtype(np.uint16)
    return torch.empty(0, dtype=info.torch_dtype).numpy().dtype


def _commit(temporary: Path, file: Path) -> None:
    """Give the file its name, unless something has that name by now."""
    try:
        os.link(temporary, file)  # unlike a renaming, a link never replaces anything
    except FileExistsError:
        expect_nothing(file)
        raise
    except OSError:  # a file system without links
        expect_nothing(file)
        temporary.rename(file)

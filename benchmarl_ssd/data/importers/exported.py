"""Reads the HDF5 files that ``benchmarl-ssd export`` writes."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDict
from tqdm import tqdm

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.exporting import BFLOAT16, DTYPE, METADATA
from benchmarl_ssd.data.importers.files import reading
from benchmarl_ssd.data.importers.hdf5 import Hdf5Column, open_hdf5
from benchmarl_ssd.data.layout import name_key
from benchmarl_ssd.data.metadata import FORMAT, DatasetMetadata
from benchmarl_ssd.data.writer import DatasetWriter

_PIECE = 8 * 1024**2
_DERIVED = ("episode", "next/done")


def import_exported(
    source: Path, path: str | os.PathLike[str], progress: bool = True
) -> DatasetMetadata:
    """Make a dataset of an exported one, bit for bit the same.

    Args:
        source: the HDF5 file.
        path: the folder to write; it must not exist.
        progress: whether to draw a progress bar on stderr, if that is a terminal.

    Returns:
        The dataset's metadata. It warns if the values were changed since the export.

    Raises:
        DatasetError: if the file is no exported dataset or is damaged.
        ImportError: if h5py is not installed.

    Example:
        >>> import tempfile
        >>> from benchmarl_ssd.data.examples import write_example
        >>> from benchmarl_ssd.data.exporting import export
        >>> folder, example = Path(tempfile.mkdtemp()), write_example()
        >>> file = export(example, folder / "example.hdf5", progress=False)
        >>> copy = import_exported(file, folder / "copy", progress=False)
        >>> copy.checksum == DatasetMetadata.read(example).checksum
        True
    """
    with open_hdf5(source) as file:
        with reading(source):
            found = file.attrs.get("format")
            text = file[METADATA][()] if found == FORMAT and METADATA in file else b""
        if not isinstance(text, bytes) or not text:
            raise DatasetError(
                f"expected a file that `benchmarl-ssd export` wrote, found "
                f"{source} with format {found!r}; import other HDF5 files by `arrays` or `omiga`"
            )
        with reading(source):
            said = DatasetMetadata.from_json(text.decode())
        # What the metadata say is there may be mostly zeros, and the file small.
        columns = {
            name: Hdf5Column(file, source, name, info.bytes) for name, info in said.tensors.items()
        }
        for name, column in columns.items():
            _check(name, column, said)
        about = {name: value for name, value in said.source.items() if name != "versions"}
        writer = DatasetWriter(
            path,
            groups=said.groups,
            action_bounds=said.action_bounds,
            task=said.task,
            id=said.id,
            references=said.references,
            source=about,
        )
        rows = max(1, _PIECE * said.transitions // max(1, said.size))
        off = None if progress else True
        total = said.transitions
        with writer, tqdm(total=total, unit=" steps", file=sys.stderr, disable=off) as bar:
            start = 0
            while start < total:
                piece = _episodes(columns, said, start, rows)
                writer.extend(piece)
                start += len(piece)
                bar.update(len(piece))
    assert writer.metadata is not None
    if writer.metadata.checksum != said.checksum:
        warnings.warn(
            f"{source} was changed since its export: its checksum was {said.checksum}, the "
            f"imported dataset's is {writer.metadata.checksum}",
            stacklevel=2,
        )
    return writer.metadata


def _check(name: str, column: Hdf5Column, said: DatasetMetadata) -> None:
    info = said.tensors[name]
    expected = str(np.dtype(np.uint16)) if info.dtype == BFLOAT16 else info.dtype
    if column.shape != info.shape or str(column.dtype) != expected:
        raise DatasetError(
            f"expected {name} to be {info.dtype}{list(info.shape)} as the file's metadata says, "
            f"found {column.dtype}{list(column.shape)}; export the dataset again"
        )
    if column.attributes.get(DTYPE, info.dtype) != info.dtype:
        raise DatasetError(f"expected {name} to be {info.dtype}; export the dataset again")


def _episodes(
    columns: dict[str, Hdf5Column], said: DatasetMetadata, start: int, rows: int
) -> TensorDict:
    """Read about as many rows as wanted, but whole episodes."""
    stop = min(start + rows, said.transitions)
    done = columns["next/done"]
    while not (ends := np.flatnonzero(done.read(start, stop))).size:
        if stop == said.transitions:
            raise DatasetError(
                f"expected the last transition to end an episode, found none after row {start}; "
                "export the dataset again"
            )
        stop = min(stop + rows, said.transitions)
    stop = start + int(ends[-1]) + 1
    tensors = {}
    for name, column in columns.items():
        if name == "episode":
            continue
        values = torch.from_numpy(column.read(start, stop))
        if said.tensors[name].dtype == BFLOAT16:
            values = values.view(torch.bfloat16)
        tensors[name_key(name)] = values
    return TensorDict(tensors, batch_size=[stop - start])

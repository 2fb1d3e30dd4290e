"""Decides whether a folder is a sound dataset, before anything is read from it."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import torch

from benchmarl_ssd.data import checks
from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.layout import DATA_FOLDER, METADATA_FILE, FileInfo, TensorInfo, index_files
from benchmarl_ssd.data.metadata import DatasetMetadata

Check = Literal["full", "fast", "auto"]

_AUTO_LIMIT = 4 * 1024**3
_CHUNK = 16 * 1024**2


def validate(path: Path, check: Check = "full") -> DatasetMetadata:
    """Check that a folder is a sound dataset.

    Args:
        path: the folder.
        check: ``"fast"``: metadata and the files' sizes; ``"full"``: every value and the files'
            checksums, too; ``"auto"``: full up to 4 GB, fast beyond.

    Returns:
        What the dataset says about itself.

    Raises:
        DatasetError: naming the first thing that is wrong. What the values say comes before the
            checksums, so that a NaN is called a NaN.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> validate(write_example()).counts
        {'transitions': 20, 'episodes': 4, 'terminated': 2, 'truncated': 2}
    """
    if check not in get_args(Check):
        raise DatasetError(
            f"expected check to be one of {', '.join(get_args(Check))}, found {check!r}"
        )
    _check_folder(path)
    metadata = DatasetMetadata.read(path)
    _check_files(path, metadata)
    _check_metadata(metadata)
    if check == "full" or (check == "auto" and metadata.size <= _AUTO_LIMIT):
        _check_contents(path, metadata)
        _check_checksums(path, metadata)
    return metadata


def _check_folder(path: Path) -> None:
    expected = f"a dataset is a folder with {METADATA_FILE} and {DATA_FOLDER}/"
    if not path.exists():
        raise DatasetError(f"expected a dataset at {path}, found nothing there; {expected}")
    if not path.is_dir():
        raise DatasetError(f"expected a folder at {path}, found a file; {expected}")
    for name in (METADATA_FILE, DATA_FOLDER):
        if not (path / name).exists():
            raise DatasetError(f"expected {name} in {path}, found none; {expected}")
    if not (path / METADATA_FILE).is_file():
        raise DatasetError(f"expected a file at {path / METADATA_FILE}; {expected}")


def _check_files(path: Path, metadata: DatasetMetadata) -> None:
    root = path.resolve()
    for name, info in _files(metadata).items():
        file = path / name
        try:
            status = file.stat()
        except OSError as error:
            raise DatasetError(
                f"expected {name} in {path}, found {error.strerror or error}; "
                "copy the dataset again or record it again"
            ) from None
        if not stat.S_ISREG(status.st_mode) or not file.resolve().is_relative_to(root):
            raise DatasetError(
                f"expected {name} to be a file in {path}, found a link out of it or something "
                "else; copy the dataset with its contents"
            )
        if status.st_size != info.bytes:
            raise DatasetError(
                f"expected {info.bytes} bytes in {file}, found {status.st_size}: the file is "
                f"{'truncated' if status.st_size < info.bytes else 'too long'}; "
                "copy the dataset again or record it again"
            )


def _files(metadata: DatasetMetadata) -> dict[str, FileInfo]:
    return {info.file: info for info in metadata.tensors.values()} | metadata.index


def _check_metadata(metadata: DatasetMetadata) -> None:
    specs = {name: (info.torch_dtype, info.shape) for name, info in metadata.tensors.items()}
    if not metadata.transitions or any(0 in shape for _, shape in specs.values()):
        raise DatasetError("expected transitions, found an empty dataset; record it again")
    checks.check_layout(specs, metadata.groups)
    checks.check_bounds(metadata.action_bounds, specs)
    if metadata.tensors["episode"].shape[0] != metadata.transitions:
        raise DatasetError(
            f"expected {metadata.transitions} transitions as {METADATA_FILE} counts them, found "
            f"{metadata.tensors['episode'].shape[0]}; record the dataset again"
        )
    if metadata.index.keys() != index_files(specs).keys():
        raise DatasetError(
            f"expected {', '.join(index_files(specs))} at index in {METADATA_FILE}, found "
            f"{', '.join(metadata.index) or 'nothing'}; record the dataset again"
        )
    if metadata.checksum != metadata.total_checksum():
        raise DatasetError(
            f"expected checksum {metadata.total_checksum()} in {METADATA_FILE}, found "
            f"{metadata.checksum or 'none'}: the file was changed; copy the dataset again"
        )


def _check_contents(path: Path, metadata: DatasetMetadata) -> None:
    for name, info in metadata.tensors.items():
        group = name.removesuffix("/action")
        limits = metadata.bounds(group) if group in metadata.groups else None
        if not info.torch_dtype.is_floating_point and limits is None:
            continue
        for row, values in _chunks(path, info):
            checks.check_values(name, values, row)
            if limits is not None:
                checks.check_actions(name, values, *limits, row)
    _check_episodes(path, metadata)


def _check_episodes(path: Path, metadata: DatasetMetadata) -> None:
    length = _CHUNK // 8
    columns = [_chunks(path, metadata.tensors[n], length) for n in ("episode", *checks.FLAGS)]
    current = 0
    for (row, episode), (_, done), (_, terminated), (_, truncated) in zip(*columns, strict=True):
        checks.check_flags(done, terminated, truncated, row)
        ends = done.flatten().long()
        expected = current + torch.cumsum(ends, 0) - ends
        if not torch.equal(episode, expected):
            at = int((episode != expected).nonzero()[0])
            raise DatasetError(
                f"expected episode {int(expected[at])}, found {int(episode[at])} at transition "
                f"{row + at}: episodes count up from 0 and change after done; record the data again"
            )
        current += int(ends.sum())
    if current != metadata.episodes or not bool(done[-1]):
        raise DatasetError(
            f"expected {metadata.episodes} whole episodes, found {current} that end; "
            "record the dataset again"
        )


def _check_checksums(path: Path, metadata: DatasetMetadata) -> None:
    for name, info in _files(metadata).items():
        digest = hashlib.sha256()
        with (path / name).open("rb") as file:
            while block := file.read(_CHUNK):
                digest.update(block)
        if digest.hexdigest() != info.sha256:
            raise DatasetError(
                f"expected checksum {info.sha256} of {path / name}, found {digest.hexdigest()}: "
                "the contents were changed; copy the dataset again or record it again"
            )


def _chunks(
    path: Path, info: TensorInfo, rows: int | None = None
) -> Iterator[tuple[int, torch.Tensor]]:
    """Read a tensor's rows in pieces, so that memory stays flat however large the file is."""
    rows = rows or max(1, _CHUNK * info.shape[0] // info.bytes)
    row_bytes = info.bytes // info.shape[0]
    with (path / info.file).open("rb") as file:
        for start in range(0, info.shape[0], rows):
            count = min(rows, info.shape[0] - start)
            block = bytearray(file.read(count * row_bytes))
            yield (
                start,
                torch.frombuffer(block, dtype=info.torch_dtype).view(count, *info.shape[1:]),
            )

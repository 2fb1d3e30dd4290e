"""Decides whether a folder is a sound dataset, before anything is read from it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from benchmarl_ssd.data import checks
from benchmarl_ssd.data.contents import find_contents
from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.findings import Finding, raise_first
from benchmarl_ssd.data.layout import DATA_FOLDER, METADATA_FILE, FileInfo, index_files
from benchmarl_ssd.data.metadata import DatasetMetadata

Check = Literal["full", "fast", "auto"]

_AUTO_LIMIT = 4 * 1024**3


def validate(path: str | os.PathLike[str], check: Check = "full") -> DatasetMetadata:
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
    path = Path(path)
    raise_first(find_folder(path))
    metadata = DatasetMetadata.read(path)
    raise_first(find_files(path, metadata))
    raise_first(find_metadata(metadata))
    if check == "full" or (check == "auto" and metadata.size <= _AUTO_LIMIT):
        raise_first(find_contents(path, metadata))
    return metadata


def find_folder(path: Path) -> Iterator[Finding]:
    """Find what keeps a path from being a dataset's folder.

    Args:
        path: the folder.

    Yields:
        What is missing; nothing but the folder's entries has been looked at.
    """
    mend = f"a dataset is a folder with {METADATA_FILE} and {DATA_FOLDER}/"
    if not path.exists():
        yield Finding("folder", f"a dataset at {path}", "nothing there", mend)
    elif not path.is_dir():
        yield Finding("folder", f"a folder at {path}", "a file", mend)
    else:
        for name in (METADATA_FILE, DATA_FOLDER):
            if not (path / name).exists():
                yield Finding("folder", f"{name} in {path}", "none", mend, key=name)
        file = path / METADATA_FILE
        if file.exists() and not file.is_file():
            yield Finding("folder", f"a file at {file}", "something else", mend, key=METADATA_FILE)


def find_files(path: Path, metadata: DatasetMetadata) -> Iterator[Finding]:
    """Find files that are missing, of another size, or not in the folder.

    Args:
        path: the dataset's folder.
        metadata: what it says about itself.

    Yields:
        Each such file; its path is the finding's ``key``.
    """
    root = path.resolve()
    for name, info in files(metadata).items():
        file = path / name
        try:
            status = file.stat()
        except OSError as error:
            yield Finding(
                "files",
                f"{name} in {path}",
                f"{error.strerror or error}",
                "copy the dataset again or record it again",
                key=name,
            )
            continue
        if not stat.S_ISREG(status.st_mode) or not file.resolve().is_relative_to(root):
            yield Finding(
                "files",
                f"{name} to be a file in {path}",
                "a link out of it or something else",
                "copy the dataset with its contents",
                key=name,
            )
        elif status.st_size != info.bytes:
            yield Finding(
                "files",
                f"{info.bytes} bytes in {file}",
                f"{status.st_size}: the file is "
                f"{'truncated' if status.st_size < info.bytes else 'too long'}",
                "copy the dataset again or record it again",
                key=name,
            )


def files(metadata: DatasetMetadata) -> dict[str, FileInfo]:
    """List all files of a dataset but the metadata, by path.

    Args:
        metadata: what the dataset says about itself.
    """
    return {info.file: info for info in metadata.tensors.values()} | metadata.index


def find_metadata(metadata: DatasetMetadata) -> Iterator[Finding]:
    """Find what is at odds within a dataset's metadata.

    Args:
        metadata: what the dataset says about itself.

    Yields:
        Tensors, action bounds, counts, index and checksum that do not fit the others.
    """
    specs = {name: (info.torch_dtype, info.shape) for name, info in metadata.tensors.items()}
    if not metadata.transitions or any(0 in shape for _, shape in specs.values()):
        yield Finding("shape", "transitions", "an empty dataset", "record it again")
    yield from checks.find_layout(specs, metadata.groups)
    yield from checks.find_bounds(metadata.action_bounds, specs)
    if "episode" in specs and specs["episode"][1][0] != metadata.transitions:
        yield Finding(
            "metadata",
            f"{metadata.transitions} transitions as {METADATA_FILE} counts them",
            f"{specs['episode'][1][0]}",
            "record the dataset again",
            key=METADATA_FILE,
        )
    index = index_files(specs) if specs else {}
    if metadata.index.keys() != index.keys():
        yield Finding(
            "metadata",
            f"{', '.join(index)} at index in {METADATA_FILE}",
            f"{', '.join(metadata.index) or 'nothing'}",
            "record the dataset again",
            key=METADATA_FILE,
        )
    if metadata.checksum != metadata.total_checksum():
        yield Finding(
            "checksum",
            f"checksum {metadata.total_checksum()} in {METADATA_FILE}",
            f"{metadata.checksum or 'none'}: the file was changed",
            "copy the dataset again",
            key=METADATA_FILE,
        )

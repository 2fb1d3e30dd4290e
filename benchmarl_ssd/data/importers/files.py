"""Opens a stranger's files: only regular ones, only inside of their folder, never by pickle."""

from __future__ import annotations

import math
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.columns import Column

EXPANSION_LIMIT = 100
"""How many times larger than its file an archive's contents may be, beyond EXPANSION_FREE."""
EXPANSION_FREE = 256 * 1024**2
"""Contents of up to this many bytes are read, however small the file is."""


def source_file(path: Path, root: Path | None = None) -> Path:
    """Check that a file can be read, and lies where it seems to lie.

    Args:
        path: the file.
        root: the folder that the user named; links in it may not lead out of it.

    Returns:
        The file.

    Raises:
        DatasetError: if there is no such file, it is no regular one, or a link leads out of root.
    """
    with reading(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DatasetError(f"expected a file at {path}, found something else; name a data file")
    if root is not None and not path.resolve().is_relative_to(root.resolve()):
        raise DatasetError(
            f"expected files in {root}, found {path.name} to be a link out of it, to "
            f"{path.resolve()}; copy that file into the folder"
        )
    return path


def source_folder(path: Path, example: str) -> Path:
    """Check that a folder is one.

    Args:
        path: the folder.
        example: what it should be, for the error.

    Raises:
        DatasetError: if it is no folder.
    """
    if not path.is_dir():
        found = "a file" if path.is_file() else "nothing there"
        raise DatasetError(f"expected a folder at {path}, found {found}; give {example}")
    return path


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever reading a damaged or unreadable file raises into a DatasetError.

    Args:
        path: the file, for the error.
    """
    try:
        yield
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError(
            f"expected {path.name} in {path.parent}, found none; complete the source"
        ) from None
    except OSError as error:
        raise DatasetError(
            f"cannot read {path}: {error.strerror or error}; make it readable, or copy it again"
        ) from None
    # What numpy, zipfile, zlib, h5py and tensorstore raise for damaged contents.
    except (
        ValueError, KeyError, EOFError, RuntimeError, NotImplementedError,
        zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        text = " ".join(str(error).split())
        raise DatasetError(
            f"cannot read {path}: it is damaged or something else ("
            f"{text if len(text) < 160 else text[:157] + '...'}); copy it again"
        ) from None


def check_expansion(path: Path, stored: int, expanded: int) -> None:
    """Refuse contents that are absurdly larger than the file: a mistake, or a bomb.

    Args:
        path: the file, for the error.
        stored: its size in bytes.
        expanded: the size of its contents in bytes.

    Raises:
        DatasetError: if the contents are larger than both limits.
    """
    if expanded > max(EXPANSION_FREE, EXPANSION_LIMIT * stored):
        raise DatasetError(
            f"expected contents of at most {EXPANSION_LIMIT} times the file, found "
            f"{expanded / 1e9:,.2f} GB in {stored / 1e6:,.2f} MB of {path}; "
            "if they are really that uniform, save them without compression"
        )


def read_header(file: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of an npy file.

    Args:
        file: an open file at its beginning.
        name: what errors call it.

    Returns:
        Shape, whether the order is Fortran's, and the dtype.

    Raises:
        DatasetError: if the values could only be read by pickle.
        ValueError: if it is no npy file.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"npy version {version}")
    if dtype.hasobject:
        raise DatasetError(
            f"expected numbers in {name}, found Python objects, which only pickle could read, and "
            "a pickle can run any code; save the array with a numeric dtype"
        )
    return shape, fortran, dtype


class NpyFile(Column):
    """A column in an npy file, read piece by piece.

    Args:
        path: the file.
        root: the folder that the user named.

    Raises:
        DatasetError: if the file is not whole, or holds Python objects.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "rews_0.npy"
        >>> np.save(path, np.arange(5.0))
        >>> NpyFile(path).read(2, 4).tolist()
        [2.0, 3.0]
    """

    def __init__(self, path: Path, root: Path | None = None) -> None:
        self.path = source_file(path, root)
        with reading(path), path.open("rb") as file:
            shape, self._fortran, dtype = read_header(file, path.name)
            self._offset = file.tell()
        super().__init__(path.name, shape, dtype)
        expected = self._offset + math.prod(shape) * dtype.itemsize
        if path.stat().st_size != expected:
            short = path.stat().st_size < expected
            raise DatasetError(
                f"expected {expected} bytes in {path}, found {path.stat().st_size}: the file is "
                f"{'truncated' if short else 'too long'}; copy it again"
            )

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows.

        Args:
            start: the first row.
            stop: one beyond the last row.
        """
        with reading(self.path), self.path.open("rb", buffering=0) as file:
            if self._fortran and len(self.shape) > 1:
                mapped = np.memmap(
                    file, self.dtype, "r", self._offset, self.shape, order="F"
                )  # rows are scattered over all of the file
                return np.array(mapped[start:stop], order="C")
            row = math.prod(self.shape[1:])
            file.seek(self._offset + start * row * self.dtype.itemsize, os.SEEK_SET)
            values = np.fromfile(file, self.dtype, (stop - start) * row)
            return values.reshape(stop - start, *self.shape[1:])

"""Reads npz archives piece by piece, without unpacking them and without pickle."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.columns import Column
from benchmarl_ssd.data.importers.files import check_expansion, read_header, reading, source_file


@contextmanager
def open_npz(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an npz archive for reading.

    Args:
        path: the archive.

    Yields:
        The archive as a zip file.

    Raises:
        DatasetError: if it cannot be read, or its contents are absurdly larger than itself.
    """
    source_file(path)
    with reading(path):
        archive = zipfile.ZipFile(path)
    try:
        expanded = sum(member.file_size for member in archive.infolist())
        check_expansion(path, path.stat().st_size, expanded)
        yield archive
    finally:
        archive.close()


def names(archive: zipfile.ZipFile) -> list[str]:
    """List the arrays of an archive.

    Args:
        archive: as :func:`open_npz` gives it.
    """
    return sorted(name.removesuffix(".npy") for name in archive.namelist())


class NpzColumn(Column):
    """A column in an npz archive, unpacked as it is read.

    Args:
        archive: the open archive.
        path: where it is, for errors.
        name: the array's name.

    Raises:
        DatasetError: if there is no such array, it is not whole, or holds Python objects.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path, name: str) -> None:
        self._archive, self._path, self._member = archive, path, f"{name}.npy"
        if self._member not in archive.namelist():
            raise DatasetError(
                f"expected {name!r} in {path}, found {', '.join(names(archive)) or 'nothing'}; "
                "name its arrays by --mapping"
            )
        with reading(path), archive.open(self._member) as file:
            shape, self._fortran, dtype = read_header(file, self._member)
            offset = file.tell()
        super().__init__(name, shape, dtype)
        expected = offset + math.prod(shape) * dtype.itemsize
        found = archive.getinfo(self._member).file_size
        if found != expected:
            raise DatasetError(
                f"expected {expected} bytes of {self._member} in {path}, found {found}; "
                "the array is not whole: save it again"
            )
        self._file: Any = None
        self._row = 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows.

        Args:
            start: the first row: 0, or the one after the last that was read.
            stop: one beyond the last row.
        """
        with reading(self._path):
            if self._fortran and len(self.shape) > 1:  # no row is whole before the archive's end
                if self._file is None:
                    values = np.frombuffer(self._bytes(len(self), restart=True), self.dtype)
                    self._file = values.reshape(self.shape, order="F")
                return np.ascontiguousarray(self._file[start:stop])
            if start != self._row:
                assert start == 0, "columns of an archive are read forwards"
            raw = self._bytes(stop - start, restart=start == 0)
            self._row = stop
            if stop == len(self) and self._file.read(1):  # the end also tells whether all is whole
                raise EOFError(f"{self._member} does not end")
            return np.frombuffer(raw, self.dtype).reshape(stop - start, *self.shape[1:])

    def _bytes(self, rows: int, restart: bool) -> bytes:
        file = self._file
        if restart:
            file = self._archive.open(self._member)
            read_header(file, self._member)
            if not self._fortran:
                self._file = file
        size = rows * math.prod(self.shape[1:]) * self.dtype.itemsize
        raw = file.read(size)
        if len(raw) != size:
            raise EOFError(f"{self._member} ends early")
        return raw

"""Opens HDF5 files without following what leads out of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.columns import Column
from benchmarl_ssd.data.importers.files import check_expansion, reading, source_file


def import_h5py() -> Any:
    """Import h5py.

    Raises:
        ImportError: saying how to install it.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"expected h5py for HDF5 files, found none ({error}); pip install 'benchmarl-ssd[hdf5]'"
        ) from None
    return h5py


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading.

    Args:
        path: the file.

    Yields:
        The ``h5py.File``.

    Raises:
        DatasetError: if it cannot be read.
        ImportError: if h5py is not installed.
    """
    h5py = import_h5py()
    source_file(path)
    with reading(path):
        if not h5py.is_hdf5(path):
            raise DatasetError(f"expected an HDF5 file at {path}, found something else")
        file = h5py.File(path, "r")
    try:
        yield file
    finally:
        file.close()


class Hdf5Column(Column):
    """A column in an HDF5 file, read piece by piece.

    Args:
        file: the open file.
        path: where it is, for errors.
        name: the dataset's name in the file.
        expected_bytes: how many bytes it is known to hold; else what expands beyond any sense is
            refused.

    Raises:
        DatasetError: if there is no such dataset in this very file, or it is no array of numbers.
    """

    def __init__(self, file: Any, path: Path, name: str, expected_bytes: int | None = None) -> None:
        h5py = import_h5py()
        self.path = path
        with reading(path):
            node = file
            for part in name.split("/"):
                link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
                if link is None:
                    raise DatasetError(
                        f"expected {name!r} in {path}, found {', '.join(names(file)) or 'nothing'};"
                        " complete the file or choose another format"
                    )
                if not isinstance(link, h5py.HardLink):
                    raise DatasetError(
                        f"expected {name!r} to lie in {path}, found a link; copy the data into it"
                    )
                node = node[part]
            if not isinstance(node, h5py.Dataset) or node.external or node.is_virtual:
                found = "a group" if isinstance(node, h5py.Group) else "a link to other files"
                raise DatasetError(
                    f"expected {name!r} to be an array in {path}, found {found}; store the values"
                )
            self._dataset = node
            if node.shape is None:
                raise DatasetError(f"expected values as {name!r} in {path}, found none; add some")
            super().__init__(name, node.shape, node.dtype)
            expanded = math.prod(node.shape) * node.dtype.itemsize
            if expanded != expected_bytes:
                check_expansion(path, path.stat().st_size, expanded)

    @property
    def attributes(self) -> dict[str, Any]:
        """The dataset's attributes."""
        return dict(self._dataset.attrs)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows.

        Args:
            start: the first row.
            stop: one beyond the last row.
        """
        with reading(self.path):
            return self._dataset[start:stop]


def names(file: Any) -> list[str]:
    """List the arrays of an HDF5 file.

    Args:
        file: the open file.
    """
    found: list[str] = []
    h5py = import_h5py()
    file.visititems(
        lambda name, node: found.append(name) if isinstance(node, h5py.Dataset) else None
    )
    return sorted(found)

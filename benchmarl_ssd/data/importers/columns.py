"""One quantity of a source, read piece by piece: what every importer makes of its files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarl_ssd.data.errors import DatasetError


class Column(ABC):
    """One quantity over all rows of a source.

    Rows are read forwards, piece after piece; a column need not be able to go back, except to its
    first row.

    Args:
        name: what errors call it, such as ``obs_0.npy``.
        shape: ``(T, ...)``.
        dtype: of the values, a number's.

    Raises:
        DatasetError: if the values are no numbers, or there are no rows.
    """

    def __init__(self, name: str, shape: Sequence[int], dtype: Any) -> None:
        self.name = name
        self.shape = tuple(int(size) for size in shape)
        self.dtype = np.dtype(dtype)
        if self.dtype.kind not in "fiub":
            raise DatasetError(
                f"expected numbers in {name}, found dtype {self.dtype}; save it as float, int or "
                "bool"
            )
        if not self.shape or 0 in self.shape:
            raise DatasetError(
                f"expected rows of at least one number in {name}, found shape {list(self.shape)}; "
                "give one row per step"
            )

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows.

        Args:
            start: the first row.
            stop: one beyond the last row.
        """


class Values(Column):
    """A column that is an array already, in memory or mapped from a file.

    Args:
        name: what errors call it.
        array: ``[T, ...]``, an array or a tensor.

    Example:
        >>> Values("rewards", [1.0, 2.0]).read(1, 2)
        array([2.])
    """

    def __init__(self, name: str, array: Any) -> None:
        if hasattr(array, "detach"):
            array = array.detach().cpu().numpy()
        try:
            self._array = np.asanyarray(array)
        except ValueError as error:  # rows of unequal lengths
            raise DatasetError(f"expected an array as {name}, found none ({error})") from None
        super().__init__(name, self._array.shape, self._array.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows.

        Args:
            start: the first row.
            stop: one beyond the last row.
        """
        return np.asarray(self._array[start:stop])


class Derived(Column):
    """A column computed from others, row by row.

    Args:
        name: what errors call it.
        columns: what it is computed from.
        function: takes the pieces ``[t, ...]`` of the columns and gives a piece ``[t, ...]``.
        shape: ``(T, ...)``.
        dtype: of the values.

    Example:
        >>> Derived("twice", [Values("x", [1, 2])], lambda x: 2 * x, (2,), int).read(0, 2)
        array([2, 4])
    """

    def __init__(
        self,
        name: str,
        columns: Sequence[Column],
        function: Callable[..., np.ndarray],
        shape: Sequence[int],
        dtype: Any,
    ) -> None:
        super().__init__(name, shape, dtype)
        self._columns, self._function = list(columns), function

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows.

        Args:
            start: the first row.
            stop: one beyond the last row.
        """
        return self._function(*(column.read(start, stop) for column in self._columns))


def stack_agents(columns: Sequence[Column]) -> Column:
    """Make one column ``[T, n, ...]`` of the agents' columns ``[T, ...]``.

    Args:
        columns: one per agent.

    Raises:
        DatasetError: naming the first whose shape is not that of the first agent's.

    Example:
        >>> stack_agents([Values("a", [[1], [2]]), Values("b", [[3], [4]])]).read(0, 1)
        array([[[1],
                [3]]])
    """
    first = columns[0]
    for other in columns[1:]:
        if other.shape != first.shape:
            raise DatasetError(
                f"expected {other.name} to be of shape {list(first.shape)} as {first.name} is, "
                f"found {list(other.shape)}; every agent needs the same steps and sizes"
            )
    shape = (len(first), len(columns), *first.shape[1:])
    dtype = np.result_type(*(column.dtype for column in columns))
    name = f"{first.name} to {columns[-1].name}" if len(columns) > 1 else first.name
    return Derived(name, columns, lambda *parts: np.stack(parts, axis=1), shape, dtype)


def episode_numbers(lengths: Column, rows: int) -> Column:
    """Make a column that numbers the episodes, of the episodes' lengths.

    Args:
        lengths: whole numbers of steps, ``[E]``.
        rows: how many rows there are in all.

    Raises:
        DatasetError: if a length is no whole number of at least 1, or they do not add up to rows.

    Example:
        >>> episode_numbers(Values("path_lengths", [1, 2]), 3).read(0, 3)
        array([0, 1, 1])
    """
    values = lengths.read(0, len(lengths)).reshape(-1)
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(values) & (values >= 1) & (values < 2**53) & (values % 1 == 0)
    if not whole.all():
        raise DatasetError(
            f"expected whole numbers of at least 1 in {lengths.name}, found "
            f"{values[:5].tolist()}...; give the number of steps of each episode"
        )
    ends = np.cumsum(values.astype(np.int64))
    if ends[-1] != rows:
        raise DatasetError(
            f"expected {lengths.name} to add up to the {rows} steps of the source, found "
            f"{int(ends[-1])}; the source is not whole: copy it again"
        )
    return RowNumbers(lengths.name, rows, ends)


class RowNumbers(Column):
    """The number of the episode of each row.

    Args:
        name: what errors call it.
        rows: how many there are.
        ends: one beyond the last row of each episode, ascending.
    """

    def __init__(self, name: str, rows: int, ends: np.ndarray) -> None:
        super().__init__(name, (rows,), np.int64)
        self._ends = ends

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows.

        Args:
            start: the first row.
            stop: one beyond the last row.
        """
        return np.searchsorted(self._ends, np.arange(start, stop), side="right")

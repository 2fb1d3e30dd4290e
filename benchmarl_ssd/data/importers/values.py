"""Brings a source's values into a dataset's form, and refuses those that mean nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.episodes import Rows
from benchmarl_ssd.data.importers.table import Table


class Padding:
    """Where observations are padded with -inf, as OG-MARL's tag and world vaults are.

    Args:
        strip: whether to strip the padding; else the first one is an error. What is -inf for all
            agents is left out; what is -inf for some agents is set to zero for these.

    Example:
        >>> padding = Padding(strip=True)
        >>> inf = float("inf")
        >>> observation = np.array([[[1.0, 2.0, -inf], [3.0, -inf, -inf]]], dtype="float32")
        >>> padding.remove("observations", "observation", observation, row=0)
        array([[[1., 2.],
                [3., 0.]]], dtype=float32)
    """

    def __init__(self, strip: bool = False) -> None:
        self._strip = strip
        self._masks: dict[str, np.ndarray] = {}
        #: what was stripped, to be reported
        self.notes: dict[str, str] = {}

    def remove(self, column: str, name: str, values: np.ndarray, row: int) -> np.ndarray:
        """Strip the padding of observations.

        Args:
            column: what errors call the column.
            name: ``observation`` or ``next_observation``; the two are padded alike.
            values: ``[t, n, ...]``.
            row: the source's row that ``values[0]`` is.

        Raises:
            DatasetError: if there is padding and it is not to be stripped, or if it is not the
                same in every row.
        """
        padded = np.isneginf(values)
        kind = name.removeprefix("next_")
        if kind not in self._masks:
            self._masks[kind] = padded[0].copy()
        mask = self._masks[kind]
        if not mask.any() and not padded.any():
            return values
        if not self._strip:
            at = row + int(padded.reshape(len(values), -1).any(axis=1).argmax())
            raise DatasetError(
                f"expected finite values, found -inf in {column} at row {at}, which pads shorter "
                "observations in some sources; give --strip-padding to leave that out"
            )
        differ = (padded != mask).reshape(len(values), -1).any(axis=1)
        if differ.any():
            raise DatasetError(
                f"expected -inf in {column} only where every row has it, as padding, found others "
                f"at row {row + int(differ.argmax())}; repair the source"
            )
        values = np.where(mask, np.float32(0), values)
        everywhere = mask.all(axis=0)
        if mask.ndim == 2 and everywhere.any():
            values = np.ascontiguousarray(values[..., ~everywhere])
        stripped = int(everywhere.sum()) if mask.ndim == 2 else 0
        zeroed = int((mask & ~everywhere).sum()) if mask.ndim == 2 else int(mask.sum())
        self.notes[kind] = f"-inf: {stripped} entries of all agents left out, {zeroed} set to zero"
        if not values.size:
            raise DatasetError(f"expected values in {column}, found nothing but padding")
        return values


def converted(table: Table, rows: Rows, row: int, padding: Padding) -> Rows:
    """Bring rows of a table into the form in which datasets store them.

    Floating point becomes float32, and so do whole-numbered observations, states and rewards (exact
    up to 2**24); whole-numbered actions become int64, masks and flags bool, rewards
    ``[t, n, 1]``, flags and episodes ``[t]``. A step is over for the team when it is for all of
    its agents, by itself or by time, and terminated if it is for one of them.

    Args:
        table: the source.
        rows: some of its rows, by column.
        row: the number of the first one.
        padding: what to do with -inf in observations.

    Raises:
        DatasetError: naming column and row of the first value that is not finite, or no flag.
    """
    result: Rows = {}
    values: Any
    for name, values in rows.items():
        column = table.columns[name].name
        if name in ("terminated", "truncated"):
            result[name] = _flags(column, values, row).reshape(len(values), -1)
        elif name.endswith("action_mask"):
            result[name] = _flags(column, values, row)
        elif name == "episode":
            result[name] = _episodes(column, values.reshape(-1), row)
        elif name == "action" and table.discrete:
            squeeze = values.ndim == 3 and values.shape[-1] == 1
            result[name] = (values[..., 0] if squeeze else values).astype(np.int64)
        else:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
                values = values.astype(np.float32, order="C")
            if name.endswith("observation"):
                values = padding.remove(column, name, values, row)
            _check_finite(column, values, row)
            if name == "reward":
                values = values.reshape(len(values), -1, 1)
                values = np.repeat(values, table.agents // values.shape[1], axis=1)
            elif name == "action" and values.ndim == 2:
                values = values[..., None]
            result[name] = values
    _join_agents(result)
    return result


def _join_agents(rows: Rows) -> None:
    """Make the team's flags ``[t]`` of its agents', ``[t, n]`` or ``[t, 1]``."""
    flags = {name: rows[name] for name in ("terminated", "truncated") if name in rows}
    if flags:
        marks = np.broadcast_arrays(*flags.values())
        over = np.logical_or.reduce(marks).all(axis=1)
        rows |= {name: over & values.any(axis=1) for name, values in flags.items()}


def _check_finite(column: str, values: np.ndarray, row: int) -> None:
    wrong = ~np.isfinite(values)
    if wrong.any():
        at = int(wrong.reshape(len(values), -1).any(axis=1).argmax())
        raise DatasetError(
            f"expected finite values, found {values[at][wrong[at]].flat[0]} in {column} at row "
            f"{row + at}; repair or drop that episode"
        )


def _flags(column: str, values: np.ndarray, row: int) -> np.ndarray:
    if values.dtype.kind == "b":
        return values.copy()
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        at = int(wrong.reshape(len(values), -1).any(axis=1).argmax())
        raise DatasetError(
            f"expected 0 or 1 in {column}, found {values[at][wrong[at]].flat[0]} at row "
            f"{row + at}; give flags"
        )
    return values.astype(bool)


def _episodes(column: str, values: np.ndarray, row: int) -> np.ndarray:
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            wrong = ~(np.isfinite(values) & (np.abs(values) < 2**53) & (values % 1 == 0))
        if wrong.any():
            at = int(wrong.argmax())
            raise DatasetError(
                f"expected whole numbers in {column}, found {values[at]} at row {row + at}; "
                "number the episodes"
            )
    return values.astype(np.int64)

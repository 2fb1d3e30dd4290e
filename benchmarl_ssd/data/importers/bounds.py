"""Finds the lowest and highest actions of a source's agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarl_ssd.data.checks import BOUND_TOLERANCE
from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.table import Table

_PIECE = 2**20


@dataclass
class ImportBounds:
    """Lowest and highest actions, and who says so.

    Args:
        low: a number, one per entry of an action, or one per agent and entry; None is unknown.
        high: the same.
        origin: who says so, in words.
    """

    low: Any = None
    high: Any = None
    origin: str = "given"


def find_bounds(table: Table, given: ImportBounds | None) -> ImportBounds:
    """Find the bounds of a table's actions.

    What is not given is [-1, 1] for continuous actions, and 0 to the number of choices less one for
    whole-numbered ones: as many as the action mask has, or else the largest one found.

    Args:
        table: the source.
        given: the bounds, or None.

    Returns:
        Bounds of the shape of one step's actions, ``[n, action]`` or ``[n]``.

    Raises:
        DatasetError: if the given ones do not fit, or whole-numbered actions of several entries
            are not one-hot.

    Example:
        >>> from benchmarl_ssd.data.importers.columns import Values
        >>> columns = {"observation": np.zeros((2, 3, 1)), "reward": np.zeros(2)}
        >>> columns["action"] = np.array([[0, 1, 4], [2, 0, 0]])
        >>> table = Table({name: Values(name, array) for name, array in columns.items()})
        >>> find_bounds(table, None).high
        tensor([4, 4, 4])
    """
    shape = table.columns["action"].shape[1:]
    if table.discrete and shape[1:] == (1,):
        shape = shape[:1]
    elif not table.discrete and len(shape) == 1:
        shape = (*shape, 1)
    dtype = torch.int64 if table.discrete else torch.float32
    given = _completed(table, given or ImportBounds(origin=""))
    sides = []
    for side in (given.low, given.high):
        try:
            values = torch.as_tensor(side, dtype=torch.float64)
            sides.append(values.to(dtype).expand(shape).clone())
        except (RuntimeError, TypeError, ValueError):
            found = list(getattr(side, "shape", [])) or side
            raise DatasetError(
                f"expected action bounds for actions of shape {list(shape)}, found {found}; give "
                "one number, or one per entry of an action"
            ) from None
    low, high = sides
    if not (low <= high).all() or not (low.isfinite() & high.isfinite()).all():
        raise DatasetError(
            f"expected finite action bounds low <= high, found {given.low} and {given.high}; "
            "correct --action-low and --action-high"
        )
    return ImportBounds(low, high, given.origin)


def _completed(table: Table, given: ImportBounds) -> ImportBounds:
    if given.low is not None and given.high is not None:
        return given
    assumed = _choices(table) if table.discrete else ImportBounds(-1.0, 1.0, "[-1, 1], assumed")
    return ImportBounds(
        assumed.low if given.low is None else given.low,
        assumed.high if given.high is None else given.high,
        "; ".join(filter(None, (given.origin, assumed.origin))),
    )


def _choices(table: Table) -> ImportBounds:
    mask = table.columns.get("action_mask")
    if mask is not None and len(mask.shape) == 3:
        return ImportBounds(0, mask.shape[2] - 1, f"{mask.shape[2]} choices of the action mask")
    column = table.columns["action"]
    one_hot = column.shape[2:] not in ((), (1,))
    highest = 0
    for start in range(0, table.length, _PIECE):
        values = column.read(start, min(start + _PIECE, table.length))
        highest = max(highest, int(values.max()))
        if one_hot and (values.min() < 0 or highest > 1 or (values.sum(axis=-1) != 1).any()):
            raise DatasetError(
                "expected whole-numbered actions [t, n], one choice of each agent, or one-hot ones "
                f"[t, n, choices], found others of shape {[table.length, *column.shape[1:]]} in "
                f"{column.name}; store one number per agent that counts their combinations, or "
                "floating point if they are quantities"
            )
    return ImportBounds(0, highest, f"0 to {highest}, the largest in the data")


class BoundsCheck:
    """Checks that a source's actions lie in their bounds.

    Args:
        name: what errors call the column.
        bounds: as :func:`find_bounds` gives them.
    """

    def __init__(self, name: str, bounds: ImportBounds) -> None:
        self._name, self._origin = name, bounds.origin
        self._low, self._high = bounds.low.numpy(), bounds.high.numpy()

    def __call__(self, actions: np.ndarray, row: int) -> None:
        """Check some rows.

        Args:
            actions: ``[t, n, action]`` or ``[t, n]``.
            row: the source's row that ``actions[0]`` is.

        Raises:
            DatasetError: naming the first row with an action out of bounds.
        """
        slack = 0 if actions.dtype.kind == "i" else BOUND_TOLERANCE
        wrong = (actions < self._low - slack) | (actions > self._high + slack)
        if wrong.any():
            at = int(wrong.reshape(len(actions), -1).any(axis=1).argmax())
            spot = tuple(int(i[0]) for i in np.nonzero(wrong[at]))
            raise DatasetError(
                f"expected actions in [{self._low[spot]:g}, {self._high[spot]:g}] "
                f"({self._origin}), found {actions[at][spot]:g} in {self._name} at row "
                f"{row + at}, agent {spot[0]}; give the bounds by --action-low and --action-high"
            )

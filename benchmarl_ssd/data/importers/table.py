"""What an importer makes of a source: one column per quantity, and how its episodes end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.columns import Column

OBSERVED = ("observation", "state", "action_mask")
"""What is observed before and after a step; the latter stands in ``next_<name>``."""

_FLAGS = ("terminated", "truncated")
_KNOWN = (
    *OBSERVED, *(f"next_{name}" for name in OBSERVED), "action", "reward", *_FLAGS, "episode",
)  # fmt: skip


@dataclass
class Table:
    """A source as columns over the same rows, in time order.

    Args:
        columns: by name: ``observation`` ``[T, n, ...]``, ``action`` ``[T, n, action]`` (whole
            numbers may leave out the last axis), ``reward`` ``[T]``, ``[T, n]`` or ``[T, n, 1]``;
            if there are any, ``state`` ``[T, ...]``, ``action_mask`` ``[T, n, choices]``,
            ``terminated`` and ``truncated`` (0 or 1) ``[T]`` or ``[T, n]``, ``episode`` ``[T]``,
            whole numbers that change where an episode begins; and ``next_observation``,
            ``next_state``, ``next_action_mask``.
        episode_length: a time limit, in steps: where an episode reaches it, it is truncated.
        notes: what to report about the source, stored as ``metadata.source``.

    Raises:
        DatasetError: if a column is missing or its shape does not fit.
    """

    columns: dict[str, Column]
    episode_length: int | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("observation", "action", "reward"):
            if name not in self.columns:
                raise DatasetError(
                    f"expected {name}s in the source, found only "
                    f"{', '.join(sorted(self.columns)) or 'nothing'}; say where they are"
                )
        unknown = set(self.columns) - set(_KNOWN)
        assert not unknown, unknown
        if self.episode_length is not None and self.episode_length < 1:
            raise DatasetError(
                f"expected an episode length of at least 1 step, found {self.episode_length}"
            )
        observation = self.columns["observation"]
        if len(observation.shape) < 3:
            raise DatasetError(
                f"expected observations [steps, agents, ...] in {observation.name}, found shape "
                f"{list(observation.shape)}; give each agent one column"
            )
        for name, column in self.columns.items():
            self._check(name, column)

    @property
    def length(self) -> int:
        """Number of rows T."""
        return len(self.columns["observation"])

    @property
    def agents(self) -> int:
        """Number of agents n."""
        return self.columns["observation"].shape[1]

    @property
    def discrete(self) -> bool:
        """Whether actions are whole numbers."""
        return self.columns["action"].dtype.kind in "iub"

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of all columns."""
        return sum(math.prod(c.shape[1:]) * c.dtype.itemsize for c in self.columns.values())

    def missing_nexts(self) -> list[str]:
        """List what is observed but whose value after a step stands in the following row only."""
        return [n for n in OBSERVED if n in self.columns and f"next_{n}" not in self.columns]

    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Read rows of all columns.

        Args:
            start: the first row.
            stop: one beyond the last row.
        """
        return {name: column.read(start, stop) for name, column in self.columns.items()}

    def _check(self, name: str, column: Column) -> None:
        n, rest = self.agents, column.shape[1:]
        if len(column) != self.length:
            raise DatasetError(
                f"expected {self.length} rows in {column.name} as in "
                f"{self.columns['observation'].name}, found {len(column)}; the source is not "
                "whole: copy it again"
            )
        wanted = None
        if name in ("action", "action_mask", "next_action_mask") and (not rest or rest[0] != n):
            wanted = f"[steps, {n}, ...] for {n} agents"
        elif name == "reward" and rest not in ((), (1,), (n,), (n, 1)):
            wanted = f"[steps], [steps, {n}] or [steps, {n}, 1]"
        elif name in _FLAGS and rest not in ((), (1,), (n,), (n, 1)):
            wanted = f"[steps] or [steps, {n}]"
        elif name == "episode" and rest not in ((), (1,)):
            wanted = "[steps]"
        elif name.endswith("state") and len(rest) < 1:
            wanted = "[steps, size]"
        elif name.startswith("next_"):
            now: Mapping[str, Column] = self.columns
            twin = now.get(name.removeprefix("next_"))
            if twin is None or twin.shape != column.shape:
                wanted = str(list(twin.shape)) + f" as {twin.name}" if twin else "absent"
        if wanted:
            raise DatasetError(
                f"expected {column.name} to be {wanted}, found {list(column.shape)}; "
                "give every step one row and every agent one column"
            )

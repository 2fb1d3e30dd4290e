"""Cuts a stream of rows into whole episodes, and finds what each step leads to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.table import OBSERVED

LastStep = Literal["drop", "repeat"]

LONGEST = 200_000
"""Steps without an episode's end after which there seems to be none, unless a limit is given."""

Rows = dict[str, np.ndarray]


class EpisodeCutter:
    """Cuts rows, in time order, into whole episodes.

    An episode ends where the source says so (``terminated``, ``truncated``, a change of
    ``episode``), where it reaches ``episode_length``, and with the source. The end is truncated
    unless the source says terminated; at ``episode_length`` it is truncated in any case.

    What a step leads to is the next row. Where an episode is truncated there is none, unless the
    source has ``next_`` columns: the episode's last step is dropped then, as bootstrapping from
    its end would need what was not recorded; or what was observed last is repeated. Where it
    terminated nothing is bootstrapped, and what was observed last stands for what came after.

    Args:
        missing: of what is observed, what has no ``next_`` column.
        episode_length: a time limit in steps, or None.
        last_step: ``"drop"`` or ``"repeat"``.

    Raises:
        DatasetError: if last_step is none of the two.

    Example:
        >>> cutter = EpisodeCutter(["observation"], episode_length=3)
        >>> rows = {"observation": np.arange(6)[:, None, None]}
        >>> episodes = cutter.add(rows, last=True)
        >>> episodes["observation"].flatten(), episodes["next_observation"].flatten()
        (array([0, 1, 3, 4]), array([1, 2, 4, 5]))
        >>> episodes["truncated"]
        array([False,  True, False,  True])
    """

    def __init__(
        self,
        missing: Sequence[str],
        episode_length: int | None = None,
        last_step: LastStep = "drop",
    ) -> None:
        if last_step not in get_args(LastStep):
            raise DatasetError(
                f"expected last_step to be one of {', '.join(get_args(LastStep))}, "
                f"found {last_step!r}"
            )
        self._missing, self._length, self._last_step = list(missing), episode_length, last_step
        self._rest: Rows = {}
        #: ends that the source marks, ends at the time limit, unfinished episodes at the end
        self.ends = {"marked": 0, "time limit": 0, "unfinished": 0}
        #: rows that the source marks as ends, whether at the time limit or not
        self.marks = 0
        #: steps that were dropped as what they led to is unknown
        self.dropped = 0
        #: steps within episodes whose ``next_observation`` is not the next row's observation
        self.jumps = 0

    def add(self, rows: Rows, last: bool = False) -> Rows | None:
        """Take the next rows and give back the whole episodes among all so far.

        Args:
            rows: by column, ``[t, ...]``; ``terminated`` and ``truncated`` are bool ``[t]``,
                ``episode`` is int ``[t]``, if they are there.
            last: whether these are the last ones.

        Returns:
            Whole episodes with a ``next_`` for all that is observed, ``terminated`` and
            ``truncated``, without ``episode``; None if there are none yet.

        Raises:
            DatasetError: if no episode seems to end.
        """
        if self._rest:
            rows = {name: np.concatenate([self._rest[name], rows[name]]) for name in rows}
        ends, terminated, truncated = self._find_ends(rows, last)
        stop = int(np.flatnonzero(ends)[-1]) + 1 if ends.any() else 0
        self._rest = {name: values[stop:].copy() for name, values in rows.items()}
        if len(ends) - stop > max(LONGEST, self._length or 0):
            raise DatasetError(
                f"expected episodes that end, found none in {len(ends) - stop:,} steps; "
                "give the time limit by --episode-length"
            )
        if not stop:
            return None
        whole = {name: values[:stop] for name, values in rows.items() if name != "episode"}
        return self._link(whole, ends[:stop], terminated[:stop], truncated[:stop])

    def _find_ends(self, rows: Rows, last: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        count = len(next(iter(rows.values())))
        terminated = rows.get("terminated", np.zeros(count, dtype=bool))
        truncated = rows.get("truncated", np.zeros(count, dtype=bool))
        marked = terminated | truncated
        if "episode" in rows:  # whether the last row ends an episode shows in the row after it
            marked[:-1] |= rows["episode"][1:] != rows["episode"][:-1]
            # The last episode ends with the source, which its number marks as well as can be.
            marked[-1] |= last
        ends = marked.copy()
        if last and not ends[-1]:
            ends[-1] = True
        index = np.arange(count)
        begins = np.concatenate([[True], ends[:-1]])
        step = index - np.maximum.accumulate(np.where(begins, index, 0))
        limit = np.zeros(count, dtype=bool)
        if self._length is not None:
            limit = step % self._length == self._length - 1
        stop = int(np.flatnonzero(ends | limit)[-1]) + 1 if (ends | limit).any() else 0
        self.marks += int(marked[:stop].sum())
        self.ends["time limit"] += int(limit[:stop].sum())
        self.ends["marked"] += int((marked & ~limit)[:stop].sum())
        self.ends["unfinished"] += int((ends & ~marked & ~limit)[:stop].sum())
        terminated = terminated & ~limit
        ends |= limit
        return ends, terminated, truncated | (ends & ~terminated)

    def _link(
        self, rows: Rows, ends: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> Rows | None:
        for name in OBSERVED:
            if name in rows and name in self._missing:
                following = rows[name].copy()
                inside = np.flatnonzero(~ends)
                following[inside] = rows[name][inside + 1]
                rows[f"next_{name}"] = following
            elif name == "observation":
                inside = np.flatnonzero(~ends)
                differ = rows["next_observation"][inside] != rows["observation"][inside + 1]
                self.jumps += int(differ.any(axis=tuple(range(1, differ.ndim))).sum())
        rows |= {"terminated": terminated, "truncated": truncated}
        unknown = ends & ~terminated
        if not self._missing or self._last_step == "repeat" or not unknown.any():
            return rows
        # The step before becomes the last one; what it leads to is the row that is dropped.
        before = np.flatnonzero(unknown) - 1
        before = before[before >= 0]
        # Where the step before is an end itself, the episode has this step only, and goes.
        truncated = truncated.copy()
        truncated[before[~ends[before]]] = True
        rows["truncated"] = truncated
        self.dropped += int(unknown.sum())
        rows = {name: values[~unknown] for name, values in rows.items()}
        return rows if len(rows["truncated"]) else None

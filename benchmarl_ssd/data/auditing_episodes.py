"""Finds episodes that are broken, or whose ends say something they should not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from benchmarl_ssd.data.findings import Finding
from benchmarl_ssd.data.metadata import DatasetMetadata
from benchmarl_ssd.data.reading import Episodes, EpisodeTable
from benchmarl_ssd.data.statistics import summarise

_TOLERANCE = 1e-5
_SAME_LENGTH = 0.9


class Continuity:
    """Watches that what comes next is what is seen at the next step, within each episode.

    Two values are one if they differ by at most 1e-5, or by 1e-5 of their size (rounding).

    Args:
        names: the tensors that can be read, ``next/done`` among them.
        folder: the dataset's folder, as a shell takes it.

    Example:
        >>> watch = Continuity(["state", "next/state", "next/done"], "data")
        >>> state, done = torch.tensor([[0.0], [5.0]]), torch.zeros(2, 1, dtype=torch.bool)
        >>> rows = {"state": state, "next/state": state + 1, "next/done": done}
        >>> next(watch.add(0, rows)).found
        '1 in next/state at transition 0, 5 in state at transition 1, within one episode'
    """

    def __init__(self, names: Sequence[str], folder: str) -> None:
        self.names = [n for n in names if f"next/{n}" in names]
        self._folder = folder
        self._last: dict[str, torch.Tensor] = {}
        self._ends = 0
        self._resets = dict.fromkeys(self.names, 0)

    def add(self, row: int, rows: Mapping[str, torch.Tensor]) -> Iterator[Finding]:
        """Take transitions and tell where an episode is broken."""
        last = self._last
        for name, at in self.breaks(rows, row).items():
            if not len(at):
                continue
            first = int(at[0]) - row
            nexts = last[f"next/{name}"][0] if first < 0 else rows[f"next/{name}"][first]
            seen = rows[name][first + 1]
            spot = tuple((~_same(nexts, seen)).nonzero()[0].tolist())
            yield Finding(
                "continuity",
                f"next/{name} to be {name} at the next step",
                f"{nexts[spot].item():g} in next/{name} at transition {first + row}, "
                f"{seen[spot].item():g} in {name} at transition {first + row + 1}, "
                "within one episode",
                "store transitions in time order and mark where each episode ends; "
                f"`benchmarl-ssd subset {self._folder} --sound --out NEW` leaves such episodes out",
                key=f"next/{name}",
                row=first + row,
                count=len(at),
            )

    def breaks(self, rows: Mapping[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
        """Take transitions and give those whose next observation is not what is seen next.

        Args:
            rows: the tensors by name, ``[t, ...]``.
            row: the first one's number.

        Returns:
            Numbers of the transitions, int64 ``[breaks]``, by tensor.
        """
        found = {}
        done = self._joined("next/done", rows).flatten()[:-1]
        start = row - len(self._last.get("next/done", ()))
        for name in self.names:
            now, after = self._joined(name, rows), self._joined(f"next/{name}", rows)
            same = _rows(_same(after[:-1], now[1:]))
            found[name] = (~same & ~done).nonzero().flatten() + start
            moved = ~_rows(_same(after[:-1], now[:-1]))
            self._resets[name] += int((same & moved & done).sum())
        self._ends += int(done.sum())
        self._last = {n: v[-1:].clone() for n, v in rows.items()}
        return found

    def _joined(self, name: str, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([self._last[name], rows[name]]) if self._last else rows[name]

    def finish(self) -> Iterator[Finding]:
        """Tell whether episodes end with the first observation of the episode after."""
        for name, resets in self._resets.items():
            if self._ends > 1 and resets > _SAME_LENGTH * self._ends:
                yield Finding(
                    "final observation",
                    f"next/{name} at an end to be what the agents saw last",
                    f"the next episode's first {name} there, at {resets} of {self._ends} ends",
                    "store the observation before the environment resets itself",
                    key=f"next/{name}",
                    level="warning",
                )


def _same(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if not a.dtype.is_floating_point:
        return a == b
    if a.dtype != torch.float64:
        a, b = a.float(), b.float()
    equal = torch.isclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE)
    return equal | ~(a.isfinite() & b.isfinite())  # what is not finite has a finding of its own


def _rows(entries: torch.Tensor) -> torch.Tensor:
    """Whether all entries of a row are true, ``[t]`` of ``[t, ...]``."""
    return entries.reshape(len(entries), math.prod(entries.shape[1:])).all(1)


class EpisodeEnds:
    """Watches how episodes end, how long they are, and whether the metadata says so.

    Args:
        metadata: what the dataset says about itself.
        folder: the dataset's folder, as a shell takes it.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> EpisodeEnds(DatasetMetadata.read(write_example()), "data").names
        ['next/agents/reward', 'next/done', 'next/terminated', 'next/truncated']
    """

    def __init__(self, metadata: DatasetMetadata, folder: str) -> None:
        self._metadata = metadata
        self._folder = folder
        self._table = EpisodeTable(list(metadata.groups))
        self._truncated = 0
        self.names = [*self._table.names, "next/truncated"]

    def add(self, row: int, rows: Mapping[str, torch.Tensor]) -> Iterator[Finding]:
        """Take transitions; what they show is told at the end."""
        self._table.add(rows)
        self._truncated += int(rows["next/truncated"].sum())
        return iter(())

    def finish(self) -> Iterator[Finding]:
        """Tell what the episodes show."""
        episodes = self._table.episodes()
        if len(episodes):
            yield from self._time_limit(episodes)
            yield from self._lengths(episodes)
            yield from self._numbers(episodes)

    def _time_limit(self, episodes: Episodes) -> Iterator[Finding]:
        longest = int(episodes.lengths.max())
        at_limit = episodes.terminated & (episodes.lengths == longest)
        marked = ~episodes.terminated & (episodes.lengths == longest)
        ended = int(episodes.terminated.sum())
        # One step is the task's own length for a bandit. A task that ends by itself does so at
        # differing times, and where some ends at that length are truncated, somebody cared.
        if longest > 1 < ended and not marked.any() and at_limit.sum() >= _SAME_LENGTH * ended:
            yield Finding(
                "time limit",
                "terminated for the task's own end, truncated for a time limit",
                f"{int(at_limit.sum())} of {ended} terminated episodes ending at step {longest}, "
                "the longest there is: a time limit in disguise, after which a critic expects "
                "nothing",
                f"if it is one, `benchmarl-ssd subset {self._folder} --time-limit {longest} "
                "--out NEW` marks these ends as truncated",
                key="next/terminated",
                row=int((episodes.starts + episodes.lengths - 1)[at_limit][0]),
                count=int(at_limit.sum()),
                level="warning",
            )

    def _lengths(self, episodes: Episodes) -> Iterator[Finding]:
        median = int(episodes.lengths.median())
        short = (episodes.lengths == 1) & ~episodes.terminated
        if median >= 5 and short.any():
            yield self._odd_length(
                "lengths",
                "episodes that were recorded whole",
                f"{int(short.sum())} of one step, cut off, where half have {median} or more",
                episodes.starts[short],
                "check where the recording cuts episodes",
            )
        limit = ((self._metadata.task or {}).get("config") or {}).get("max_steps")
        if isinstance(limit, int) and not isinstance(limit, bool):
            long = episodes.lengths > limit
            if long.any():
                yield self._odd_length(
                    "max_steps",
                    f"episodes of at most {limit} steps, the task's max_steps",
                    f"{int(long.sum())} longer ones, up to {int(episodes.lengths.max())}",
                    episodes.starts[long],
                    "check that ends are marked, or correct the task's options",
                )

    def _odd_length(
        self, check: str, expected: str, found: str, rows: torch.Tensor, mend: str
    ) -> Finding:
        return Finding(
            check, expected, found, mend, "next/done", int(rows[0]), len(rows), "warning"
        )

    def _numbers(self, episodes: Episodes) -> Iterator[Finding]:
        returns, lengths = summarise(episodes.returns, episodes.lengths)
        said = self._metadata
        counts = {"terminated": int(episodes.terminated.sum()), "truncated": self._truncated}
        pairs: list[tuple[str, float, float]] = [
            (f"counts.{name}", said.counts[name], value) for name, value in counts.items()
        ]
        for where, mine, theirs in (
            ("episode_return", returns, said.episode_return),
            ("episode_length", lengths, said.episode_length),
        ):
            pairs += [(f"{where}.{name}", theirs[name], mine[name]) for name in mine]
        for where, claimed, value in pairs:
            # Sums over pieces round otherwise than sums over the whole; NaN has its own finding.
            if abs(claimed - value) > 1e-6 * max(1.0, abs(value)):
                yield Finding(
                    "metadata",
                    f"{value:.10g} at {where} in metadata.json, as the values give it",
                    f"{claimed:.10g}",
                    f"`benchmarl-ssd subset {self._folder} --out NEW` counts anew",
                    key="metadata.json",
                )

"""Describes a dataset in numbers: returns, lengths, actions, coverage."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarl_ssd.data.checks import observation_names
from benchmarl_ssd.data.coverage import Grid, sample_observations
from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.metadata import DatasetMetadata
from benchmarl_ssd.data.reading import Episodes, EpisodeTable, Rows, read_rows
from benchmarl_ssd.data.statistics import summarise
from benchmarl_ssd.data.validation import validate

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

AT_BOUND = 1e-3
"""How near an action is to its bound to count as being there, in the bounds' distance."""

_BINS = 20


@dataclass
class Description:
    """What :func:`describe` measured.

    Args:
        path: the dataset's folder.
        metadata: what the dataset says about itself.
        episodes: where each episode lies and how it went.
        returns: ``mean, std, standard_error, best, quantiles, histogram`` of the episodes' returns.
        lengths: the same of their lengths in steps, without the standard error.
        actions: ``mean, std, min, max, at_low, at_high`` by group, lists ``[n][action]``.
        coverage: as :meth:`~benchmarl_ssd.data.coverage.Grid.measure` gives it, and
            ``distinct_starts``, how many different first observations the episodes have.
        grid: the grid that coverage was measured on.
        points: the observations it was measured with, ``[N, D]``.
    """

    path: Path
    metadata: DatasetMetadata
    episodes: Episodes
    returns: dict[str, Any]
    lengths: dict[str, Any]
    actions: dict[str, dict[str, Any]]
    coverage: dict[str, Any]
    grid: Grid
    points: torch.Tensor

    def to_dict(self) -> dict[str, Any]:
        """Give all numbers, ready for JSON."""
        metadata = self.metadata
        return {
            "path": str(self.path),
            "id": metadata.id,
            "task": metadata.task,
            "groups": metadata.groups,
            "tensors": {
                name: {"dtype": info.dtype, "shape": list(info.shape)}
                for name, info in metadata.tensors.items()
            },
            "bytes": metadata.size,
            "counts": metadata.counts,
            "return": self.returns,
            "length": self.lengths,
            "actions": self.actions,
            "coverage": self.coverage,
            "references": metadata.references,
            "source": metadata.source,
            "checksum": metadata.checksum,
        }


def describe(path: str | os.PathLike[str], grid: Grid | None = None) -> Description:
    """Describe a dataset in numbers; its values are read in pieces.

    Args:
        path: the dataset's folder.
        grid: what to measure coverage on, another description's ``grid``; None lays one over this
            dataset.

    Returns:
        The numbers.

    Raises:
        DatasetError: if the folder is no dataset or a damaged one, or the grid fits another task.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> found = describe(write_example())
        >>> found.lengths["mean"], found.coverage["distinct_starts"]
        (5.0, 4)
    """
    folder = Path(path)
    metadata = validate(folder, "auto")
    table = EpisodeTable(list(metadata.groups))
    actions = {group: _Actions(metadata, group) for group in metadata.groups}
    starts = _Starts(metadata)
    names = {*table.names, *starts.names, *(f"{group}/action" for group in metadata.groups)}
    for _, rows in read_rows(folder, {name: metadata.tensors[name] for name in sorted(names)}):
        table.add(rows)
        starts.add(rows)
        for group, statistics in actions.items():
            statistics.add(rows[f"{group}/action"])
    episodes = table.episodes()
    if not len(episodes) or not episodes.returns.isfinite().all():
        raise DatasetError(
            f"expected episodes with finite returns in {folder}, found others; "
            f"`benchmarl-ssd validate {folder}` tells what is damaged"
        )
    returns, lengths = summarise(episodes.returns, episodes.lengths)
    points = sample_observations(folder, metadata)
    grid = grid or Grid.fit(points)
    return Description(
        path=folder,
        metadata=metadata,
        episodes=episodes,
        returns={
            "mean": returns["mean"],
            "std": returns["std"],
            "standard_error": _standard_error(episodes.returns),
            "best": returns["max"],
            **_distribution(episodes.returns),
        },
        lengths={
            "mean": lengths["mean"],
            "std": episodes.lengths.double().std(correction=0).item(),
            **_distribution(episodes.lengths.double()),
        },
        actions={group: statistics.summary() for group, statistics in actions.items()},
        coverage={**grid.measure(points), "distinct_starts": starts.distinct},
        grid=grid,
        points=points,
    )


def _standard_error(values: torch.Tensor) -> float | None:
    return values.std().item() / len(values) ** 0.5 if len(values) > 1 else None


def _distribution(values: torch.Tensor) -> dict[str, Any]:
    ranked = values.sort().values  # torch.quantile refuses more than 2^24 values
    places = torch.tensor(QUANTILES, dtype=torch.float64) * (len(values) - 1)
    below, above = ranked[places.floor().long()], ranked[places.ceil().long()]
    quantiles = below + (above - below) * (places - places.floor())
    low, high = ranked[0].item(), ranked[-1].item()
    bins = 1 if low == high else _BINS
    counts = torch.histc(values, bins, low, high) if bins > 1 else torch.tensor([len(values)])
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    return {
        "quantiles": dict(zip(map(str, QUANTILES), quantiles.tolist(), strict=True)),
        "histogram": {"edges": edges.tolist(), "counts": counts.long().tolist()},
    }


class _Actions:
    def __init__(self, metadata: DatasetMetadata, group: str) -> None:
        low, high = (side.double() for side in metadata.bounds(group))
        self._low, self._high, self._middle = low, high, (low + high) / 2
        near = AT_BOUND * (high - low)
        self._near_low, self._near_high = low + near, high - near
        self._count = 0
        self._sum, self._squares = torch.zeros_like(low), torch.zeros_like(low)
        self._at_low, self._at_high = torch.zeros_like(low), torch.zeros_like(low)
        self._min, self._max = torch.full_like(low, torch.inf), torch.full_like(low, -torch.inf)

    def add(self, actions: torch.Tensor) -> None:
        values = actions.double()
        apart = values - self._middle  # sums of small numbers round less
        self._count += len(values)
        self._sum += apart.sum(0)
        self._squares += (apart**2).sum(0)
        self._at_low += (values <= self._near_low).sum(0)
        self._at_high += (values >= self._near_high).sum(0)
        self._min = torch.minimum(self._min, values.amin(0))
        self._max = torch.maximum(self._max, values.amax(0))

    def summary(self) -> dict[str, Any]:
        mean = self._sum / self._count
        found = {
            "mean": mean + self._middle,
            "std": (self._squares / self._count - mean**2).clamp(min=0).sqrt(),
            "min": self._min,
            "max": self._max,
            "at_low": self._at_low / self._count,
            "at_high": self._at_high / self._count,
        }
        # [agents][entries], also of choices, which are one per agent
        return {name: v.reshape(len(v), -1).tolist() for name, v in found.items()}


class _Starts:
    def __init__(self, metadata: DatasetMetadata) -> None:
        self.names = ["next/done"]
        for group in metadata.groups:
            self.names += observation_names(metadata.tensors, group)
        self._starting = torch.ones(1, dtype=torch.bool)
        self._seen: set[bytes] = set()

    def add(self, rows: Mapping[str, torch.Tensor] | Rows) -> None:
        done = rows["next/done"].flatten()
        first = torch.cat([self._starting, done[:-1]]).nonzero().flatten()
        self._starting = done[-1:]
        parts = [
            rows[name][first].flatten(1).contiguous().view(torch.uint8).numpy()
            for name in self.names[1:]
        ]
        for row in range(len(first)):
            # What is kept of a start is a digest: 16 bytes, however wide the observation.
            start = b"".join(part[row].tobytes() for part in parts)
            self._seen.add(hashlib.blake2b(start, digest_size=16).digest())

    @property
    def distinct(self) -> int:
        return len(self._seen)

"""Writes a source's table as a dataset, a piece at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from tqdm import tqdm

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.bounds import BoundsCheck, ImportBounds, find_bounds
from benchmarl_ssd.data.importers.episodes import EpisodeCutter, LastStep, Rows
from benchmarl_ssd.data.importers.table import OBSERVED, Table
from benchmarl_ssd.data.importers.values import Padding, converted
from benchmarl_ssd.data.metadata import DatasetMetadata
from benchmarl_ssd.data.writer import DatasetWriter

PIECE = 8 * 1024**2
"""Bytes of the source that are read at once."""


def write_table(
    table: Table,
    path: str | os.PathLike[str],
    *,
    task: Mapping[str, Any] | None = None,
    group: str = "agents",
    agents: Sequence[str] | None = None,
    bounds: ImportBounds | None = None,
    references: Mapping[str, float | None] | None = None,
    source: Mapping[str, Any] | None = None,
    last_step: LastStep = "drop",
    strip_padding: bool = False,
    progress: bool = True,
) -> DatasetMetadata:
    """Write a table as a dataset, in pieces: memory stays flat however large the source is.

    Args:
        table: the source.
        path: the folder to write; it must not exist.
        task: ``environment``, ``name`` and ``config`` of the BenchMARL task, if there is one.
        group: name of the group that all agents form.
        agents: their names, n of them; None calls them ``agent_0`` and so on.
        bounds: lowest and highest actions; None finds them as
            :func:`~benchmarl_ssd.data.importers.bounds.find_bounds`.
        references: returns that a normalised score takes for 0 (``random``) and 1 (``expert``).
        source: entries of ``metadata.source`` besides the table's notes and the derivation.
        last_step: ``"drop"`` or ``"repeat"``, as for
            :class:`~benchmarl_ssd.data.importers.episodes.EpisodeCutter`.
        strip_padding: whether to strip observations of -inf: what all agents lack goes, what some
            lack is set to zero.
        progress: whether to draw a progress bar on stderr, if that is a terminal.

    Returns:
        The metadata of the dataset. Its ``source`` says how the episodes' ends were derived.

    Raises:
        DatasetError: if the values do not make a dataset; nothing is left at ``path`` then.
    """
    names = list(agents) if agents is not None else [f"agent_{i}" for i in range(table.agents)]
    if len(names) != table.agents or len(set(names)) != len(names):
        raise DatasetError(
            f"expected {table.agents} different names, one per agent of the source, found "
            f"{', '.join(names)}; name all of its agents or none"
        )
    found = find_bounds(table, bounds)
    check = BoundsCheck(table.columns["action"].name, found)
    cutter = EpisodeCutter(table.missing_nexts(), table.episode_length, last_step)
    padding = Padding(strip_padding)
    # The writer stores this very mapping when it finishes: what is known by then goes in below.
    derivation: dict[str, Any] = {}
    writer = DatasetWriter(
        path,
        groups={group: names},
        action_bounds={group: {"low": found.low, "high": found.high}},
        task=task,
        references=references,
        source={
            "kind": "import",
            **(source or {}),
            **table.notes,
            "action_bounds": found.origin,
            "derivation": derivation,
        },
    )
    rows = max(1, PIECE // table.row_bytes)
    off = None if progress else True  # None: no bar where nobody watches
    with writer, tqdm(total=table.length, unit=" steps", file=sys.stderr, disable=off) as bar:
        for start in range(0, table.length, rows):
            stop = min(start + rows, table.length)
            piece = converted(table, table.read(start, stop), start, padding)
            check(piece["action"], start)
            episodes = cutter.add(piece, last=stop == table.length)
            if episodes is not None:
                writer.extend(as_transitions(episodes, group))
            bar.update(stop - start)
        if not cutter.marks and table.episode_length is None:
            raise DatasetError(
                f"expected episodes' ends in {', '.join(_ends_from(table).values())}, found none "
                f"in {table.length} rows; give the time limit by --episode-length"
            )
        if not writer.transitions:
            raise DatasetError(
                "expected episodes of at least two steps, found none: without the observations "
                "after its only step an episode is no use; give them, or --last-step repeat"
            )
        derivation |= _derivation(table, cutter, padding, last_step)
    assert writer.metadata is not None
    return writer.metadata


def as_transitions(rows: Rows, group: str) -> TensorDict:
    """Arrange whole episodes in TorchRL's layout.

    Args:
        rows: as :meth:`EpisodeCutter.add` gives them.
        group: name of the group.

    Returns:
        TensorDict ``[t]`` as :meth:`DatasetWriter.extend` takes it.
    """
    data: dict[Any, torch.Tensor] = {
        (group, "action"): torch.from_numpy(rows["action"]),
        ("next", group, "reward"): torch.from_numpy(rows["reward"]),
    }
    for name in OBSERVED:
        if name in rows:
            key: tuple[str, ...] = ("state",) if name == "state" else (group, name)
            data[key] = torch.from_numpy(rows[name])
            following = ("next", *key)
            data[following] = torch.from_numpy(rows[f"next_{name}"])
    for name in ("terminated", "truncated"):
        data["next", name] = torch.from_numpy(rows[name]).unsqueeze(-1)
    return TensorDict(data, batch_size=[len(rows["reward"])])


def _derivation(
    table: Table, cutter: EpisodeCutter, padding: Padding, last_step: LastStep
) -> dict[str, Any]:
    derivation: dict[str, Any] = {
        "source_steps": table.length,
        "episode_length": table.episode_length,
        "ends_from": _ends_from(table),
        "ends": cutter.ends,
        "marks": cutter.marks,
        "dropped_steps": cutter.dropped,
    }
    if cutter.dropped or (table.missing_nexts() and last_step == "repeat"):
        derivation["last_step"] = last_step
    if "next_observation" in table.columns:
        derivation["jumps"] = cutter.jumps
    if padding.notes:
        derivation["padding"] = padding.notes
    return derivation


def _ends_from(table: Table) -> dict[str, str]:
    names = ("terminated", "truncated", "episode")
    return {name: table.columns[name].name for name in names if name in table.columns}

"""Reads MADiff's folders (Zhu et al., 2024).

Of MPE they are OMAR's without ``next_obs``; of MaMuJoCo and SMAC they hold ``obs``, ``actions``,
``rewards`` and ``path_lengths``, with ``discounts``, ``legals`` and ``states`` if there are any.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.columns import Column, Derived, episode_numbers
from benchmarl_ssd.data.importers.files import NpyFile, source_folder
from benchmarl_ssd.data.importers.omar import per_agent_table
from benchmarl_ssd.data.importers.options import ImportOptions
from benchmarl_ssd.data.importers.table import Table

FILES = {
    "observation": "obs.npy",
    "action": "actions.npy",
    "reward": "rewards.npy",
    "action_mask": "legals.npy",
    "state": "states.npy",
}
"""Name of each quantity's file; ``path_lengths.npy`` and ``discounts.npy`` say where ends are."""

MUJOCO_LENGTH = 1000


@contextmanager
def open_madiff(source: Path, options: ImportOptions) -> Iterator[Table]:
    """Open a folder of MADiff's, of MPE, MaMuJoCo or SMAC.

    A path's last step is terminated where its discount is 0, and truncated elsewhere. Without
    discounts it is terminated, as MADiff reads it, but at the time limit, which for MaMuJoCo
    (continuous actions) is 1000 steps.

    Args:
        source: ``<map>/<quality>``, or ``<scenario>/<split>/<seed folder>`` for MPE.
        options: of the import.

    Raises:
        DatasetError: if files are missing, damaged or of wrong shapes.
    """
    source_folder(source, "a folder of MADiff's with obs.npy or obs_0.npy")
    if not (source / "obs.npy").exists() and not (source / "path_lengths.npy").exists():
        if options.strip_agent_ids:
            raise DatasetError(
                f"expected agents' one-hot numbers in observations of MaMuJoCo or SMAC only, found "
                f"MPE's files in {source}; leave out --strip-agent-ids"
            )
        yield per_agent_table(source, options, "MADiff")
        return
    columns: dict[str, Column] = {}
    for name, file in FILES.items():
        if name in ("action_mask", "state") and not (source / file).exists():
            continue
        if name != "state" or options.state:
            columns[name] = NpyFile(source / file, source)
    notes: dict[str, Any] = {"folder": f"{source.resolve().parent.name}/{source.resolve().name}"}
    observation = columns["observation"]
    if options.strip_agent_ids:
        columns["observation"] = _without_ids(observation)
        notes["agent_ids"] = "stripped"
    elif len(observation.shape) == 3 and observation.shape[2] > observation.shape[1]:
        n = observation.shape[1]
        seen = (observation.read(0, 1)[..., :n] == np.eye(n)).all()
        notes["agent_ids"] = "first in observations" if seen else "none"
    rows = len(observation)
    columns["episode"] = episode_numbers(NpyFile(source / "path_lengths.npy", source), rows)
    columns["terminated"], limit = _ends(source, columns, rows, options)
    yield Table(columns, limit, notes)


def _ends(
    source: Path, columns: dict[str, Column], rows: int, options: ImportOptions
) -> tuple[Column, int | None]:
    episode, limit = columns["episode"], options.episode_length
    path = source / "discounts.npy"
    if path.exists():
        discount = NpyFile(path, source)
        if len(discount) != rows:
            raise DatasetError(
                f"expected {rows} rows in discounts.npy as in obs.npy, found {len(discount)}; "
                "the source is not whole: copy it again"
            )
        return Derived(
            "discounts.npy", [discount], lambda values: values == 0, discount.shape, bool
        ), limit
    if "action_mask" not in columns and columns["action"].dtype.kind == "f":
        limit = limit or MUJOCO_LENGTH
    return PathEnds(episode), limit


class PathEnds(Column):
    """Whether a row is the last one of its episode.

    Args:
        episode: the number of each row's episode; it can be read anywhere.
    """

    def __init__(self, episode: Column) -> None:
        super().__init__(episode.name, episode.shape, bool)
        self._episode = episode

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows.

        Args:
            start: the first row.
            stop: one beyond the last row.
        """
        numbers = self._episode.read(start, stop + 1)
        return numbers[1:] != numbers[:-1]


def _without_ids(observation: Column) -> Column:
    error = DatasetError(
        f"expected observations in {observation.name} to begin with the agents' one-hot numbers, "
        "found others; leave out --strip-agent-ids"
    )
    if len(observation.shape) != 3 or observation.shape[2] <= observation.shape[1]:
        raise error
    n = observation.shape[1]

    def strip(values: np.ndarray) -> np.ndarray:
        if not (values[..., :n] == np.eye(n)).all():
            raise error
        return values[..., n:]

    shape = (*observation.shape[:2], observation.shape[2] - n)
    return Derived(observation.name, [observation], strip, shape, observation.dtype)

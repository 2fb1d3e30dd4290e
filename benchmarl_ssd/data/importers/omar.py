"""Reads OMAR's folders, one npy file per agent and quantity; MADiff's and CFCQL's are alike.

OMAR (Pan et al., 2022) stores per agent i ``obs_i``, ``acs_i``, ``rews_i``, ``next_obs_i`` and
``dones_i``, and for HalfCheetah ``states_i`` and ``next_states_i``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.columns import Column, Derived, stack_agents
from benchmarl_ssd.data.importers.files import NpyFile, source_folder
from benchmarl_ssd.data.importers.options import ImportOptions
from benchmarl_ssd.data.importers.table import Table

FILES = {
    "observation": "obs",
    "action": "acs",
    "reward": "rews",
    "next_observation": "next_obs",
    "terminated": "dones",
    "state": "states",
    "next_state": "next_states",
}
"""Name of each quantity's files, before the agent's number."""

_NEEDED = ("observation", "action", "reward", "terminated")
LENGTHS = {"mpe": 25, "simple_*": 25, "*halfcheetah*": 1000}
"""Time limits of OMAR's tasks, by what a folder or the task is called."""


@contextmanager
def open_omar(source: Path, options: ImportOptions) -> Iterator[Table]:
    """Open a folder of OMAR's.

    Episodes end where all agents are done, and at the time limit: OMAR's MPE datasets have dones
    of 0 everywhere. As in MADiff's reader, what ends at the limit is truncated.

    Args:
        source: ``.../<environment>/<type>/seed_<k>_data``, or the folder above if it has only one
            of these.
        options: of the import.

    Raises:
        DatasetError: if files are missing, damaged or of wrong shapes.
    """
    yield per_agent_table(source, options, "OMAR", needed=(*_NEEDED, "next_observation"))


def per_agent_table(
    source: Path, options: ImportOptions, whose: str, needed: tuple[str, ...] = _NEEDED
) -> Table:
    """Make a table of a folder with one npy file per agent and quantity.

    Args:
        source: the folder, or the one above.
        options: of the import.
        whose: the format, for errors.
        needed: the quantities without which the source is not whole.

    Raises:
        DatasetError: if files are missing, damaged or of wrong shapes.
    """
    folder = _seed_folder(source_folder(source, f"a folder of {whose}'s with obs_0.npy"), whose)
    count = count_agents(folder)
    columns: dict[str, Column] = {}
    for name, stem in FILES.items():
        paths = [folder / f"{stem}_{i}.npy" for i in range(count)]
        if name not in needed and not any(path.exists() for path in paths):
            continue
        parts: list[Column] = [NpyFile(path, source) for path in paths]
        if name.endswith("state"):
            if options.state:
                columns[name] = _shared(parts)
        else:
            columns[name] = stack_agents(parts)
    limit = options.episode_length or _known_limit(folder, options.task)
    return Table(columns, limit, {"folder": f"{folder.parent.name}/{folder.name}"})


def count_agents(folder: Path) -> int:
    """Count the agents of a folder, and check that none is missing in between.

    Args:
        folder: it has ``obs_0.npy`` and so on.

    Raises:
        DatasetError: if an agent's files are missing.
    """
    numbers = {
        int(number)
        for stem in FILES.values()
        for path in folder.glob(f"{stem}_*.npy")
        if (number := path.stem.removeprefix(f"{stem}_")).isdecimal()
    }
    expected = set(range(max(numbers, default=-1) + 1))
    if numbers != expected or not expected:
        missing = min(expected - numbers, default=0)
        raise DatasetError(
            f"expected obs_{missing}.npy in {folder}, found agents {sorted(numbers)}; "
            "complete the source: it needs every agent's files"
        )
    return len(expected)


def _seed_folder(source: Path, whose: str) -> Path:
    if (source / "obs_0.npy").exists() or list(source.glob("obs_*.npy")):
        return source
    seeds = sorted(path for path in source.iterdir() if list(path.glob("obs_*.npy")))
    if len(seeds) != 1:
        listed = ", ".join(path.name for path in seeds) or "none"
        raise DatasetError(
            f"expected obs_0.npy in {source}, or one folder of {whose}'s that has it, found "
            f"{listed}; name the folder to import"
        )
    return seeds[0]


def _known_limit(folder: Path, task: str | None) -> int | None:
    # The task says most, then the folders from the innermost on.
    names = [*(task or "").split("/"), *reversed(folder.resolve().parts)]
    known = (
        limit
        for name in names
        for pattern, limit in LENGTHS.items()
        if fnmatchcase(name.lower(), pattern)
    )
    return next(known, None)


def _shared(parts: list[Column]) -> Column:
    """Take the state of the agents' files, as it has to be the same for all."""
    first = parts[0]
    stacked = stack_agents(parts)

    def same(values: np.ndarray) -> np.ndarray:
        if not (values == values[:, :1]).all():
            raise DatasetError(
                f"expected one state of the team in {stacked.name}, found agents with different "
                "ones; leave it out by --no-state"
            )
        return values[:, 0]

    return Derived(stacked.name, [stacked], same, first.shape, first.dtype)

"""Reads OMIGA's HDF5 files of MaMuJoCo (Wang et al., 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.columns import Column, Derived
from benchmarl_ssd.data.importers.hdf5 import Hdf5Column, open_hdf5
from benchmarl_ssd.data.importers.madiff import MUJOCO_LENGTH
from benchmarl_ssd.data.importers.options import ImportOptions
from benchmarl_ssd.data.importers.table import Table


@contextmanager
def open_omiga(source: Path, options: ImportOptions) -> Iterator[Table]:
    """Open a file of OMIGA's, such as ``Ant-v2-2x4-expert.hdf5``.

    It holds ``s`` ``[N, n, state]`` (the state, repeated per agent), ``o`` ``[N, n, obs]``, ``a``
    ``[N, n, action]``, ``r`` (one reward, or one per agent) and ``d`` ``[N, 1]``. The next row is
    the next step; ``d`` ends an episode, which is terminated but at the time limit, MaMuJoCo's 1000
    steps, where it is truncated.

    Args:
        source: the file.
        options: of the import.

    Raises:
        DatasetError: if an array is missing or of a wrong shape.
        ImportError: if h5py is not installed.
    """
    with open_hdf5(source) as file:
        found: dict[str, Column] = {name: Hdf5Column(file, source, name) for name in "oard"}
        rows, agents = found["o"].shape[0], found["o"].shape[1]
        columns = {
            "observation": found["o"],
            "action": found["a"],
            "reward": _flat(found["r"], agents),
            "terminated": _flat(found["d"], agents),
        }
        if options.state:
            columns["state"] = _state(Hdf5Column(file, source, "s"), rows, agents)
        notes = {
            "file": source.name,
            "observations": "as stored; OMIGA's own environment appends the agent's one-hot number "
            "and standardises each observation vector before its policies see it",
        }
        yield Table(columns, options.episode_length or MUJOCO_LENGTH, notes)


def _flat(column: Column, agents: int) -> Column:
    sizes = column.shape[1:]
    if math.prod(sizes) not in (1, agents):
        raise DatasetError(
            f"expected one value per step, or one per agent, as {column.name!r}, found shape "
            f"{list(column.shape)}; the file is no dataset of {agents} agents"
        )
    shape = (len(column), math.prod(sizes))
    return Derived(
        column.name, [column], lambda values: values.reshape(-1, shape[1]), shape, column.dtype
    )


def _state(column: Column, rows: int, agents: int) -> Column:
    if len(column.shape) == 2:
        return column
    if column.shape[:2] != (rows, agents):
        raise DatasetError(
            f"expected 's' to be [{rows}, {agents}, state], found {list(column.shape)}; "
            "leave it out by --no-state"
        )

    def first(values: np.ndarray) -> np.ndarray:
        if not (values == values[:, :1]).all():
            raise DatasetError(
                "expected 's' to be the same state for all agents, found different ones; "
                "leave it out by --no-state"
            )
        return values[:, 0]

    shape = (column.shape[0], *column.shape[2:])
    return Derived(column.name, [column], first, shape, column.dtype)

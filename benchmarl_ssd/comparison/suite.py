"""All datasets together: matrices of runs and datasets, as rliable's statistics take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarl_ssd.comparison.groups import Group
from benchmarl_ssd.comparison.results import PLAYED


@dataclass(frozen=True)
class Suite:
    """Runs of all algorithms on the same datasets.

    Args:
        groups: the datasets.
        returns: ``[runs, datasets]`` by algorithm; a row is one seed.
        scores: the same, normalised, on the datasets ``scored``; empty if those are none.
        scored: the datasets with references.
        notes: what was left out, and why.
    """

    groups: list[Group]
    returns: dict[str, np.ndarray]
    scores: dict[str, np.ndarray]
    scored: list[Group]
    notes: list[str] = field(default_factory=list)


def make_suite(groups: Sequence[Group]) -> Suite:
    """Take the datasets on which every algorithm ran, and of each algorithm the seeds on all.

    Args:
        groups: all of them; those with estimated returns are left out.
    """
    played = [group for group in groups if group.kind == PLAYED]
    algorithms = list(dict.fromkeys(name for group in played for name in group.runs))
    complete = [group for group in played if set(group.runs) == set(algorithms)]
    seeds = {name: _common_seeds(complete, name) for name in algorithms}
    if not complete or not all(seeds.values()):
        note = "No overall scores: there are no datasets and seeds on which every algorithm ran."
        return Suite([], {}, {}, [], [note] if played else [])
    notes = []
    if len(complete) < len(played):
        partly = "; ".join(group.name for group in played if group not in complete)
        notes.append(f"Overall scores without {partly}, where not every algorithm ran.")
    for name, kept in seeds.items():
        dropped = sum(len(group.runs[name]) - len(kept) for group in complete)
        if dropped:
            notes.append(
                f"Overall scores without {dropped} runs of {name} whose seeds are not on every "
                "dataset."
            )
    scored = [group for group in complete if group.score(0.0) is not None]
    if 0 < len(scored) < len(complete):
        unscored = "; ".join(group.name for group in complete if group not in scored)
        notes.append(f"Normalised scores without {unscored}, which has no references.")
    return Suite(
        groups=complete,
        returns={name: _matrix(complete, name, seeds[name], False) for name in algorithms},
        scores={name: _matrix(scored, name, seeds[name], True) for name in algorithms if scored},
        scored=scored,
        notes=notes,
    )


def make_pair(groups: Sequence[Group], x: str, y: str) -> Suite | None:
    """Take the datasets on which two algorithms ran.

    Args:
        groups: all of them; those with estimated returns are left out.
        x: an algorithm.
        y: another.

    Returns:
        What :func:`make_suite` makes of the two alone; None where they share no dataset.
    """
    both = [
        dataclasses.replace(group, runs={name: group.runs[name] for name in (x, y)})
        for group in groups
        if {x, y} <= group.runs.keys()
    ]
    suite = make_suite(both)
    return suite if suite.groups else None


def _common_seeds(groups: Sequence[Group], algorithm: str) -> list[int]:
    sets = [{run.seed for run in group.runs[algorithm]} for group in groups]
    return sorted(set.intersection(*sets)) if sets else []


def _matrix(groups: Sequence[Group], name: str, seeds: list[int], normalise: bool) -> np.ndarray:
    columns = []
    for group in groups:
        values = {run.seed: run.value for run in group.runs[name]}
        column = [group.score(values[seed]) if normalise else values[seed] for seed in seeds]
        columns.append(column)
    return np.array(columns, dtype=float).T

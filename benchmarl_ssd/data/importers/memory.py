"""Makes a dataset of arrays that are in memory, or mapped from files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarl_ssd.data.importers.arrays import mapped_table
from benchmarl_ssd.data.importers.bounds import ImportBounds
from benchmarl_ssd.data.importers.columns import Values
from benchmarl_ssd.data.importers.episodes import LastStep
from benchmarl_ssd.data.importers.options import ImportOptions
from benchmarl_ssd.data.importers.streaming import write_table
from benchmarl_ssd.data.metadata import DatasetMetadata


def from_arrays(
    path: str | os.PathLike[str],
    *,
    observations: Any,
    actions: Any,
    rewards: Any,
    terminations: Any = None,
    truncations: Any = None,
    episodes: Any = None,
    state: Any = None,
    action_masks: Any = None,
    next_observations: Any = None,
    next_state: Any = None,
    next_action_masks: Any = None,
    episode_length: int | None = None,
    last_step: LastStep = "drop",
    action_low: Any = None,
    action_high: Any = None,
    group: str = "agents",
    agents: Sequence[str] | None = None,
    task: str | Mapping[str, Any] | None = None,
    references: Mapping[str, float | None] | None = None,
    source: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> DatasetMetadata:
    """Write a dataset from arrays: numpy's, tensors, or mapped files larger than memory.

    All arrays have one row per step, in time order, episode after episode. At least one of
    ``terminations``, ``truncations``, ``episodes`` and ``episode_length`` says where these end.

    Args:
        path: the folder to write; it must not exist.
        observations: what the n agents see before each step, ``[T, n, ...]``.
        actions: ``[T, n, action]``; whole numbers are choices, and may be ``[T, n]``.
        rewards: ``[T, n]``, or ``[T]`` where the agents share them.
        terminations: 0 or 1, ``[T]`` or ``[T, n]``: where the task itself ended the episode.
        truncations: 0 or 1, the same: where a time limit did.
        episodes: whole numbers ``[T]``, another one where another episode begins.
        state: the environment's state before each step, ``[T, ...]``.
        action_masks: which choices each agent has, 0 or 1, ``[T, n, choices]``.
        next_observations: what the agents see after each step; None takes the next row, and see
            ``last_step``.
        next_state: the state after each step.
        next_action_masks: the choices after each step.
        episode_length: a time limit in steps: an episode that reaches it is truncated.
        last_step: what to do with the last step of a truncated episode if what came after is
            unknown: ``"drop"`` it, or ``"repeat"`` what was observed last.
        action_low: lowest actions: a number, one per entry, or ``[n, action]``; None is -1, and 0
            for choices.
        action_high: highest actions; None is 1, and for choices the largest one.
        group: name of the group that all agents form.
        agents: their names; None calls them ``agent_0`` and so on.
        task: ``"environment/name"``, or a mapping of ``environment``, ``name`` and ``config``.
        references: returns that a normalised score takes for 0 (``random``) and 1 (``expert``).
        source: free entries that say where the data is from.
        progress: whether to draw a progress bar on stderr, if that is a terminal.

    Returns:
        The metadata of the dataset.

    Raises:
        DatasetError: if the arrays do not make a dataset; nothing is left at ``path`` then.

    Example:
        >>> import numpy as np, tempfile
        >>> random, steps, agents = np.random.default_rng(0), 100, 3
        >>> metadata = from_arrays(
        ...     tempfile.mkdtemp() + "/dataset",
        ...     observations=random.normal(size=(steps, agents, 4)),
        ...     actions=random.uniform(-1, 1, size=(steps, agents, 2)),
        ...     rewards=random.normal(size=steps),
        ...     terminations=np.arange(steps) % 20 == 19,
        ... )
        >>> metadata.counts
        {'transitions': 100, 'episodes': 5, 'terminated': 5, 'truncated': 0}
    """
    given = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "terminations": terminations,
        "truncations": truncations,
        "episodes": episodes,
        "state": state,
        "action_masks": action_masks,
        "next_observations": next_observations,
        "next_state": next_state,
        "next_action_masks": next_action_masks,
    }
    arrays = {name: array for name, array in given.items() if array is not None}
    table = mapped_table(
        {name: name for name in arrays},
        lambda name: Values(name, arrays[name]),
        ImportOptions(episode_length=episode_length),
    )
    known = action_low is not None or action_high is not None
    bounds = ImportBounds(action_low, action_high) if known else None
    if isinstance(task, str):
        environment, _, name = task.rpartition("/")
        task = {"environment": environment or "logged", "name": name, "config": {}}
    return write_table(
        table,
        path,
        task=task,
        group=group,
        agents=agents,
        bounds=bounds,
        references=references,
        source={"format": "memory", **(source or {})},
        last_step=last_step,
        progress=progress,
    )

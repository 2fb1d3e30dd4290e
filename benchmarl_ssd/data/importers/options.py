"""What a user can say about a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ImportOptions:
    """What a user can say about a source.

    Args:
        task: name of the task, such as ``mpe/cooperative_navigation``.
        episode_length: a time limit, in steps; None takes the format's own, if there is one.
        mapping: of :func:`~benchmarl_ssd.data.importers.arrays.open_arrays`: the source's name, or
            names one per agent, of each quantity.
        strip_agent_ids: whether to leave out the agents' one-hot numbers with which MADiff's
            observations begin.
        state: whether to read the state of the environment, if there is one.
    """

    task: str | None = None
    episode_length: int | None = None
    mapping: Mapping[str, str | Sequence[str]] | None = None
    strip_agent_ids: bool = False
    state: bool = True

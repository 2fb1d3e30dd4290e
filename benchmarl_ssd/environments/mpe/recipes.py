"""Recipes for the MPE datasets: shipped policies play, nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase

from benchmarl_ssd.data.recipes import Recipe, RecordingSetup, register_recipe
from benchmarl_ssd.environments.mpe.common import MpeTask
from benchmarl_ssd.environments.mpe.policies import (
    ASSETS,
    LEVELS,
    TASKS,
    Behaviour,
    load_behaviours,
)

TRANSITIONS = 1_000_000
"""As many as the literature's datasets hold."""
WORLDS = 4000
"""Worlds played at once; with 25 steps an episode, one batch is 100 000 transitions."""

_WORDS = {
    "expert": "The expert, with a little noise",
    "medium": "A half-trained policy, with its exploration noise",
    "medium-replay": "All policies of the training up to the medium one, with their noise",
    "random": "Uniformly random actions",
}
_TITLES = {
    "cooperative_navigation": "Cooperative Navigation",
    "predator_prey": "Predator-Prey",
    "world": "World",
}


class BehaviourTeam:
    """Several behaviours, each playing its share of a batch of episodes.

    Args:
        behaviours (sequence of Behaviour): policies, their noise and their shares.

    Examples:
        >>> from tensordict import TensorDict
        >>> team = BehaviourTeam(load_behaviours("world", "medium-replay"))
        >>> start = TensorDict({"agents": {"observation": torch.zeros(40, 3, 24)}}, [40])
        >>> team.reset(start)
        >>> team(start)["agents", "action"].shape
        torch.Size([40, 3, 2])
    """

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        self.behaviours = list(behaviours)
        self._parts: list[int] = []

    def reset(self, tensordict: TensorDictBase) -> None:
        """Deal out the worlds of a new batch of episodes.

        Args:
            tensordict (TensorDictBase): what the environment's ``reset`` returned, ``[B]``.
        """
        shares = torch.tensor([behaviour.share for behaviour in self.behaviours])
        borders = (shares.cumsum(0) / shares.sum() * tensordict.batch_size[0]).round().long()
        # Where a part is too small for a world of its own, chance decides over the batches.
        self._parts = borders.diff(prepend=torch.zeros(1, dtype=torch.long)).tolist()
        self._turn = torch.randperm(len(self.behaviours)).tolist()

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``("agents", "action")``; the order of the parts changes from batch to batch."""
        observation = tensordict.get(("agents", "observation"))
        rows = observation.split([self._parts[index] for index in self._turn])
        actions = [
            self.behaviours[index].act(row)
            for index, row in zip(self._turn, rows, strict=True)
            if row.shape[0]
        ]
        return tensordict.set(("agents", "action"), torch.cat(actions))


def references(task: str) -> dict[str, float | None]:
    """Return the mean returns of random and expert play against the shipped prey."""
    measured = json.loads((ASSETS / "references.json").read_text())[task]
    return {"random": measured["random"]["mean"], "expert": measured["expert"]["mean"]}


def make(task: str, level: str, seed: int, config: dict[str, Any]) -> RecordingSetup:
    """Set up a dataset's recording.

    Args:
        task (str): ``cooperative_navigation``, ``predator_prey`` or ``world``.
        level (str): ``expert``, ``medium``, ``medium-replay`` or ``random``.
        seed (int): the recording's seed.
        config (dict): options of the task that differ from its yaml.

    Returns:
        RecordingSetup: environment, team, task and references.
    """
    built = MpeTask[task.upper()].get_with(config)
    env = built.get_env_fun(WORLDS, continuous_actions=True, seed=seed, device="cpu")()
    # References hold for the task as it is by default; other options make another task.
    return RecordingSetup(
        env=env,
        policy=BehaviourTeam(load_behaviours(task, level)),
        max_steps=built.max_steps(env),
        groups=built.group_map(env),
        task={"environment": "mpe", "name": task, "config": dict(built.config)},
        references=None if config else references(task),
        source={"policy": f"shipped {level} policies"},
    )


for _task in TASKS:
    for _level in LEVELS:
        register_recipe(
            Recipe(
                id=f"mpe/{_task}/{_level}",
                description=f"{_TITLES[_task]}: {_WORDS[_level]}.",
                environment="mpe",
                name=_task,
                make=partial(make, _task, _level),
                transitions=TRANSITIONS,
            )
        )

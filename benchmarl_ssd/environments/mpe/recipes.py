"""Recipes for the MPE datasets: shipped policies play, nothing is downloaded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from tensordict import TensorDictBase

from benchmarl_ssd.data.recipes import ExpectedReturn, Recipe, RecordingSetup, register_recipe
from benchmarl_ssd.environments.common import require
from benchmarl_ssd.environments.mpe.common import MpeTask
from benchmarl_ssd.environments.mpe.policies import (
    ASSETS,
    MIXED,
    TASKS,
    Behaviour,
    kinds,
    load_behaviours,
)

TRANSITIONS = 1_000_000
"""As many as the literature's datasets hold."""
WORLDS = 4000
"""Worlds played at once; with 25 steps an episode, one batch is 100 000 transitions."""

#: Returns of Cooperative Navigation as the literature normalises by them: OMAR (Pan et al., 2022),
#: whose environment this is. Its Predator-Prey and World have another prey, and so other returns.
LITERATURE = {"cooperative_navigation": {"random": 159.8, "expert": 516.8}}

_WORDS = {
    "expert": "The expert, with a little noise",
    "medium": "A half-trained policy, with its exploration noise",
    "medium-replay": "Policies of the training up to the medium one, with their noise",
    "random": "Uniformly random actions",
    MIXED: "Two conventions of who takes which landmark, half of the episodes each, and noise",
}
_SOURCES = {
    "random": "uniform",
    MIXED: "controllers towards landmark i or i + 1, drawn per episode",
}
_TITLES = {
    "cooperative_navigation": "Cooperative Navigation",
    "predator_prey": "Predator-Prey",
    "world": "World",
}


class BehaviourTeam:
    """Several behaviours, each playing its share of a batch of episodes.

    Args:
        behaviours: policies, their noise and their shares.

    Example:
        >>> from tensordict import TensorDict
        >>> team = BehaviourTeam(load_behaviours("world", "medium-replay"))
        >>> start = TensorDict({"agents": {"observation": torch.zeros(40, 3, 24)}}, [40])
        >>> team.reset(start)
        >>> team(start)["agents", "action"].shape
        torch.Size([40, 3, 2])
    """

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        self.behaviours = list(behaviours)
        #: the behaviour that plays each world, an index, ``[B]``
        self.deal = torch.zeros(0, dtype=torch.long)
        self._worlds: list[torch.Tensor] = []

    def reset(self, tensordict: TensorDictBase) -> None:
        """Deal out the worlds of a new batch of episodes.

        A recording may end within a batch, so the first worlds of a batch, however many, are
        dealt out in the same shares, up to two worlds of a behaviour.

        Args:
            tensordict: what the environment's ``reset`` returned, ``[B]``.
        """
        worlds = tensordict.batch_size[0]
        if len(self.behaviours) == 1:
            self.deal = torch.zeros(worlds, dtype=torch.long)
            return
        shares = torch.tensor([part.share for part in self.behaviours], dtype=torch.float64)
        ends = (shares.cumsum(0) / shares.sum() * worlds + torch.rand(())).floor().long()
        ends[-1] = worlds
        counts = ends.diff(prepend=ends.new_zeros(1))
        part = torch.arange(len(counts)).repeat_interleave(counts)
        # Each behaviour's worlds lie evenly over the batch, and by chance within their intervals.
        rank = torch.arange(worlds) - (ends - counts)[part]
        self.deal = part[((rank + torch.rand(worlds)) / counts[part]).argsort()]
        self._worlds = [(self.deal == index).nonzero().flatten() for index in range(len(counts))]

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``("agents", "action")``.

        Args:
            tensordict: with ``("agents", "observation")``, ``[B, n, size]``.
        """
        observation = tensordict.get(("agents", "observation"))
        if len(self.behaviours) == 1:
            return tensordict.set(("agents", "action"), self.behaviours[0].act(observation))
        action = observation.new_empty(*observation.shape[:-1], 2)
        for behaviour, worlds in zip(self.behaviours, self._worlds, strict=True):
            action[worlds] = behaviour.act(observation[worlds])
        return tensordict.set(("agents", "action"), action)


@cache
def measured() -> dict[str, dict[str, ExpectedReturn]]:
    """Return what every level returns on every task as it is by default, measured once.

    Example:
        >>> measured()["world"]["expert"].episodes
        20000
    """
    raw = json.loads((ASSETS / "references.json").read_text(encoding="utf-8"))
    names = [field.name for field in dataclasses.fields(ExpectedReturn)]
    return {
        task: {level: ExpectedReturn(**{n: entry[n] for n in names}) for level, entry in of.items()}
        for task, of in raw.items()
    }


def references(task: str) -> tuple[dict[str, float | None], str]:
    """Return the mean returns of random and expert play, and whose they are.

    Args:
        task: ``cooperative_navigation``, ``predator_prey`` or ``world``, with default options.

    Example:
        >>> references("cooperative_navigation")
        ({'random': 159.8, 'expert': 516.8}, 'literature')
        >>> references("world")[1]
        'measured against the shipped prey'
    """
    if task in LITERATURE:
        return {**LITERATURE[task]}, "literature"
    levels = measured()[task]
    return (
        {level: round(levels[level].mean, 2) for level in ("random", "expert")},
        "measured against the shipped prey",
    )


def make(task: str, level: str, seed: int, config: dict[str, Any]) -> RecordingSetup:
    """Set up a dataset's recording.

    Args:
        task: ``cooperative_navigation``, ``predator_prey`` or ``world``.
        level: ``expert``, ``medium``, ``medium-replay`` or ``random``; ``mixed`` for Cooperative
            Navigation.
        seed: the recording's seed.
        config: options of the task that differ from its yaml. References hold for none.

    Returns:
        Environment, team, task and references.

    Raises:
        TaskOptionError: an option is unknown or out of range, or the shipped policies are for
            another number of agents.

    Example:
        >>> make("world", "medium", 0, {}).source["references"]
        'measured against the shipped prey'
        >>> make("world", "medium", 0, {"max_steps": 10}).references is None
        True
    """
    member = MpeTask.__members__[task.upper()]
    built = member.get_with(config)
    agents = built.config.get("n_agents", 3)
    require(
        agents == 3 or level in ("random", MIXED),
        expected=f"n_agents=3 for mpe/{task}/{level}, as its policies were trained",
        found=agents,
        mend=f"Set task.n_agents=3, or take mpe/{task}/random, which has no policy.",
    )
    env = built.get_env_fun(WORLDS, continuous_actions=True, seed=seed, device="cpu")()
    values, whose = references(task)
    default = built.config == member.get_from_yaml().config
    return RecordingSetup(
        env=env,
        policy=BehaviourTeam(load_behaviours(task, level)),
        max_steps=built.max_steps(env),
        groups=built.group_map(env),
        task={"environment": "mpe", "name": task, "config": dict(built.config)},
        references=values if default else None,
        source={
            "policy": _SOURCES.get(level, f"shipped {level} policies"),
            "references": whose if default else "none for these options",
        },
    )


for _task in TASKS:
    for _level in kinds(_task):
        register_recipe(
            Recipe(
                id=f"mpe/{_task}/{_level}",
                description=f"{_TITLES[_task]}: {_WORDS[_level]}.",
                environment="mpe",
                name=_task,
                make=partial(make, _task, _level),
                transitions=TRANSITIONS,
                references=references(_task)[0],
                expected_return=measured()[_task][_level],
            )
        )

"""Recipes for the data of the coordination tasks: scripted teams with a convention per episode."""

from __future__ import annotations

from typing import Any

import torch
from torchrl.envs import EnvBase

from benchmarl_ssd.data.recipes import Recipe, RecordingSetup, register_recipe
from benchmarl_ssd.environments.coordination.common import CoordinationTask
from benchmarl_ssd.environments.coordination.policies import (
    BanditTeam,
    ConventionTeam,
    TwoApplesTeam,
)

_MEASURED_BATCHES = 5
"""Batches of episodes behind each reference return; 1000 or more episodes in both recipes."""


@torch.no_grad()
def measure_return(env: EnvBase, team: ConventionTeam | None, max_steps: int) -> float:
    """Return the mean episode return of a team in an environment.

    Args:
        env: vectorised coordination environment.
        team: the policy; ``None`` draws actions uniformly.
        max_steps: length of an episode.

    Returns:
        Sum of the team reward over an episode, averaged over five batches of episodes.
    """
    returns = []
    for _ in range(_MEASURED_BATCHES):
        start = env.reset()
        if team is not None:
            team.reset(start)
        td = env.rollout(max_steps, team, auto_reset=False, tensordict=start)
        returns.append(td["next", "agents", "reward"].mean(-2).sum(1).mean())
    return float(torch.stack(returns).mean())


def _setup(
    name: str,
    team_class: type[BanditTeam] | type[TwoApplesTeam],
    num_envs: int,
    seed: int,
    config: dict[str, Any],
) -> RecordingSetup:
    task = CoordinationTask.__members__[name].get_with(config)
    env = task.get_env_fun(num_envs, continuous_actions=True, seed=seed, device="cpu")()
    team = team_class(**task.config)
    max_steps = task.max_steps(env)
    return RecordingSetup(
        env=env,
        policy=team,
        max_steps=max_steps,
        groups=task.group_map(env),
        task={
            "environment": task.env_name(),
            "name": task.name.lower(),
            "config": dict(task.config),
        },
        references={
            "random": measure_return(env, None, max_steps),
            "expert": measure_return(env, team, max_steps),
        },
        source={"policy": team_class.__name__},
    )


def bandit_modes(seed: int, config: dict[str, Any]) -> RecordingSetup:
    """Set up the bandit's data: each joint mode equally often, with Gaussian noise around it.

    Args:
        seed: the recording's seed.
        config: options of the task that differ from its yaml, e.g. ``{"n_agents": 8}``.

    Returns:
        Environment, logged team, task and measured references.

    Raises:
        TaskOptionError: an option is unknown or out of range.

    >>> bandit_modes(0, {"n_agents": 4}).references["expert"]
    1.0
    """
    return _setup("BANDIT", BanditTeam, 1000, seed, config)


def two_apples_coin_flip(seed: int, config: dict[str, Any]) -> RecordingSetup:
    """Set up two apples' data: half of the teams go left, half go right.

    Args:
        seed: the recording's seed.
        config: options of the task that differ from its yaml, e.g. ``{"n_agents": 8}``.

    Returns:
        Environment, logged team, task and measured references.

    Raises:
        TaskOptionError: an option is unknown or out of range.

    >>> two_apples_coin_flip(0, {}).task["name"]
    'two_apples'
    """
    return _setup("TWO_APPLES", TwoApplesTeam, 200, seed, config)


BANDIT_MODES = register_recipe(
    Recipe(
        id="coordination/bandit/modes",
        description="A one-step game: teams that play one of K joint modes, each equally often.",
        environment="coordination",
        name="bandit",
        make=bandit_modes,
        transitions=20_000,
    )
)
TWO_APPLES_COIN_FLIP = register_recipe(
    Recipe(
        id="coordination/two_apples/coin-flip",
        description="Teams that all go left or all go right, half of them each.",
        environment="coordination",
        name="two_apples",
        make=two_apples_coin_flip,
        transitions=50_000,
    )
)

"""The shipped policies: small, decentralised, and as good as their level says."""

from __future__ import annotations

import pytest
import torch

from benchmarl_ssd.environments.mpe.env import SCENARIOS, make_scenario
from benchmarl_ssd.environments.mpe.policies import (
    ASSETS,
    LEVELS,
    Behaviour,
    load_behaviours,
    load_policy,
)
from benchmarl_ssd.environments.mpe.scenario import EPISODE_STEPS

each_task = pytest.mark.parametrize("task", list(SCENARIOS))


def mean_return(task: str, level: str, episodes: int = 300) -> float:
    scenario, generator = make_scenario(task), torch.Generator().manual_seed(1)
    total = 0.0
    for part in load_behaviours(task, level):
        state = scenario.reset(round(part.share * episodes), generator)
        observation = scenario.observe(state)
        for _ in range(EPISODE_STEPS):
            action = part.act(observation, generator)
            state, observation, reward = scenario.step(state, action)
            total += part.share * reward.mean().item()
    return total


@each_task
def test_levels_are_ordered(task: str) -> None:
    returns = [mean_return(task, level) for level in LEVELS]
    assert returns == sorted(returns, reverse=True)
    expert, medium, replay, random = returns
    # about half way between random and expert, and the history below it
    assert 0.4 < (medium - random) / (expert - random) < 0.6
    assert 0.1 < (replay - random) / (medium - random) < 0.9


@each_task
@pytest.mark.parametrize("level", ["expert", "medium", "random"])
def test_policies_map_observations_to_actions(task: str, level: str) -> None:
    size = make_scenario(task).observation_size
    action = load_policy(task, level)(torch.randn(7, 3, size))
    assert action.shape == (7, 3, 2)
    assert action.abs().max() <= 1


@each_task
def test_policies_are_decentralised(task: str) -> None:
    policy = load_policy(task, "expert")
    observation = torch.randn(5, 3, make_scenario(task).observation_size)
    changed = observation.clone()
    changed[:, 1:] += 1.0
    torch.testing.assert_close(policy(observation)[:, 0], policy(changed)[:, 0])
    assert not torch.allclose(policy(observation)[:, 1], policy(changed)[:, 1])


@each_task
def test_history(task: str) -> None:
    parts = load_behaviours(task, "medium-replay")
    assert 8 <= len(parts) <= 10
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    noises = [part.noise for part in parts]
    assert noises[0] > noises[-1] > 0
    with pytest.raises(ValueError, match="load_behaviours"):
        load_policy(task, "medium-replay")


def test_noise_is_reproducible_and_clamped() -> None:
    behaviour = Behaviour(torch.nn.Linear(4, 2), noise=1.0)
    observation = torch.randn(50, 3, 4)
    first, second = (behaviour.act(observation, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.abs().max() == 1
    assert not torch.equal(first, behaviour.act(observation, torch.Generator().manual_seed(4)))


def test_bad_names_list_the_good_ones() -> None:
    with pytest.raises(ValueError, match="cooperative_navigation, predator_prey, world"):
        load_policy("simple_tag", "expert")
    with pytest.raises(ValueError, match="expert, medium, medium-replay, random"):
        load_policy("world", "good")


def test_assets_are_small_and_not_pickled() -> None:
    files = list(ASSETS.iterdir())
    assert sum(file.stat().st_size for file in files) < 600_000
    assert {file.suffix for file in files} <= {".safetensors", ".json"}


def test_loading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_policy("world", "expert")
    assert torch.equal(torch.rand(1), expected)

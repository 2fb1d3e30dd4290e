"""The mixed data of Cooperative Navigation: two conventions, equally good, one per episode."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarl_ssd.data import OfflineDataset, build, get_recipe
from benchmarl_ssd.environments.mpe.conventions import (
    CONVENTIONS,
    NOISE,
    LandmarkController,
    convention_of,
)
from benchmarl_ssd.environments.mpe.env import make_scenario
from benchmarl_ssd.environments.mpe.scenario import EPISODE_STEPS

ID = "mpe/cooperative_navigation/mixed"
EPISODES = 4000


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Observations, actions ``[E, 25, 3, ...]`` and returns ``[E]`` of a build."""
    root = tmp_path_factory.mktemp("mixed")
    dataset = OfflineDataset(build(ID, root=root, transitions=25 * EPISODES, progress=False))
    data = dataset.data[:].reshape(EPISODES, EPISODE_STEPS)
    rewards = data["next", "agents", "reward"].squeeze(-1)
    returns = rewards.mean(-1).sum(1)
    return data["agents", "observation"], data["agents", "action"], returns, dataset.metadata


def log_odds(observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """How much likelier the second convention is than the first, by agent and episode, ``[E, n]``.

    An action is Gaussian around the controller's, and clamped: the exact likelihood of an episode.
    """
    likelihoods = []
    for k in CONVENTIONS:
        centre = LandmarkController(k)(observation)
        free = -0.5 * ((action - centre) / NOISE).square() - math.log(NOISE * math.tau**0.5)
        clamped = torch.special.log_ndtr((centre * action.sign() - 1) / NOISE)
        likelihoods.append(torch.where(action.abs() < 1, free, clamped).sum((1, -1)))
    return likelihoods[1] - likelihoods[0]


def test_build_is_as_committed(episodes):
    _, _, returns, metadata = episodes
    expected = get_recipe(ID).expected_return
    error = math.hypot(returns.std() / EPISODES**0.5, expected.standard_error)
    assert abs(returns.mean() - expected.mean) < 4 * error
    assert metadata.references == {"random": 159.8, "expert": 516.8}
    assert metadata.source["policy"] == "controllers towards landmark i or i + 1, drawn per episode"


def test_agents_of_an_episode_agree_and_each_convention_has_half(episodes):
    observation, action, _, _ = episodes
    odds = log_odds(observation, action)
    convention = odds.sum(-1) > 0
    assert convention.sum() == EPISODES / 2
    # An agent whose two landmarks nearly coincide tells little; none that tells much disagrees.
    against = (odds > 0) != convention.unsqueeze(-1)
    assert odds[against].abs().amax() < 10
    assert odds.abs().median() > 100


def test_the_coin_is_tossed_anew_for_every_episode(episodes):
    observation, action, _, _ = episodes
    coins = log_odds(observation, action).sum(-1) > 0
    changes = (coins[1:] != coins[:-1]).float().mean()
    assert 0.4 < changes < 0.75  # between a chance order and an alternation


def test_conventions_return_the_same(episodes):
    observation, action, returns, _ = episodes
    convention = log_odds(observation, action).sum(-1) > 0
    first, second = returns[~convention], returns[convention]
    error = math.hypot(first.std() / len(first) ** 0.5, second.std() / len(second) ** 0.5)
    assert abs(first.mean() - second.mean()) < 3.5 * error


def test_the_first_action_tells_the_convention(episodes):
    truth = (log_odds(*episodes[:2]).sum(-1, keepdim=True) > 0).long()
    observation, action = (part[:, 0] for part in episodes[:2])
    found = convention_of(observation, action, CONVENTIONS)
    assert (found == truth).float().mean() > 0.9
    # the rest are landmarks that lie in one direction: without noise there is no doubt
    quiet = torch.stack([LandmarkController(k)(observation) for k in CONVENTIONS])
    for k in CONVENTIONS:
        assert (convention_of(observation, quiet[k]) == k).float().mean() > 0.999


@pytest.mark.parametrize("n", [3, 5])
def test_a_controller_reaches_its_landmark_and_stays(n):
    scenario = make_scenario("cooperative_navigation", n_agents=n)
    state = scenario.reset(1000, torch.Generator().manual_seed(0))
    scenario.physics._first = scenario.physics._first[:0]  # no contacts: nobody is in the way
    scenario.physics._second = scenario.physics._second[:0]
    scenario.physics._reach = scenario.physics._reach[:0]
    controller = LandmarkController(offset=2)
    for _ in range(2 * EPISODE_STEPS):
        action = controller(scenario.observe(state))
        assert action.abs().max() <= 1
        state, _, _ = scenario.step(state, action)
    agents, landmarks = state.position[:, :n], state.position[:, n:].roll(-2, 1)
    assert (agents - landmarks).abs().max() < 1e-3
    assert state.velocity.abs().max() < 1e-2


def test_other_numbers_of_agents(tmp_path):
    path = build(ID, tmp_path, 50, progress=False, config={"n_agents": 5})
    assert OfflineDataset(path).data["agents", "observation"].shape == (50, 5, 30)

"""Learned end to end through the real runner: teams settle on a convention that was played."""

from __future__ import annotations

import pytest
import torch
from benchmarl.models import MlpConfig
from runs import make, summary

from benchmarl_ssd.data.recipes import build
from benchmarl_ssd.environments import CoordinationTask

pytestmark = pytest.mark.slow
RECIPES = {"bandit": "coordination/bandit/modes", "two_apples": "coordination/two_apples/coin-flip"}
BUDGET = {
    "bandit": {"max_n_iters": 30, "off_policy_n_optimizer_steps": 50},
    "two_apples": {"max_n_iters": 40, "off_policy_n_optimizer_steps": 100},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes")


def train(root, folder, name, n_agents, seed, **changes):
    task = CoordinationTask[name.upper()].get_with({"n_agents": n_agents})
    data = build(RECIPES[name], root=root, config={"n_agents": n_agents}, progress=False)
    network = MlpConfig(
        num_cells=[64, 64], layer_class=torch.nn.Linear, activation_class=torch.nn.Tanh
    )
    budget = {
        **BUDGET[name],
        "off_policy_train_batch_size": 256,
        "evaluation_interval": BUDGET[name]["max_n_iters"],
    }
    experiment = make(
        "ssd", task, folder, data, seed, network, budget, score_num_cells=[64, 64], **changes
    )
    experiment.run()
    return summary(experiment)["final"]["success_rate"]


@pytest.mark.parametrize("seed", [100, 101])
@pytest.mark.parametrize("n_agents", [2, 4])
def test_sequential_ends_on_a_played_joint_mode(root, tmp_path, n_agents, seed):
    assert train(root, tmp_path, "bandit", n_agents, seed) == 1.0


def test_joint_ends_on_a_played_joint_mode(root, tmp_path):
    assert train(root, tmp_path, "bandit", 4, 100, decomposition="joint") == 1.0


def test_two_apples(root, tmp_path):
    assert train(root, tmp_path, "two_apples", 4, 100, final_evaluation_episodes=64) >= 0.95

"""What TD3+BC and OMAR learn on the bandit, through the real runner, and what they cannot."""

from __future__ import annotations

import pytest
import torch
from benchmarl.models import MlpConfig
from runs import make, summary

from benchmarl_ssd.data import OfflineDataset, record
from benchmarl_ssd.data.recipes import build
from benchmarl_ssd.environments import CoordinationTask

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def modes(tmp_path_factory):
    root = tmp_path_factory.mktemp("recipes")
    return build("coordination/bandit/modes", root=root, transitions=5000, progress=False)


def explore(tensordict):
    """The first agent plays anything above 0, the second anything at all."""
    action = 2 * torch.rand(*tensordict.batch_size, 2, 1) - 1
    action[..., 0, :].abs_()
    return tensordict.set(("agents", "action"), action)


@pytest.fixture(scope="module")
def exploration(tmp_path_factory):
    """One convention is paid where this data was, in one game of ten; the mean action is not."""
    task = CoordinationTask.BANDIT.get_from_yaml()
    env = task.get_env_fun(1000, continuous_actions=True, seed=0, device="cpu")()
    path = tmp_path_factory.mktemp("recorded") / "exploration"
    record(
        env,
        explore,
        path,
        groups=task.group_map(env),
        max_steps=1,
        transitions=5000,
        task={"environment": "coordination", "name": "bandit", "config": dict(task.config)},
        progress=False,
    )
    return path


def train(name, folder, data, steps=240, **changes):
    """Success rate and the two actions, after few steps at a rate that suits so few."""
    network = MlpConfig(
        num_cells=[32, 32], layer_class=torch.nn.Linear, activation_class=torch.nn.Tanh
    )
    budget = {
        "max_n_iters": 2,
        "off_policy_n_optimizer_steps": steps // 2,
        "off_policy_train_batch_size": 128,
    }
    rates = {"critic_lr": 4e-3, "actor_lr": 4e-3}
    experiment = make(
        name,
        CoordinationTask.BANDIT.get_from_yaml(),
        folder,
        data,
        100,
        network,
        budget,
        **rates,
        **changes,
    )
    experiment.run()
    action = experiment.policy(experiment.test_env.reset())["agents", "action"]
    return summary(experiment)["final"]["success_rate"], action[0, :, 0]


@pytest.mark.parametrize("name", ["matd3bc", "omar"])
def test_exploration_shows_what_is_paid(name, exploration, tmp_path):
    paid = OfflineDataset(exploration).data["next", "agents", "reward"].mean().item()
    assert 0.05 < paid < 0.2  # so the behaviour itself succeeds rarely, and its mean never
    success, _ = train(name, tmp_path, exploration)
    assert success == 1.0


def test_td3bc_ends_between_the_conventions_of_a_mixture(modes, tmp_path):
    # All that was logged is paid alike: the critic is flat, and the clone of a mixture is its mean.
    success, action = train("matd3bc", tmp_path, modes)
    assert success == 0.0
    assert (action.abs() < 0.55).all()  # what is paid lies beyond


def test_omar_of_joint_critics_agrees_on_a_convention_of_a_mixture(modes, tmp_path):
    # Each agent's search looks beside what the other does now, and unplayed pairs are held down.
    success, _ = train("omar", tmp_path, modes, steps=400, critics="joint")
    assert success == 1.0

"""Conservative Q-learning through the runner, and what it learns on two conventions."""

from __future__ import annotations

import pytest
import torch
from benchmarl.models import MlpConfig
from runs import make, parameters, summary

from benchmarl_ssd.algorithms import OfflineRunError
from benchmarl_ssd.environments import CoordinationTask


def learn(name, data, folder, **changes):
    """Success rate of two agents on the bandit, and what they do: 0.8 or -0.8 were logged."""
    network = MlpConfig(
        num_cells=[32, 32], layer_class=torch.nn.Linear, activation_class=torch.nn.Tanh
    )
    budget = {
        "max_n_iters": 6,
        "off_policy_n_optimizer_steps": 50,
        "off_policy_train_batch_size": 128,
        "evaluation_interval": 6,
    }
    task = CoordinationTask.BANDIT.get_with({"n_agents": 2})
    experiment = make(name, task, folder, data, 100, network, budget, **changes)
    experiment.run()
    action = experiment.policy(experiment.test_env.reset())["agents", "action"]
    return summary(experiment)["final"]["success_rate"], action[0, :, 0]


@pytest.mark.slow
def test_a_joint_critic_that_doubts_joint_actions_agrees_on_a_convention(bandit_data, tmp_path):
    success, _ = learn("macql", bandit_data, tmp_path)
    assert success == 1.0


@pytest.mark.slow
def test_counterfactual_agents_each_end_on_a_convention_of_their_own(bandit_data, tmp_path):
    # Each climbs beside logged actions of both conventions, so nothing makes them agree.
    _, action = learn("cfcql", bandit_data, tmp_path)
    assert (action.abs() - 0.8).abs().max() < 0.2


@pytest.mark.slow
def test_counterfactual_critic_with_actors_that_see_each_other_agrees(bandit_data, tmp_path):
    success, _ = learn("cfcql", bandit_data, tmp_path, counterfactual_actors=False)
    assert success == 1.0


def test_learned_weights_train_a_behaviour_model(two_apples, apples_data, tmp_path):
    cells = {"behaviour_num_cells": [16], "behaviour_components": 2}
    experiment = make("cfcql", two_apples, tmp_path, apples_data, weight_tau=0.5, **cells)
    before = parameters(experiment)
    experiment.run()
    after = parameters(experiment)
    for network in ("behaviour_network", "qvalue_network", "actor_network"):
        assert any(not before[k].equal(after[k]) for k in before if k.startswith(network))
    assert all(torch.isfinite(value).all() for value in after.values())


def test_counterfactuals_need_joint_critics(bandit, bandit_data, tmp_path):
    with pytest.raises(OfflineRunError, match="critics to be joint, found 'independent'"):
        make("cfcql", bandit, tmp_path, bandit_data, critics="independent")
    assert list(tmp_path.iterdir()) == []


def test_macql_trains_independent_critics(two_apples, apples_data, tmp_path):
    experiment = make("macql", two_apples, tmp_path, apples_data, critics="independent")
    loss, batch = experiment.losses["agents"], experiment.replay_buffers["agents"].sample()
    values = loss.qvalues(batch, loss.qvalue_network_params)
    assert values.shape == (2, *batch.batch_size, 4)
    experiment.run()
    assert summary(experiment)["steps"] == 12


@pytest.mark.parametrize("name", ["macql", "cfcql"])
def test_option_out_of_range_is_one_clear_error(name, bandit, bandit_data, tmp_path):
    with pytest.raises(OfflineRunError, match=r"expected penalty_share in \(0, 1\], found 2"):
        make(name, bandit, tmp_path, bandit_data, penalty_share=2.0)
    assert list(tmp_path.iterdir()) == []

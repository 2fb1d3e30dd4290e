"""MADiff through BenchMARL's runner: windows, returns, plans of a trained team, export."""

from __future__ import annotations

import pytest
import torch
from runs import make, summary
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from benchmarl_ssd.algorithms import OfflineRunError
from benchmarl_ssd.data import DatasetWriter
from benchmarl_ssd.data.examples import example_episodes
from benchmarl_ssd.data.recipes import build
from benchmarl_ssd.deployment import ExportError, export_policy
from benchmarl_ssd.environments import LoggedTask

pytestmark = pytest.mark.usefixtures("untouched")


def plan_of(experiment):
    plan, _ = experiment.algorithm.get_policy_for_loss("agents")
    return plan


def test_windows_and_ranks_come_from_the_buffer(two_apples, apples_data, tmp_path):
    experiment = make("madiff", two_apples, tmp_path, apples_data, horizon=6)
    windows = experiment.replay_buffers["agents"].sample()
    assert windows.batch_size == (5, 6)  # 32 transitions, in windows of 6
    assert plan_of(experiment).horizon == 6
    rank = experiment.replay_buffers["agents"].storage._storage["return_rank"]
    assert rank.shape == (2500, 1)
    by_step = rank.reshape(100, 25)
    assert (by_step.mean(0) - 0.5).abs().max() < 1e-5
    reward = experiment.algorithm.dataset.data["next", "agents", "reward"].mean(-2).reshape(100, 25)
    assert by_step[:, 0].argmax() in (reward.sum(1) == reward.sum(1).max()).nonzero()
    experiment.close()


def test_one_step_tasks_are_planned_one_step_ahead(bandit, bandit_data, tmp_path):
    experiment = make("madiff", bandit, tmp_path, bandit_data, horizon=8)
    assert experiment.replay_buffers["agents"].sample().batch_size == (32, 1)
    assert plan_of(experiment).horizon == 1
    experiment.run()
    assert summary(experiment)["steps"] == 12


def test_short_episodes_of_a_logged_task_are_left_out_of_the_windows(tmp_path):
    bounds = {"agents": {"low": -torch.ones(2, 1), "high": torch.ones(2, 1)}}
    with DatasetWriter(tmp_path / "d", groups={"agents": ["a", "b"]}, action_bounds=bounds) as w:
        w.extend(example_episodes(episodes=20, length=3))
        w.extend(example_episodes(episodes=20, length=9))
    options = {"dataset": str(tmp_path / "d"), "fqe_steps": 5, "fqe_num_cells": [8]}
    task = LoggedTask.DATASET.get_with({**options, "fqe_members": 2})
    with pytest.warns(UserWarning, match="20 of 40 episodes are shorter than sequence_length=5"):
        experiment = make("madiff", task, tmp_path / "runs", horizon=5)
    experiment.run()
    assert 0 < summary(experiment)["final"]["action_distance"] < 2


def test_evaluation_follows_the_seed(two_apples, apples_data, tmp_path):
    experiment = make("madiff", two_apples, tmp_path, apples_data)
    data = TensorDict({"agents": {"observation": torch.randn(5, 4, 12)}}, [5])
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            drawn.append(experiment.policy(data.clone())["agents", "action"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    experiment.close()


def test_plans_cannot_be_exported_and_say_so(two_apples, apples_data, tmp_path):
    experiment = make("madiff", two_apples, tmp_path / "run", apples_data)
    for format, name in (("onnx", "p.onnx"), ("torch", "p.pt2")):
        with pytest.raises(ExportError, match="draws plans by diffusion; it cannot be exported"):
            export_policy(experiment, tmp_path / "out" / name, format=format)
    assert not (tmp_path / "out").exists()
    experiment.close()


BAD_OPTIONS = {
    "horizon": 0,
    "target_rank": 1.1,
    "guidance": -1.0,
    "condition_dropout": 2.0,
    "temperature": -0.1,
    "n_denoising_steps": 0,
    "n_noise_draws": 0,
    "plan_width": 30,
    "plan_depth": 0,
    "plan_heads": 0,
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_option_out_of_range_is_one_error_and_leaves_nothing(option, bandit, bandit_data, tmp_path):
    with pytest.raises(OfflineRunError, match="expected") as error:
        make("madiff", bandit, tmp_path, bandit_data, **{option: BAD_OPTIONS[option]})
    assert option.replace("plan_", "") in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_learns_to_walk_to_the_apples(two_apples, tmp_path_factory, tmp_path):
    """Each agent reaches an apple as the logged ones did; which one, agents cannot agree on."""
    root = tmp_path_factory.mktemp("recipes")
    data = build("coordination/two_apples/coin-flip", root=root, transitions=20_000, progress=False)
    budget = {"max_n_iters": 4, "off_policy_n_optimizer_steps": 110}
    experiment = make(
        "madiff",
        two_apples,
        tmp_path,
        data,
        plan_width=64,
        horizon=4,
        experiment={**budget, "off_policy_train_batch_size": 512, "evaluation_interval": 4},
    )

    def share_at_an_apple():
        torch.manual_seed(0)
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            played = experiment.test_env.rollout(25, experiment.policy)
        seen = played["next", "agents", "observation"][:, -1]
        nearest = seen[..., 4:8].unflatten(-1, (2, 2)).norm(dim=-1).amin(-1)
        return (nearest < 0.35).float().mean().item()

    before = share_at_an_apple()
    experiment.run()
    assert before < 0.2
    after = share_at_an_apple()
    assert after > 0.8, after

"""Offline runs through BenchMARL's own Experiment."""

from __future__ import annotations

import csv
import shutil
from typing import ClassVar

import pytest
import torch
from benchmarl.benchmark import Benchmark
from benchmarl.experiment import Experiment
from runs import (
    ALGORITHMS,
    DRAWING,
    KINDS,
    algorithm_config,
    check_same_seed_same_run,
    make,
    offline_config,
    parameters,
    small_gru,
    small_mlp,
    summary,
)
from tensordict import TensorDict

from benchmarl_ssd.algorithms import OfflineRunError, common
from benchmarl_ssd.data import DatasetError
from benchmarl_ssd.environments import CoordinationTask
from benchmarl_ssd.environments.coordination import CoordinationClass

pytestmark = pytest.mark.usefixtures("untouched")


class Counted(CoordinationClass):
    """Counts the environments that are really made."""

    built: ClassVar[list[int]] = []

    def get_env_fun(self, num_envs, continuous_actions, seed, device):
        make_env = super().get_env_fun(num_envs, continuous_actions, seed, device)
        return lambda: self.built.append(num_envs) or make_env()


class Discrete(CoordinationClass):
    """A task with discrete actions only."""

    def supports_continuous_actions(self):
        return False

    def supports_discrete_actions(self):
        return True


@pytest.mark.parametrize("name", ALGORITHMS)
def test_run_ends_with_a_summary(name, bandit, bandit_data, tmp_path):
    experiment = make(name, bandit, tmp_path, bandit_data)
    experiment.run()
    result = summary(experiment)
    assert result["algorithm"] == name
    assert result["task"] == "coordination/bandit"
    assert result["seed"] == 0
    assert result["steps"] == 12
    assert (result["batch_size"], result["iterations"], result["frames"]) == (32, 4, 4)
    assert result["train_seconds"] > 0
    assert result["dataset"]["id"] == "coordination/bandit/modes"
    assert result["dataset"]["return_mean"] == pytest.approx(1.0, abs=0.01)
    assert len(result["dataset"]["checksum"]) == 64
    references = result["dataset"]["references"]
    for block in (result["final"], result["best"]):
        assert block["episodes"] == 8
        assert 0 <= block["success_rate"] <= 1
        scale = references["expert"] - references["random"]
        expected = 100 * (block["return_mean"] - references["random"]) / scale
        assert block["normalised"] == pytest.approx(expected)
    assert result["best"]["return_mean"] >= result["final"]["return_mean"]


def test_default_final_evaluation_is_320_episodes(bandit, bandit_data, tmp_path):
    experiment = make("bc", bandit, tmp_path, bandit_data, final_evaluation_episodes=None)
    experiment.run()
    assert summary(experiment)["final"]["episodes"] == 320


@pytest.mark.parametrize("collect_with_grad", [True, False])
def test_simulator_is_built_for_evaluation_only(bandit, bandit_data, tmp_path, collect_with_grad):
    Counted.built = []
    task = Counted(name="BANDIT", config=dict(bandit.config))
    grad = {"collect_with_grad": collect_with_grad}
    make("ssd", task, tmp_path, bandit_data, experiment=grad).run()
    assert Counted.built == [4]  # evaluation_episodes


def test_critics_get_layer_norm_unless_told_otherwise(bandit, bandit_data, tmp_path):
    for wanted in (True, False):
        experiment = make(
            "ssd", bandit, tmp_path / str(wanted), bandit_data, critic_layer_norm=wanted
        )
        names = experiment.losses["agents"].qvalue_network_params.flatten_keys().keys()
        layers = sum(name.endswith("weight") for name in names)
        assert layers == (5 if wanted else 3)
        experiment.close()


def test_reward_scale_is_one_over_the_deviation_of_team_rewards(two_apples, apples_data, tmp_path):
    experiment = make("ssd", two_apples, tmp_path, apples_data)
    reward = experiment.algorithm.dataset.data["next", "agents", "reward"].double().mean(-2)
    found = experiment.losses["agents"].reward_scale
    assert found == pytest.approx(1 / reward.std().item(), rel=1e-6)
    experiment.close()


def test_a_subset_of_rewards_is_of_all_steps(two_apples, apples_data, tmp_path, monkeypatch):
    """Every k-th reward would be of the same few steps, as all episodes are equally long."""
    experiment = make("ssd", two_apples, tmp_path, apples_data)
    algorithm = experiment.algorithm
    everything = algorithm.team_rewards("agents")
    monkeypatch.setattr(common, "_N_REWARDS", len(everything) // two_apples.config["max_steps"])
    subset = algorithm.team_rewards("agents")
    assert len(subset) == common._N_REWARDS < len(everything)
    assert subset.mean().item() == pytest.approx(everything.mean().item(), rel=0.2)
    assert subset.std().item() == pytest.approx(everything.std().item(), rel=0.2)
    assert subset.equal(algorithm.team_rewards("agents"))  # every time the same
    experiment.close()


@pytest.mark.parametrize("name", KINDS)
def test_actors_read_their_own_observation_only(name, two_apples, apples_data, tmp_path):
    experiment = make(name, two_apples, tmp_path, apples_data, experiment={"max_n_iters": 2})
    experiment.run()
    torch.manual_seed(0)
    n, size = 4, experiment.observation_spec["agents", "observation"].shape[-1]
    observation = torch.randn(16, n, size)

    def act(values, **more):
        torch.manual_seed(1)  # of the noise of policies that draw
        data = TensorDict({"agents": {"observation": values}, **more}, [16])
        return experiment.policy(data)["agents", "action"]

    before = act(observation)
    assert torch.equal(before, act(observation, state=torch.randn(16, 7)))
    for changed in range(n):
        other = observation.clone()
        other[:, changed] += torch.randn(16, size)
        after = act(other)
        for agent in range(n):
            same = torch.equal(before[:, agent], after[:, agent])
            assert same == (agent != changed)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in DRAWING])
def test_evaluation_and_execution_are_without_noise(name, two_apples, apples_data, tmp_path):
    experiment = make(name, two_apples, tmp_path, apples_data)
    data = TensorDict({"agents": {"observation": torch.randn(5, 4, 12)}}, [5])
    actions = [experiment.policy(data.clone())["agents", "action"] for _ in range(2)]
    assert torch.equal(*actions)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_same_seed_same_run(name, bandit, bandit_data, tmp_path):
    check_same_seed_same_run(name, bandit, tmp_path, bandit_data)


@pytest.mark.parametrize(
    ("name", "soft"), [*((name, True) for name in KINDS), ("matd3bc", False), ("ssd", False)]
)
def test_resumed_run_ends_where_the_uninterrupted_one_does(
    name, soft, bandit, bandit_data, tmp_path
):
    every = {"checkpoint_interval": 1, "keep_checkpoints_num": None, "soft_target_update": soft}
    every["hard_target_update_frequency"] = 3  # of 12 steps, 6 before the cut
    whole = make(name, bandit, tmp_path / "whole", bandit_data, experiment=every)
    whole.run()
    shutil.copytree(whole.folder_name, tmp_path / "cut" / whole.folder_name.name)
    cut = tmp_path / "cut" / whole.folder_name.name
    (cut / "summary.json").unlink()
    resumed = Experiment.reload_from_file(
        str(cut / "checkpoints" / "checkpoint_2.pt"), {"save_folder": str(tmp_path / "cut")}
    )
    assert resumed.n_iters_performed == 2
    resumed.run()
    expected, found = parameters(whole), parameters(resumed)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert summary(resumed)["final"] == summary(whole)["final"]
    assert summary(resumed)["best"] == summary(whole)["best"]


def test_checkpoints_hold_no_data_and_need_no_code(bandit, bandit_data, tmp_path):
    experiment = make(
        "ssd", bandit, tmp_path, bandit_data, experiment={"exclude_buffer_from_checkpoint": False}
    )
    experiment.run()
    (checkpoint,) = (experiment.folder_name / "checkpoints").iterdir()
    saved = torch.load(checkpoint, weights_only=True)
    assert not saved["buffer_agents"]


def test_relative_dataset_is_found_again_from_another_folder(
    bandit, bandit_data, tmp_path, monkeypatch
):
    shutil.copytree(bandit_data, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    experiment = make("bc", bandit, tmp_path / "runs", "data")
    experiment.run()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (checkpoint,) = (experiment.folder_name / "checkpoints").iterdir()
    again = Experiment.reload_from_file(str(checkpoint))
    assert again.algorithm.dataset.data_path == tmp_path / "data"


def test_normalised_return_is_logged(bandit, bandit_data, tmp_path):
    experiment = make("bc", bandit, tmp_path, bandit_data)
    experiment.run()
    (file,) = experiment.folder_name.rglob("eval_normalised_return.csv")
    rows = list(csv.reader(file.open()))
    assert len(rows) == 3  # after iterations 1, 2 and 4


def test_benchmark_runs_several(bandit, two_apples, bandit_data, tmp_path):
    benchmark = Benchmark(
        algorithm_configs=[algorithm_config(name, bandit_data) for name in KINDS],
        model_config=small_mlp(),
        tasks=[bandit],
        seeds={0, 1},
        experiment_config=offline_config(tmp_path, max_n_iters=2),
    )
    benchmark.run_sequential()
    assert len(list(tmp_path.rglob("summary.json"))) == 2 * len(KINDS)


@pytest.mark.parametrize("name", ["ssd", "maiql", "maicq", "matd3bc", "macql", "omiga"])
def test_recurrent_critics_train_on_windows(name, two_apples, apples_data, tmp_path):
    """They read the next steps, too, which have to say where windows begin."""
    budget = {"max_n_iters": 2, "off_policy_train_batch_size": 50}
    experiment = Experiment(
        task=two_apples,
        algorithm_config=algorithm_config(name, apples_data),
        model_config=small_gru(),  # of actors, and as nothing else is said, of critics
        seed=0,
        config=offline_config(tmp_path, **budget),
    )
    experiment.run()
    assert summary(experiment)["steps"] == 6


@pytest.mark.parametrize("name", KINDS)
def test_recurrent_actors_train_on_windows(name, two_apples, apples_data, tmp_path):
    gru = small_gru()
    experiment = make(
        name,
        two_apples,
        tmp_path,
        apples_data,
        model=gru,
        experiment={"max_n_iters": 2, "off_policy_train_batch_size": 50},
    )
    batch = experiment.replay_buffers["agents"].sample()
    assert batch.batch_size == (2, 25)
    assert batch["is_init"][:, 0].all()
    experiment.run()
    assert summary(experiment)["steps"] == 6


BAD_OPTIONS = {
    "decomposition": "chain",
    "order": "sorted",
    "condition": "nothing",
    "beta": -1.0,
    "weighting": "snr",
    "t_min": 0.0,
    "t_max": 1.5,
    "t_final": 0.01,
    "t_width": 0.0,
    "annealing": 2.0,
    "pretrain_fraction": 1.0,
    "score_share": 0.0,
    "critic_share": 1.5,
    "policy_share": 0.0,
    "n_conventions": 0,
    "beta_warmup": 1.5,
    "critic": "live",
    "reward_scale": 0.0,
    "policy_noise": -1.0,
    "noise_clip": -1.0,
    "score_num_cells": [],
    "n_noise_draws": 0,
    "n_policy_noise_draws": 0,
    "num_qvalue_nets": 0,
    "expectile": 1.0,
    "loss_function": "l3",
    "lr_schedule": "linear",
    "final_evaluation_episodes": 0,
    "actor_lr": 0.0,
    "clone_lr": -1e-3,
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_option_out_of_range_is_one_error_and_leaves_nothing(option, bandit, bandit_data, tmp_path):
    with pytest.raises(OfflineRunError, match="expected") as error:
        make("ssd", bandit, tmp_path, bandit_data, **{option: BAD_OPTIONS[option]})
    assert isinstance(error.value, ValueError)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_datasets_are_errors(bandit, two_apples, bandit_data, apples_data, tmp_path):
    more = CoordinationTask.BANDIT.get_with({"n_agents": 3})
    for task, data, text in (
        (bandit, apples_data, "expected a dataset of task coordination/bandit"),
        (more, bandit_data, "numbers of agents"),
        (bandit, tmp_path / "nowhere", "expected a dataset's folder or a recipe's id"),
        (bandit, "coordination/bandit/mode", "coordination/bandit/modes"),
    ):
        with pytest.raises(DatasetError, match=text):
            make("bc", task, tmp_path / "runs", data)
    assert list((tmp_path / "runs").iterdir()) == []


def test_discrete_tasks_are_a_clear_error(bandit, bandit_data, tmp_path):
    task = Discrete(name="BANDIT", config=dict(bandit.config))
    with pytest.raises(ValueError, match=r"ssd .* continuous actions only.* not compatible"):
        make("ssd", task, tmp_path, bandit_data)


def test_a_run_that_crashes_leaves_the_data_alone(bandit, bandit_data, tmp_path):
    experiment = make("ssd", bandit, tmp_path, bandit_data)

    def fail(*args):
        raise RuntimeError("power cut")

    experiment._on_train_end = fail
    with pytest.raises(RuntimeError, match="power cut"):
        experiment.run()

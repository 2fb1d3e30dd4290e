"""Runs on data of a factory that no simulator exists of, through BenchMARL's own Experiment."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarl.algorithms import MaddpgConfig
from benchmarl.experiment import Experiment
from logged_data import write_factory
from runs import KINDS, fingerprint, make, offline_config, small_gru, small_mlp, summary
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from benchmarl_ssd.algorithms import OfflineRunError
from benchmarl_ssd.data import OfflineDataset, from_arrays
from benchmarl_ssd.data.recipes import build
from benchmarl_ssd.environments import CoordinationTask, LoggedTask
from benchmarl_ssd.environments.coordination import BanditEnv
from benchmarl_ssd.environments.logged import LoggedTaskError

QUICK = {"fqe_steps": 20, "fqe_num_cells": [16], "fqe_members": 2}


@pytest.fixture(scope="module")
def factory(tmp_path_factory):
    folder = write_factory(tmp_path_factory.mktemp("factory") / "data")
    before = fingerprint(folder)
    yield folder
    assert fingerprint(folder) == before


def task_of(folder, **options):
    return LoggedTask.DATASET.get_with({"dataset": str(folder), **QUICK, **options})


def group_parameters(experiment):
    return {
        (group, name): value.clone()
        for group, loss in experiment.losses.items()
        for name, value in loss.state_dict().items()
        if hasattr(value, "clone")
    }


def logged(experiment) -> dict[str, list[float]]:
    return {
        file.stem: [float(row[1]) for row in csv.reader(file.open())]
        for file in experiment.folder_name.rglob("*.csv")
    }


def marl_eval(experiment) -> dict:
    (file,) = (f for f in experiment.folder_name.glob("*.json") if f.name != "summary.json")
    (by_task,) = json.loads(file.read_text()).values()
    (by_algorithm,) = by_task.values()
    (by_seed,) = by_algorithm.values()
    (run,) = by_seed.values()
    return run


@pytest.mark.parametrize("name", KINDS)
def test_trains_and_says_what_the_numbers_are(name, factory, tmp_path, capsys):
    experiment = make(name, task_of(factory), tmp_path)
    assert experiment.algorithm.dataset.data_path == factory  # algorithm.dataset was left out
    before = group_parameters(experiment)
    experiment.run()
    after = group_parameters(experiment)
    moved = {group for group, key in after if not after[group, key].equal(before[group, key])}
    assert moved == {"arms", "belts"}

    result = summary(experiment)
    assert result["task"] == "logged/dataset"
    assert result["dataset"]["return_mean"] < 0
    assert result["best"] is None
    final = result["final"]
    assert final["estimator"] == "fqe"
    assert "return_mean" not in final
    low, high = final["fqe_interval"]
    assert low < final["fqe_return_estimate"] < high
    scaled = 100 * (final["fqe_return_estimate"] + 10) / 10  # references -10 and 0
    assert final["fqe_normalised_estimate"] == pytest.approx(scaled)
    assert final["initial_states"] == 40
    assert final["fqe_horizon"] == 6
    assert 0 < final["action_distance"] < 2
    assert "nothing was played" in capsys.readouterr().out


@pytest.mark.parametrize("name", KINDS)
def test_no_metric_shows_the_datas_return_as_the_policys(name, factory, tmp_path):
    experiment = make(name, task_of(factory), tmp_path)
    experiment.run()
    evaluated = {key for key in logged(experiment) if key.startswith("eval")}
    assert evaluated == {
        "eval_action_distance",
        "eval_fqe_return_estimate",
        "eval_fqe_interval_low",
        "eval_fqe_interval_high",
    }
    assert not any("reward" in key or "collection_a" in key for key in logged(experiment))
    run = marl_eval(experiment)
    names = {key for step in run.values() for key in step} - {"step_count"}
    assert names == {key.removeprefix("eval_") for key in evaluated}
    assert torch.tensor(float(experiment.mean_return)).isnan()


def test_distance_at_every_evaluation_and_one_estimate_by_default(factory, tmp_path):
    experiment = make("bc", task_of(factory), tmp_path)
    experiment.run()
    found = logged(experiment)
    assert len(found["eval_action_distance"]) == 3  # after iterations 1, 2 and 4
    assert len(found["eval_fqe_return_estimate"]) == 1
    final = summary(experiment)["final"]
    assert found["eval_fqe_return_estimate"] == [final["fqe_return_estimate"]]


def test_estimates_during_training_if_wanted_change_nothing_of_it(factory, tmp_path):
    without = make("bc", task_of(factory), tmp_path / "a")
    without.run()
    with_them = make("bc", task_of(factory, fqe_steps_in_training=5), tmp_path / "b")
    with_them.run()
    assert len(logged(with_them)["eval_fqe_return_estimate"]) == 3
    one, two = group_parameters(without), group_parameters(with_them)
    assert all(one[key].equal(two[key]) for key in one)
    assert summary(without)["final"] == summary(with_them)["final"]


@pytest.mark.parametrize("name", KINDS)
def test_resumed_run_ends_where_the_uninterrupted_one_does(name, factory, tmp_path):
    every = {"checkpoint_interval": 1, "keep_checkpoints_num": None}
    whole = make(name, task_of(factory), tmp_path / "whole", experiment=every)
    whole.run()
    shutil.copytree(whole.folder_name, tmp_path / "cut" / whole.folder_name.name)
    cut = tmp_path / "cut" / whole.folder_name.name
    (cut / "summary.json").unlink()
    resumed = Experiment.reload_from_file(
        str(cut / "checkpoints" / "checkpoint_2.pt"), {"save_folder": str(tmp_path / "cut")}
    )
    assert resumed.n_iters_performed == 2
    resumed.run()
    expected, found = group_parameters(whole), group_parameters(resumed)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert summary(resumed)["final"] == summary(whole)["final"]


def test_evaluating_a_checkpoint_gives_the_runs_own_estimate(factory, tmp_path):
    experiment = make("bc", task_of(factory), tmp_path)
    experiment.run()
    expected = summary(experiment)["final"]["fqe_return_estimate"]
    (checkpoint,) = (experiment.folder_name / "checkpoints").iterdir()
    again = Experiment.reload_from_file(str(checkpoint))
    again.evaluate()
    assert logged(again)["eval_fqe_return_estimate"] == [expected] * 2  # the run's, and this one
    assert not any("reward" in key for key in logged(again))


def test_recurrent_policies_train_and_are_evaluated(factory, tmp_path):
    with pytest.warns(UserWarning, match="shorter than sequence_length"):
        experiment = make(
            "bc", task_of(factory), tmp_path, model=small_gru(), experiment={"max_n_iters": 2}
        )
    experiment.run()
    assert summary(experiment)["final"]["fqe_return_estimate"] < 0


def test_data_of_a_task_with_a_simulator_does_without(tmp_path, monkeypatch):
    data = build("coordination/bandit/modes", root=tmp_path, transitions=500, progress=False)
    longer = {"max_n_iters": 10, "off_policy_n_optimizer_steps": 20, "evaluation_interval": 10}
    experiment = make("bc", task_of(data), tmp_path, experiment=longer)
    monkeypatch.setattr(BanditEnv, "_step", lambda *args: pytest.fail("the simulator was used"))
    experiment.run()
    result = summary(experiment)
    assert result["dataset"]["id"] == "coordination/bandit/modes"
    # The bandit's two modes have the mean 0, which is all that a deterministic clone can learn.
    final = result["final"]
    assert final["action_distance"] == pytest.approx(final["action_distance_of_mean"], rel=0.05)


def test_trains_on_other_data_than_it_is_evaluated_on(factory, tmp_path):
    other = write_factory(tmp_path / "other", episodes=12, seed=1)
    experiment = make("bc", task_of(factory), tmp_path / "run", other)
    experiment.run()
    assert experiment.algorithm.dataset.data_path == other
    assert len(experiment.replay_buffers["arms"]) == OfflineDataset(other).metadata.transitions
    assert summary(experiment)["final"]["initial_states"] == 40
    narrow = write_factory(tmp_path / "narrow", discrete=True)
    with pytest.raises(OfflineRunError, match="expected"):
        make("bc", task_of(factory), tmp_path / "run", narrow)


def test_an_online_algorithm_is_refused(factory, tmp_path):
    """It would learn from, and be credited with, rewards that its actions have no part in."""
    experiment = Experiment(
        task=task_of(factory),
        algorithm_config=MaddpgConfig.get_from_yaml(),
        model_config=small_mlp(),
        seed=0,
        config=offline_config(tmp_path),
    )
    with pytest.raises(LoggedTaskError, match="expected an offline algorithm"):
        experiment.run()
    assert not any("reward" in key for key in logged(experiment))


def test_no_dataset_is_one_error_and_leaves_nothing(tmp_path):
    with pytest.raises(LoggedTaskError, match=r"task\.dataset=FOLDER"):
        make("bc", LoggedTask.DATASET.get_from_yaml(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_stock_commands(tmp_path):
    """benchmarl.run by folder and by name, benchmarl.evaluate, and the error without a dataset."""
    write_factory(tmp_path / "data")
    root = tmp_path / "root"
    (root / "logged").mkdir(parents=True)
    shutil.copytree(tmp_path / "data", root / "logged" / "robots")
    quick = (
        "task.fqe_steps=20",
        "experiment=offline",
        "experiment.max_n_iters=2",
        "experiment.off_policy_n_optimizer_steps=2",
        "model.num_cells=[8]",
    )

    def stock(command, *arguments):
        return subprocess.run(
            [sys.executable, "-m", f"benchmarl.{command}", *arguments],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "BENCHMARL_SSD_ROOT": str(root)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    run = stock("run", "algorithm=bc", "task=logged/dataset", "task.dataset=data", *quick)
    assert run.returncode == 0, run.stderr
    named = stock("run", "algorithm=ssd", "task=logged/robots", "seed=1", *quick)
    assert named.returncode == 0, named.stderr
    found = {
        (result["task"], result["algorithm"]): result["final"]
        for result in (json.loads(f.read_text()) for f in tmp_path.rglob("summary.json"))
    }
    assert set(found) == {("logged/dataset", "bc"), ("logged/robots", "ssd")}
    assert all("fqe_return_estimate" in final for final in found.values())

    for checkpoint in sorted(tmp_path.rglob("checkpoint_2.pt")):
        again = stock("evaluate", str(checkpoint))
        assert again.returncode == 0, again.stderr
        folder = Path(checkpoint).parents[1]
        (file,) = folder.rglob("eval_fqe_return_estimate.csv")
        final = json.loads((folder / "summary.json").read_text())["final"]
        step, value = file.read_text().splitlines()[-1].split(",")
        assert (step, float(value)) == ("2", final["fqe_return_estimate"])

    nothing = stock("run", "algorithm=bc", "task=logged/dataset", *quick)
    assert nothing.returncode == 1
    assert "task.dataset=FOLDER" in nothing.stderr
    assert "Traceback" not in nothing.stderr


def bring(path, low=-1.0, high=1.0, reward=1.0, shift=0.0, **more):
    """Own arrays of 40 episodes, with the actions in another unit."""
    random = np.random.default_rng(0)
    observation = random.normal(size=(400, 2, 3))
    action = np.tanh(observation[..., :2] + 0.3 * random.normal(size=(400, 2, 2)))
    paid = -((action - 0.5) ** 2).sum((1, 2))
    return from_arrays(
        path,
        observations=observation,
        actions=low + (action + 1) / 2 * (high - low),
        rewards=reward * paid + shift,
        truncations=np.arange(400) % 10 == 9,
        next_observations=np.roll(observation, -1, 0),
        action_low=low,
        action_high=high,
        **more,
    )


@pytest.mark.parametrize("name", ["bc", "matd3bc", "ssd", "maiql", "omar"])
def test_the_unit_of_actions_makes_no_difference(name, tmp_path):
    """What is learned of actions in [0, 100] is what is learned of them in [-1, 1]."""
    decisions, observation = [], torch.randn(64, 2, 3, generator=torch.Generator().manual_seed(1))
    for low, high in ((-1.0, 1.0), (0.0, 100.0), (-50.0, 50.0), (3.0, 3.5)):
        folder = tmp_path / f"{low}"
        bring(folder / "data", low, high)
        experiment = make(name, task_of(folder / "data"), folder / "runs", experiment=FEW)
        experiment.run()
        data = TensorDict({"agents": {"observation": observation}}, [64])
        with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
            action = experiment.policy(data)["agents", "action"]
        decisions.append(2 * (action - low) / (high - low) - 1)
        experiment.close()
    assert decisions[0].std() > 0.05
    for other in decisions[1:]:
        torch.testing.assert_close(other, decisions[0], atol=2e-2, rtol=0)


FEW = {"max_n_iters": 4, "off_policy_n_optimizer_steps": 10, "evaluation_interval": 4}


@pytest.mark.parametrize("reward", [1e-9, 1e6])
def test_the_unit_of_rewards_makes_no_difference(reward, tmp_path):
    found = []
    for unit in (1.0, reward):
        bring(tmp_path / str(unit), reward=unit)
        experiment = make("ssd", task_of(tmp_path / str(unit)), tmp_path / "runs", experiment=FEW)
        experiment.run()
        found.append(group_parameters(experiment))
        experiment.close()
    for name, value in found[0].items():
        if "actor" in str(name):
            torch.testing.assert_close(found[1][name], value, atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["matd3bc", "omiga", "ssd"])
@pytest.mark.parametrize("option", [True, None])
def test_a_constant_that_drowns_the_rewards_is_taken_out(name, option, tmp_path):
    """What is learned is what is learned of the same rewards without it."""
    found = []
    for shift in (0.0, 1000.0):
        bring(tmp_path / f"{shift}", shift=shift)
        centre = option or shift == 0
        options = {"experiment": FEW, "centre_rewards": True if centre else None}
        experiment = make(name, task_of(tmp_path / f"{shift}"), tmp_path / "runs", **options)
        sample = experiment.replay_buffers["agents"].sample()
        assert sample["next", "agents", "reward"].abs().max() < 10
        experiment.run()
        found.append(group_parameters(experiment))
        experiment.close()
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, atol=1e-2, rtol=0)


@pytest.mark.parametrize(("shift", "option"), [(0.0, None), (1000.0, False)])
def test_rewards_stay_as_they_are(shift, option, tmp_path):
    """Those that differ as much as they are large, and those of whoever wants it."""
    bring(tmp_path / "data", shift=shift)
    task = task_of(tmp_path / "data")
    experiment = make("ssd", task, tmp_path / "runs", centre_rewards=option)
    sample = experiment.replay_buffers["agents"].sample()
    logged = experiment.algorithm.dataset.data["next", "agents", "reward"]
    assert torch.equal(sample["next", "agents", "reward"], logged[sample["index"]])
    experiment.close()


def test_a_bonus_for_every_step_is_worth_the_steps(tmp_path):
    """Of rewards that are all 1, the episodes' ends are what there is to learn from."""
    steps, ends = 200, np.arange(200) % 20 == 19
    data = np.random.default_rng(0).normal(size=(2, steps, 2, 3))
    from_arrays(
        tmp_path / "data",
        observations=data[0],
        actions=np.tanh(data[1]),
        rewards=np.ones(steps),
        terminations=ends,
        next_observations=data[0],
    )
    experiment = make("ssd", task_of(tmp_path / "data"), tmp_path / "runs")
    sample = experiment.replay_buffers["agents"].sample()
    rewards = sample["next", "agents", "reward"].mean((1, 2))
    over = sample["next", "terminated"].squeeze(-1)
    constant = 1 / (1 - experiment.config.gamma * 0.95)
    torch.testing.assert_close(rewards[over], torch.full_like(rewards[over], 1 - constant))
    kept = 1 - (1 - experiment.config.gamma) * constant
    torch.testing.assert_close(rewards[~over], torch.full_like(rewards[~over], kept))
    experiment.close()


def test_rewards_of_a_run_that_collects_cannot_be_centred(tmp_path):
    with pytest.raises(OfflineRunError, match=r"expected algorithm.dataset with centre_rewards"):
        make("matd3bc", CoordinationTask.BANDIT.get_from_yaml(), tmp_path, centre_rewards=True)
    assert list(tmp_path.iterdir()) == []

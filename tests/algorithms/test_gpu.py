"""What only a machine with a GPU can show: that everything trains there, and computes the same."""

from __future__ import annotations

import copy

import pytest
import torch
from benchmarl.experiment import Experiment
from logged_data import write_factory
from runs import ALGORITHMS, KINDS, check_same_seed_same_run, make, parameters, small_gru, summary

from benchmarl_ssd.cli.sources import from_checkpoint
from benchmarl_ssd.environments import CoordinationTask, LoggedTask, MpeTask
from benchmarl_ssd.evaluation.episodes import episode_returns, rollout_episodes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

EVERYWHERE = {"train_device": "cuda", "buffer_device": "cuda", "sampling_device": "cuda"}
# Settings of `ssd` that run code the defaults do not.
SETTINGS = [
    {"decomposition": "marginal"},
    {"decomposition": "joint"},
    {"order": "random"},
    {"order": "reversed"},
    {"score_estimator": "mixture"},
    {"critics": "independent"},
    {"critic": "frozen"},
    {"n_conventions": 2},
    {"stochastic_actors": True},
    {"weighting": "sigma2"},
]
CASES = [*((name, {}) for name in ALGORITHMS), *(("ssd", more) for more in SETTINGS)]


@pytest.fixture
def drawn_alike(monkeypatch):
    """Random numbers are drawn on the CPU and then moved, so that both devices get the same."""

    def on_cpu(draw):
        def drawn(*args, device=None, **kwargs):
            found = draw(*args, **kwargs)
            return found if device is None else found.to(device)

        return drawn

    def like(draw):
        return lambda other, **kwargs: draw(other.cpu(), **kwargs).to(other.device)

    multinomial = torch.multinomial
    monkeypatch.setattr(
        torch, "multinomial", lambda p, *args: multinomial(p.cpu(), *args).to(p.device)
    )
    for name in ("rand", "randn", "randint", "randperm"):
        monkeypatch.setattr(torch, name, on_cpu(getattr(torch, name)))
    for name in ("rand_like", "randn_like"):
        monkeypatch.setattr(torch, name, like(getattr(torch, name)))


def differentiated(experiment, state, batch):
    """Return a batch's losses and the gradients of their sum."""
    loss = experiment.losses["agents"]
    loss.load_state_dict(state)
    torch.manual_seed(1)
    found = loss(batch.to(experiment.config.train_device))
    losses = {name: value for name, value in found.items() if name.startswith("loss_")}
    assert losses
    sum(losses.values()).backward()
    gradient = torch.cat(
        [p.grad.flatten().cpu() for _, p in sorted(loss.named_parameters()) if p.grad is not None]
    )
    return {name: value.detach().cpu() for name, value in losses.items()}, gradient


@pytest.mark.parametrize(("name", "more"), CASES, ids=str)
def test_losses_and_gradients_are_the_cpus(
    name, more, two_apples, apples_data, tmp_path, drawn_alike
):
    cpu = make(name, two_apples, tmp_path / "cpu", apples_data, **more)
    gpu = make(
        name, two_apples, tmp_path / "gpu", apples_data, experiment={"train_device": "cuda"}, **more
    )
    state = copy.deepcopy(cpu.losses["agents"].state_dict())
    batch = cpu.replay_buffers["agents"].sample()
    expected, slope = differentiated(cpu, state, batch.clone())
    found, same = differentiated(gpu, state, batch.clone())
    assert found.keys() == expected.keys()
    for key in expected:
        assert found[key].item() == pytest.approx(expected[key].item(), rel=1e-4, abs=1e-5)
    assert slope.norm() > 0
    assert (same - slope).norm() < 1e-3 * slope.norm()
    cpu.close()
    gpu.close()


@pytest.mark.parametrize("devices", [{"train_device": "cuda"}, EVERYWHERE], ids=["train", "all"])
@pytest.mark.parametrize(("name", "more"), CASES, ids=str)
def test_everything_trains_there(name, more, devices, two_apples, apples_data, tmp_path):
    experiment = make(name, two_apples, tmp_path, apples_data, experiment=devices, **more)
    experiment.run()
    assert summary(experiment)["steps"] == 12
    found = parameters(experiment)
    assert all(value.is_cuda for key, value in found.items() if "extra_state" not in key)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_same_seed_same_run(name, two_apples, apples_data, tmp_path):
    check_same_seed_same_run(name, two_apples, tmp_path, apples_data, experiment=EVERYWHERE)


def vector(experiment):
    return torch.cat([p.detach().flatten() for p in experiment.losses["agents"].parameters()])


@pytest.mark.parametrize(
    ("name", "more"), [case for case in CASES if "stochastic_actors" not in case[1]], ids=str
)
def test_recorded_steps_are_the_same_steps(name, more, two_apples, apples_data, tmp_path):
    found = {}
    budget = {**EVERYWHERE, "off_policy_n_optimizer_steps": 5}
    for graphs in (False, True):
        folder = tmp_path / str(graphs)
        experiment = make(
            name, two_apples, folder, apples_data, experiment=budget, cuda_graphs=graphs, **more
        )
        start = vector(experiment)
        experiment.run()
        assert summary(experiment)["steps"] == 20
        found[graphs] = vector(experiment) - start
    # Adam makes steps of what is nothing but rounding, where there is no gradient.
    assert (found[True] - found[False]).norm() < 0.1 * found[False].norm()


@pytest.mark.parametrize("graphs", [False, True], ids=["called", "recorded"])
@pytest.mark.parametrize("name", KINDS)
def test_resumed_run_ends_where_the_uninterrupted_one_does(
    name, graphs, two_apples, apples_data, tmp_path
):
    every = {**EVERYWHERE, "checkpoint_interval": 1, "keep_checkpoints_num": None}
    every["off_policy_n_optimizer_steps"] = 10
    whole = make(
        name, two_apples, tmp_path / "whole", apples_data, experiment=every, cuda_graphs=graphs
    )
    whole.run()
    checkpoint = whole.folder_name / "checkpoints" / "checkpoint_2.pt"
    (tmp_path / "resumed").mkdir()
    resumed = Experiment.reload_from_file(
        str(checkpoint), {"save_folder": str(tmp_path / "resumed")}
    )
    resumed.run()
    expected, found = parameters(whole), parameters(resumed)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("name", KINDS)
def test_its_policies_act_on_the_cpu(name, two_apples, apples_data, tmp_path):
    experiment = make(name, two_apples, tmp_path, apples_data, experiment=EVERYWHERE)
    experiment.run()
    (checkpoint,) = (experiment.folder_name / "checkpoints").iterdir()
    with from_checkpoint(checkpoint, num_envs=4) as setup:
        assert all(not p.is_cuda for p in setup.policy.parameters())
        episodes = rollout_episodes(setup.env, setup.policy, 4, setup.max_steps)
        assert episode_returns(episodes, setup.groups).isfinite().all()


@pytest.mark.parametrize("name", ["ssd", "maiql", "madiff"])
def test_windows_of_recurrent_networks(name, two_apples, apples_data, tmp_path):
    budget = {**EVERYWHERE, "max_n_iters": 2, "off_policy_train_batch_size": 50}
    experiment = make(name, two_apples, tmp_path, apples_data, model=small_gru(), experiment=budget)
    experiment.run()
    assert summary(experiment)["steps"] == 6


@pytest.mark.parametrize("task", [*CoordinationTask, *MpeTask], ids=lambda task: task.name)
def test_simulators_play_the_same_episodes_there(task):
    task, episodes = task.get_from_yaml(), {}
    for device in ("cpu", "cuda"):
        env = task.get_env_fun(num_envs=8, continuous_actions=True, seed=0, device=device)()
        (group,) = task.group_map(env)
        low, high = env.full_action_spec_unbatched[group, "action"].space
        action = (low + 0.25 * (high - low)).expand(8, -1, -1)
        played = env.rollout(10, lambda td, at=(group, "action"), action=action: td.set(at, action))
        assert played.device.type == device
        episodes[device] = played.cpu()
    for key in ((group, "observation"), ("next", group, "reward"), ("next", "done")):
        torch.testing.assert_close(episodes["cuda"].get(key), episodes["cpu"].get(key))


@pytest.mark.parametrize("name", KINDS)
def test_fitted_evaluation_of_logged_data(name, tmp_path):
    folder = write_factory(tmp_path / "data")
    options = {"dataset": str(folder), "fqe_steps": 20, "fqe_num_cells": [16], "fqe_members": 2}
    task = LoggedTask.DATASET.get_with(options)
    devices = {"train_device": "cuda", "buffer_device": "cuda"}
    experiment = make(name, task, tmp_path / "runs", experiment=devices)
    experiment.run()
    low, high = summary(experiment)["final"]["fqe_interval"]
    assert low < summary(experiment)["final"]["fqe_return_estimate"] < high

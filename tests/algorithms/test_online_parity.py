"""BenchMARL's own tests of every algorithm, for ours: they train from collected experience.

With ``dataset=null`` our algorithms are off-policy algorithms like BenchMARL's, so they must pass
what BenchMARL asks of its own (its ``test_vmas.py``, ``test_pettingzoo.py`` and
``utils_experiment.py``): the real yaml defaults, a tiny budget, real tasks, real models.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import math

import pytest
import torch
from benchmarl.environments import PettingZooTask, VmasTask
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import GnnConfig, GruConfig, LstmConfig, MlpConfig
from benchmarl.models.common import SequenceModelConfig
from runs import ALGORITHMS, DRAWING, KINDS
from torch import nn
from torchrl.record import CSVLogger

from benchmarl_ssd.algorithms import algorithm_config_registry
from benchmarl_ssd.environments import CoordinationTask

EVERY_ALGORITHM = pytest.mark.parametrize("name", ALGORITHMS)
EVERY_KIND = pytest.mark.parametrize("name", KINDS)
SLOW = pytest.mark.slow  # the fast part: every algorithm runs, reloads, and takes a recurrent model
MLP = {"activation_class": nn.Tanh, "layer_class": nn.Linear}
RECURRENT = {
    "hidden_size": 13,
    "n_layers": 1,
    "bias": True,
    "dropout": 0.0,
    "compile": False,
    "mlp_num_cells": [],
    "mlp_activation_class": nn.Tanh,
    "mlp_layer_class": nn.Linear,
}


def mlp(*cells) -> MlpConfig:
    return MlpConfig(num_cells=list(cells), **MLP)


def mlps() -> SequenceModelConfig:
    return SequenceModelConfig([mlp(8), mlp(4)], intermediate_sizes=[5])


def gru(**changes) -> GruConfig:
    return GruConfig(**{**RECURRENT, **changes})


def lstm(**changes) -> LstmConfig:
    return LstmConfig(**{**RECURRENT, **changes})


def gnn(*before) -> SequenceModelConfig:
    from torch_geometric.nn.conv import GATv2Conv

    graph = GnnConfig(topology="full", self_loops=False, gnn_class=GATv2Conv)
    models = [*before, graph, mlp(4)]
    return SequenceModelConfig(models, intermediate_sizes=[5] * (len(models) - 1))


MODELS = {
    "gru": gru,
    "lstm": lstm,
    "mlp then gru": lambda: SequenceModelConfig([mlp(8), gru()], intermediate_sizes=[5]),
    "gru then mlp": lambda: SequenceModelConfig([gru(), mlp(4)], intermediate_sizes=[5]),
    "lstm then mlp": lambda: SequenceModelConfig([lstm(), mlp(4)], intermediate_sizes=[5]),
    "mlp then gnn": lambda: gnn(mlp(8)),
}
# BenchMARL wants a centralised critic's GNN in front, where there still are agents.
CRITICS = {**MODELS, "mlp then gnn": gnn}


def balance():
    task = VmasTask.BALANCE.get_from_yaml()
    task.config["max_steps"] = 8  # of an evaluation's episodes; training cuts them anyway
    return task


def spread():
    pytest.importorskip("pettingzoo", reason="pettingzoo is an extra")
    pytest.importorskip("pygame", reason="pygame comes with the extra pettingzoo")
    task = PettingZooTask.SIMPLE_SPREAD.get_from_yaml()
    task.config["max_cycles"] = 10
    return task


@pytest.fixture
def config(tmp_path) -> ExperimentConfig:
    """BenchMARL's base_experiment.yaml, made as tiny as in BenchMARL's tests."""
    config = ExperimentConfig.get_from_yaml()
    tiny = {
        "save_folder": str(tmp_path),
        "max_n_iters": 3,
        "max_n_frames": None,
        "off_policy_collected_frames_per_batch": 20,
        "off_policy_n_envs_per_worker": 2,
        "off_policy_n_optimizer_steps": 2,
        "off_policy_train_batch_size": 3,
        "off_policy_memory_size": 40,
        "evaluation_episodes": 2,
        "evaluation_interval": 100,
        "loggers": ["csv"],
        "create_json": True,
        "checkpoint_interval": 20,
        "render": False,  # VMAS draws on a display, which a test machine has not
    }
    for key, value in tiny.items():
        assert hasattr(config, key), key
        setattr(config, key, value)
    return config


def experiment_of(name, task, config, model=None, critic_model=None) -> Experiment:
    return Experiment(
        task=task,
        algorithm_config=algorithm_config_registry[name].get_from_yaml(),
        model_config=model or mlps(),
        critic_model_config=critic_model,
        seed=0,
        config=config,
    )


def everything(experiment) -> dict[str, torch.Tensor]:
    """All that is learned: parameters of the policy, parameters and buffers of the losses."""
    tensors = {f"policy.{key}": value for key, value in experiment.policy.state_dict().items()}
    for group, loss in experiment.losses.items():
        tensors.update({f"{group}.{key}": value for key, value in loss.state_dict().items()})
    return {k: v.clone() for k, v in tensors.items() if isinstance(v, torch.Tensor)}


def check_finished(experiment, iterations=3) -> None:
    """The run is over, its parameters are finite, and its files are where scripts look for them."""
    assert experiment.n_iters_performed == iterations
    assert all(value.isfinite().all() for value in everything(experiment).values())
    folder = experiment.folder_name
    frames = [20 * (i + 1) for i in range(iterations)][-3:]
    names = {file.name for file in (folder / "checkpoints").iterdir()}
    assert names == {f"checkpoint_{count}.pt" for count in frames}
    assert (folder / f"{experiment.name}.json").is_file()
    assert list(folder.rglob("scalars/*loss_actor.csv"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["dataset"] is None
    assert summary["steps"] == 2 * iterations
    assert summary["final"]["episodes"] == experiment.config.evaluation_episodes
    assert math.isfinite(summary["final"]["return_mean"])


@EVERY_ALGORITHM
@pytest.mark.parametrize("task", [balance, spread], ids=["vmas", "pettingzoo"])
def test_runs_online_and_says_so(name, task, config, capsys):
    experiment = experiment_of(name, task(), config)
    said = capsys.readouterr().out
    assert f"{name}: no algorithm.dataset given, training on the experience that this run" in said
    before = everything(experiment)
    experiment.run()
    check_finished(experiment)
    after = everything(experiment)
    networks = {key.split("_params")[0] for key in after if not after[key].equal(before[key])}
    expected = {f"{group}.actor_network" for group in experiment.group_map}
    if name == "ssd":  # without a dataset there are no stages: every part learns at once
        parts = ("score_network", "qvalue_network", "value_network")
        expected |= {f"{group}.{part}" for group in experiment.group_map for part in parts}
    assert expected <= networks


@SLOW
@EVERY_KIND
def test_what_is_stored_is_what_was_collected(name, config):
    """Exploration is in the data, not in the actor that learns."""
    config.exploration_anneal_frames = 10_000
    experiment = experiment_of(name, balance(), config)
    experiment.run()
    buffer = experiment.replay_buffers["agents"]
    assert len(buffer) == 40  # off_policy_memory_size, of 60 collected
    stored = buffer.sample(64)
    action = stored["agents", "action"]
    assert action.abs().max() <= 1
    deterministic = experiment.losses["agents"].actor_network
    with experiment.losses["agents"].actor_network_params.to_module(deterministic):
        greedy = deterministic(stored.clone())["agents", "action"]
    assert (action - greedy).abs().mean() > 0.05


@SLOW
@EVERY_KIND
@pytest.mark.parametrize("collect_with_grad", [True, False])
def test_collects_by_rollout_and_by_collector(name, config, collect_with_grad):
    config.collect_with_grad = collect_with_grad
    experiment = experiment_of(name, balance(), config)
    experiment.run()
    check_finished(experiment)


@EVERY_ALGORITHM
@pytest.mark.parametrize(
    "task", [balance, pytest.param(spread, marks=SLOW)], ids=["vmas", "pettingzoo"]
)
def test_reload_restores_policy_and_losses_exactly(name, task, config):
    first = experiment_of(name, task(), config)
    first.run()
    learned = everything(first)

    config = copy.deepcopy(config)
    config.max_n_iters = 6
    config.restore_file = first.folder_name / "checkpoints" / "checkpoint_60.pt"
    config.save_folder = None
    again = experiment_of(name, task(), config)
    restored = everything(again)
    assert learned.keys() == restored.keys()
    assert all(torch.equal(learned[key], restored[key]) for key in learned)
    assert again.n_iters_performed == 3
    assert again.folder_name == first.folder_name
    again.run()
    assert again.n_iters_performed == 6


@SLOW
@EVERY_KIND
def test_reload_from_file_evaluates_and_continues(name, config, tmp_path):
    first = experiment_of(name, balance(), config)
    first.run()
    checkpoint = str(first.folder_name / "checkpoints" / "checkpoint_40.pt")

    evaluated = Experiment.reload_from_file(checkpoint)
    returns = []
    evaluated._on_evaluation_end = lambda rollouts: returns.append(rollouts)
    evaluated.evaluate()
    evaluated.close()
    assert len(returns[0]) == 2
    assert not (first.folder_name / "checkpoints" / "checkpoint_80.pt").exists()

    (tmp_path / "elsewhere").mkdir()
    patch = {"save_folder": str(tmp_path / "elsewhere"), "max_n_iters": 4}
    continued = Experiment.reload_from_file(checkpoint, patch)
    assert continued.n_iters_performed == 2
    continued.run()
    assert continued.n_iters_performed == 4


@SLOW
@pytest.mark.parametrize("name", [kind for kind in KINDS if kind not in DRAWING])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("task", [balance, spread], ids=["vmas", "pettingzoo"])
def test_shared_and_separate_policies(name, task, shared, config):
    config.share_policy_params = shared
    config.max_n_iters = 1
    experiment = experiment_of(name, task(), config, critic_model=mlp(6))
    experiment.run()
    group, agents = next(iter(experiment.group_map.items()))
    observation = experiment.observation_spec[group].rand().expand(5, len(agents)).clone()
    observation["observation"][:] = observation["observation"][:, :1].clone()
    with torch.no_grad():
        data = experiment.policy[0](observation.empty().new_empty(5).set(group, observation))
    # Agents that see the same do the same if, and only if, they share their parameters.
    output = data[group, "param"] if (group, "param") in data.keys(True) else None
    output = data[group, "hidden"] if output is None else output
    assert torch.allclose(output, output[:, :1].expand_as(output), atol=1e-6) == shared


@EVERY_KIND
@pytest.mark.parametrize(
    "model", [m if m == "gru then mlp" else pytest.param(m, marks=SLOW) for m in MODELS]
)
def test_models_of_actor_and_critic(name, model, config):
    if "gnn" in model and importlib.util.find_spec("torch_geometric") is None:
        pytest.skip("torch_geometric is not installed")
    config.share_policy_params = False
    experiment = experiment_of(name, balance(), config, MODELS[model](), CRITICS[model]())
    experiment.run()
    check_finished(experiment)


@SLOW
@EVERY_KIND
def test_recurrent_models_on_a_task_with_a_state(name, config):
    config.share_policy_params = False
    config.max_n_iters = 1
    model = MODELS["gru then mlp"]
    experiment = experiment_of(name, spread(), config, model(), model())
    experiment.run()
    assert experiment.n_iters_performed == 1


@SLOW
@EVERY_KIND
def test_our_own_tasks_collect_and_render(name, config, monkeypatch):
    videos = []
    # Frames are ours; the file that the logger makes of them needs a torchvision that fits torch.
    monkeypatch.setattr(CSVLogger, "log_video", lambda self, tag, video, **_: videos.append(video))
    config.render = True
    config.max_n_iters = 1
    for task in (CoordinationTask.BANDIT, CoordinationTask.TWO_APPLES):
        experiment = experiment_of(name, task.get_from_yaml(), config)
        experiment.run()
        check_finished(experiment, iterations=1)
    (video,) = videos  # the bandit's single step is none
    assert video.dtype == torch.uint8
    assert video.shape[:3] == (1, 24, 3)  # of 25 steps BenchMARL leaves the last out
    assert (video[0, 0] != video[0, -1]).any()


@SLOW
@pytest.mark.parametrize("algorithm", ["mappo", "maddpg"])
@pytest.mark.parametrize("task", [CoordinationTask.BANDIT, CoordinationTask.TWO_APPLES])
def test_benchmarls_algorithms_run_on_our_tasks(algorithm, task, config):
    from benchmarl.algorithms import algorithm_config_registry as theirs

    for key in ("collected_frames_per_batch", "n_envs_per_worker"):
        setattr(config, f"on_policy_{key}", getattr(config, f"off_policy_{key}"))
    config.on_policy_n_minibatch_iters = 1
    config.on_policy_minibatch_size = 10
    config.max_n_iters = 1
    Experiment(
        task=task.get_from_yaml(),
        algorithm_config=theirs[algorithm].get_from_yaml(),
        model_config=mlps(),
        seed=0,
        config=config,
    ).run()

"""Small runs through BenchMARL's real Experiment, for the tests."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import torch
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import GruConfig, MlpConfig
from torch import nn

from benchmarl_ssd import conf_dir
from benchmarl_ssd.algorithms import algorithm_config_registry

DRAWING = {"madiff"}
"""Algorithms whose policies draw from torch's global generator, in evaluation, too."""

ALGORITHMS = sorted(algorithm_config_registry)
# One of each kind of wiring, for what depends on that alone; EVERY_ALGORITHM=1 takes them all.
KINDS = ["bc", "madiff", "matd3bc", "omiga", "ssd"]
KINDS = ALGORITHMS if "EVERY_ALGORITHM" in os.environ else KINDS


def offline_config(folder: Path, **changes) -> ExperimentConfig:
    """conf/experiment/offline.yaml, made tiny."""
    config = ExperimentConfig.get_from_yaml(str(conf_dir() / "experiment" / "offline.yaml"))
    tiny = {
        "max_n_iters": 4,
        "off_policy_n_optimizer_steps": 3,
        "off_policy_train_batch_size": 32,
        "evaluation_interval": 2,
        "evaluation_episodes": 4,
        "save_folder": str(folder),
    }
    for key, value in {**tiny, **changes}.items():
        assert hasattr(config, key), key
        setattr(config, key, value)
    return config


def small_mlp(cells=(32, 32)) -> MlpConfig:
    return MlpConfig(num_cells=list(cells), layer_class=nn.Linear, activation_class=nn.ReLU)


def small_gru() -> GruConfig:
    return GruConfig(
        hidden_size=8,
        n_layers=1,
        bias=True,
        dropout=0.0,
        compile=False,
        mlp_num_cells=[8],
        mlp_layer_class=nn.Linear,
        mlp_activation_class=nn.ReLU,
    )


def algorithm_config(name: str, dataset=None, **changes):
    config = algorithm_config_registry[name].get_from_yaml()
    config.dataset = None if dataset is None else str(dataset)
    config.final_evaluation_episodes = 8
    if name == "madiff":
        config.plan_width, config.horizon = 16, 4
    if name == "ssd":
        config.score_num_cells = [16, 16]
    for key, value in changes.items():
        assert hasattr(config, key), key
        setattr(config, key, value)
    return config


def make(name, task, folder, dataset=None, seed=0, model=None, experiment=None, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    return Experiment(
        task=task,
        algorithm_config=algorithm_config(name, dataset, **changes),
        model_config=model or small_mlp(),
        critic_model_config=small_mlp(),
        seed=seed,
        config=offline_config(folder, **(experiment or {})),
    )


def summary(experiment) -> dict:
    return json.loads((experiment.folder_name / "summary.json").read_text())


def parameters(experiment) -> dict:
    return {
        name: value.clone()
        for name, value in experiment.losses["agents"].state_dict().items()
        if hasattr(value, "clone")
    }


def check_same_seed_same_run(name, task, folder, dataset, **options) -> None:
    """Two runs of one seed end with equal parameters and returns."""
    runs = []
    for each in ("a", "b"):
        experiment = make(name, task, folder / each, dataset, seed=3, **options)
        experiment.run()
        runs.append((parameters(experiment), summary(experiment)["final"]))
    (first, final), (second, again) = runs
    assert final == again
    assert all(torch.equal(first[key], second[key]) for key in first)


def fingerprint(folder: Path) -> dict[str, str]:
    """Contents of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }

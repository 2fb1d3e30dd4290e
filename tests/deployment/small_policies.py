"""Policies to export: experiments of BenchMARL as they are before training, on small tasks."""

from __future__ import annotations

from pathlib import Path

import torch
from benchmarl.environments import PettingZooTask, VmasTask
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import MlpConfig
from tensordict import TensorDict
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type


def mlp(**changes) -> MlpConfig:
    options = {"num_cells": [32, 32], "layer_class": nn.Linear, "activation_class": nn.Tanh}
    return MlpConfig(**{**options, **changes})


def balance():
    task = VmasTask.BALANCE.get_from_yaml()
    task.config |= {"max_steps": 6, "n_agents": 3}
    return task


def tag():
    """Two groups with observations of their own, actions in [0, 1]."""
    task = PettingZooTask.SIMPLE_TAG.get_from_yaml()
    task.config |= {"num_good": 1, "num_adversaries": 2, "max_cycles": 6}
    return task


def experiment(folder: Path, algorithm, task=None, model=None, **changes) -> Experiment:
    folder.mkdir(parents=True, exist_ok=True)
    config = ExperimentConfig.get_from_yaml()
    options = {
        "loggers": [],
        "render": False,
        "evaluation": False,
        "create_json": False,
        "save_folder": str(folder),
        "checkpoint_at_end": True,
        "max_n_iters": 1,
        "max_n_frames": None,
        "evaluation_episodes": 4,
        "on_policy_collected_frames_per_batch": 20,
        "on_policy_n_envs_per_worker": 2,
        "on_policy_minibatch_size": 10,
        "on_policy_n_minibatch_iters": 1,
        "off_policy_collected_frames_per_batch": 20,
        "off_policy_n_envs_per_worker": 2,
        "off_policy_n_optimizer_steps": 1,
        "off_policy_train_batch_size": 4,
        "off_policy_memory_size": 40,
    }
    for key, value in {**options, **changes}.items():
        assert hasattr(config, key), key
        setattr(config, key, value)
    return Experiment(
        task=task or balance(),
        algorithm_config=algorithm.get_from_yaml() if isinstance(algorithm, type) else algorithm,
        model_config=model or mlp(),
        critic_model_config=mlp(),
        seed=0,
        config=config,
    )


@torch.no_grad()
def decide(run: Experiment, group: str, **inputs) -> TensorDict:
    """What the policy does in evaluation; inputs by the names of BenchMARL's entries."""
    size = len(next(iter(inputs.values())))
    data = TensorDict({"is_init": torch.zeros(size, 1, dtype=torch.bool)}, [size])
    for name, value in inputs.items():
        data[group, name] = torch.as_tensor(value)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        return run.group_policies[group](data)

"""Whether a dataset can train the agents of a task."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torchrl.data import Composite

from benchmarl_ssd.data import DatasetError, DatasetMetadata
from benchmarl_ssd.environments import LoggedClass


def check_dataset_fits(metadata: DatasetMetadata, experiment: Any) -> None:
    """Raise unless the dataset was logged by the agents that the experiment is about to train.

    Args:
        metadata (DatasetMetadata): of the dataset.
        experiment (Experiment): BenchMARL's experiment, its specs already known.

    Raises:
        DatasetError: if the task, the groups, the agents, a shape or the action bounds differ.
    """
    task = f"{experiment.task.env_name().lower()}/{experiment.task.name.lower()}"
    # A logged task has no name of its own: whatever fits its dataset is of the same task.
    plays_back = isinstance(experiment.task, LoggedClass)
    if metadata.task is not None and not plays_back:
        logged = f"{metadata.task['environment']}/{metadata.task['name']}".lower()
        if logged != task:
            raise DatasetError(
                f"expected a dataset of task {task}, found one of {logged}; "
                f"choose task={logged} or another dataset"
            )
    groups = {group: len(agents) for group, agents in experiment.group_map.items()}
    logged_groups = {group: len(agents) for group, agents in metadata.groups.items()}
    if groups != logged_groups:
        raise DatasetError(
            f"expected the groups and numbers of agents of the task, {groups}, found "
            f"{logged_groups} in the dataset; choose task options that give {logged_groups}"
        )
    for group in groups:
        _check_shapes(metadata, group, experiment.observation_spec[group], "observation")
        _check_continuous(metadata, group)
        _check_shapes(metadata, group, experiment.action_spec[group], "action")
        _check_bounds(metadata, group, experiment.action_spec[group, "action"])
    if metadata.task is not None and not plays_back:
        _warn_other_options(metadata.task.get("config") or {}, experiment.task.config or {})


def _check_continuous(metadata: DatasetMetadata, group: str) -> None:
    info = metadata.tensors[f"{group}/action"]
    if not info.torch_dtype.is_floating_point:
        raise DatasetError(
            f"expected continuous actions {group}/action, found discrete ones ({info.dtype}) in "
            "the dataset; the algorithms of this package need actions that are real numbers: "
            "record with experiment.prefer_continuous_actions=True"
        )


def _check_shapes(metadata: DatasetMetadata, group: str, spec: Composite, what: str) -> None:
    for key in spec.keys(True, True):
        path = key if isinstance(key, tuple) else (key,)
        name = "/".join((group, *path))
        info = metadata.tensors.get(name)
        expected = list(spec[key].shape)
        found = None if info is None else list(info.shape[1:])
        if found != expected:
            raise DatasetError(
                f"expected {what} {name} of shape {expected} per step, found "
                f"{'nothing' if found is None else found} in the dataset; "
                "choose the task options with which it was recorded"
            )


def _check_bounds(metadata: DatasetMetadata, group: str, spec: Any) -> None:
    low, high = metadata.bounds(group)
    for side, logged, now in (("low", low, spec.space.low), ("high", high, spec.space.high)):
        now = now.to("cpu", logged.dtype)
        if not torch.allclose(logged, now, atol=1e-5):
            raise DatasetError(
                f"expected actions of {group} with {side} bound {now.tolist()}, found "
                f"{logged.tolist()} in the dataset; it was recorded with another action space"
            )


def _warn_other_options(logged: dict[str, Any], now: dict[str, Any]) -> None:
    other = {
        key: (logged[key], now[key])
        for key in sorted(set(logged) & set(now))
        if logged[key] != now[key]
    }
    if other:
        listed = ", ".join(f"{key}: {was!r} then, {is_!r} now" for key, (was, is_) in other.items())
        warnings.warn(f"the dataset was recorded with other task options ({listed})", stacklevel=2)

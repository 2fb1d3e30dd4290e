"""What a recording plays: a BenchMARL checkpoint, or a policy on a BenchMARL task."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import yaml
from benchmarl.environments import task_config_registry
from benchmarl.environments.common import TaskClass
from benchmarl.experiment import Experiment
from torchrl.data import Composite
from torchrl.envs import Compose, EnvBase, TransformedEnv

from benchmarl_ssd.data.layout import Key
from benchmarl_ssd.data.recipes import RecordingSetup
from benchmarl_ssd.data.recording import preserved_random_state, seed_everything


@contextmanager
def open_experiment(checkpoint: Path, num_envs: int) -> Iterator[Experiment]:
    """Open a checkpoint's experiment, on the CPU.

    Nothing is written in the experiment's folder.

    Args:
        checkpoint: a BenchMARL checkpoint in its experiment's folder.
        num_envs: instances of the environment, where the simulator is vectorised.

    Raises:
        ValueError: if there is no such checkpoint or it cannot be read.
    """
    if not checkpoint.is_file():
        raise ValueError(f"expected a checkpoint file, found none at {checkpoint}")
    with TemporaryDirectory() as folder:
        patch = {
            "save_folder": folder,
            "loggers": [],
            "create_json": False,
            "render": False,
            "evaluation_episodes": num_envs,
            "restore_map_location": "cpu",
            **dict.fromkeys(("sampling_device", "train_device", "buffer_device"), "cpu"),
        }
        experiment = _reload(checkpoint.resolve(), patch)
        try:
            yield experiment
        finally:
            experiment.close()


@contextmanager
def from_checkpoint(checkpoint: Path, num_envs: int) -> Iterator[RecordingSetup]:
    """Open a checkpoint's policy and the environment it was evaluated in.

    Nothing is written in the experiment's folder.

    Args:
        checkpoint: a BenchMARL checkpoint in its experiment's folder.
        num_envs: instances of the environment, where the simulator is vectorised.

    Raises:
        ValueError: if there is no such checkpoint or it cannot be read.
    """
    with open_experiment(checkpoint, num_envs) as experiment:
        yield RecordingSetup(
            env=experiment.test_env,
            policy=experiment.policy,
            max_steps=experiment.max_steps,
            groups=experiment.group_map,
            task=describe_task(experiment.task),
            source={
                "kind": "checkpoint",
                "policy": experiment.algorithm_name,
                "checkpoint": checkpoint.name,
                "trained_frames": experiment.total_frames,
                "trained_seed": experiment.seed,
            },
            # The experiment's specs are without the hidden states of recurrent policies.
            keys=stored_keys(
                experiment.observation_spec, experiment.state_spec, experiment.action_mask_spec
            ),
        )


def _reload(checkpoint: Path, patch: dict[str, Any]) -> Experiment:
    here = str(Path.cwd())  # where a checkpoint's own algorithm may lie
    sys.path.append(here)
    try:
        return Experiment.reload_from_file(str(checkpoint), patch)
    # What torch, pickle and BenchMARL raise for a file that is something else or damaged.
    except (
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:
        raise ValueError(
            f"expected a checkpoint that this BenchMARL can load at {checkpoint}, found "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(here)


@contextmanager
def from_task(
    task: str, overrides: Sequence[str], policy: str, num_envs: int, seed: int
) -> Iterator[RecordingSetup]:
    """Open a BenchMARL task and a policy for it.

    Args:
        task: ``environment/name``.
        overrides: options of the task, ``key=value`` each.
        policy: ``random``, ``module:name`` or ``file.py:name``.
        num_envs: instances of the environment, where the simulator is vectorised.
        seed: seed of the environment.

    Raises:
        ValueError: if there is no such task, option or policy.
    """
    task_class = find_task(task, overrides)
    with preserved_random_state():
        seed_everything(seed)
        env = task_class.get_env_fun(
            num_envs=num_envs,
            continuous_actions=task_class.supports_continuous_actions(),
            seed=seed,
            device="cpu",
        )()
        env = TransformedEnv(env, Compose(*task_class.get_env_transforms(env)))
        try:
            yield RecordingSetup(
                env=env,
                policy=load_policy(policy, env),
                max_steps=task_class.max_steps(env),
                groups=task_class.group_map(env),
                task=describe_task(task_class),
                source={"kind": "policy", "policy": policy},
                keys=stored_keys(
                    task_class.observation_spec(env),
                    task_class.state_spec(env),
                    task_class.action_mask_spec(env),
                ),
            )
        finally:
            env.close()


def find_task(name: str, overrides: Sequence[str] = ()) -> TaskClass:
    """Look a BenchMARL task up and set its options.

    Args:
        name: ``environment/name``.
        overrides: ``key=value`` each, the value in YAML.

    Raises:
        ValueError: if there is no such task or option, or a value has the wrong type.

    Example:
        >>> find_task("vmas/balance", ["n_agents=4"]).config["n_agents"]
        4
    """
    if name not in task_config_registry:
        close = difflib.get_close_matches(name, task_config_registry, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see BenchMARL's tasks"
        raise ValueError(f"expected a BenchMARL task such as vmas/balance, found {name!r}; {hint}")
    task = task_config_registry[name]
    config = task.get_from_yaml().config
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or key not in config:
            raise ValueError(
                f"expected task options key=value with a key of {', '.join(sorted(config))}, "
                f"found {override!r}"
            )
        config[key] = _value(key, text, config[key])
    return task.get_task(config=config)


def describe_task(task: TaskClass) -> dict[str, Any]:
    """Name a task as datasets do.

    Args:
        task: the task.

    Returns:
        ``environment``, ``name`` (both in lower case) and ``config``.
    """
    return {
        "environment": task.env_name().lower(),
        "name": task.name.lower(),
        "config": dict(task.config),
    }


def stored_keys(*specs: Composite | None) -> list[Key]:
    """List what a task's agents observe, as BenchMARL's algorithms see it.

    Args:
        *specs: of the observation, the state and the action mask, where there are any.

    Returns:
        The keys of all of them.
    """
    keys: set[Key] = set()
    for spec in specs:
        if spec is not None:
            keys |= {k if isinstance(k, tuple) else (k,) for k in spec.keys(True, True)}
    return sorted(keys)


def load_policy(name: str, env: EnvBase) -> Any:
    """Import a policy.

    Args:
        name: ``random``, ``module:name`` or ``file.py:name``.
        env: the environment; classes, and functions whose only argument is ``env``, are called
            with it and give the policy.

    Returns:
        A callable from TensorDict to TensorDict, or None for uniformly random actions.

    Raises:
        ValueError: if there is no such module, file or name, or it cannot be called.
    """
    if name == "random":
        return None
    source, colon, attribute = name.rpartition(":")
    if not colon:
        raise ValueError(f"expected --policy random, module:name or file.py:name, found {name!r}")
    module = _load_module(source)
    if not hasattr(module, attribute):
        raise ValueError(f"expected {attribute!r} in {source}, found no such name")
    policy: Any = getattr(module, attribute)
    if _makes_policies(policy):
        policy = policy(env)
    if not callable(policy):
        raise ValueError(f"expected {name} to be a policy that can be called, found {policy!r}")
    return policy


def _makes_policies(policy: Any) -> bool:
    if inspect.isfunction(policy):
        return list(inspect.signature(policy).parameters) == ["env"]
    return inspect.isclass(policy)


def _load_module(source: str) -> ModuleType:
    if not source.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(source)
        except (ModuleNotFoundError, TypeError) as error:  # the latter for a name such as ./policy
            raise ValueError(
                f"expected a module {source!r} or a file that ends in .py, found none ({error})"
            ) from None
        finally:
            sys.path.pop(0)
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"expected a Python file, found none at {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _value(key: str, text: str, default: Any) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"expected a YAML value for {key}, found {text!r}") from None
    if isinstance(default, float) and type(value) in (int, str):
        with suppress(ValueError):  # YAML takes 1e-2 for text, Hydra and people do not
            return float(value)
    if default is not None and value is not None and type(value) is not type(default):
        raise ValueError(
            f"expected {key} to be {type(default).__name__} such as {default!r}, found {text!r}"
        )
    return value

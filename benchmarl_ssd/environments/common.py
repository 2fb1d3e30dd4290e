"""What all our tasks share: config look-up, option errors, and the success of an episode."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from benchmarl.environments import task_config_registry
from benchmarl.environments.common import Task, TaskClass
from benchmarl.utils import _read_yaml_config
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import Composite
from torchrl.envs import EnvBase

from benchmarl_ssd._paths import conf_dir


class TaskOptionError(ValueError):
    """A task's option has a value the task cannot have.

    The message says what was expected, what was found and what to do.
    """


def require(condition: bool, *, expected: str, found: object, mend: str) -> None:
    """Raise :class:`TaskOptionError` unless ``condition`` holds.

    Args:
        condition: what must be true of the option.
        expected: the legal values, in words.
        found: the value that came.
        mend: what the user should do.

    Raises:
        TaskOptionError: ``condition`` is false.

    >>> try:
    ...     require(False, expected="n_agents >= 2", found=1, mend="Set task.n_agents=2.")
    ... except TaskOptionError as error:
    ...     print(error)
    Expected n_agents >= 2, found 1. Set task.n_agents=2.
    """
    if not condition:
        raise TaskOptionError(f"Expected {expected}, found {found!r}. {mend}")


def require_int(name: str, value: object, minimum: int) -> None:
    """Raise :class:`TaskOptionError` unless ``value`` is an integer of at least ``minimum``.

    >>> require_int("n_agents", 2, minimum=2)
    """
    # bool is an int to Python, but `n_agents=true` is a typing slip.
    good = isinstance(value, int) and not isinstance(value, bool) and value >= minimum
    require(
        good,
        expected=f"{name} to be an integer >= {minimum}",
        found=value,
        mend=f"Set task.{name}={minimum} or more.",
    )


def require_number(name: str, value: object, low: float, *, strict: bool = False) -> None:
    """Raise :class:`TaskOptionError` unless ``value`` is a finite number >= ``low`` (> if strict).

    >>> require_number("noise", 0.05, low=0.0)
    """
    sign = ">" if strict else ">="
    good = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and low <= value < float("inf")
        and not (strict and value == low)
    )
    require(
        good,
        expected=f"{name} to be a finite number {sign} {low:g}",
        found=value,
        mend=f"Choose task.{name} {sign} {low:g}.",
    )


class OfflineTask(Task):
    """BenchMARL task enum whose configs lie in *our* ``conf/task/<env>/<task>.yaml``.

    BenchMARL's :class:`~benchmarl.environments.common.Task` only looks inside benchmarl itself.
    Subclass it exactly like BenchMARL's: members with value ``None`` and ``associated_class``.
    """

    @staticmethod
    def _load_from_yaml(name: str) -> dict[str, Any]:
        return _read_yaml_config(str(conf_dir() / "task" / f"{name}.yaml"))

    def config_class(self) -> type:
        """Return the dataclass ``TaskConfig`` that types and checks this task's options."""
        module = f"{__package__}.{self.env_name()}.{self.name.lower()}"
        return importlib.import_module(module).TaskConfig

    def get_from_yaml(self, path: str | None = None) -> TaskClass:
        """Build the task from a yaml file.

        Args:
            path: full path of the file; ``None`` takes the task's own file in our config folder.

        Raises:
            TaskOptionError: an option is unknown, missing or out of range.
        """
        return self.get_with({}, path=path)

    def get_with(self, overrides: dict[str, Any], path: str | None = None) -> TaskClass:
        """Build the task from yaml with some options replaced.

        Args:
            overrides: options by name, e.g. ``{"n_agents": 8}``.
            path: as in :meth:`get_from_yaml`.

        Raises:
            TaskOptionError: an option is unknown, missing or out of range.

        >>> from benchmarl_ssd.environments.coordination import CoordinationTask
        >>> CoordinationTask.BANDIT.get_with({"n_agents": 8}).config["n_agents"]
        8
        """
        if path is None:
            config = self._load_from_yaml(str(Path(self.env_name()) / self.name.lower()))
        else:
            config = _read_yaml_config(path)
        return self.get_task(config={**config, **overrides})

    def get_task(self, config: dict[str, Any] | None = None) -> TaskClass:
        """Build the task from a complete config, or from yaml if none is given.

        Args:
            config: every option of the task.

        Raises:
            TaskOptionError: an option is unknown, missing or out of range.
        """
        if config is None:
            return self.get_from_yaml()
        config_class = self.config_class()
        known = set(config_class.__dataclass_fields__)  # type: ignore[attr-defined]
        require(
            set(config) == known,
            expected=f"the options {sorted(known)} for {self.env_name()}/{self.name.lower()}",
            found=sorted(config),
            mend=f"Missing: {sorted(known - set(config))}, unknown: {sorted(set(config) - known)}.",
        )
        return super().get_task(config=dict(config_class(**config).__dict__))


def changed_options(task: TaskClass) -> dict[str, Any]:
    """Return the options of a task that differ from its yaml, or nothing if it has none.

    Args:
        task: any task of BenchMARL's registry.

    >>> from benchmarl_ssd.environments.coordination import CoordinationTask
    >>> changed_options(CoordinationTask.BANDIT.get_with({"n_agents": 8}))
    {'n_agents': 8}
    """
    known = task_config_registry.get(f"{task.env_name()}/{task.name}".lower())
    defaults = known.get_from_yaml().config if known is not None else task.config
    return {key: value for key, value in task.config.items() if defaults.get(key) != value}


class SingleGroupTaskClass(TaskClass):
    """A vectorised task with one group of agents, no global state, no info and no action mask."""

    def max_steps(self, env: EnvBase) -> int:
        """Length of an episode."""
        return self.config["max_steps"]

    def has_render(self, env: EnvBase) -> bool:
        """All our tasks draw with numpy alone, also on machines without a display."""
        return True

    def group_map(self, env: EnvBase) -> dict[str, list[str]]:
        """One group, ``"agents"``."""
        return env.group_map

    def observation_spec(self, env: EnvBase) -> Composite:
        """``("agents", "observation")`` without the batch dimension."""
        return env.full_observation_spec_unbatched.clone()

    def action_spec(self, env: EnvBase) -> Composite:
        """``("agents", "action")`` without the batch dimension."""
        return env.full_action_spec_unbatched

    def info_spec(self, env: EnvBase) -> Composite | None:
        """There is no info."""
        return None

    def state_spec(self, env: EnvBase) -> Composite | None:
        """There is no global state; centralised critics read all observations."""
        return None

    def action_mask_spec(self, env: EnvBase) -> Composite | None:
        """Every action is always allowed."""
        return None


class SuccessMixin:
    """Mark a task class that can say which episodes succeeded.

    Runs report the mean of :meth:`success` as ``success_rate``.
    """

    def success(self, rollouts: TensorDictBase | Iterable[TensorDictBase]) -> Tensor:
        """Tell for each episode whether the team reached the task's goal.

        Args:
            rollouts: episodes as a list of TensorDicts ``[T_e]`` or one TensorDict ``[E, T]``;
                what follows an episode's first ``done`` is ignored.

        Returns:
            Bool tensor ``[E]``.
        """
        raise NotImplementedError


def last_steps(rollouts: TensorDictBase | Iterable[TensorDictBase]) -> list[TensorDictBase]:
    """Return the final transition of each episode.

    Args:
        rollouts: episodes as in :meth:`SuccessMixin.success`, with ``("next", "done")`` ``[T, 1]``.

    Returns:
        One TensorDict without time dimension per episode: its first done step, else its last step.

    >>> from tensordict import TensorDict
    >>> done = torch.tensor([[[0], [1], [0]]]).bool()
    >>> td = TensorDict({"t": torch.arange(3)[None], "next": {"done": done}}, batch_size=[1, 3])
    >>> last_steps(td)[0]["t"]
    tensor(1)
    """
    episodes = rollouts.unbind(0) if isinstance(rollouts, TensorDictBase) else rollouts
    final = []
    for episode in episodes:
        done = episode.get(("next", "done")).reshape(episode.shape[0], -1).any(-1)
        index = int(done.int().argmax()) if bool(done.any()) else episode.shape[0] - 1
        final.append(episode[index])
    return final


def balanced_choice(count: int, n_options: int, device: torch.device | None = None) -> Tensor:
    r"""Draw ``count`` options so that each appears equally often, up to one.

    Every K consecutive draws are a random permutation of the K options. A balanced data set, then,
    instead of a merely fair coin, and also wherever its recording is cut.

    Args:
        count: how many draws.
        n_options: number of options K.
        device: where the result lies. The draw itself uses torch's global CPU generator, so it is
            the same for one seed on every device.

    Returns:
        Integer tensor ``[count]`` in ``0..K-1``.

    >>> int(balanced_choice(10, 2).sum())
    5
    """
    blocks = -(-count // n_options)
    return torch.rand(blocks, n_options).argsort(dim=1).flatten()[:count].to(device)

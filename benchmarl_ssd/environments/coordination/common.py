"""The coordination tasks as BenchMARL sees them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from benchmarl.environments.common import TaskClass
from benchmarl.utils import DEVICE_TYPING
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from benchmarl_ssd.environments.common import (
    OfflineTask,
    SingleGroupTaskClass,
    SuccessMixin,
    last_steps,
)
from benchmarl_ssd.environments.coordination.bandit import BanditEnv
from benchmarl_ssd.environments.coordination.two_apples import TwoApplesEnv


class CoordinationClass(SuccessMixin, SingleGroupTaskClass):
    """Builds ``coordination/bandit`` and ``coordination/two_apples``.

    Both have one group ``"agents"``, a shared reward, no global state and no info. An episode
    succeeds if its last step is paid: a played joint mode, or all agents together at one apple.

    >>> task = CoordinationTask.BANDIT.get_from_yaml()
    >>> env = task.get_env_fun(num_envs=5, continuous_actions=True, seed=0, device="cpu")()
    >>> task.success(env.rollout(task.max_steps(env))).shape
    torch.Size([5])
    """

    def get_env_fun(
        self, num_envs: int, continuous_actions: bool, seed: int | None, device: DEVICE_TYPING
    ) -> Callable[[], EnvBase]:
        """Return a function that builds the vectorised environment."""
        config = copy.deepcopy(self.config)
        if self._is_bandit():
            return lambda: BanditEnv(num_envs=num_envs, seed=seed, device=device, **config)
        return lambda: TwoApplesEnv(
            num_envs=num_envs,
            seed=seed,
            device=device,
            continuous_actions=continuous_actions,
            **config,
        )

    def _is_bandit(self) -> bool:
        return self.name.lower() == "bandit"

    def supports_continuous_actions(self) -> bool:
        """Both tasks do."""
        return True

    def supports_discrete_actions(self) -> bool:
        """Only two apples does, with VMAS's nine moves."""
        return not self._is_bandit()

    def success(self, rollouts: TensorDictBase | Iterable[TensorDictBase]) -> Tensor:
        """Tell which episodes ended paid; see :class:`SuccessMixin` for the arguments."""
        key = ("next", "agents", "reward")
        return torch.stack([step.get(key).min() > 0.5 for step in last_steps(rollouts)])

    @staticmethod
    def env_name() -> str:
        """Folder of the configs below ``conf/task``."""
        return "coordination"


class CoordinationTask(OfflineTask):
    """The coordination tasks by name."""

    BANDIT = None
    TWO_APPLES = None

    @staticmethod
    def associated_class() -> type[TaskClass]:
        """Return :class:`CoordinationClass`."""
        return CoordinationClass

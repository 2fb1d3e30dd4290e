"""The MPE tasks for BenchMARL."""

from __future__ import annotations

import copy
from collections.abc import Callable

from benchmarl.environments.common import TaskClass
from benchmarl.utils import DEVICE_TYPING
from torchrl.envs import EnvBase

from benchmarl_ssd.environments.common import OfflineTask, SingleGroupTaskClass, require
from benchmarl_ssd.environments.mpe.env import MpeEnv

__all__ = ["MpeClass", "MpeTask"]


class MpeClass(SingleGroupTaskClass):
    """Builds ``mpe/cooperative_navigation``, ``mpe/predator_prey`` and ``mpe/world``.

    All have one group ``"agents"``, no global state and no info. Every option of a task is an
    argument of :class:`~benchmarl_ssd.environments.mpe.env.MpeEnv` or of the task's scenario.

    Example:
        >>> task = MpeTask.COOPERATIVE_NAVIGATION.get_from_yaml()
        >>> env = task.get_env_fun(num_envs=4, continuous_actions=True, seed=0, device="cpu")()
        >>> env.batch_size, task.max_steps(env)
        (torch.Size([4]), 25)
    """

    def get_env_fun(
        self, num_envs: int, continuous_actions: bool, seed: int | None, device: DEVICE_TYPING
    ) -> Callable[[], EnvBase]:
        """Return a function that builds the vectorised environment."""
        require(
            continuous_actions,
            expected="continuous actions",
            found="continuous_actions=False",
            mend="The MPE tasks of the offline literature have no discrete actions.",
        )
        name, config = self.name.lower(), copy.deepcopy(self.config)
        return lambda: MpeEnv(name, num_envs=num_envs, seed=seed, device=device, **config)

    def supports_continuous_actions(self) -> bool:
        """All tasks do."""
        return True

    def supports_discrete_actions(self) -> bool:
        """No task does."""
        return False

    @staticmethod
    def env_name() -> str:
        """Folder of the configs below ``conf/task``."""
        return "mpe"


class MpeTask(OfflineTask):
    """The MPE tasks of the offline literature by name."""

    COOPERATIVE_NAVIGATION = None
    PREDATOR_PREY = None
    WORLD = None

    @staticmethod
    def associated_class() -> type[TaskClass]:
        """Return :class:`MpeClass`."""
        return MpeClass

"""The logged tasks as BenchMARL sees them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarl.environments.common import TaskClass
from benchmarl.utils import DEVICE_TYPING
from hydra.errors import CompactHydraException
from tensordict import TensorDictBase
from torchrl.data import Composite
from torchrl.envs import EnvBase

from benchmarl_ssd.data import DatasetError, DatasetMetadata, OfflineDataset, resolve
from benchmarl_ssd.data.layout import METADATA_FILE
from benchmarl_ssd.data.recipes import default_root
from benchmarl_ssd.environments.common import OfflineTask
from benchmarl_ssd.environments.logged import specs
from benchmarl_ssd.environments.logged.playback import PlaybackEnv

ENVIRONMENT = "logged"


class LoggedTaskError(DatasetError, CompactHydraException):
    """A logged task's data is missing or does not fit; Hydra prints it without a traceback."""


class LoggedClass(TaskClass):
    """Builds ``logged/dataset``: groups, shapes and bounds are the dataset's, episodes its own.

    There is no simulator, so nothing that happens in the environment depends on the agents, and
    runs are evaluated off-policy; see ``conf/task/logged/dataset.yaml``.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> task = LoggedTask.DATASET.get_with({"dataset": str(write_example())})
        >>> env = task.get_env_fun(num_envs=3, continuous_actions=True, seed=0, device="cpu")()
        >>> env.batch_size, task.max_steps(env)
        (torch.Size([3]), 5)
    """

    @property
    def dataset(self) -> Path:
        """Folder of the task's data; a recipe's is built on first use.

        Raises:
            LoggedTaskError: if none is given or there is none.
        """
        name = self.config["dataset"]
        if name is None:
            raise LoggedTaskError(
                f"expected the dataset that task {ENVIRONMENT}/{self.name.lower()} plays back, "
                "found none; set task.dataset=FOLDER"
            )
        try:
            return resolve(name)
        except DatasetError as error:
            raise LoggedTaskError(f"task.dataset: {error}") from None

    def _metadata(self) -> DatasetMetadata:
        try:
            return DatasetMetadata.read(self.dataset)
        except DatasetError as error:
            raise LoggedTaskError(f"task.dataset: {error}") from None

    def get_env_fun(
        self, num_envs: int, continuous_actions: bool, seed: int | None, device: DEVICE_TYPING
    ) -> Callable[[], EnvBase]:
        """Return a function that builds the environment."""
        path = self.dataset
        return lambda: PlaybackEnv(OfflineDataset(path), num_envs, seed, device)

    def supports_continuous_actions(self) -> bool:
        """Whether the logged actions are real numbers."""
        return specs.is_continuous(self._metadata())

    def supports_discrete_actions(self) -> bool:
        """Whether the logged actions are choices."""
        return not self.supports_continuous_actions()

    def max_steps(self, env: EnvBase) -> int:
        """Length of the longest logged episode."""
        return int(self._metadata().episode_length["max"])

    def has_render(self, env: EnvBase) -> bool:
        """There is nothing to see."""
        return False

    def group_map(self, env: EnvBase) -> dict[str, list[str]]:
        """The dataset's groups."""
        return copy.deepcopy(self._metadata().groups)

    def observation_spec(self, env: EnvBase) -> Composite:
        """What the groups observe."""
        spec = env.full_observation_spec_unbatched.clone()
        if _has(spec, "state"):
            del spec["state"]
        for group in self.group_map(env):
            if _has(spec[group], "action_mask"):
                del spec[group, "action_mask"]
        return spec

    def action_spec(self, env: EnvBase) -> Composite:
        """``(group, "action")`` of every group."""
        return env.full_action_spec_unbatched

    def state_spec(self, env: EnvBase) -> Composite | None:
        """``state``, where the dataset has one."""
        spec = env.full_observation_spec_unbatched
        return Composite({"state": spec["state"].clone()}) if _has(spec, "state") else None

    def action_mask_spec(self, env: EnvBase) -> Composite | None:
        """``(group, "action_mask")``, where the dataset has it."""
        spec = env.full_observation_spec_unbatched
        masks = {
            group: Composite({"action_mask": spec[group, "action_mask"].clone()}, shape=(len(n),))
            for group, n in self.group_map(env).items()
            if _has(spec[group], "action_mask")
        }
        return Composite(masks) if masks else None

    def info_spec(self, env: EnvBase) -> Composite | None:
        """There is no info."""
        return None

    @staticmethod
    def log_info(batch: TensorDictBase) -> dict[str, float]:
        """Refuse: only an algorithm that learns from what it collects asks for this.

        Raises:
            LoggedTaskError: always. Without it, an online algorithm would train on, and be
                credited with, rewards that its actions have no part in.
        """
        raise LoggedTaskError(
            f"expected an offline algorithm on a task of {ENVIRONMENT}/, found one that learns "
            "from what it collects, of which there is nothing; choose algorithm=ssd or bc"
        )

    @staticmethod
    def env_name() -> str:
        """Folder of the configs below ``conf/task``."""
        return ENVIRONMENT


def _has(spec: Composite, key: str) -> bool:
    return key in set(spec.keys())  # `in spec` would ask whether the key is a legal value


class LoggedTask(OfflineTask):
    """The logged tasks by name."""

    DATASET = None

    @staticmethod
    def associated_class() -> type[TaskClass]:
        """Return :class:`LoggedClass`."""
        return LoggedClass


def _unnamed() -> OfflineTask:
    return LoggedTask.__members__["DATASET"]


@dataclass(frozen=True)
class NamedLoggedTask:
    """``logged/NAME``: the task of the dataset that lies in ``<data root>/logged/NAME``.

    It has the options of ``logged/dataset`` and stands beside it in BenchMARL's registry.

    Args:
        name (str): the folder's name.
        folder (Path): the dataset.
    """

    name: str
    folder: Path

    @staticmethod
    def env_name() -> str:
        """Folder of the configs below ``conf/task``."""
        return ENVIRONMENT

    def get_from_yaml(self, path: str | None = None) -> TaskClass:
        """Build the task with the options of a yaml file, by default ``logged/dataset``'s own.

        Args:
            path: full path of the file.
        """
        config = _unnamed().get_from_yaml(path).config
        return self.get_task({**config, "dataset": str(self.folder)})

    def get_task(self, config: dict[str, Any] | None = None) -> TaskClass:
        """Build the task from a complete config, or from yaml if none is given.

        Args:
            config: every option of the task.

        Raises:
            TaskOptionError: an option is unknown, missing or out of range.
        """
        if config is None:
            return self.get_from_yaml()
        return LoggedClass(self.name, _unnamed().get_task(config).config)


def named_tasks(root: Path | None = None) -> dict[str, NamedLoggedTask]:
    """Find the datasets that can be named as ``task=logged/NAME``.

    These are the folders ``<data root>/logged/NAME`` with a ``metadata.json``, NAME of lower-case
    letters, digits, ``_`` and ``-``. Only the folder is listed, no file is opened.

    Args:
        root: the data root; ``None`` takes ``$BENCHMARL_SSD_ROOT``, else the user's cache.

    Example:
        >>> import tempfile
        >>> from benchmarl_ssd.data.examples import write_example
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "logged").mkdir()
        >>> _ = write_example(root / "logged" / "robots")
        >>> list(named_tasks(root))
        ['robots']
    """
    folder = (default_root() if root is None else root) / ENVIRONMENT
    taken = {name.lower() for name in LoggedTask.__members__}
    try:
        found = sorted(path for path in folder.iterdir() if (path / METADATA_FILE).is_file())
    except OSError:  # no such folder, or one that may not be read: no names, and no harm
        return {}
    return {
        path.name: NamedLoggedTask(path.name, path.resolve())
        for path in found
        if re.fullmatch(r"[a-z0-9_-]+", path.name) and path.name not in taken
    }

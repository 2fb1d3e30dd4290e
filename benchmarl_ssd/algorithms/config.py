"""What the configs of the offline algorithms share."""

from __future__ import annotations

import warnings
from dataclasses import MISSING, dataclass, fields

from benchmarl.algorithms.common import Algorithm, AlgorithmConfig
from benchmarl.utils import _read_yaml_config

from benchmarl_ssd._paths import conf_dir
from benchmarl_ssd.algorithms.errors import OfflineRunError


@dataclass
class OfflineAlgorithmConfig(AlgorithmConfig):
    """Base of the configs: reads our own folder, and turns any misfit into one clear error."""

    cuda_graphs: bool = MISSING

    @classmethod
    def is_complete(cls) -> bool:
        """Whether this is an algorithm's config, and not a base of several."""
        return "associated_class" in vars(cls)

    @classmethod
    def algorithm_name(cls) -> str:
        """Return the name that BenchMARL and Hydra know the algorithm under."""
        return cls.associated_class().__name__.lower()

    @classmethod
    def get_from_yaml(cls, path: str | None = None):
        """Load the configuration from yaml.

        Args:
            path (str, optional): full path of the file; by default the one of this package.
        """
        name = cls.algorithm_name()
        file = str(conf_dir() / "algorithm" / f"{name}.yaml") if path is None else path
        return cls(**_read_yaml_config(file))

    def get_algorithm(self, experiment) -> Algorithm:
        """Build the algorithm.

        Raises:
            OfflineRunError: if the dataset or an option does not fit. What the experiment has
                written so far (its empty folder) is removed again.
        """
        unknown = sorted(set(vars(self)) - {option.name for option in fields(self)})
        try:
            if unknown:
                raise ValueError(
                    f"expected options of {self.algorithm_name()}, found "
                    f"{', '.join(unknown)}; conf/algorithm lists and explains them"
                )
            return super().get_algorithm(experiment)
        except ValueError as error:
            _remove_empty_run(experiment)
            raise OfflineRunError(str(error)) from None

    def __str__(self) -> str:
        return f"{self.algorithm_name()} (which trains continuous actions only)"

    @staticmethod
    def supports_continuous_actions() -> bool:
        """Whether continuous actions are supported: they are."""
        return True

    @staticmethod
    def supports_discrete_actions() -> bool:
        """Whether discrete actions are supported: they are not."""
        return False

    @staticmethod
    def on_policy() -> bool:
        """Whether the algorithm is on-policy: no offline algorithm is."""
        return False


def _remove_empty_run(experiment) -> None:
    folder = experiment.folder_name
    if experiment.config.restore_file is not None or not folder.is_dir():
        return
    if [entry.name for entry in folder.iterdir()] == ["config.pkl"]:
        (folder / "config.pkl").unlink()
        folder.rmdir()
    else:
        warnings.warn(f"the run did not start; its folder {folder} is left", stacklevel=2)

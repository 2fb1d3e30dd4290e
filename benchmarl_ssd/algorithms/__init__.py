"""BenchMARL algorithms: wiring only, the mathematics is in ``benchmarl_ssd.objectives``."""

import importlib
import pkgutil

from benchmarl_ssd.algorithms.actor_critic import ActorCriticAlgorithm, ActorCriticConfig
from benchmarl_ssd.algorithms.bc import Bc, BcConfig
from benchmarl_ssd.algorithms.common import OfflineAlgorithm
from benchmarl_ssd.algorithms.config import OfflineAlgorithmConfig
from benchmarl_ssd.algorithms.errors import OfflineRunError
from benchmarl_ssd.algorithms.ssd import Ssd, SsdConfig


def _discover() -> dict[str, type[OfflineAlgorithmConfig]]:
    # An algorithm is a module here with a config that names its algorithm; nothing else to edit.
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and issubclass(value, OfflineAlgorithmConfig) and value.is_complete():
                found[value.algorithm_name()] = value
    return dict(sorted(found.items()))


algorithm_config_registry = _discover()
"""The algorithms' configs by the names that BenchMARL and Hydra know them under."""

__all__ = [
    "ActorCriticAlgorithm",
    "ActorCriticConfig",
    "Bc",
    "BcConfig",
    "OfflineAlgorithm",
    "OfflineAlgorithmConfig",
    "OfflineRunError",
    "Ssd",
    "SsdConfig",
    "algorithm_config_registry",
]

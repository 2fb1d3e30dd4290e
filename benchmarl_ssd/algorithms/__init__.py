"""BenchMARL algorithms: wiring only, the mathematics is in ``benchmarl_ssd.objectives``."""

from benchmarl_ssd.algorithms.bc import Bc, BcConfig
from benchmarl_ssd.algorithms.common import OfflineAlgorithm
from benchmarl_ssd.algorithms.config import OfflineAlgorithmConfig
from benchmarl_ssd.algorithms.errors import OfflineRunError
from benchmarl_ssd.algorithms.ssd import Ssd, SsdConfig

algorithm_config_registry = {"bc": BcConfig, "ssd": SsdConfig}
"""The algorithms' names, as BenchMARL and Hydra know them."""

__all__ = [
    "Bc",
    "BcConfig",
    "OfflineAlgorithm",
    "OfflineAlgorithmConfig",
    "OfflineRunError",
    "Ssd",
    "SsdConfig",
    "algorithm_config_registry",
]

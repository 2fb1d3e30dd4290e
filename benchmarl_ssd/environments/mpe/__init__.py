"""The MPE tasks of the offline literature: Cooperative Navigation, Predator-Prey, World."""

from benchmarl_ssd.environments.mpe.common import MpeClass, MpeTask
from benchmarl_ssd.environments.mpe.env import MpeEnv, make_scenario

__all__ = ["MpeClass", "MpeEnv", "MpeTask", "make_scenario"]

"""Two tasks where nothing but agreeing on one convention is hard."""

from benchmarl_ssd.environments.coordination.bandit import BanditEnv, joint_modes
from benchmarl_ssd.environments.coordination.common import CoordinationClass, CoordinationTask
from benchmarl_ssd.environments.coordination.policies import BanditTeam, TwoApplesTeam
from benchmarl_ssd.environments.coordination.two_apples import TwoApplesEnv
from benchmarl_ssd.environments.coordination.two_apples_scenario import (
    TwoApplesScenario,
    world_positions,
)

__all__ = [
    "BanditEnv",
    "BanditTeam",
    "CoordinationClass",
    "CoordinationTask",
    "TwoApplesEnv",
    "TwoApplesScenario",
    "TwoApplesTeam",
    "joint_modes",
    "world_positions",
]

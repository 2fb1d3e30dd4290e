"""TorchRL loss modules for offline multi-agent learning; nothing here knows BenchMARL."""

from benchmarl_ssd.objectives.bc import BcLoss
from benchmarl_ssd.objectives.common import OfflineLoss
from benchmarl_ssd.objectives.joint_iql import JointIQLLoss
from benchmarl_ssd.objectives.score_matching import ScoreMatchingLoss
from benchmarl_ssd.objectives.ssd import SsdLoss

__all__ = ["BcLoss", "JointIQLLoss", "OfflineLoss", "ScoreMatchingLoss", "SsdLoss"]

"""TorchRL loss modules for offline multi-agent learning; nothing here knows BenchMARL."""

from benchmarl_ssd.objectives.actors import ActorLoss
from benchmarl_ssd.objectives.bc import BcLoss
from benchmarl_ssd.objectives.cfcql import CfcqlLoss
from benchmarl_ssd.objectives.common import OfflineLoss
from benchmarl_ssd.objectives.conservative import ConservativeMixin
from benchmarl_ssd.objectives.critic import CriticLoss
from benchmarl_ssd.objectives.joint_iql import JointIQLLoss
from benchmarl_ssd.objectives.macql import MacqlLoss
from benchmarl_ssd.objectives.madiff import MadiffLoss
from benchmarl_ssd.objectives.maicq import MaicqLoss
from benchmarl_ssd.objectives.maiql import MaiqlLoss
from benchmarl_ssd.objectives.matd3bc import Matd3BcLoss
from benchmarl_ssd.objectives.omar import OmarLoss
from benchmarl_ssd.objectives.omiga import OmigaLoss
from benchmarl_ssd.objectives.policy_evaluation import PolicyEvaluationLoss
from benchmarl_ssd.objectives.score_matching import ScoreMatchingLoss
from benchmarl_ssd.objectives.ssd import SsdLoss

__all__ = [
    "ActorLoss",
    "BcLoss",
    "CfcqlLoss",
    "ConservativeMixin",
    "CriticLoss",
    "JointIQLLoss",
    "MacqlLoss",
    "MadiffLoss",
    "MaicqLoss",
    "MaiqlLoss",
    "Matd3BcLoss",
    "OfflineLoss",
    "OmarLoss",
    "OmigaLoss",
    "PolicyEvaluationLoss",
    "ScoreMatchingLoss",
    "SsdLoss",
]

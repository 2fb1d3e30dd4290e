"""Networks as TensorDict modules; nothing here knows BenchMARL."""

from benchmarl_ssd.modules.analytic import MixtureScore
from benchmarl_ssd.modules.conditional_score import ConditionalScore
from benchmarl_ssd.modules.noise import VPNoiseSchedule
from benchmarl_ssd.modules.scaling import ActionScaler
from benchmarl_ssd.modules.score import NoisePredictor, PreconditionedScoreNetwork, ScoreContext
from benchmarl_ssd.modules.stacked import StackedLinear, StackedMLP

__all__ = [
    "ActionScaler",
    "ConditionalScore",
    "MixtureScore",
    "NoisePredictor",
    "PreconditionedScoreNetwork",
    "ScoreContext",
    "StackedLinear",
    "StackedMLP",
    "VPNoiseSchedule",
]

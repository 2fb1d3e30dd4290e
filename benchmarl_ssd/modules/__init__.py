"""Networks as TensorDict modules; nothing here knows BenchMARL."""

from benchmarl_ssd.modules.analytic import MixtureScore
from benchmarl_ssd.modules.conditional_score import ConditionalScore
from benchmarl_ssd.modules.mixer import LinearMixer
from benchmarl_ssd.modules.mixture_score import MixtureScoreNetwork
from benchmarl_ssd.modules.noise import VPNoiseSchedule
from benchmarl_ssd.modules.scaling import ActionScaler
from benchmarl_ssd.modules.score import NoisePredictor, PreconditionedScoreNetwork, ScoreContext
from benchmarl_ssd.modules.stacked import StackedLinear, StackedMLP

__all__ = [
    "ActionScaler",
    "ConditionalScore",
    "LinearMixer",
    "MixtureScore",
    "MixtureScoreNetwork",
    "NoisePredictor",
    "PreconditionedScoreNetwork",
    "ScoreContext",
    "StackedLinear",
    "StackedMLP",
    "VPNoiseSchedule",
]

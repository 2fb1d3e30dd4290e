"""TD3+BC of a team, wired for BenchMARL."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

from benchmarl.algorithms.common import Algorithm

from benchmarl_ssd.algorithms.actor_critic import ActorCriticAlgorithm, ActorCriticConfig
from benchmarl_ssd.objectives import Matd3BcLoss


class Matd3Bc(ActorCriticAlgorithm):
    r"""TD3+BC (Fujimoto and Gu, arXiv 2106.06860) with decentralised actors.

    .. math:: L_{actor} = E[-\lambda Q(s, \pi(o)) + \|\pi(o) - a\|^2 / (n d)], \qquad
        \lambda = \alpha / E|Q(s, \pi(o))|

    The mathematics is in :class:`~benchmarl_ssd.objectives.Matd3BcLoss`; every option is explained
    in ``conf/algorithm/matd3bc.yaml``.

    Args:
        alpha (float): weight of the critic, at least 0.
        policy_noise (float): noise on the next actions.
        noise_clip (float): its bound.
        **kwargs: see :class:`ActorCriticAlgorithm`.
    """

    loss_class = Matd3BcLoss

    def __init__(self, alpha: float, policy_noise: float, noise_clip: float, **kwargs: Any) -> None:
        options = {"alpha": alpha, "policy_noise": policy_noise, "noise_clip": noise_clip}
        super().__init__(loss_options=options, **kwargs)


@dataclass
class Matd3BcConfig(ActorCriticConfig):
    """Configuration of :class:`Matd3Bc`; ``conf/algorithm/matd3bc.yaml`` explains the keys."""

    alpha: float = MISSING
    policy_noise: float = MISSING
    noise_clip: float = MISSING

    @staticmethod
    def associated_class() -> type[Algorithm]:
        """Return the algorithm that the config belongs to."""
        return Matd3Bc

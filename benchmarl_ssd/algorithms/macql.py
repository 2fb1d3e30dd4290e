"""Conservative Q-learning of a team, wired for BenchMARL."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

from benchmarl.algorithms.common import Algorithm

from benchmarl_ssd.algorithms.actor_critic import ActorCriticAlgorithm, ActorCriticConfig
from benchmarl_ssd.objectives import MacqlLoss


class Macql(ActorCriticAlgorithm):
    r"""Conservative Q-learning (Kumar et al., arXiv 2006.04779) of a team.

    .. math:: L_Q = E\bigl[(Q(s, a) - y)^2 + \alpha (T \log E_u e^{Q(s, u) / T} - Q(s, a))\bigr]

    The mathematics is in :class:`~benchmarl_ssd.objectives.MacqlLoss`; every option is explained
    in ``conf/algorithm/macql.yaml``.

    Args:
        alpha (float): weight of the penalty.
        penalty_temperature (float): its temperature.
        num_sampled_actions (int): actions from each proposal.
        proposals (list of str): where these come from.
        sample_noise (float): spread of those around a policy's action.
        penalty_share (float): share of a batch that the penalty is taken on.
        policy_noise (float): noise on the next actions.
        noise_clip (float): its bound.
        loss_options (dict, optional): further options of the loss.
        **kwargs: see :class:`ActorCriticAlgorithm`.
    """

    loss_class = MacqlLoss

    def __init__(
        self,
        alpha: float,
        penalty_temperature: float,
        num_sampled_actions: int,
        proposals: list[str],
        sample_noise: float,
        penalty_share: float,
        policy_noise: float,
        noise_clip: float,
        loss_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        options = {
            "alpha": alpha,
            "penalty_temperature": penalty_temperature,
            "num_sampled_actions": num_sampled_actions,
            "proposals": list(proposals),
            "sample_noise": sample_noise,
            "penalty_share": penalty_share,
            "policy_noise": policy_noise,
            "noise_clip": noise_clip,
        }
        super().__init__(loss_options={**options, **(loss_options or {})}, **kwargs)


@dataclass
class MacqlConfig(ActorCriticConfig):
    """Configuration of :class:`Macql`; the keys are explained in ``conf/algorithm/macql.yaml``."""

    alpha: float = MISSING
    penalty_temperature: float = MISSING
    num_sampled_actions: int = MISSING
    proposals: list[str] = MISSING
    sample_noise: float = MISSING
    penalty_share: float = MISSING
    policy_noise: float = MISSING
    noise_clip: float = MISSING

    @staticmethod
    def associated_class() -> type[Algorithm]:
        """Return the algorithm that the config belongs to."""
        return Macql

"""OMAR, wired for BenchMARL."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

from benchmarl.algorithms.common import Algorithm

from benchmarl_ssd.algorithms.actor_critic import ActorCriticAlgorithm, ActorCriticConfig
from benchmarl_ssd.objectives import OmarLoss
from benchmarl_ssd.objectives.action_search import ActionSearch


class Omar(ActorCriticAlgorithm):
    r"""OMAR (Pan et al., arXiv 2111.11188): conservative critics, and actors drawn to a search.

    .. math:: L_{actor} = E[c\, \|\pi_i(o_i) - \hat a_i\|^2 - (1 - c)\, Q_i(o_i, \pi_i(o_i))]

    The mathematics is in :class:`~benchmarl_ssd.objectives.OmarLoss`; every option is explained
    in ``conf/algorithm/omar.yaml``.

    Args:
        coefficient (float): c, weight of the search, in [0, 1].
        search_iterations (int): rounds of the search.
        search_samples (int): candidates in each round.
        search_elites (int, optional): candidates that a round is fitted to; ``None``: all,
            weighted by their values.
        search_mean (float): mean of the first round's candidates.
        search_std (float): their standard deviation.
        search_temperature (float): of the weights, without elites.
        search_share (float): share of a batch that the actors are trained on.
        alpha (float): weight of the conservative term.
        penalty_temperature (float): its temperature.
        num_sampled_actions (int): actions it samples.
        penalty_share (float): share of a batch that it is taken on.
        policy_noise (float): noise on the next actions.
        noise_clip (float): its bound.
        **kwargs: see :class:`ActorCriticAlgorithm`.
    """

    loss_class = OmarLoss

    def __init__(
        self,
        coefficient: float,
        search_iterations: int,
        search_samples: int,
        search_elites: int | None,
        search_mean: float,
        search_std: float,
        search_temperature: float,
        search_share: float,
        alpha: float,
        penalty_temperature: float,
        num_sampled_actions: int,
        penalty_share: float,
        policy_noise: float,
        noise_clip: float,
        **kwargs: Any,
    ) -> None:
        search = ActionSearch(
            search_iterations,
            search_samples,
            search_elites,
            search_mean,
            search_std,
            search_temperature,
        )
        options = {
            "coefficient": coefficient,
            "search": search,
            "search_share": search_share,
            "alpha": alpha,
            "penalty_temperature": penalty_temperature,
            "num_sampled_actions": num_sampled_actions,
            "penalty_share": penalty_share,
            "policy_noise": policy_noise,
            "noise_clip": noise_clip,
        }
        super().__init__(loss_options=options, **kwargs)


@dataclass
class OmarConfig(ActorCriticConfig):
    """Configuration of :class:`Omar`; the keys are explained in ``conf/algorithm/omar.yaml``."""

    coefficient: float = MISSING
    search_iterations: int = MISSING
    search_samples: int = MISSING
    search_elites: int | None = MISSING
    search_mean: float = MISSING
    search_std: float = MISSING
    search_temperature: float = MISSING
    search_share: float = MISSING
    alpha: float = MISSING
    penalty_temperature: float = MISSING
    num_sampled_actions: int = MISSING
    penalty_share: float = MISSING
    policy_noise: float = MISSING
    noise_clip: float = MISSING

    @staticmethod
    def associated_class() -> type[Algorithm]:
        """Return the algorithm that the config belongs to."""
        return Omar

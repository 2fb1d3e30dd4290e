"""Implicit Q-learning of a team, wired for BenchMARL."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

from benchmarl.algorithms.common import Algorithm

from benchmarl_ssd.algorithms.actor_critic import ActorCriticAlgorithm, ActorCriticConfig
from benchmarl_ssd.objectives import MaiqlLoss


class Maiql(ActorCriticAlgorithm):
    r"""Implicit Q-learning (Kostrikov et al., arXiv 2110.06169) with decentralised actors.

    .. math:: L_{actor} = \sum_i E[w \|\pi_i(o_i) - a_i\|^2], \qquad
        w = \min(e^{\beta (Q(s, a) - V(s))}, w_{max})

    The mathematics is in :class:`~benchmarl_ssd.objectives.MaiqlLoss`; every option is explained
    in ``conf/algorithm/maiql.yaml``.

    Args:
        expectile (float): of the state-value regression, in (0, 1).
        temperature (float): of the actors' weights, at least 0.
        max_weight (float): their bound, above 0.
        **kwargs: see :class:`ActorCriticAlgorithm`.
    """

    loss_class = MaiqlLoss
    has_value = True

    def __init__(
        self, expectile: float, temperature: float, max_weight: float, **kwargs: Any
    ) -> None:
        options = {"expectile": expectile, "temperature": temperature, "max_weight": max_weight}
        super().__init__(loss_options=options, **kwargs)


@dataclass
class MaiqlConfig(ActorCriticConfig):
    """Configuration of :class:`Maiql`; ``conf/algorithm/maiql.yaml`` explains the keys."""

    expectile: float = MISSING
    temperature: float = MISSING
    max_weight: float = MISSING

    @staticmethod
    def associated_class() -> type[Algorithm]:
        """Return the algorithm that the config belongs to."""
        return Maiql

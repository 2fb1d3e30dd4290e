"""Global-to-local value regularisation of a team, wired for BenchMARL."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

from benchmarl.algorithms.common import Algorithm

from benchmarl_ssd.algorithms.config import OfflineAlgorithmConfig
from benchmarl_ssd.algorithms.mixed import MixedCriticAlgorithm
from benchmarl_ssd.objectives import OmigaLoss


class Omiga(MixedCriticAlgorithm):
    r"""OMIGA (Wang et al., arXiv 2307.11620) with decentralised actors.

    .. math:: L_{actor} = \sum_i E[e^{w_i(s) (Q_i - V_i) / \alpha} \|\pi_i(o_i) - a_i\|^2]

    The mathematics is in :class:`~benchmarl_ssd.objectives.OmigaLoss`; every option is explained
    in ``conf/algorithm/omiga.yaml``.

    Args:
        alpha (float): weight of the penalty, above 0.
        max_weight (float): bound of the actors' weights, above 1.
        **kwargs: see :class:`MixedCriticAlgorithm`.
    """

    loss_class = OmigaLoss
    has_value = True
    has_local_values = True

    def __init__(self, alpha: float, max_weight: float, **kwargs: Any) -> None:
        options = {"alpha": alpha, "max_weight": max_weight}
        super().__init__(critics="mixed", num_qvalue_nets=1, loss_options=options, **kwargs)


@dataclass
class OmigaConfig(OfflineAlgorithmConfig):
    """Configuration of :class:`Omiga`; ``conf/algorithm/omiga.yaml`` explains the keys."""

    dataset: str | None = MISSING
    alpha: float = MISSING
    max_weight: float = MISSING
    mixer_num_cells: list[int] = MISSING
    critic_layer_norm: bool = MISSING
    reward_scale: float | None = MISSING
    centre_rewards: bool | None = MISSING
    critic_lr: float | None = MISSING
    actor_lr: float | None = MISSING
    lr_schedule: str = MISSING
    final_evaluation_episodes: int | None = MISSING

    @staticmethod
    def associated_class() -> type[Algorithm]:
        """Return the algorithm that the config belongs to."""
        return Omiga

    @staticmethod
    def has_centralized_critic() -> bool:
        """Whether there is a critic of the whole team: the mixer's total is."""
        return True

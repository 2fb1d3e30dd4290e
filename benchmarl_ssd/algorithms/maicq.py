"""Implicit constraint Q-learning of a team, wired for BenchMARL."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

from benchmarl.algorithms.common import Algorithm

from benchmarl_ssd.algorithms.actor_critic import ActorCriticConfig
from benchmarl_ssd.algorithms.mixed import MixedCriticAlgorithm
from benchmarl_ssd.objectives import MaicqLoss


class Maicq(MixedCriticAlgorithm):
    r"""Implicit constraint Q-learning (ICQ; Yang et al., arXiv 2106.03400).

    .. math:: L_{actor} = \sum_i E[w_i \|\pi_i(o_i) - a_i\|^2], \qquad
        w_i = \mathrm{softmax}_{batch}(A_i / \alpha)

    The mathematics is in :class:`~benchmarl_ssd.objectives.MaicqLoss`; every option is explained
    in ``conf/algorithm/maicq.yaml``.

    Args:
        bootstrap (str): ``logged``, the next logged action's value with weights over the batch, or
            ``value``, a state-value network's with weights over every state's own actions.
        alpha (float): temperature of the actors' weights, above 0.
        critic_alpha (float): temperature of the critics' weights, above 0.
        **kwargs: see :class:`MixedCriticAlgorithm`.
    """

    loss_class = MaicqLoss

    def __init__(self, bootstrap: str, alpha: float, critic_alpha: float, **kwargs: Any) -> None:
        if bootstrap not in ("logged", "value"):
            raise ValueError(f"expected bootstrap to be one of logged, value; found {bootstrap!r}")
        self.bootstrap = bootstrap
        options = {"alpha": alpha, "critic_alpha": critic_alpha}
        super().__init__(loss_options=options, **kwargs)

    @property
    def has_value(self) -> bool:  # type: ignore[override]
        """Whether there is a state-value network."""
        return self.bootstrap == "value"

    @property
    def needs_next_action(self) -> bool:
        """Whether the loss reads the action that was logged next."""
        return not self.has_value


@dataclass
class MaicqConfig(ActorCriticConfig):
    """Configuration of :class:`Maicq`; ``conf/algorithm/maicq.yaml`` explains the keys."""

    bootstrap: str = MISSING
    alpha: float = MISSING
    critic_alpha: float = MISSING
    mixer_num_cells: list[int] = MISSING

    @staticmethod
    def associated_class() -> type[Algorithm]:
        """Return the algorithm that the config belongs to."""
        return Maicq

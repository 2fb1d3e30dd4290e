"""Behaviour cloning, wired for BenchMARL."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

from benchmarl.algorithms.common import Algorithm
from tensordict.nn import TensorDictModule
from torchrl.objectives import LossModule

from benchmarl_ssd.algorithms.common import OfflineAlgorithm
from benchmarl_ssd.algorithms.config import OfflineAlgorithmConfig
from benchmarl_ssd.objectives import BcLoss


class Bc(OfflineAlgorithm):
    """Behaviour cloning with deterministic decentralised actors.

    .. math:: L_{actor} = \\sum_i E \\| \\pi_i(o_i) - a_i \\|^2

    Args:
        actor_lr (float, optional): learning rate; ``None``: the experiment's.
        **kwargs: see :class:`OfflineAlgorithm`.
    """

    def __init__(self, actor_lr: float | None, **kwargs: Any) -> None:
        self.actor_lr = actor_lr
        super().__init__(**kwargs)

    def _get_loss(
        self, group: str, policy_for_loss: TensorDictModule, continuous: bool
    ) -> tuple[LossModule, bool]:
        loss = BcLoss(policy_for_loss, self.action_scaler(group))
        self.set_team_keys(group, loss)
        return loss, False

    def learning_rate(self, network: str) -> float | None:
        """Return the actors' rate."""
        return self.actor_lr


@dataclass
class BcConfig(OfflineAlgorithmConfig):
    """Configuration of :class:`Bc`; the keys are explained in ``conf/algorithm/bc.yaml``."""

    dataset: str | None = MISSING
    actor_lr: float | None = MISSING
    lr_schedule: str = MISSING
    final_evaluation_episodes: int | None = MISSING

    @staticmethod
    def associated_class() -> type[Algorithm]:
        """Return the algorithm that the config belongs to."""
        return Bc

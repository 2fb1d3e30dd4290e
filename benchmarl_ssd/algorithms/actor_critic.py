"""What the baselines with actors and critics are wired from."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any, ClassVar

from tensordict.nn import TensorDictModule
from torchrl.objectives import LossModule, ValueEstimators

from benchmarl_ssd.algorithms.common import OfflineAlgorithm
from benchmarl_ssd.algorithms.config import OfflineAlgorithmConfig


class ActorCriticAlgorithm(OfflineAlgorithm):
    """Base of the offline algorithms that train actors and critics at once, all along the run.

    A subclass names its ``loss_class``, whether that takes a ``value_network``, and passes the
    options that only its loss knows as ``loss_options``.

    Args:
        critics (str): ``joint``, one of the whole team, or ``independent``, one per agent of what
            that agent observes and does.
        num_qvalue_nets (int): critics in the ensemble.
        critic_layer_norm (bool): layer norm and ReLU in MLP critics that ask for no norm.
        reward_scale (float, optional): factor on the rewards; ``None``: one over the standard
            deviation of the team's reward in the dataset.
        critic_lr (float, optional): learning rate; ``None``: the experiment's.
        actor_lr (float, optional): likewise.
        loss_options (dict, optional): further options of the loss.
        **kwargs: see :class:`OfflineAlgorithm`.
    """

    loss_class: ClassVar[type[LossModule]]
    has_value: ClassVar[bool] = False
    hold: ClassVar[float] = 0.6
    """Share of the run before learning rates fall: targets move all the while."""

    def __init__(
        self,
        critics: str,
        num_qvalue_nets: int,
        critic_layer_norm: bool,
        reward_scale: float | None,
        critic_lr: float | None,
        actor_lr: float | None,
        loss_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.independent, self.critic_layer_norm = is_independent(critics), critic_layer_norm
        self.reward_scale_option = reward_scale
        self.learning_rates = {"actor": actor_lr}
        self.critic_lr = critic_lr
        self.loss_options = {"num_qvalue_nets": num_qvalue_nets, **(loss_options or {})}
        super().__init__(**kwargs)

    def held(self, loss_name: str) -> float:
        """Share of the run in which learning rates are full."""
        return self.hold

    def learning_rate(self, network: str) -> float | None:
        """Return the actors' rate, or that of all other networks."""
        return self.learning_rates.get(network, self.critic_lr)

    def networks(self, group: str) -> dict[str, TensorDictModule]:
        """Build the loss's networks beside the actors, by the names of its arguments."""
        shape = {"layer_norm": self.critic_layer_norm, "independent": self.independent}
        networks = {"qvalue_network": self.critic(group, "state_action_value", True, **shape)}
        if self.has_value:
            networks["value_network"] = self.critic(group, "state_value", False, **shape)
        return networks

    def _get_loss(
        self, group: str, policy_for_loss: TensorDictModule, continuous: bool
    ) -> tuple[LossModule, bool]:
        loss = self.loss_class(
            actor_network=policy_for_loss,
            **self.networks(group),
            action_scaler=self.action_scaler(group),
            reward_scale=self.reward_scale(self.team_rewards(group), self.reward_scale_option),
            **self.loss_options,
        )
        self.set_team_keys(group, loss, self.independent)
        loss.make_value_estimator(ValueEstimators.TD0, gamma=self.experiment_config.gamma)
        return loss, True


def is_independent(critics: str) -> bool:
    """Whether ``critics`` asks for one per agent, and not for a ``joint`` one of the team.

    Raises:
        ValueError: if it is neither ``joint`` nor ``independent``.

    Examples:
        >>> is_independent("joint")
        False
    """
    if critics not in ("joint", "independent"):
        raise ValueError(f"expected critics to be one of joint, independent; found {critics!r}")
    return critics == "independent"


@dataclass
class ActorCriticConfig(OfflineAlgorithmConfig):
    """Options that all algorithms with actors and critics share."""

    dataset: str | None = MISSING
    critics: str = MISSING
    num_qvalue_nets: int = MISSING
    critic_layer_norm: bool = MISSING
    reward_scale: float | None = MISSING
    centre_rewards: bool | None = MISSING
    critic_lr: float | None = MISSING
    actor_lr: float | None = MISSING
    lr_schedule: str = MISSING
    final_evaluation_episodes: int | None = MISSING

    @staticmethod
    def has_centralized_critic() -> bool:
        """Whether there is a joint critic: by default there is."""
        return True

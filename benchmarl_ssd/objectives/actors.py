"""What the losses that train a group's actors share."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.objectives.common import OfflineLoss


class ActorLoss(OfflineLoss):
    """Base of the losses with deterministic decentralised actors.

    Meant to be inherited from: a subclass calls ``_set_up_actor`` in its constructor.
    """

    actor_network: TensorDictModule
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams

    def _set_up_actor(self, actor_network: TensorDictModule, has_target: bool = False) -> None:
        self.convert_to_functional(actor_network, "actor_network", create_target_params=has_target)

    def _read_keys(self) -> list[NestedKey]:
        return [*super()._read_keys(), *self.actor_network.in_keys]

    def act(self, actor: TensorDictModule, tensordict: TensorDictBase) -> Tensor:
        """Actions of ``actor`` in [-1, 1], ``[*B, n, d]``."""
        observed = tensordict.select(*actor.in_keys, strict=False)
        return self.action_scaler.scale(actor(observed).get(self.tensor_keys.action))

    def policy_action(self, tensordict: TensorDictBase) -> Tensor:
        """Actions of the actors in [-1, 1], ``[*B, n, d]``, with gradient to the actors only."""
        with self.actor_network_params.to_module(self.actor_network):
            return self.act(self.actor_network, tensordict)

    def logged_action(self, tensordict: TensorDictBase) -> Tensor:
        """The logged actions in [-1, 1], ``[*B, n, d]``."""
        return self.action_scaler.scale(tensordict.get(self.tensor_keys.action))

    def clone_loss(
        self,
        tensordict: TensorDictBase,
        weight: Tensor | float = 1.0,
        action: Tensor | None = None,
    ) -> Tensor:
        r"""Squared distance to the logged actions, ``[*B]``, mean over agents and action entries.

        Args:
            tensordict (TensorDictBase): logged transitions.
            weight (Tensor or float): factor on every agent's distance, ``[*B, n]`` or one that
                broadcasts to it. Up to a constant the result is then the weighted negative
                log-likelihood of a Gaussian policy of standard deviation :math:`\sqrt{1/2}`.
            action (Tensor, optional): the actors' actions, where they are known already.
        """
        action = self.policy_action(tensordict) if action is None else action
        distance = (action - self.logged_action(tensordict)) ** 2
        return (weight * distance.mean(-1)).mean(-1)

"""What the losses that train a group's actors share."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.objectives.common import OfflineLoss

# Logged actions are taken to be within this share of their bounds: squashed densities end there.
_INSIDE = 0.99


class ActorLoss(OfflineLoss):
    """Base of the losses with decentralised actors, deterministic unless said otherwise.

    Meant to be inherited from: a subclass calls ``_set_up_actor`` in its constructor. Actors that
    are ``stochastic`` are a ``ProbabilisticActor`` whose distribution can be sampled with gradient.
    """

    stochastic = False

    actor_network: TensorDictModule
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams

    def _set_up_actor(
        self,
        actor_network: TensorDictModule,
        has_target: bool = False,
        stochastic: bool = False,
    ) -> None:
        if stochastic and not hasattr(actor_network, "get_dist"):
            raise ValueError(
                "expected stochastic actors to have a distribution (a ProbabilisticActor), found "
                f"{type(actor_network).__name__}; set stochastic_actors to False"
            )
        self.stochastic = stochastic
        self.convert_to_functional(actor_network, "actor_network", create_target_params=has_target)

    def _read_keys(self) -> list[NestedKey]:
        return [*super()._read_keys(), *self.actor_network.in_keys]

    def act(self, actor: TensorDictModule, tensordict: TensorDictBase) -> Tensor:
        """Actions of ``actor`` in [-1, 1], ``[*B, n, d]``."""
        observed = tensordict.select(*actor.in_keys, strict=False)
        if self.stochastic:
            return self.action_scaler.scale(actor.get_dist(observed).rsample())
        return self.action_scaler.scale(actor(observed).get(self.tensor_keys.action))

    def policy_sample(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Sampled actions in [-1, 1], ``[*B, n, d]``, and their log-densities, ``[*B, n]``.

        Of stochastic actors only. Densities are in units of the task's actions.
        """
        with self.actor_network_params.to_module(self.actor_network):
            observed = tensordict.select(*self.actor_network.in_keys, strict=False)
            distribution = self.actor_network.get_dist(observed)
            action = distribution.rsample()
            return self.action_scaler.scale(action), distribution.log_prob(action)

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

        Of stochastic actors: the negative log-likelihood of the logged actions, per entry.

        Args:
            tensordict (TensorDictBase): logged transitions.
            weight (Tensor or float): factor on every agent's distance, ``[*B, n]`` or one that
                broadcasts to it. Up to a constant the result is then the weighted negative
                log-likelihood of a Gaussian policy of standard deviation :math:`\sqrt{1/2}`.
            action (Tensor, optional): the actors' actions, where they are known already.
        """
        if self.stochastic:
            return (weight * self._negative_log_likelihood(tensordict)).mean(-1)
        action = self.policy_action(tensordict) if action is None else action
        distance = (action - self.logged_action(tensordict)) ** 2
        return (weight * distance.mean(-1)).mean(-1)

    def _negative_log_likelihood(self, tensordict: TensorDictBase) -> Tensor:
        inside = torch.clamp(self.logged_action(tensordict), -_INSIDE, _INSIDE)
        logged = self.action_scaler.unscale(inside)
        with self.actor_network_params.to_module(self.actor_network):
            observed = tensordict.select(*self.actor_network.in_keys, strict=False)
            return -self.actor_network.get_dist(observed).log_prob(logged) / logged.shape[-1]

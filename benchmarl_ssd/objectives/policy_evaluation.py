"""A joint critic of the policies themselves, which follows them as they change."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.objectives.actors import ActorLoss
from benchmarl_ssd.objectives.critic import CriticLoss

# Written by an environment's transform, not observed; windows of recurrent policies have it.
_INIT = "is_init"


class PolicyEvaluationLoss(CriticLoss, ActorLoss):
    r"""Critics that evaluate the current policies, as TD3 does for one agent.

    :math:`Q_k(s, a)` regresses

    .. math::
        r + \gamma (1 - terminated) \min_k Q^-_k\bigl(s', \pi^-(o') + \xi\bigr), \qquad
        \xi = \mathrm{clip}(\mathcal N(0, \sigma^2), -c, c),

    with Polyak averages :math:`Q^-, \pi^-` (Fujimoto et al., arXiv 1802.09477). Started from the
    in-sample critic of :class:`JointIQLLoss`, or with actors held to the data, it learns what the
    policies' own actions lead to; from nothing, offline, it does not.

    Meant to be inherited from: a subclass sets up critics, and actors with target parameters.
    """

    def _set_up_smoothing(self, policy_noise: float, noise_clip: float) -> None:
        for name, found in (("policy_noise", policy_noise), ("noise_clip", noise_clip)):
            if found < 0:
                raise ValueError(f"expected {name} of at least 0, found {found}")
        self.policy_noise, self.noise_clip = policy_noise, noise_clip

    def _read_keys(self) -> list[NestedKey]:
        following = [*self._observed_keys(), *self.actor_network.in_keys]
        return [*super()._read_keys(), *[("next", key) for key in following if key != _INIT]]

    def following(self, tensordict: TensorDictBase) -> TensorDictBase:
        """What is observed in the next states, as the actors need it."""
        following = tensordict.get("next")
        starts = tensordict.get(_INIT, None)
        if starts is not None and following.get(_INIT, None) is None:
            # A recurrent policy starts anew where its window does, one step later than on it.
            following = following.copy().set(_INIT, starts)
        return following

    @torch.no_grad()
    def next_policy_action(self, tensordict: TensorDictBase) -> Tensor:
        """Target policies' smoothed next actions in [-1, 1], ``[*B, n, d]``."""
        following = self.following(tensordict)
        with self.target_actor_network_params.to_module(self.actor_network):
            action = self.act(self.actor_network, following)
        noise = self.policy_noise * torch.randn_like(action)
        return (action + noise.clamp(-self.noise_clip, self.noise_clip)).clamp(-1, 1)

    @torch.no_grad()
    def next_policy_value(self, tensordict: TensorDictBase) -> Tensor:
        """Target critics' minimum at the target policies' next actions, ``[*B]`` or ``[*B, n]``."""
        action = self.next_policy_action(tensordict)
        params = self.target_qvalue_network_params
        return self.qvalues_at(tensordict.get("next"), action, params).min(0).values

    def policy_qvalue_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]`` of the policies' own critic, summed over critics; metrics."""
        return self.regress(tensordict, self.next_policy_value(tensordict))

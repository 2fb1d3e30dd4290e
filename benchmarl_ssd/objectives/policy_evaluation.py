"""A joint critic of the policies themselves, which follows them as they change."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams
from torch import Tensor
from torchrl.objectives import distance_loss

from benchmarl_ssd.objectives.joint_iql import JointIQLLoss


class JointPolicyEvaluationLoss(JointIQLLoss):
    r"""Joint critic that can also evaluate the current policies, as TD3 does for one agent.

    :math:`Q_k(s, a)` regresses

    .. math::
        r + \gamma (1 - terminated) \min_k Q^-_k\bigl(s', \pi^-(o') + \xi\bigr), \qquad
        \xi = \mathrm{clip}(\mathcal N(0, \sigma^2), -c, c),

    with Polyak averages :math:`Q^-, \pi^-` (Fujimoto et al., arXiv 1802.09477). Started from the
    in-sample critic of :class:`JointIQLLoss` it learns what the policies' own actions lead to;
    started from nothing, offline, it does not.

    Meant to be inherited from: a subclass converts an ``actor_network`` with target parameters.
    """

    actor_network: TensorDictModule
    target_actor_network_params: TensorDictParams

    def _set_up_smoothing(self, policy_noise: float, noise_clip: float) -> None:
        for name, found in (("policy_noise", policy_noise), ("noise_clip", noise_clip)):
            if found < 0:
                raise ValueError(f"expected {name} of at least 0, found {found}")
        self.policy_noise, self.noise_clip = policy_noise, noise_clip

    @torch.no_grad()
    def next_policy_value(self, tensordict: TensorDictBase) -> Tensor:
        """Target critics' minimum at the target policies' next actions, ``[*B, 1]``."""
        following = tensordict.get("next").copy()
        starts = tensordict.get("is_init", None)
        if starts is not None and following.get("is_init", None) is None:
            # A recurrent policy starts anew where its window does, one step later than on it.
            following.set("is_init", starts)
        with self.target_actor_network_params.to_module(self.actor_network):
            action = self.act(self.actor_network, following)
        noise = self.policy_noise * torch.randn_like(action)
        action = action + noise.clamp(-self.noise_clip, self.noise_clip)
        read = following.select(*self.qvalue_network.in_keys, strict=False)
        read.set(self.tensor_keys.action, self.action_scaler.unscale(action.clamp(-1, 1)))
        values = self.qvalues(read, self.target_qvalue_network_params)
        return values.min(0).values.unsqueeze(-1)

    def policy_qvalue_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]`` of the policies' own critic, summed over critics; metrics."""
        with torch.no_grad():
            target = self.value_estimator.value_estimate(
                self.team_transition(tensordict), next_value=self.next_policy_value(tensordict)
            ).squeeze(-1)
        predicted = self.qvalues(tensordict, self.qvalue_network_params)
        loss = distance_loss(predicted, target.expand_as(predicted), self.loss_function)
        return loss.sum(0), {"qvalue": predicted.mean()}

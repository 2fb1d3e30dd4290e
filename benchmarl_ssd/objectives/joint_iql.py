"""Implicit Q-learning of a joint critic."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams, dispatch
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.objectives.critic import CriticLoss


class JointIQLLoss(CriticLoss):
    r"""Centralised implicit Q-learning (Kostrikov et al., arXiv 2110.06169) of the team's return.

    1. :math:`V(s)` regresses the target critics' minimum with the asymmetric square
       :math:`|\tau - 1(u < 0)|\, u^2`, :math:`u = \min_k Q^-_k(s, a) - V(s)`: an expectile, which
       for :math:`\tau \to 1` becomes the best logged action's value without ever evaluating
       another action.
    2. :math:`Q_k(s, a)` regresses :math:`r + \gamma (1 - terminated) V(s')`.

    The reward is the mean over the agents. Only termination cuts the bootstrap; truncation
    (a time limit) does not.

    Args:
        qvalue_network (TensorDictModule): joint action-value, writes ``state_action_value``.
        value_network (TensorDictModule): joint state-value, writes ``state_value``.
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1].
        num_qvalue_nets (int): critics in the ensemble, at least 1.
        expectile (float): :math:`\tau` in (0, 1); 0.5 is the mean, 0.9 suits sparse rewards.
        loss_function (str): distance of the Q regression: ``l2``, ``l1`` or ``smooth_l1``.
        reward_scale (float): factor on the rewards, above 0; values are in scaled units.
        reduction (str): ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: if the expectile or the number of critics is out of range.
    """

    value_network: TensorDictModule
    value_network_params: TensorDictParams
    target_value_network_params: TensorDictParams
    loss_names: tuple[str, ...] = ("loss_qvalue", "loss_value")

    def __init__(
        self,
        qvalue_network: TensorDictModule,
        value_network: TensorDictModule,
        action_scaler: ActionScaler | None = None,
        num_qvalue_nets: int = 2,
        expectile: float = 0.7,
        loss_function: str = "l2",
        reward_scale: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(action_scaler, reduction)
        if not 0 < expectile < 1:
            raise ValueError(f"expected expectile in (0, 1), found {expectile}")
        self.expectile = expectile
        self._set_up_qvalue(qvalue_network, num_qvalue_nets, loss_function, reward_scale)
        self.convert_to_functional(value_network, "value_network")

    def _read_keys(self) -> list[NestedKey]:
        return [
            *super()._read_keys(),
            *self.value_network.in_keys,
            *[("next", key) for key in self.value_network.in_keys],
        ]

    def state_value(self, tensordict: TensorDictBase, params: TensorDictParams) -> Tensor:
        """Value of the states, ``[*B]`` or, of independent critics, ``[*B, n]``."""
        read = tensordict.select(*self.value_network.in_keys, strict=False)
        with params.to_module(self.value_network):
            return self.value_network(read).get(self.tensor_keys.value).squeeze(-1)

    def qvalue_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]``, summed over the critics, and metrics."""
        with torch.no_grad():
            value = self.state_value(tensordict.get("next"), self.target_value_network_params)
        return self.regress(tensordict, value)

    def advantage(self, tensordict: TensorDictBase) -> Tensor:
        r""":math:`\min_k Q^-_k(s, a) - V(s)` of the logged actions, with gradient to V only."""
        with torch.no_grad():
            qvalue = self.qvalues(tensordict, self.target_qvalue_network_params).min(0).values
        return qvalue - self.state_value(tensordict, self.value_network_params)

    def value_loss(
        self, tensordict: TensorDictBase, advantage: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]`` and metrics; of an :meth:`advantage` if it is known already."""
        advantage = self.advantage(tensordict) if advantage is None else advantage
        weight = torch.where(advantage > 0, self.expectile, 1 - self.expectile)
        loss = self.per_sample(weight * advantage**2, tensordict)
        return loss, {"advantage": advantage.mean()}

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_qvalue`` and ``loss_value``."""
        loss_qvalue, metrics = self.qvalue_loss(tensordict)
        loss_value, more = self.value_loss(tensordict)
        losses = {"loss_qvalue": loss_qvalue, "loss_value": loss_value}
        return self.reduce(losses, **metrics, **more)

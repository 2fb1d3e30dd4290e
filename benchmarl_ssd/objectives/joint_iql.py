"""Implicit Q-learning of a joint critic."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams, dispatch
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.objectives import ValueEstimators, distance_loss
from torchrl.objectives.utils import _vmap_func
from torchrl.objectives.value import TD0Estimator

from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.objectives.common import OfflineLoss


class JointIQLLoss(OfflineLoss):
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

    default_value_estimator = ValueEstimators.TD0
    qvalue_network: TensorDictModule
    qvalue_network_params: TensorDictParams
    target_qvalue_network_params: TensorDictParams
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
        self._set_up_critic(
            qvalue_network, value_network, num_qvalue_nets, expectile, loss_function, reward_scale
        )

    def _set_up_critic(
        self,
        qvalue_network: TensorDictModule,
        value_network: TensorDictModule,
        num_qvalue_nets: int,
        expectile: float,
        loss_function: str,
        reward_scale: float,
    ) -> None:
        if not 0 < expectile < 1:
            raise ValueError(f"expected expectile in (0, 1), found {expectile}")
        if num_qvalue_nets < 1:
            raise ValueError(f"expected num_qvalue_nets of at least 1, found {num_qvalue_nets}")
        if loss_function not in ("l1", "l2", "smooth_l1"):
            raise ValueError(
                f"expected loss_function to be one of l1, l2, smooth_l1; found {loss_function!r}"
            )
        if reward_scale <= 0:
            raise ValueError(f"expected reward_scale above 0, found {reward_scale}")
        self.expectile, self.loss_function = expectile, loss_function
        self.reward_scale = reward_scale
        self.convert_to_functional(
            qvalue_network, "qvalue_network", num_qvalue_nets, create_target_params=True
        )
        self.convert_to_functional(value_network, "value_network")
        self._make_vmap()

    def _make_vmap(self) -> None:
        self._vmap_qvalue_network = _vmap_func(
            self.qvalue_network, (None, 0), randomness=self.vmap_randomness
        )

    def make_value_estimator(self, value_type: ValueEstimators | None = None, **hyperparams):
        """Set the discount, ``make_value_estimator(gamma=0.95)``; only TD(0) fits an offline V."""
        value_type = value_type or self.default_value_estimator
        if value_type != ValueEstimators.TD0:
            raise NotImplementedError(
                f"expected the value estimator TD0, found {value_type}: logged actions are not the "
                "policy's, so multi-step returns would be biased"
            )
        hyperparams.setdefault("gamma", 0.99)
        self.value_type = value_type
        self._value_estimator = TD0Estimator(value_network=self.value_network, **hyperparams)
        self._forward_value_estimator_keys()
        return self

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        super()._forward_value_estimator_keys(**kwargs)
        if self._value_estimator is not None:
            self._value_estimator.set_keys(
                value=self.tensor_keys.value,
                reward="team_reward",
                done="team_done",
                terminated="team_terminated",
            )

    def _read_keys(self) -> list[NestedKey]:
        keys, action = self.tensor_keys, unravel_key(self.tensor_keys.action)
        observed = [k for k in self.qvalue_network.in_keys if unravel_key(k) != action]
        return [
            *super()._read_keys(),
            *observed,
            *self.value_network.in_keys,
            *[("next", key) for key in self.value_network.in_keys],
            *[("next", key) for key in (keys.reward, keys.done, keys.terminated)],
        ]

    def qvalues(self, tensordict: TensorDictBase, params: TensorDictParams) -> Tensor:
        """Return every critic's value of the entries' state and action, ``[N, *B]``."""
        read = tensordict.select(*self.qvalue_network.in_keys, strict=False)
        value = self._vmap_qvalue_network(read, params).get(self.tensor_keys.state_action_value)
        return value.squeeze(-1)

    def qvalue_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]``, summed over the critics, and metrics."""
        with torch.no_grad():
            target = self.value_estimator.value_estimate(
                self.team_transition(tensordict), target_params=self.target_value_network_params
            ).squeeze(-1)
        predicted = self.qvalues(tensordict, self.qvalue_network_params)
        loss = distance_loss(predicted, target.expand_as(predicted), self.loss_function)
        return loss.sum(0), {"qvalue": predicted.mean()}

    def value_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]`` and metrics."""
        with torch.no_grad():
            qvalue = self.qvalues(tensordict, self.target_qvalue_network_params).min(0).values
        read = tensordict.select(*self.value_network.in_keys, strict=False)
        with self.value_network_params.to_module(self.value_network):
            value = self.value_network(read).get(self.tensor_keys.value).squeeze(-1)
        advantage = qvalue - value
        weight = torch.where(advantage > 0, self.expectile, 1 - self.expectile)
        return weight * advantage**2, {"advantage": advantage.mean()}

    def action_gradient(self, tensordict: TensorDictBase, scaled_action: Tensor) -> Tensor:
        r"""Return :math:`\nabla_u \min_k Q_k(s, u)` at joint actions ``u`` in [-1, 1]."""
        leaf = scaled_action.detach().requires_grad_()
        with torch.enable_grad():
            read = tensordict.select(*self.qvalue_network.in_keys, strict=False)
            read.set(self.tensor_keys.action, self.action_scaler.unscale(leaf))
            value = self.qvalues(read, self.qvalue_network_params.data).min(0).values
        return torch.autograd.grad(value.sum(), leaf)[0]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_qvalue`` and ``loss_value``."""
        loss_qvalue, metrics = self.qvalue_loss(tensordict)
        loss_value, more = self.value_loss(tensordict)
        losses = {"loss_qvalue": loss_qvalue, "loss_value": loss_value}
        return self.reduce(losses, **metrics, **more)

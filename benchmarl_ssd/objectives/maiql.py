"""Implicit Q-learning of a team."""

from __future__ import annotations

import math

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, dispatch
from torch import Tensor

from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.objectives.actors import ActorLoss
from benchmarl_ssd.objectives.joint_iql import JointIQLLoss
from benchmarl_ssd.objectives.weighting import effective_share, for_agents


class MaiqlLoss(JointIQLLoss, ActorLoss):
    r"""Implicit Q-learning (Kostrikov et al., arXiv 2110.06169) for a team.

    1. The critic is :class:`JointIQLLoss`, joint or independent: :math:`V` is an expectile of
       :math:`\min_k Q^-_k` over the logged actions.
    2. Each actor clones the logged actions by their advantage,

    .. math::
        L_{actor} = \sum_i E\bigl[ w\, \|\pi_i(o_i) - a_i\|^2 \bigr], \qquad
        w = \min\bigl( e^{\beta (\min_k Q^-_k(s, a) - V(s))}, w_{max} \bigr) ,

    averaged over agents and action entries, actions in [-1, 1], :math:`w` detached. A joint
    critic's weight is the team's; independent critics give every agent its own. No action but the
    logged ones is ever evaluated.

    The original's actor is a Gaussian of learned variance, whose likelihood is weighted. These are
    deterministic, as in all algorithms of this package: the same with a fixed variance, up to a
    constant and a factor. Where the good actions lie apart, they end between them.

    Args:
        actor_network (TensorDictModule): deterministic actors of the group.
        qvalue_network (TensorDictModule): action-value, writes ``state_action_value``.
        value_network (TensorDictModule): state-value, writes ``state_value``.
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1].
        num_qvalue_nets (int): critics in the ensemble, at least 1.
        expectile (float): :math:`\tau` in (0, 1).
        temperature (float): :math:`\beta`, at least 0; 0 is behaviour cloning.
        max_weight (float): :math:`w_{max}`, above 0.
        loss_function (str): distance of the Q regression: ``l2``, ``l1`` or ``smooth_l1``.
        reward_scale (float): factor on the rewards, above 0; the temperature is in its units.
        reduction (str): ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: if an option is out of its range.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule as Mod, TensorDictSequential as Seq
        >>> obs, act = ("agents", "observation"), ("agents", "action")
        >>> team = lambda *x: torch.cat([y.flatten(-2) for y in x], -1)
        >>> actor = Mod(torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Tanh()), [obs], [act])
        >>> qvalue = Seq(Mod(team, [obs, act], ["joint"]),
        ...              Mod(torch.nn.Linear(8, 1), ["joint"], ["state_action_value"]))
        >>> value = Seq(Mod(team, [obs], ["joint"]),
        ...             Mod(torch.nn.Linear(6, 1), ["joint"], ["state_value"]))
        >>> loss = MaiqlLoss(actor, qvalue, value, temperature=3.0)
        >>> data = TensorDict({
        ...     "agents": {"observation": torch.randn(8, 2, 3), "action": torch.rand(8, 2, 1)},
        ...     "next": {"agents": {"observation": torch.randn(8, 2, 3),
        ...                         "reward": torch.randn(8, 2, 1)},
        ...              "done": torch.zeros(8, 1, dtype=torch.bool),
        ...              "terminated": torch.zeros(8, 1, dtype=torch.bool)}}, [8])
        >>> [key for key in loss(data).keys() if key.startswith("loss")]
        ['loss_qvalue', 'loss_value', 'loss_actor']
    """

    loss_names: tuple[str, ...] = ("loss_qvalue", "loss_value", "loss_actor")

    def __init__(
        self,
        actor_network: TensorDictModule,
        qvalue_network: TensorDictModule,
        value_network: TensorDictModule,
        action_scaler: ActionScaler | None = None,
        num_qvalue_nets: int = 2,
        expectile: float = 0.7,
        temperature: float = 3.0,
        max_weight: float = 100.0,
        loss_function: str = "l2",
        reward_scale: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            qvalue_network,
            value_network,
            action_scaler,
            num_qvalue_nets,
            expectile,
            loss_function,
            reward_scale,
            reduction,
        )
        if temperature < 0:
            raise ValueError(f"expected temperature of at least 0, found {temperature}")
        if max_weight <= 0:
            raise ValueError(f"expected max_weight above 0, found {max_weight}")
        self.temperature, self.max_weight = temperature, max_weight
        self._set_up_actor(actor_network)

    def advantage_weight(self, advantage: Tensor) -> Tensor:
        """What a logged action counts for, shaped as its advantage and without gradient."""
        # The exponent is bounded, not its exponential: that may be infinite.
        return (self.temperature * advantage.detach()).clamp_max(math.log(self.max_weight)).exp()

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_qvalue``, ``loss_value`` and ``loss_actor``."""
        loss_qvalue, metrics = self.qvalue_loss(tensordict)
        advantage = self.advantage(tensordict)
        loss_value, more = self.value_loss(tensordict, advantage)
        weight = self.advantage_weight(advantage)
        losses = {
            "loss_qvalue": loss_qvalue,
            "loss_value": loss_value,
            "loss_actor": self.clone_loss(tensordict, for_agents(weight, tensordict.ndim)),
        }
        return self.reduce(losses, **metrics, **more, effective_share=effective_share(weight))

"""Implicit constraint Q-learning of a team."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams, dispatch
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.objectives.actors import ActorLoss
from benchmarl_ssd.objectives.mixed import MixedCriticLoss
from benchmarl_ssd.objectives.weighting import batch_softmax, effective_share, for_agents

# Of the weights in the fit of the value network: neither too high nor too low ones are let go of.
_LOG_BOUND = math.log(10.0)


class MaicqLoss(MixedCriticLoss, ActorLoss):
    r"""Implicit constraint Q-learning of a team (ICQ; Yang et al., arXiv 2106.03400).

    1. ``loss_qvalue``: the critics regress the value of the joint action that was *logged* next,

       .. math::
            r + \gamma (1 - terminated)\, \rho(s', a')\, \min_k Q^-_k(s', a'), \qquad
            \rho(s', a') = \tfrac{1}{Z(s')} e^{\min_k Q^-_k(s', a') / \alpha_Q} ,

       which trusts no other action. As in the authors' code, Z is taken over the batch: the weights
       are a softmax over it, times the number of rows that have a next action. For
       :math:`\alpha_Q \to \infty` this is SARSA.
    2. ``loss_actor``: each actor clones the logged actions, weighted by a softmax over the batch
       of :math:`A_i / \alpha`, times its size. For :math:`\alpha \to \infty` this is behaviour
       cloning.

       * *Joint* critic: :math:`A_i = Q(s, a) - Q(s, \pi(o))`, the same for all agents.
       * *Independent* critics: :math:`A_i = Q_i(o_i, a_i) - Q_i(o_i, \pi_i(o_i))`.
       * *Mixed* critic :math:`Q = \sum_i w_i(s) Q_i + b(s)`, the paper's for teams:
         :math:`A_i = w_i(s) [Q_i(o_i, a_i) - Q_i(o_i, \pi_i(o_i))]`.

       Q is the minimum over k of the target critics. The baseline, which the authors' code takes
       under the policy's distribution, is at its only action here: it weighs states, not actions.

    **With a** ``value_network`` there is no need of the next action, nor of a batch's Z, which is
    the right one only if it were the same for all states: where values differ between states by
    more than :math:`\alpha_Q`, :math:`\rho` mainly multiplies high values by more than 1 and low
    ones by less. ``loss_value`` then fits

    .. math:: V(s) = \arg\min_v E\bigl[ e^{(Q - V) / \alpha_Q} (Q - v)^2 \bigr]
              = E_{a \sim \mu}\bigl[ \tfrac{1}{Z(s)} e^{Q / \alpha_Q} Q(s, a) \bigr] ,

    with every state's own Z, from the logged actions alone, and V(s') is bootstrapped from. Its
    weights are held within 1/10 and 10, so that a value that is far too high still comes down.

    A row that neither terminates nor has a next action (the last before a time limit) teaches the
    critics nothing without a value network: its ``loss_qvalue`` is 0.

    Actors are deterministic, as in all algorithms of this package: the original's weighted
    likelihood with a fixed variance. There is no TD(lambda) here; rows are single transitions.

    Args:
        actor_network (TensorDictModule): deterministic actors of the group.
        qvalue_network (TensorDictModule): action-value, writes ``state_action_value``. A sequence
            that ends in a :class:`~benchmarl_ssd.modules.mixer.LinearMixer` is a mixed critic.
        value_network (TensorDictModule, optional): state-value, of the team or, with independent
            critics, of every agent, writes ``state_value``.
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1].
        alpha (float): temperature :math:`\alpha` of the actors' weights, above 0.
        critic_alpha (float): temperature :math:`\alpha_Q` of the critics' weights, above 0.
        num_qvalue_nets (int): critics in the ensemble, at least 1.
        loss_function (str): distance of the Q regression: ``l2``, ``l1`` or ``smooth_l1``.
        reward_scale (float): factor on the rewards, above 0; temperatures are in its units.
        reduction (str): ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: if an option is out of its range.

    Examples:
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule as Mod, TensorDictSequential as Seq
        >>> obs, act = ("agents", "observation"), ("agents", "action")
        >>> team = lambda *x: torch.cat([y.flatten(-2) for y in x], -1)
        >>> actor = Mod(torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Tanh()), [obs], [act])
        >>> qvalue = Seq(Mod(team, [obs, act], ["joint"]),
        ...              Mod(torch.nn.Linear(8, 1), ["joint"], ["state_action_value"]))
        >>> loss = MaicqLoss(actor, qvalue, alpha=0.1)
        >>> done = torch.zeros(8, 1, dtype=torch.bool)
        >>> data = TensorDict({
        ...     "agents": {"observation": torch.randn(8, 2, 3), "action": torch.rand(8, 2, 1)},
        ...     "next": {"agents": {"observation": torch.randn(8, 2, 3),
        ...                         "action": torch.rand(8, 2, 1), "reward": torch.randn(8, 2, 1)},
        ...              "acted": ~done, "done": done, "terminated": done}}, [8])
        >>> [key for key in loss(data).keys() if key.startswith("loss")]
        ['loss_qvalue', 'loss_actor']
    """

    @dataclass
    class _AcceptedKeys(MixedCriticLoss._AcceptedKeys):
        """The entries a loss reads; each can be renamed with ``set_keys``.

        Attributes:
            acted: whether there was a next action in the episode, under ``next``, ``[*B, 1]``.
        """

        acted: NestedKey = "acted"

    tensor_keys: _AcceptedKeys
    value_network: TensorDictModule | None
    value_network_params: TensorDictParams | None
    target_value_network_params: TensorDictParams | None
    loss_names: tuple[str, ...] = ("loss_qvalue", "loss_actor")

    def __init__(
        self,
        actor_network: TensorDictModule,
        qvalue_network: TensorDictModule,
        value_network: TensorDictModule | None = None,
        action_scaler: ActionScaler | None = None,
        alpha: float = 0.1,
        critic_alpha: float = 1000.0,
        num_qvalue_nets: int = 2,
        loss_function: str = "l2",
        reward_scale: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(action_scaler, reduction)
        for name, found in (("alpha", alpha), ("critic_alpha", critic_alpha)):
            if not found > 0:
                raise ValueError(f"expected {name} above 0, found {found}")
        self.alpha, self.critic_alpha = alpha, critic_alpha
        self._set_up_qvalue(qvalue_network, num_qvalue_nets, loss_function, reward_scale)
        self._set_up_mixed()
        self.has_value = value_network is not None
        if value_network is not None:
            self.convert_to_functional(value_network, "value_network")
            self.loss_names = ("loss_qvalue", "loss_value", "loss_actor")
        self._set_up_actor(actor_network)

    def _read_keys(self) -> list[NestedKey]:
        keys = super()._read_keys()
        if self.value_network is not None:
            states = self.value_network.in_keys
            return [*keys, *states, *[("next", key) for key in states]]
        following = [*self.qvalue_network.in_keys, self.tensor_keys.acted]
        return [*keys, *[("next", key) for key in following]]

    @torch.no_grad()
    def _smallest(self, tensordict: TensorDictBase) -> Tensor:
        return self.qvalues(tensordict, self.target_qvalue_network_params).min(0).values

    def state_value(self, tensordict: TensorDictBase, params: TensorDictParams) -> Tensor:
        """Value of the states, ``[*B]`` or, of independent critics, ``[*B, n]``."""
        assert self.value_network is not None
        read = tensordict.select(*self.value_network.in_keys, strict=False)
        with params.to_module(self.value_network):
            return self.value_network(read).get(self.tensor_keys.value).squeeze(-1)

    def value_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]`` of the value network, and metrics."""
        advantage = self._smallest(tensordict) - self.state_value(
            tensordict, self.value_network_params
        )
        exponent = (advantage.detach() / self.critic_alpha).clamp(-_LOG_BOUND, _LOG_BOUND)
        loss = self.per_sample(exponent.exp() * advantage**2, tensordict)
        return loss, {"advantage": advantage.mean()}

    @torch.no_grad()
    def next_logged_value(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Weighted value of what was done next, ``[*B]`` or ``[*B, n]``, and where it is known."""
        acted = tensordict.get(("next", self.tensor_keys.acted)).squeeze(-1)
        over = self.team_transition(tensordict).get(("next", "team_terminated")).squeeze(-1)
        value = self._smallest(tensordict.get("next"))
        weight = batch_softmax(value / self.critic_alpha, tensordict.ndim, acted & ~over)
        return weight * value, acted | over

    def qvalue_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]``, summed over the critics, and metrics."""
        if self.has_value:
            with torch.no_grad():
                value = self.state_value(tensordict.get("next"), self.target_value_network_params)
            return self.regress(tensordict, value)
        value, known = self.next_logged_value(tensordict)
        loss, metrics = self.regress(tensordict, value)
        return torch.where(known, loss, 0.0), metrics

    @torch.no_grad()
    def advantage(self, tensordict: TensorDictBase, scaled_action: Tensor) -> Tensor:
        """What the logged actions are better than others, ``[*B]`` or for each agent ``[*B, n]``.

        Args:
            tensordict (TensorDictBase): logged transitions.
            scaled_action (Tensor): the others, ``[*B, n, d]`` in [-1, 1].
        """
        other = tensordict.copy()
        other.set(self.tensor_keys.action, self.action_scaler.unscale(scaled_action))
        if not self.is_mixed:
            return self._smallest(tensordict) - self._smallest(other)
        params = self.target_qvalue_network_params
        weight, _ = self.weigh(tensordict, params)
        logged, chosen = (
            (weight * self.local_qvalues(entries, params)).min(0).values
            for entries in (tensordict, other)
        )
        return logged - chosen

    def actor_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]`` and metrics."""
        action = self.policy_action(tensordict)
        advantage = self.advantage(tensordict, action.detach())
        weight = batch_softmax(advantage / self.alpha, tensordict.ndim)
        loss = self.clone_loss(tensordict, for_agents(weight, tensordict.ndim), action)
        return loss, {"effective_share": effective_share(weight)}

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_qvalue``, ``loss_actor`` and, with a value network, ``loss_value``."""
        losses, metrics = {}, {}
        losses["loss_qvalue"], metrics["critic"] = self.qvalue_loss(tensordict)
        if self.has_value:
            losses["loss_value"], metrics["value"] = self.value_loss(tensordict)
        losses["loss_actor"], metrics["actor"] = self.actor_loss(tensordict)
        return self.reduce(losses, **{k: v for part in metrics.values() for k, v in part.items()})

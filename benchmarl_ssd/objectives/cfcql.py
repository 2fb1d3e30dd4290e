"""Counterfactual conservative Q-learning of a team."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams, dispatch
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.modules.behaviour import behaviour_log_prob
from benchmarl_ssd.objectives.macql import MacqlLoss


class CfcqlLoss(MacqlLoss):
    r"""Conservative Q-learning that doubts one agent's action at a time.

    Source: Shao et al., "Counterfactual Conservative Q Learning for Offline Multi-agent
    Reinforcement Learning", arXiv 2309.12696. The joint critic is held down where a single agent
    leaves the data and the others do what was logged:

    .. math::
        L_Q = \sum_k E\Bigl[ (Q_k(s, a) - y)^2 + \alpha \Bigl( \sum_i \lambda_i\, T \log
        E_{u \sim U_i} e^{Q_k(s, a_{-i}, u) / T} - Q_k(s, a) \Bigr) \Bigr] , \qquad
        \sum_i \lambda_i = 1 ,

    so that the penalty does not grow with the team. The weights :math:`\lambda_i` are all
    :math:`1/n`, or, with ``weight_tau`` :math:`\tau > 0`, larger for agents that are close to the
    data, :math:`\lambda_i \propto e^{-\tau D(\pi_i, \mu_i)}`. Actors climb counterfactually too:

    .. math:: L_{actor} = -\frac1n \sum_i E\, Q_1(s, a_{-i}, \pi_i(o_i)) .

    With one agent, and for that with any weights, it is :class:`MacqlLoss`.

    Differences from the original: its deterministic policies make :math:`D` the negative
    log-density of their action under the behaviour up to a constant, as in its code; here that is
    each agent's mixture density network, fitted in the same run (``loss_behaviour``), in place of a
    variational autoencoder of the joint action, fitted before, whose density has to be sampled.
    Next actions of a policy are combined with the others' logged actions of this step, not of the
    next. Its code for particle tasks takes the penalty at uniform actions only.

    Args:
        *args: see :class:`MacqlLoss`; critics have to be joint.
        behaviour_network (TensorDictModule, optional): writes every agent's mixture, see
            :class:`~benchmarl_ssd.modules.behaviour.BehaviourNetwork`; needed if ``weight_tau`` is
            above 0, else not to be given.
        weight_tau (float): :math:`\tau`, at least 0; 0 gives all agents the same weight.
        counterfactual_actors (bool): whether each actor climbs beside the others' logged actions,
            or beside the others' policies.
        **kwargs: see :class:`MacqlLoss`.

    Raises:
        ValueError: if an option is out of its range, or the critics are not joint.

    Examples:
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule as Mod, TensorDictSequential as Seq
        >>> obs, act = ("agents", "observation"), ("agents", "action")
        >>> team = lambda *x: torch.cat([y.flatten(-2) for y in x], -1)
        >>> actor = Mod(torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Tanh()), [obs], [act])
        >>> qvalue = Seq(Mod(team, [obs, act], ["joint"]),
        ...              Mod(torch.nn.Linear(8, 1), ["joint"], ["state_action_value"]))
        >>> loss = CfcqlLoss(actor, qvalue, alpha=0.5)
        >>> data = TensorDict({
        ...     "agents": {"observation": torch.randn(8, 2, 3), "action": torch.rand(8, 2, 1)},
        ...     "next": {"agents": {"observation": torch.randn(8, 2, 3),
        ...                         "reward": torch.randn(8, 2, 1)},
        ...              "done": torch.zeros(8, 1, dtype=torch.bool),
        ...              "terminated": torch.zeros(8, 1, dtype=torch.bool)}}, [8])
        >>> [key for key in loss(data).keys() if key.startswith("loss")]
        ['loss_qvalue', 'loss_actor']
    """

    behaviour_network: TensorDictModule | None
    behaviour_network_params: TensorDictParams
    target_behaviour_network_params: TensorDictParams

    def __init__(
        self,
        *args,
        behaviour_network: TensorDictModule | None = None,
        weight_tau: float = 0.0,
        counterfactual_actors: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        if weight_tau < 0:
            raise ValueError(f"expected weight_tau of at least 0, found {weight_tau}")
        if (weight_tau > 0) != (behaviour_network is not None):
            raise ValueError(
                "expected a behaviour_network with weight_tau above 0, and none with 0; found "
                f"weight_tau {weight_tau} and {type(behaviour_network).__name__}"
            )
        self.weight_tau, self.counterfactual_actors = weight_tau, counterfactual_actors
        if behaviour_network is None:
            self.behaviour_network = None
        else:
            self.convert_to_functional(behaviour_network, "behaviour_network")
            self.loss_names = (*self.loss_names, "loss_behaviour")

    def _read_keys(self) -> list[NestedKey]:
        own = [] if self.behaviour_network is None else self.behaviour_network.in_keys
        return [*super()._read_keys(), *own]

    def log_behaviour(
        self, tensordict: TensorDictBase, action: Tensor, params: TensorDictParams
    ) -> Tensor:
        """Log-density of each agent's action under its logged behaviour, ``[*B, n]``."""
        network = self.behaviour_network
        assert network is not None
        observed = tensordict.select(*network.in_keys, strict=False)
        with params.to_module(network):
            mixture = network(observed).get(network.out_keys[0])
        return behaviour_log_prob(mixture, action)

    @torch.no_grad()
    def agent_weights(self, tensordict: TensorDictBase) -> Tensor:
        """Weights of the agents in the penalty, ``[*B, n]``; they sum to one."""
        logged = self.logged_action(tensordict)
        if self.behaviour_network is None:
            return torch.full_like(logged[..., 0], 1 / logged.shape[-2])
        action = self.policy_action(tensordict)
        likely = self.log_behaviour(tensordict, action, self.behaviour_network_params.data)
        return (self.weight_tau * likely).softmax(-1)

    def evaluate(self, tensordict: TensorDictBase, sampled: Tensor) -> Tensor:
        """Values of each agent's samples beside the others' logged actions, ``[N, S, *B, n]``."""
        logged, params = self.logged_action(tensordict), self.qvalue_network_params
        return self.own_qvalues_of(tensordict, sampled, logged, params, joint=True)

    def held_down(self, tensordict: TensorDictBase) -> Tensor:
        """Weighted mean over agents of the counterfactual soft maxima, ``[N, *B]``."""
        return (super().held_down(tensordict) * self.agent_weights(tensordict)).sum(-1)

    def penalty(self, tensordict: TensorDictBase, predicted: Tensor) -> Tensor:
        """How far counterfactual values are above the logged actions', ``[*B]``."""
        if predicted.ndim != tensordict.ndim + 1:
            raise ValueError(
                "expected a joint critic, found one per agent, which does not see the others' "
                "actions; use macql for independent critics"
            )
        return super().penalty(tensordict, predicted)

    def climbed_value(self, tensordict: TensorDictBase) -> Tensor:
        """Value of each agent's policy beside the others' logged actions, ``[*B, n]``."""
        if not self.counterfactual_actors:
            return super().climbed_value(tensordict)
        action, logged = self.policy_action(tensordict), self.logged_action(tensordict)
        return self.policy_value(tensordict, action, team_action=logged)

    def behaviour_loss(self, tensordict: TensorDictBase) -> Tensor:
        """Negative log-likelihood of the logged actions, mean over agents, ``[*B]``."""
        logged = self.logged_action(tensordict)
        return -self.log_behaviour(tensordict, logged, self.behaviour_network_params).mean(-1)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_qvalue``, ``loss_actor`` and, with learned weights, ``loss_behaviour``."""
        loss_qvalue, metrics = self.conservative_qvalue_loss(tensordict)
        loss_actor, more = self.actor_loss(tensordict)
        losses = {"loss_qvalue": loss_qvalue, "loss_actor": loss_actor}
        if self.behaviour_network is not None:
            losses["loss_behaviour"] = self.behaviour_loss(tensordict)
        return self.reduce(losses, **metrics, **more)

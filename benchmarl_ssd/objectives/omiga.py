"""Global-to-local value regularisation of a team."""

from __future__ import annotations

import math

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams, dispatch
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.objectives.actors import ActorLoss
from benchmarl_ssd.objectives.mixed import MixedCriticLoss, mixer_of
from benchmarl_ssd.objectives.weighting import effective_share


class OmigaLoss(MixedCriticLoss, ActorLoss):
    r"""OMIGA (Wang et al., arXiv 2307.11620): every agent learns in the sample what its part of the
    team's value says.

    With :math:`Q_{tot} = \sum_i w_i(s) Q_i(o_i, a_i) + b(s)` and
    :math:`V_{tot} = \sum_i w_i(s) V_i(o_i) + b(s)`, of the same weights :math:`w_i \ge 0`,

    1. ``loss_qvalue``: :math:`Q_{tot}(s, a)` regresses
       :math:`r + \gamma (1 - terminated) V^-_{tot}(s')`; it trains the mixer, too.
    2. ``loss_value``: with :math:`z_i = w^-_i(s) [Q^-_i(o_i, a_i) - V_i(o_i)] / \alpha`,

       .. math:: L_V = \sum_i E\Bigl[ e^{z_i} + \tfrac{1}{\alpha} w^-_i(s) V_i(o_i) \Bigr], \qquad
                 V_i \to \tfrac{\alpha}{w_i} \log E_{a_i \sim \mu_i}\, e^{w_i Q_i / \alpha} ,

       the soft maximum over the logged actions that belongs to a Kullback-Leibler penalty of
       weight :math:`\alpha`.
    3. ``loss_actor``: each actor clones the logged actions,
       :math:`\sum_i E[ e^{z_i} \|\pi_i(o_i) - a_i\|^2 ]`, weights detached.

    Means are over the agents. Exponents are bounded by :math:`\log w_{max}`: there the actor's
    weight stays, and the exponential of the value loss goes on as its tangent, so that a value that
    is far too low is still pulled up. (The authors clamp z at 10, which lets go of it.) Actors are
    deterministic, as in all algorithms of this package: the original's weighted likelihood with
    a fixed variance. There is one critic, as in the authors' code: several would have mixers of
    their own, and no common scale of local values.

    Args:
        actor_network (TensorDictModule): deterministic actors of the group.
        qvalue_network (TensorDictModule): a sequence of independent action-values and a
            :class:`~benchmarl_ssd.modules.mixer.LinearMixer`, writes ``state_action_value``.
        value_network (TensorDictModule): independent state-values, ``[*B, n, 1]``, writes
            ``state_value``.
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1].
        alpha (float): :math:`\alpha`, above 0: large holds the policies to the data.
        max_weight (float): :math:`w_{max}`, above 1.
        num_qvalue_nets (int): 1.
        loss_function (str): distance of the Q regression: ``l2``, ``l1`` or ``smooth_l1``.
        reward_scale (float): factor on the rewards, above 0; alpha is in its units.
        reduction (str): ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: if an option is out of its range, or the critic is not a mixed one.

    Examples:
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule as Mod, TensorDictSequential as Seq
        >>> from benchmarl_ssd.modules.mixer import LinearMixer
        >>> obs, act, own = ("agents", "observation"), ("agents", "action"), ("agents", "value")
        >>> actor = Mod(torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Tanh()), [obs], [act])
        >>> class Local(torch.nn.Linear):
        ...     def forward(self, observation, action):
        ...         return super().forward(torch.cat([observation, action], -1))
        >>> qvalue = Seq(Mod(Local(4, 1), [obs, act], [own]), LinearMixer(2, 6, [obs], own))
        >>> value = Mod(torch.nn.Linear(3, 1), [obs], ["state_value"])
        >>> loss = OmigaLoss(actor, qvalue, value, alpha=1.0)
        >>> data = TensorDict({
        ...     "agents": {"observation": torch.randn(8, 2, 3), "action": torch.rand(8, 2, 1)},
        ...     "next": {"agents": {"observation": torch.randn(8, 2, 3),
        ...                         "reward": torch.randn(8, 2, 1)},
        ...              "done": torch.zeros(8, 1, dtype=torch.bool),
        ...              "terminated": torch.zeros(8, 1, dtype=torch.bool)}}, [8])
        >>> [key for key in loss(data).keys() if key.startswith("loss")]
        ['loss_qvalue', 'loss_value', 'loss_actor']
    """

    value_network: TensorDictModule
    value_network_params: TensorDictParams
    target_value_network_params: TensorDictParams
    loss_names: tuple[str, ...] = ("loss_qvalue", "loss_value", "loss_actor")

    def __init__(
        self,
        actor_network: TensorDictModule,
        qvalue_network: TensorDictModule,
        value_network: TensorDictModule,
        action_scaler: ActionScaler | None = None,
        alpha: float = 0.1,
        max_weight: float = 100.0,
        num_qvalue_nets: int = 1,
        loss_function: str = "l2",
        reward_scale: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(action_scaler, reduction)
        if not alpha > 0:
            raise ValueError(f"expected alpha above 0, found {alpha}")
        if not max_weight > 1:
            raise ValueError(f"expected max_weight above 1, found {max_weight}")
        if num_qvalue_nets != 1:
            raise ValueError(
                f"expected num_qvalue_nets of 1, found {num_qvalue_nets}: local values of several "
                "critics, each with a mixer, have no common scale"
            )
        if mixer_of(qvalue_network) is None:
            raise ValueError(
                "expected a qvalue_network that ends in a LinearMixer, found "
                f"{type(qvalue_network).__name__}; append a mixer to independent critics"
            )
        self.alpha, self.max_weight = alpha, max_weight
        self._set_up_qvalue(qvalue_network, num_qvalue_nets, loss_function, reward_scale)
        self._set_up_mixed()
        self.convert_to_functional(value_network, "value_network", create_target_params=True)
        self._set_up_actor(actor_network)

    def _read_keys(self) -> list[NestedKey]:
        mixer = mixer_of(self.qvalue_network)
        assert mixer is not None
        states = self.value_network.in_keys
        following = [*states, *mixer.context_keys]
        return [*super()._read_keys(), *states, *[("next", key) for key in following]]

    def local_values(self, tensordict: TensorDictBase, params: TensorDictParams) -> Tensor:
        """Every agent's value of its state, ``[*B, n]``."""
        read = tensordict.select(*self.value_network.in_keys, strict=False)
        with params.to_module(self.value_network):
            return self.value_network(read).get(self.tensor_keys.value).squeeze(-1)

    @torch.no_grad()
    def next_team_value(self, tensordict: TensorDictBase) -> Tensor:
        """Target of the next state's :math:`V_{tot}`, ``[*B]``."""
        following = tensordict.get("next")
        weight, bias = self.weigh(following, self.target_qvalue_network_params)
        value = self.local_values(following, self.target_value_network_params)
        return (weight[0] * value).sum(-1) + bias[0]

    def exponent(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
        """:math:`z_i`, :math:`w_i` and :math:`V_i`, ``[*B, n]``; gradient to the values only."""
        params = self.target_qvalue_network_params
        with torch.no_grad():
            weight = self.weigh(tensordict, params)[0][0]
            qvalue = self.local_qvalues(tensordict, params)[0]
        value = self.local_values(tensordict, self.value_network_params)
        return weight * (qvalue - value) / self.alpha, weight, value

    def value_loss(self, exponent: Tensor, weight: Tensor, value: Tensor) -> Tensor:
        """Per-sample loss ``[*B]`` of what :meth:`exponent` gives."""
        highest = math.log(self.max_weight)
        bounded = exponent.clamp_max(highest)
        tangent = self.max_weight * (exponent - highest).clamp_min(0)
        return (bounded.exp() + tangent + weight * value / self.alpha).mean(-1)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_qvalue``, ``loss_value`` and ``loss_actor``."""
        loss_qvalue, metrics = self.regress(tensordict, self.next_team_value(tensordict))
        exponent, mixing, value = self.exponent(tensordict)
        weight = exponent.detach().clamp_max(math.log(self.max_weight)).exp()
        losses = {
            "loss_qvalue": loss_qvalue,
            "loss_value": self.value_loss(exponent, mixing, value),
            "loss_actor": self.clone_loss(tensordict, weight),
        }
        share = effective_share(weight)
        return self.reduce(losses, **metrics, mixing_weight=mixing.mean(), effective_share=share)

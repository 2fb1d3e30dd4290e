"""Conservative critics, and actors regularised by an action search: OMAR."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, dispatch
from torch import Tensor

from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.objectives.action_search import ActionSearch
from benchmarl_ssd.objectives.conservative import ConservativeMixin


class OmarLoss(ConservativeMixin):
    r"""Offline multi-agent reinforcement learning with actor rectification.

    Source: Pan, Huang, Ma and Xu, "Plan Better Amid Conservatism: Offline Multi-Agent
    Reinforcement Learning with Actor Rectification", arXiv 2111.11188.

    1. ``loss_qvalue``: TD3's critics with the conservative term of CQL over M actions
       :math:`u_m` uniform in the bounds (:class:`ConservativeMixin`); of independent critics

       .. math::
            \alpha \sum_k \frac1n \sum_i E\Bigl[ T \log \frac1M \sum_m
            e^{Q_{k,i}(o_i, u_m) / T} - Q_{k,i}(o_i, a_i) \Bigr] .

    2. ``loss_actor``: a conservative critic has bad local optima that policy gradients end in.
       Each actor is therefore drawn to the best action :math:`\hat a_i`, its own included, that
       a search finds for that agent (:class:`ActionSearch`),

       .. math::
            L_{actor} = \frac1n \sum_i E\Bigl[ c\, \tfrac1d \|\pi_i(o_i) - \hat a_i\|^2
            - (1 - c)\, Q_{1,i}(o_i, \pi_i(o_i)) \Bigr] .

    The literature's critics are independent. With a joint one each agent's candidates are valued
    beside what the other policies now choose, and the conservative term samples joint actions.
    Differences: the search keeps the best of all rounds, see there; the original's small pull on
    the actions (0.001 of their square) is left out; the target has no noise, as in its code, but
    may be given some.

    Args:
        actor_network (TensorDictModule): deterministic actors of the group.
        qvalue_network (TensorDictModule): action-value of the team, writes
            ``state_action_value``, joint ``[*B, 1]`` or independent ``[*B, n, 1]``.
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1].
        coefficient (float): c in [0, 1]; 0 is plain conservative TD3, 1 regression on the search.
        search (ActionSearch, optional): the search; by default one with its defaults.
        search_share (float): share of a batch, in (0, 1], that the actors are trained on: most of
            the cost of a step, which leaves the expected gradient as it is. 1 is the original.
        alpha (float): weight of the conservative term, at least 0.
        penalty_temperature (float): its temperature T, above 0.
        num_sampled_actions (int): its uniform actions M, at least 1.
        penalty_share (float): share of a batch, in (0, 1], that it is taken on.
        policy_noise (float): standard deviation of the noise on the next actions, at least 0.
        noise_clip (float): bound of that noise, at least 0.
        num_qvalue_nets (int): critics in the ensemble, at least 1.
        loss_function (str): distance of the Q regression: ``l2``, ``l1`` or ``smooth_l1``.
        reward_scale (float): factor on the rewards, above 0.
        reduction (str): ``mean``, ``sum`` or ``none``.

    Raises:
        ValueError: if an option is out of its range.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule as Mod
        >>> obs, act = ("agents", "observation"), ("agents", "action")
        >>> both = torch.nn.Bilinear(3, 1, 1)  # one critic per agent, of what it sees and does
        >>> actor = Mod(torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Tanh()), [obs], [act])
        >>> loss = OmarLoss(actor, Mod(both, [obs, act], ["state_action_value"]))
        >>> data = TensorDict({
        ...     "agents": {"observation": torch.randn(8, 2, 3), "action": torch.rand(8, 2, 1)},
        ...     "next": {"agents": {"observation": torch.randn(8, 2, 3),
        ...                         "reward": torch.randn(8, 2, 1)},
        ...              "done": torch.zeros(8, 1, dtype=torch.bool),
        ...              "terminated": torch.zeros(8, 1, dtype=torch.bool)}}, [8])
        >>> [key for key in loss(data).keys() if key.startswith("loss")]
        ['loss_qvalue', 'loss_actor']
    """

    loss_names: tuple[str, ...] = ("loss_qvalue", "loss_actor")

    def __init__(
        self,
        actor_network: TensorDictModule,
        qvalue_network: TensorDictModule,
        action_scaler: ActionScaler | None = None,
        coefficient: float = 1.0,
        search: ActionSearch | None = None,
        search_share: float = 1.0,
        alpha: float = 1.0,
        penalty_temperature: float = 1.0,
        num_sampled_actions: int = 10,
        penalty_share: float = 1.0,
        policy_noise: float = 0.0,
        noise_clip: float = 0.5,
        num_qvalue_nets: int = 2,
        loss_function: str = "l2",
        reward_scale: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(action_scaler, reduction)
        if not 0 <= coefficient <= 1:
            raise ValueError(f"expected coefficient in [0, 1], found {coefficient}")
        if not 0 < search_share <= 1:
            raise ValueError(f"expected search_share in (0, 1], found {search_share}")
        self.search_share = search_share
        self.coefficient, self.search = coefficient, search or ActionSearch()
        self._set_up_penalty(
            alpha,
            penalty_temperature,
            num_sampled_actions,
            ("uniform",),
            penalty_share=penalty_share,
        )
        self._set_up_smoothing(policy_noise, noise_clip)
        self._set_up_qvalue(qvalue_network, num_qvalue_nets, loss_function, reward_scale)
        self._set_up_actor(actor_network, has_target=True)

    def best_action(self, tensordict: TensorDictBase, action: Tensor, value: Tensor) -> Tensor:
        """What the search finds from the policies' actions, ``[*B, n, d]`` in [-1, 1].

        Args:
            tensordict (TensorDictBase): logged transitions, batch ``[*B]``.
            action (Tensor): the policies' actions, ``[*B, n, d]``.
            value (Tensor): the first critic's value of them, ``[*B]`` or ``[*B, n]``.
        """
        joint, params = value.ndim == tensordict.ndim, self.qvalue_network_params.data[:1]
        start_value = value.unsqueeze(-1).expand(action.shape[:-1]) if joint else value

        def value_of(candidates: Tensor) -> Tensor:
            return self.own_qvalues_of(tensordict, candidates, action, params, joint)[0]

        return self.search(value_of, action, start_value)[0]

    def actor_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]`` and metrics; on a share of the batch."""
        return self.on_share(self.search_share, self._drawn_loss, tensordict)

    def _drawn_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        action = self.policy_action(tensordict)
        value = self.policy_value(tensordict, action)
        climb = self.per_sample(value, tensordict)
        metrics = {"policy_value": value.mean()}
        if self.coefficient == 0:
            return -climb, metrics
        best = self.best_action(tensordict, action.detach(), value.detach())
        distance = (action - best).square().mean((-2, -1))
        metrics["search_distance"] = distance.mean()
        return self.coefficient * distance - (1 - self.coefficient) * climb, metrics

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_qvalue`` and ``loss_actor``."""
        loss_qvalue, metrics = self.conservative_qvalue_loss(tensordict)
        loss_actor, more = self.actor_loss(tensordict)
        losses = {"loss_qvalue": loss_qvalue, "loss_actor": loss_actor}
        return self.reduce(losses, **metrics, **more)

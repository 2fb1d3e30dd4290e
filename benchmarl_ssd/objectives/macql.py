"""Conservative Q-learning of a team."""

from __future__ import annotations

from collections.abc import Sequence

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, dispatch
from torch import Tensor

from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.objectives.conservative import ConservativeMixin


class MacqlLoss(ConservativeMixin):
    r"""Conservative Q-learning of a team with deterministic actors.

    Source: Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning", arXiv
    2006.04779, on top of MATD3 as in the MA-CQL of Pan et al. (OMAR, arXiv 2111.11188).

    1. ``loss_qvalue``: the critics regress :math:`r + \gamma (1 - terminated) \min_k Q^-_k(s',
       \pi^-(o') + \xi)` and are held down at sampled actions,

       .. math::
            L_Q = \sum_k E\Bigl[ (Q_k(s, a) - y)^2 + \alpha \bigl( T \log E_{u \sim U}
            e^{Q_k(s, u) / T} - Q_k(s, a) \bigr) \Bigr] ,

       with the expectation estimated as :class:`ConservativeMixin` explains. With independent
       critics each agent's is held down at actions of its own.
    2. ``loss_actor``: the actors climb the first critic, :math:`L_{actor} = -E\, Q_1(s, \pi(o))`.

    The original's policy is a stochastic one with an entropy bonus; here actors are
    deterministic, as in MA-CQL, and their density is that of Gaussian noise around them.

    Args:
        actor_network (TensorDictModule): deterministic actors of the group.
        qvalue_network (TensorDictModule): action-value of the team, writes
            ``state_action_value``, joint ``[*B, 1]`` or independent ``[*B, n, 1]``.
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1].
        alpha (float): weight of the penalty, at least 0, in units of the task's reward; 0 is MATD3.
        penalty_temperature (float): T, above 0; small looks at the highest sampled value alone.
        num_sampled_actions (int): actions from each proposal in each state, at least 1.
        proposals (sequence of str): where they come from, some of ``uniform``, ``policy``,
            ``next_policy``.
        sample_noise (float): standard deviation of the samples around a policy's action, above 0.
        penalty_share (float): share of the batch's rows that the penalty is taken on, in (0, 1].
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
        >>> from tensordict.nn import TensorDictModule as Mod, TensorDictSequential as Seq
        >>> obs, act = ("agents", "observation"), ("agents", "action")
        >>> team = lambda *x: torch.cat([y.flatten(-2) for y in x], -1)
        >>> actor = Mod(torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Tanh()), [obs], [act])
        >>> qvalue = Seq(Mod(team, [obs, act], ["joint"]),
        ...              Mod(torch.nn.Linear(8, 1), ["joint"], ["state_action_value"]))
        >>> loss = MacqlLoss(actor, qvalue, alpha=0.5)
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
        alpha: float = 1.0,
        penalty_temperature: float = 1.0,
        num_sampled_actions: int = 3,
        proposals: Sequence[str] = ("uniform", "policy", "next_policy"),
        sample_noise: float = 0.2,
        penalty_share: float = 1.0,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        num_qvalue_nets: int = 2,
        loss_function: str = "l2",
        reward_scale: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(action_scaler, reduction)
        self._set_up_penalty(
            alpha,
            penalty_temperature,
            num_sampled_actions,
            proposals,
            sample_noise,
            penalty_share,
        )
        self._set_up_smoothing(policy_noise, noise_clip)
        self._set_up_qvalue(qvalue_network, num_qvalue_nets, loss_function, reward_scale)
        self._set_up_actor(actor_network, has_target=True)

    def climbed_value(self, tensordict: TensorDictBase) -> Tensor:
        """What the actors climb, ``[*B]`` or every agent's own, ``[*B, n]``."""
        return self.policy_value(tensordict, self.policy_action(tensordict))

    def actor_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]`` and metrics."""
        value = self.per_sample(self.climbed_value(tensordict), tensordict)
        return -value, {"policy_value": value.mean()}

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_qvalue`` and ``loss_actor``."""
        loss_qvalue, metrics = self.conservative_qvalue_loss(tensordict)
        loss_actor, more = self.actor_loss(tensordict)
        losses = {"loss_qvalue": loss_qvalue, "loss_actor": loss_actor}
        return self.reduce(losses, **metrics, **more)

"""TD3 of a team, held to the data by behaviour cloning."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, dispatch
from torch import Tensor

from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.objectives.policy_evaluation import PolicyEvaluationLoss


class Matd3BcLoss(PolicyEvaluationLoss):
    r"""TD3+BC of a team.

    Source: Fujimoto and Gu, "A Minimalist Approach to Offline Reinforcement Learning", arXiv
    2106.06860, for one agent; here with critics of the team's reward.

    1. ``loss_qvalue``: the critics regress :math:`r + \gamma (1 - terminated) \min_k Q^-_k(s',
       \pi^-(o') + \xi)` with clipped noise :math:`\xi` (:class:`PolicyEvaluationLoss`).
    2. ``loss_actor``: the actors climb the first critic and clone the data,

       .. math::
            L_{actor} = E\Bigl[ -\lambda\, Q_1(s, \pi(o)) + \tfrac{1}{n d} \|\pi(o) - a\|^2
            \Bigr], \qquad \lambda = \frac{\alpha}{E|Q_1(s, \pi(o))|} ,

       with :math:`\lambda` detached, so that :math:`\alpha` means the same on every scale of
       reward. Independent critics each have their own :math:`\lambda_i`; :math:`Q_1` is then the
       mean of :math:`\lambda_i Q_{1,i}` over the agents.

    With a joint critic the team is one agent of TD3+BC whose actor is factored. Differences: the
    original normalises observations, which is left to the networks (layer norm in the critics),
    and updates actor and targets in every second step only, where here the actors' learning rate
    is set apart.

    Args:
        actor_network (TensorDictModule): deterministic actors of the group.
        qvalue_network (TensorDictModule): action-value of the team, writes
            ``state_action_value``, joint ``[*B, 1]`` or independent ``[*B, n, 1]``.
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1].
        alpha (float): weight of the critic, at least 0; 0 is behaviour cloning.
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
        >>> loss = Matd3BcLoss(actor, qvalue)
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
        alpha: float = 2.5,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        num_qvalue_nets: int = 2,
        loss_function: str = "l2",
        reward_scale: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(action_scaler, reduction)
        if alpha < 0:
            raise ValueError(f"expected alpha of at least 0, found {alpha}")
        self.alpha = alpha
        self._set_up_smoothing(policy_noise, noise_clip)
        self._set_up_qvalue(qvalue_network, num_qvalue_nets, loss_function, reward_scale)
        self._set_up_actor(actor_network, has_target=True)

    def actor_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]`` and metrics."""
        action = self.policy_action(tensordict)
        value = self.policy_value(tensordict, action)
        batch = tuple(range(tensordict.ndim))
        scale = value.detach().abs()
        scale = scale.mean(batch) if batch else scale  # for each agent with its own critic
        climb = self.per_sample(self.alpha / scale.clamp_min(1e-8) * value, tensordict)
        clone = self.clone_loss(tensordict, action=action)
        return clone - climb, {"bc_loss": clone.mean(), "policy_value": value.mean()}

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_qvalue`` and ``loss_actor``."""
        loss_qvalue, metrics = self.policy_qvalue_loss(tensordict)
        loss_actor, more = self.actor_loss(tensordict)
        losses = {"loss_qvalue": loss_qvalue, "loss_actor": loss_actor}
        return self.reduce(losses, **metrics, **more)

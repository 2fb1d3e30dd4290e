"""Sequential score decomposition: scores, critic and actors in one loss module."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams, dispatch
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.modules import ActionScaler, ConditionalScore
from benchmarl_ssd.modules.conditional_score import check_option
from benchmarl_ssd.modules.noise import NoiseWindow, Weighting, noise_weight
from benchmarl_ssd.objectives.joint_iql import JointIQLLoss
from benchmarl_ssd.objectives.score_matching import ScoreMatchingLoss


class SsdLoss(ScoreMatchingLoss, JointIQLLoss):
    r"""Offline learning of decentralised policies by sequential score decomposition.

    Source: Qiao et al., "Offline Multi-agent Reinforcement Learning via Sequential Score
    Decomposition", arXiv 2505.05968. Two stages, each a number of calls of the loss:

    1. ``loss_score`` fits the conditional scores (:class:`ScoreMatchingLoss`), ``loss_qvalue`` and
       ``loss_value`` the joint critic (:class:`JointIQLLoss`), independently of each other.
    2. ``loss_actor`` extracts the actors. For every agent, with the other agents' actions those
       that their policies *now* choose (Eq. 6),

       .. math::
            \nabla_i J = E\left[\nabla_{a_i} Q(s, a) + \tfrac{1}{\beta} \nabla_{a_i} \log
            \mu_i(a_i | s, a_{<i})\right] \nabla \pi_i(o_i) .

       The score is evaluated at the noised policy action :math:`a_i^t = \alpha_t \pi_i(o_i) +
       \sigma_t z` as in SRPO (arXiv 2310.07297). Times :math:`\beta`, that is the surrogate

       .. math::
            L_{actor} = \sum_i E\left[w(t)\, (\epsilon_i(a_i^t, t | s, a_{<i}) - z) \cdot
            \pi_i(o_i) - \beta\, \nabla_{a_i} Q(s, a) \cdot \pi_i(o_i)\right]

       in which all but :math:`\pi_i(o_i)` is detached: no gradient enters the scores, the critic
       or another agent's actor, and no sampling chain is run. Subtracting z lowers the variance
       and leaves the expectation alone.

    All agents take their step from the same forward pass. The paper updates them in turn; since
    an agent's score never looks at a later agent, the chain settles from the first agent on
    either way, and one batched step costs a fraction of n.

    Args:
        actor_network (TensorDictModule): deterministic actors of the group.
        score_network (ConditionalScore): the conditional scores; its decomposition is the
            algorithm's.
        qvalue_network (TensorDictModule): joint action-value, writes ``state_action_value``.
        value_network (TensorDictModule): joint state-value, writes ``state_value``.
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1].
        beta (float): temperature, at least 0: small holds the policy to the data, large trusts
            the critic.
        normalise_q (bool): divide the critic's gradient by its mean norm in the batch, which makes
            ``beta`` comparable between tasks.
        weighting (str): w(t): ``one``, ``sigma2`` or ``alpha_over_sigma``.
        window (NoiseWindow, optional): the noise times of the extraction.
        n_noise_draws (int): draws of (t, z) per transition in the score fit.
        n_policy_noise_draws (int): draws of (t, z) per transition in the extraction.
        num_qvalue_nets (int): critics in the ensemble.
        expectile (float): of the state-value regression, in (0, 1).
        loss_function (str): distance of the Q regression.
        pretrain_steps (int, optional): calls in stage 1. ``None``: all losses in every call, for
            training on data that is still growing.
        extraction_steps (int): calls in stage 2, over which ``window`` slides.
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
        >>> value = Seq(Mod(team, [obs], ["joint"]),
        ...             Mod(torch.nn.Linear(6, 1), ["joint"], ["state_value"]))
        >>> score = ConditionalScore.build(2, 1, condition_dim=6, condition_keys=[obs])
        >>> loss = SsdLoss(actor, score, qvalue, value, pretrain_steps=1, extraction_steps=1)
        >>> data = TensorDict({
        ...     "agents": {"observation": torch.randn(8, 2, 3), "action": torch.rand(8, 2, 1)},
        ...     "next": {"agents": {"observation": torch.randn(8, 2, 3),
        ...                         "reward": torch.randn(8, 2, 1)},
        ...              "done": torch.zeros(8, 1, dtype=torch.bool),
        ...              "terminated": torch.zeros(8, 1, dtype=torch.bool)}}, [8])
        >>> [key for key in loss(data).keys() if key.startswith("loss")]
        ['loss_score', 'loss_qvalue', 'loss_value']
        >>> [key for key in loss(data).keys() if key.startswith("loss")]
        ['loss_actor']
    """

    actor_network: TensorDictModule
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams
    score_network: ConditionalScore
    score_network_params: TensorDictParams
    target_score_network_params: TensorDictParams
    qvalue_network: TensorDictModule
    qvalue_network_params: TensorDictParams
    target_qvalue_network_params: TensorDictParams
    value_network: TensorDictModule
    value_network_params: TensorDictParams
    target_value_network_params: TensorDictParams
    loss_names: tuple[str, ...] = ("loss_score", "loss_qvalue", "loss_value", "loss_actor")

    def __init__(
        self,
        actor_network: TensorDictModule,
        score_network: ConditionalScore,
        qvalue_network: TensorDictModule,
        value_network: TensorDictModule,
        action_scaler: ActionScaler | None = None,
        beta: float = 0.05,
        normalise_q: bool = True,
        weighting: Weighting = "one",
        window: NoiseWindow | None = None,
        n_noise_draws: int = 4,
        n_policy_noise_draws: int = 1,
        num_qvalue_nets: int = 2,
        expectile: float = 0.7,
        loss_function: str = "l2",
        pretrain_steps: int | None = None,
        extraction_steps: int = 1,
        reduction: str = "mean",
    ) -> None:
        super(ScoreMatchingLoss, self).__init__(
            qvalue_network,
            value_network,
            action_scaler,
            num_qvalue_nets,
            expectile,
            loss_function,
            reduction,
        )
        self._set_up_score(score_network, n_noise_draws)
        check_option("weighting", weighting, Weighting)
        for name, found, least in (
            ("beta", beta, 0),
            ("n_policy_noise_draws", n_policy_noise_draws, 1),
            ("pretrain_steps", pretrain_steps or 0, 0),
            ("extraction_steps", extraction_steps, 1),
        ):
            if found < least:
                raise ValueError(f"expected {name} of at least {least}, found {found}")
        self.beta, self.normalise_q, self.weighting = beta, normalise_q, weighting
        self.window = window or NoiseWindow()
        self.n_policy_noise_draws = n_policy_noise_draws
        self.pretrain_steps, self.extraction_steps = pretrain_steps, extraction_steps
        self.step = 0
        self.convert_to_functional(actor_network, "actor_network")

    def _read_keys(self) -> list[NestedKey]:
        return [*super()._read_keys(), *self.actor_network.in_keys]

    def get_extra_state(self) -> Tensor:
        """Return the number of training calls so far; part of ``state_dict``."""
        return torch.tensor(self.step)

    def set_extra_state(self, state: Tensor) -> None:
        """Set the number of training calls so far."""
        self.step = int(state)

    @property
    def progress(self) -> float:
        """Share of the extraction that is done, in [0, 1]."""
        if self.pretrain_steps is None:
            return 1.0
        return min(max(0.0, (self.step - self.pretrain_steps) / self.extraction_steps), 1.0)

    def actor_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample surrogate ``[*B]``, and metrics."""
        with self.actor_network_params.to_module(self.actor_network):
            action = self.act(self.actor_network, tensordict)
        pull = self._score_gradient(tensordict, action.detach())
        climb = self.action_gradient(tensordict, action)
        norm = climb.flatten(-2).norm(dim=-1).mean()
        if self.normalise_q:
            climb = climb / norm.clamp_min(1e-8)
        surrogate = ((pull - self.beta * climb) * action).sum((-2, -1))
        return surrogate, {"score_gradient": pull.abs().mean(), "qvalue_gradient": norm}

    @torch.no_grad()
    def _score_gradient(self, tensordict: TensorDictBase, action: Tensor) -> Tensor:
        """Return w(t) (eps - z) at the noised policy action, mean over draws, ``[*B, n, d]``."""
        score, draws = self.score_network, self.n_policy_noise_draws
        low, high = self.window(self.progress)
        shape = (draws, *action.shape[:-2], score.n_factors, 1)
        t = low + (high - low) * torch.rand(shape, device=action.device)
        z = torch.randn(draws, *action.shape, device=action.device)
        noised = score.schedule.alpha(t) * action + score.schedule.sigma(t) * z
        with self.score_network_params.to_module(score):
            # One permutation for the whole update, if the order is random.
            mask = score.prefix_mask(1, action.device)
            context = score.encode(tensordict, action, mask)
            noise = score.predict(context, noised, t)
        return (noise_weight(score.schedule, t, self.weighting) * (noise - z)).mean(0)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the losses of the current stage."""
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        pretrain = self.pretrain_steps
        if pretrain is None or self.step < pretrain:
            for name in ("score", "qvalue", "value"):
                loss, more = getattr(self, f"{name}_loss")(tensordict)
                losses[f"loss_{name}"] = loss
                metrics.update(more)
        if pretrain is None or self.step >= pretrain:
            losses["loss_actor"], more = self.actor_loss(tensordict)
            metrics.update(more)
        if self.training:
            self.step += 1
        return self.reduce(losses, **metrics)

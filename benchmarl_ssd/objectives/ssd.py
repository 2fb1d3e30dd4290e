"""Sequential score decomposition: scores, critic and actors in one loss module."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import chain

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, dispatch
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor

from benchmarl_ssd.modules import ActionScaler, ConditionalScore
from benchmarl_ssd.modules.conditional_score import check_option
from benchmarl_ssd.modules.conventions import ConventionNetwork
from benchmarl_ssd.modules.noise import NoiseWindow, Weighting, noise_weight
from benchmarl_ssd.objectives.common import is_recorded
from benchmarl_ssd.objectives.conventions import ConventionMixin
from benchmarl_ssd.objectives.extraction import ExtractionMixin
from benchmarl_ssd.objectives.joint_iql import JointIQLLoss
from benchmarl_ssd.objectives.policy_evaluation import PolicyEvaluationLoss
from benchmarl_ssd.objectives.score_matching import ScoreMatchingLoss
from benchmarl_ssd.objectives.stages import CriticMode

# Calls between two looks at the information in an action.
_LOOK_INTERVAL = 10


class SsdLoss(
    ScoreMatchingLoss, JointIQLLoss, PolicyEvaluationLoss, ConventionMixin, ExtractionMixin
):
    r"""Offline learning of decentralised policies by sequential score decomposition.

    Source: Qiao et al., "Offline Multi-agent Reinforcement Learning via Sequential Score
    Decomposition", arXiv 2505.05968. Two stages, each a number of calls of the loss:

    1. ``loss_score`` fits the conditional scores (:class:`ScoreMatchingLoss`), ``loss_qvalue`` and
       ``loss_value`` the joint critic (:class:`JointIQLLoss`), independently of each other; with
       ``warm_start``, ``loss_actor`` clones the behaviour meanwhile.
    2. The scores may go on being fitted (``score_steps``); the paper's are fixed by now. With a
       critic that is ``following``, ``loss_qvalue`` goes on from there with the value of the
       current policies (:class:`PolicyEvaluationLoss`); the paper's is ``frozen``.
       ``loss_actor`` extracts the actors. For every agent, with the other agents' actions those
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
       or another agent's actor, and no sampling chain is run. Subtracting z, of mean zero, lowers
       the variance for narrow behaviour and raises it for broad one; here z is drawn in pairs of
       opposite signs instead, whose mean is free of all that is odd in z: somewhat noisier on
       narrow behaviour, far less so on broad (``examples/extraction`` has the numbers).

       With ``beta_warmup`` the temperature grows from zero over that share of the stage: first
       the data's convention is chosen, then it is improved.

    Actors that are stochastic sample their actions, and their log-density
    :math:`\log \pi_i(a_i | o_i)` is added to the surrogate, which makes it the gradient of
    :math:`\beta Q - KL(\pi \| \mu)`; exactly so with the weight ``alpha_over_sigma``, at small
    noise. Deterministic actors (the default, as in SRPO) seek a mode, stochastic ones keep a width.

    With a ``convention_network`` the scores are those of a mixture over conventions k,
    :math:`\mu_{k,i}(a_i | s, a_{<i})`: in stage 1 ``loss_convention`` fits the mixture and tells
    the score which convention a transition follows, in stage 2 all agents climb the scores of
    one and the same convention. Deterministic policies can only be on one side of a coin; this
    makes it the same side for all. Without (the default) it is the paper's method.

    All agents take their step from the same forward pass. The paper updates them in turn; since
    an agent's score never looks at a later agent, the chain settles from the first agent on
    either way, and one batched step costs a fraction of n.

    Critics may be independent, :math:`Q_i(o_i, a_i)`, one value per agent (:class:`CriticLoss`);
    each agent then climbs its own. With ``marginal`` scores this is the paper's BRPO-IND.

    Args:
        actor_network (TensorDictModule): actors of the group.
        score_network (ConditionalScore): the conditional scores; its decomposition is the
            algorithm's.
        qvalue_network (TensorDictModule): joint action-value, writes ``state_action_value``.
        value_network (TensorDictModule): joint state-value, writes ``state_value``.
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1].
        convention_network (ConventionNetwork, optional): the team's mixture of conventions. Its
            one-hot choice is then a condition of the score, under ``convention_key``.
        convention_key (NestedKey): that entry, ``[*B, n, K]``; made by the loss.
        beta (float, optional): temperature, at least 0: small holds the policy to the data, large
            trusts the critic. ``None`` takes it from the data, see :attr:`data_beta`.
        normalise_q (bool): divide the critic's gradient by its mean norm in the batch, which makes
            ``beta`` comparable between tasks.
        weighting (str): w(t): ``one``, ``sigma2`` or ``alpha_over_sigma``.
        beta_warmup (float): share of stage 2 in which the temperature grows to ``beta``, in [0, 1].
        window (NoiseWindow, optional): the noise times of the extraction.
        n_noise_draws (int): draws of (t, z) per transition in the score fit.
        n_policy_noise_draws (int): pairs (t, z), (t, -z) per transition in the extraction.
        num_qvalue_nets (int): critics in the ensemble.
        expectile (float): of the state-value regression, in (0, 1).
        loss_function (str): distance of the Q regression.
        reward_scale (float): factor on the rewards.
        downside (float): how far the dataset's rewards fall below their mean, 1 for Gaussian ones,
            at least 0 (:func:`~benchmarl_ssd.data.statistics.downside`); read by
            :attr:`data_beta`.
        critic (str): ``following`` or ``frozen`` in stage 2.
        policy_noise (float): standard deviation of the noise on the policies' next actions.
        noise_clip (float): bound of that noise.
        warm_start (bool): clone the behaviour in stage 1.
        stochastic_actors (bool): whether ``actor_network`` gives distributions to sample from.
        policy_share (float): share of a batch, its first rows, that stage 2 extracts the actors
            and goes on fitting the scores on, in (0, 1]. The critic learns from all of it.
        score_steps (int, optional): calls that fit the scores, from the first on. ``None``: all of
            stage 1. More than that goes on fitting them while the actors are extracted.
        critic_from (int): call of stage 1 from which the critic is fitted.
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
        ['loss_actor', 'loss_score', 'loss_value', 'loss_qvalue']
        >>> [key for key in loss(data).keys() if key.startswith("loss")]
        ['loss_qvalue', 'loss_actor']
    """

    loss_names: tuple[str, ...] = ("loss_score", "loss_qvalue", "loss_value", "loss_actor")

    def __init__(
        self,
        actor_network: TensorDictModule,
        score_network: ConditionalScore,
        qvalue_network: TensorDictModule,
        value_network: TensorDictModule,
        action_scaler: ActionScaler | None = None,
        convention_network: ConventionNetwork | None = None,
        convention_key: NestedKey = ("agents", "convention"),
        beta: float | None = None,
        normalise_q: bool = True,
        weighting: Weighting = "one",
        beta_warmup: float = 0.0,
        window: NoiseWindow | None = None,
        n_noise_draws: int = 4,
        n_policy_noise_draws: int = 1,
        num_qvalue_nets: int = 2,
        expectile: float = 0.7,
        loss_function: str = "l2",
        reward_scale: float = 1.0,
        downside: float = 1.0,
        critic: CriticMode = "following",
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        warm_start: bool = True,
        stochastic_actors: bool = False,
        policy_share: float = 1.0,
        score_steps: int | None = None,
        critic_from: int = 0,
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
            reward_scale,
            reduction,
        )
        self._set_up_conventions(convention_network, convention_key)
        if convention_network is not None:
            self.loss_names = (*self.loss_names, "loss_convention")
        self._set_up_smoothing(policy_noise, noise_clip)
        self._set_up_score(score_network, n_noise_draws)
        check_option("weighting", weighting, Weighting)
        if not 0 < policy_share <= 1:
            raise ValueError(f"expected policy_share in (0, 1], found {policy_share}")
        if n_policy_noise_draws < 1:
            raise ValueError(
                f"expected n_policy_noise_draws of at least 1, found {n_policy_noise_draws}"
            )
        self._set_up_stages(
            critic, warm_start, score_steps, critic_from, pretrain_steps, extraction_steps
        )
        # Exact scores have buffers only, or nothing.
        held = chain(score_network.parameters(), score_network.buffers(), [torch.zeros(0)])
        self._set_up_extraction(
            beta, beta_warmup, downside, window or NoiseWindow(), next(held).device
        )
        self.normalise_q, self.weighting = normalise_q, weighting
        self.n_policy_noise_draws = n_policy_noise_draws
        self.policy_share = policy_share
        self._set_up_actor(actor_network, critic == "following", stochastic_actors)

    def _read_keys(self) -> list[NestedKey]:
        made = unravel_key(self.convention_key)
        return [key for key in super()._read_keys() if unravel_key(key) != made]

    def actor_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample surrogate ``[*B]``, and metrics; on a share of the batch."""
        return self.on_share(self.policy_share, self._surrogate, tensordict)

    def _surrogate(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        surplus: Tensor | float = 0.0
        if self.stochastic:
            action, density = self.policy_sample(tensordict)
            surplus = density.sum(-1)
        else:
            action = self.policy_action(tensordict)
        pull = self._score_gradient(self.told_convention(tensordict), action.detach())
        climb = self.action_gradient(tensordict, action)
        norm = climb.flatten(-2).norm(dim=-1).mean()
        if self.normalise_q:
            climb = climb / norm.clamp_min(1e-8)
        surrogate = ((pull - self.call_temperature * climb) * action).sum((-2, -1)) + surplus
        return surrogate, {"score_gradient": pull.abs().mean(), "qvalue_gradient": norm}

    @torch.no_grad()
    def _score_gradient(self, tensordict: TensorDictBase, action: Tensor) -> Tensor:
        """Return w(t) (eps - z) at the noised policy action, mean over pairs, ``[*B, n, d]``."""
        score, draws = self.score_network, self.n_policy_noise_draws
        low, high = self.noise_levels
        shape = (draws, *action.shape[:-2], score.n_factors, 1)
        t = low + (high - low) * torch.rand(shape, device=action.device)
        z = torch.randn(draws, *action.shape, device=action.device)
        t, z = torch.cat([t, t]), torch.cat([z, -z])
        noised = score.schedule.alpha(t) * action + score.schedule.sigma(t) * z
        with self.score_network_params.to_module(score):
            # One permutation for the whole update, if the order is random.
            mask = score.prefix_mask(1, action.device)
            context = score.encode(tensordict, action, mask)
            noise = score.predict(context, noised, t)
        return (noise_weight(score.schedule, t, self.weighting) * noise).mean(0)

    def call_key(self) -> Hashable:
        """What the next call computes; of several conventions, of which one is chosen, nothing."""
        if self.n_conventions > 1:
            return None
        return (super().call_key(), self.step % _LOOK_INTERVAL == 0)

    def _fit_scores(
        self, tensordict: TensorDictBase, on_share: bool
    ) -> dict[str, tuple[Tensor, dict]]:
        share, fit = self.policy_share if on_share else 1.0, self._informed_score_loss
        if self.n_conventions == 1:
            return {"loss_score": self.on_share(share, fit, tensordict)}
        loss, metrics, posterior = self.convention_loss(tensordict, self.step)
        drawn = torch.multinomial(posterior.reshape(-1, self.n_conventions), 1)
        told = self._told(tensordict, drawn.reshape(posterior.shape[:-1]))
        score = self.on_share(share, fit, told)
        return {"loss_convention": (loss, metrics), "loss_score": score}

    def _informed_score_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict]:
        # Looking takes another pass of the denoisers, and a running average needs few of them.
        looks = self.step % _LOOK_INTERVAL == 0
        loss, metrics = self.score_loss(tensordict, informed=looks)
        if looks and self.training:
            self._inform(metrics["information"].detach())
        return loss, {**metrics, "information": self.information.clone()}

    def _fit_value(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        if self.n_conventions > 1 and self.training:
            value = self.qvalues(tensordict, self.qvalue_network_params.data).mean(0)
            self.value_conventions(tensordict, self.per_sample(value, tensordict))
        return self.value_loss(tensordict)

    def _stage_losses(self, tensordict: TensorDictBase) -> dict[str, tuple[Tensor, dict]]:
        names, extracts = self.out_keys, self.extracts
        losses: dict[str, tuple[Tensor, dict]] = {}
        if "loss_actor" in names and not extracts:
            losses["loss_actor"] = (self.clone_loss(tensordict), {})
        if "loss_score" in names:
            on_share = extracts and self.pretrain_steps is not None
            losses.update(self._fit_scores(tensordict, on_share))
        if "loss_value" in names:
            losses["loss_value"] = self._fit_value(tensordict)
        if "loss_qvalue" in names:
            regress = self.policy_qvalue_loss if self.follows else self.qvalue_loss
            losses["loss_qvalue"] = regress(tensordict)
        if extracts:
            losses["loss_actor"] = self.actor_loss(tensordict)
        return losses

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the losses of the current stage, :attr:`out_keys`, and metrics."""
        losses: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        for name, (loss, more) in self._stage_losses(tensordict).items():
            losses[name] = loss
            metrics.update(more)
        if not is_recorded():
            self.end_call()
        return self.reduce(losses, **metrics)

"""MADiff: plans of a team by diffusion, actions by inverse dynamics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams, dispatch
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor

from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.modules.plan_diffusion import PlanDiffusion, inpaint
from benchmarl_ssd.objectives.actors import ActorLoss
from benchmarl_ssd.objectives.common import OfflineLoss


class _Logged(NamedTuple):
    """Logged windows, M of L steps.

    Attributes:
        observation: ``[M, L, n, O]``.
        next_observation: ``[M, L, n, O]``.
        ends: whether the team's episode ended there, ``[M, L]``.
        rank: ranks of the returns to go, ``[M, L]``, NaN if they are not known.
    """

    observation: Tensor
    next_observation: Tensor
    ends: Tensor
    rank: Tensor


class MadiffLoss(ActorLoss):
    r"""Fits a diffusion model of the team's windows, and the actions between two observations.

    Zhu et al., *MADiff: Offline Multi-agent Learning with Diffusion Models*, arXiv 2305.17330, in
    its decentralised form. With windows :math:`x` of the observations of all agents in the
    coordinates of :class:`~benchmarl_ssd.modules.plan_frame.PlanFrame`,
    :math:`x^t = \alpha_t x + \sigma_t z`, in which the current observation of one agent i, drawn
    at random, is left clean,

    .. math::
        L_{plan} &= E \, \big\| m \odot \big(v(x^t, t, i, \rho) - (\alpha_t z - \sigma_t x)\big)
            \big\|^2 , \\
        L_{actor} &= \sum_i E \, \| I_i(o_i, o_i') - a_i \|^2 ,

    where :math:`\rho` is the rank of the window's return to go, or nothing with probability
    ``condition_dropout``, for guidance without a classifier. The mask m leaves out what is known
    and what lies beyond the episode's end. Both are means over entries instead of sums.
    ``loss_plan`` also holds the fit of the regression around which the diffusion model predicts, by
    squares, and of its scale, by likelihood, from all steps of the batch; no gradient is shared.

    Windows are drawn from a batch with the last dimension of time: they begin at its first step,
    or, where its last step ends an episode, at any step, the plan beyond the end masked. So every
    logged step is the beginning of some window.

    What differs from the original, which needs hours where this needs minutes:

    * Layers of each agent over whole windows with attention between agents (some 10^5 to 10^6
      parameters) stand for the original's temporal U-Nets with attention at every scale; the
      horizon is 4 instead of its 24 on particle tasks. On others the original plans 4 to 10 steps
      after a history of some 20 observations; here there is no history.
    * The velocity is predicted, around a regression, and not the noise; the noise is that of the
      continuous VP-SDE, and five steps of DDIM draw a plan instead of 200 of DDPM or 15 of DDIM.
    * Windows are diffused as a current observation and scaled changes from it, and inverse dynamics
      reads the change. In the original's windows, every entry mapped by its distribution function
      in the data, what one step changes is small.
    * Returns are told as ranks among the data's at the same step, in place of discounted returns
      over a constant found per dataset.
    * Some thousand updates instead of a million of 64 windows; guidance and ``condition_dropout``
      are the original's, 1.2 and 0.25.
    * Inverse dynamics are trained beside the diffusion model, on the whole of each window.

    Args:
        plan_network (PlanDiffusion): the diffusion model.
        actor_network (TensorDictModule): inverse dynamics, actions from the observation and
            ``plan_network.plan_key``, the change to the next one.
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1].
        condition_dropout (float): how often a window's rank is not told, in [0, 1].
        n_noise_draws (int): draws of (agent, t, z) per window, at least 1.
        windows (bool): whether batches are ``[*B, L]`` with time last; else single transitions
            ``[*B]``, which are windows of one step.
        reduction (str): ``mean``, ``sum`` or ``none`` over the windows ``[*B]``.

    Raises:
        ValueError: if an option is out of its range.

    Examples:
        >>> from tensordict import TensorDict
        >>> observation, change = ("agents", "observation"), ("agents", "planned_change")
        >>> plan = PlanDiffusion.build(2, 3, horizon=4, observation_keys=[observation])
        >>> inverse = TensorDictModule(lambda o, c: c[..., :1], in_keys=[observation, change],
        ...                            out_keys=[("agents", "action")])
        >>> agents = {"observation": torch.randn(8, 4, 2, 3), "action": torch.rand(8, 4, 2, 1)}
        >>> following = {"observation": torch.randn(8, 4, 2, 3)}
        >>> data = TensorDict({"agents": agents, "return_rank": torch.rand(8, 4, 1),
        ...                    "next": {"agents": following,
        ...                             "done": torch.zeros(8, 4, 1, dtype=torch.bool)}}, [8, 4])
        >>> sorted(MadiffLoss(plan, inverse)(data).keys())
        ['denoising_error', 'loss_actor', 'loss_plan', 'regression_error']
    """

    @dataclass
    class _AcceptedKeys(OfflineLoss._AcceptedKeys):
        """As for every loss, and:

        Attributes:
            return_rank: rank of the return to go in [0, 1], read if the model is conditional.
        """

        return_rank: NestedKey = "return_rank"

    tensor_keys: _AcceptedKeys
    plan_network: PlanDiffusion
    plan_network_params: TensorDictParams
    target_plan_network_params: TensorDictParams
    loss_names: tuple[str, ...] = ("loss_plan", "loss_actor")

    def __init__(
        self,
        plan_network: PlanDiffusion,
        actor_network: TensorDictModule,
        action_scaler: ActionScaler | None = None,
        condition_dropout: float = 0.25,
        n_noise_draws: int = 2,
        windows: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__(action_scaler, reduction)
        if not (0 <= condition_dropout <= 1 and n_noise_draws >= 1):
            raise ValueError(
                "expected condition_dropout in [0, 1] and n_noise_draws of at least 1, found "
                f"{condition_dropout} and {n_noise_draws}"
            )
        self.condition_dropout, self.n_noise_draws = condition_dropout, n_noise_draws
        self.windows = windows
        self.convert_to_functional(plan_network, "plan_network", create_target_params=False)
        self._set_up_actor(actor_network)

    def _read_keys(self) -> list[NestedKey]:
        keys = [unravel_key(key) for key in super()._read_keys()]
        keys = [key for key in keys if key != unravel_key(self.plan_network.plan_key)]
        keys += self.plan_network.in_keys
        keys += [("next", unravel_key(key)) for key in self.plan_network.in_keys]
        keys += [("next", self.tensor_keys.done)]
        return [*keys, self.tensor_keys.return_rank] if self.plan_network.conditional else keys

    # -- the plans ----------------------------------------------------------------------------

    def plan_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-window loss ``[*B]`` and metrics."""
        batch, logged = self._read_windows(tensordict)
        with self.plan_network_params.to_module(self.plan_network):
            plan, valid, rank = self._plans(logged, self._first_steps(logged))
            draws = [self._denoising_error(plan, valid, rank) for _ in range(self.n_noise_draws)]
            denoising = torch.stack(draws).mean(0)
            fit, error = self._regression_error(logged)
        metrics = {"denoising_error": denoising.mean(), "regression_error": error.mean()}
        return (denoising + fit).reshape(batch), metrics

    def _told(self, rank: Tensor) -> Tensor:
        untold = torch.rand(rank.shape, device=rank.device) < self.condition_dropout
        return torch.where(untold, math.nan, rank)

    def _denoising_error(self, plan: Tensor, valid: Tensor, rank: Tensor) -> Tensor:
        """Mean over the entries that are asked for, ``[M]``."""
        network, schedule = self.plan_network, self.plan_network.schedule
        rows, n = plan.shape[:2]
        device = plan.device
        known = torch.nn.functional.one_hot(torch.randint(n, (rows,), device=device), n).bool()
        times = schedule.t_min + (1 - schedule.t_min) * torch.rand(rows, device=device)
        level = times.reshape(-1, 1, 1, 1)
        alpha, sigma = schedule.alpha(level), schedule.sigma(level)
        z = torch.randn_like(plan)
        noised = inpaint(alpha * plan + sigma * z, known, plan[:, :, 0])
        velocity = network.velocity(noised, known, times, self._told(rank))
        error = (velocity - (alpha * z - sigma * plan)).square().mean(-1)  # [M, n, 1 + H]
        asked = torch.cat([~known.unsqueeze(-1), valid.unsqueeze(1).expand(-1, n, -1)], -1)
        return (error * asked).sum((-2, -1)) / asked.sum((-2, -1))

    def _regression_error(self, logged: _Logged) -> tuple[Tensor, Tensor]:
        """Fit of mean and scale, and squared error of the first step, over all steps, ``[M]``."""
        rows, length = logged.ends.shape
        plan, valid, rank = self._plans(
            logged, torch.arange(length, device=logged.ends.device).expand(rows, -1)
        )
        regression = self.plan_network.regression
        mean = regression(plan[:, :, 0], self.plan_network.condition(self._told(rank)))
        residual, scale = plan[:, :, 1:] - mean, regression.scale
        # Two fits that share no gradient: of the mean by squares, of the scale by likelihood.
        fit = residual**2 + 0.5 * (residual.detach() / scale) ** 2 + scale.log()
        fit = (fit.mean((1, 3)) * valid).reshape(rows, -1).sum(-1)
        first = residual[:, :, 0].detach().square().mean((-2, -1))
        return fit / valid.reshape(rows, -1).sum(-1), first.reshape(rows, -1).mean(-1)

    # -- windows ------------------------------------------------------------------------------

    def _read_windows(self, tensordict: TensorDictBase) -> tuple[torch.Size, _Logged]:
        """Batch, and what of it is read, with the batch in one dimension and time in the next."""
        network, keys = self.plan_network, self.tensor_keys
        action, following = tensordict.get(keys.action), tensordict.get("next")
        dims = action.ndim - 2
        batch = action.shape[: dims - 1] if self.windows else action.shape[:dims]
        length = action.shape[dims - 1] if self.windows else 1
        ends = self._team_flag(following.get(keys.done), action).reshape(-1, length)
        rank = torch.full(ends.shape, math.nan, device=ends.device)
        if network.conditional:
            rank = tensordict[keys.return_rank].reshape(-1, length)
        observation, next_observation = (
            part.reshape(-1, length, *part.shape[-2:])
            for part in (network.observe(tensordict, dims), network.observe(following, dims))
        )
        return batch, _Logged(observation, next_observation, ends, rank)

    def _first_steps(self, logged: _Logged) -> Tensor:
        """Draw where each window begins, ``[M, 1]``."""
        length = logged.ends.shape[1]
        whole = max(1, length - self.plan_network.horizon + 1)
        latest = torch.where(logged.ends[:, -1:], length, whole)
        start = torch.rand(latest.shape, device=latest.device) * latest
        return start.long().clamp_max(length - 1)

    def _plans(self, logged: _Logged, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Plans from the steps ``start`` ``[M, S]``, which of their steps are logged, their ranks.

        Returns:
            ``[M * S, n, 1 + H, O]``, ``[M * S, H]`` and ``[M * S]``.
        """
        rows, length = logged.ends.shape
        horizon, device = self.plan_network.horizon, start.device
        row = torch.arange(rows, device=device).unsqueeze(1)
        steps = start.unsqueeze(-1) + torch.arange(horizon, device=device)  # [M, S, H]
        within = steps.clamp_max(length - 1)
        ended = logged.ends[row.unsqueeze(-1), within].long()
        valid = (steps < length) & (ended.cumsum(-1) - ended == 0)
        current = logged.observation[row, start]
        future = logged.next_observation[row.unsqueeze(-1), within]
        plan = self.plan_network.frame.encode(current, future)
        return plan.flatten(0, 1), valid.flatten(0, 1), logged.rank[row, start].flatten()

    # -- inverse dynamics ---------------------------------------------------------------------

    def inverse_loss(self, tensordict: TensorDictBase) -> Tensor:
        """Squared distance of what inverse dynamics tell to the logged actions, ``[*B]``."""
        network = self.plan_network
        dims = tensordict.get(self.tensor_keys.action).ndim - 2
        with torch.no_grad(), self.plan_network_params.to_module(network):
            change = network.frame.encode_step(
                network.observe(tensordict, dims), network.observe(tensordict.get("next"), dims)
            )
        distance = self.clone_loss(tensordict.copy().set(network.plan_key, change))
        return distance.mean(-1) if self.windows else distance

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_plan`` and ``loss_actor``, and when reduced the errors of the plans."""
        plan, metrics = self.plan_loss(tensordict)
        return self.reduce(
            {"loss_plan": plan, "loss_actor": self.inverse_loss(tensordict)}, **metrics
        )

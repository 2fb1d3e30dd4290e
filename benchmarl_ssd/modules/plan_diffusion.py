"""A diffusion model of what a team's agents will observe, and a planner for each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.modules.noise import VPNoiseSchedule
from benchmarl_ssd.modules.plan_denoiser import PlanDenoiser, PlanRegression
from benchmarl_ssd.modules.plan_frame import PlanFrame


class PlanDiffusion(TensorDictModuleBase):
    r"""Plans of a team, and as a TensorDict module: what each agent plans from what it observes.

    The model of the team's windows :math:`x` (see :class:`PlanFrame`) is trained to denoise
    :math:`x^t = \alpha_t x + \sigma_t z`. Known entries, the current observation of one agent, are
    never noised but filled in (inpainting): agent i plans with its own, and imagines those of its
    team mates along with everybody's future. So no decision of agent i depends on what another
    agent observes: execution is decentralised (Zhu et al., MADiff-D, arXiv 2305.17330).

    The velocity :math:`v = \alpha_t z - \sigma_t x` (Salimans and Ho, arXiv 2202.00512) is
    predicted around a regression, as in Karras et al. (arXiv 2206.00364): with the mean m and the
    deviation s of the planning agent's own changes given what it observes, 0 and 1 for all other
    entries,

    .. math:: v = \sigma_t \Bigl(\frac{\alpha_t (1 - s^2)}{u} r - m\Bigr) - \frac{s}{\sqrt u}
        F\Bigl(\frac{r}{\sqrt u}, t\Bigr), \quad r = x^t - \alpha_t m, \quad
        u = \alpha_t^2 s^2 + \sigma_t^2 .

    Were what remains Gaussian and unlike the team mates', the network F had nothing to do.

    Plans are drawn by DDIM (Song et al., arXiv 2010.02502), evenly in time, from noise of standard
    deviation ``temperature``, under classifier-free guidance (Ho and Salimans, arXiv 2207.12598)

    .. math:: v = v(x^t, \varnothing) + w \left(v(x^t, \rho) - v(x^t, \varnothing)\right)

    by the rank :math:`\rho \in [0, 1]` that the return is to have among those in the data.

    Reads the observations ``[*B, n, ...]`` and writes each agent's own first planned change in
    units of its scale, ``[*B, n, O]``. Noise comes from torch's global generator.

    Args:
        denoiser (PlanDenoiser): F, of plans with (1 + H) * O entries.
        regression (PlanRegression): m and s.
        frame (PlanFrame): of windows of H steps.
        observation_keys (sequence of NestedKey): entries that make up an observation.
        plan_key (NestedKey): where the planned change is written.
        conditional (bool): whether the model knows returns; else ``rank`` is not used.
        rank (float): rank that the return of a plan is to have, in [0, 1].
        guidance (float): w; 0 ignores the rank, 1 conditions on it, more exaggerates it.
        temperature (float): standard deviation of the first noise, 0 or more. 0 draws nothing:
            every agent always plans the same from the same observation.
        n_steps (int): denoising steps, at least 1.
        schedule (VPNoiseSchedule, optional): the noising process.

    Raises:
        ValueError: if an option is out of its range.

    Examples:
        >>> from tensordict import TensorDict
        >>> plan = PlanDiffusion.build(3, 4, 5, observation_keys=[("agents", "observation")])
        >>> data = TensorDict({"agents": {"observation": torch.zeros(8, 3, 4)}}, [8])
        >>> plan(data)["agents", "planned_change"].shape
        torch.Size([8, 3, 4])
        >>> plan.sample(torch.zeros(8, 3, 4)).shape  # of agents, by agents
        torch.Size([8, 3, 3, 6, 4])
    """

    def __init__(
        self,
        denoiser: PlanDenoiser,
        regression: PlanRegression,
        frame: PlanFrame,
        observation_keys: Sequence[NestedKey],
        plan_key: NestedKey = ("agents", "planned_change"),
        conditional: bool = True,
        rank: float = 0.95,
        guidance: float = 1.2,
        temperature: float = 0.5,
        n_steps: int = 5,
        schedule: VPNoiseSchedule | None = None,
    ) -> None:
        super().__init__()
        if not (0 <= rank <= 1 and guidance >= 0 and temperature >= 0 and n_steps >= 1):
            raise ValueError(
                "expected target_rank in [0, 1], guidance and temperature of at least 0 and "
                f"n_denoising_steps of at least 1, found {rank}, {guidance}, {temperature} and "
                f"{n_steps}"
            )
        self.denoiser, self.regression, self.frame = denoiser, regression, frame
        self.schedule = schedule or VPNoiseSchedule()
        self.conditional, self.rank, self.guidance = conditional, rank, guidance
        self.temperature, self.n_steps = temperature, n_steps
        self.plan_key = plan_key
        self.in_keys, self.out_keys = list(observation_keys), [plan_key]

    @classmethod
    def build(
        cls,
        n_agents: int,
        observation_dim: int,
        horizon: int,
        observation_keys: Sequence[NestedKey],
        width: int = 128,
        depth: int = 1,
        n_heads: int = 4,
        device: torch.device | str | None = None,
        **kwargs,
    ) -> PlanDiffusion:
        """Make the module together with a denoiser and a frame that fit it.

        Args:
            n_agents (int): number of agents n.
            observation_dim (int): entries O of one agent's observation.
            horizon (int): steps H that are planned, at least 1.
            observation_keys (sequence of NestedKey): entries that make up an observation.
            width (int): see :class:`PlanDenoiser`.
            depth (int): see :class:`PlanDenoiser`.
            n_heads (int): see :class:`PlanDenoiser`.
            device (torch.device, optional): where the parameters live.
            **kwargs: passed to :class:`PlanDiffusion`.

        Raises:
            ValueError: if an option is out of its range.
        """
        if horizon < 1:
            raise ValueError(f"expected a horizon of at least 1, found {horizon}")
        plan_dim = (1 + horizon) * observation_dim
        denoiser = PlanDenoiser(n_agents, plan_dim, width, depth, n_heads, device)
        regression = PlanRegression(n_agents, observation_dim, horizon, width, device)
        frame = PlanFrame(n_agents, observation_dim, horizon, device)
        return cls(denoiser, regression, frame, observation_keys, **kwargs)

    @property
    def horizon(self) -> int:
        """Steps that are planned."""
        return self.frame.change.shape[1]

    def observe(self, tensordict: TensorDictBase, batch_dims: int) -> Tensor:
        """Join the entries of the observations, ``[*B, n, O]`` with ``batch_dims`` of B."""
        entries = [tensordict.get(key).float() for key in self.in_keys]
        return torch.cat([entry.flatten(batch_dims + 1) for entry in entries], -1)

    @staticmethod
    def condition(rank: Tensor) -> Tensor:
        """Features ``[M, 2]`` of the ranks ``[M]`` that returns are to have, NaN for any."""
        return torch.stack([(~rank.isnan()).to(rank.dtype), 2 * rank.nan_to_num(0.5) - 1], -1)

    def expected(self, plan: Tensor, known: Tensor, rank: Tensor) -> Tensor:
        """Mean of the plans as far as the regression tells; arguments as in :meth:`velocity`."""
        mean = self.regression(plan[:, :, 0], self.condition(rank))
        mean = mean * known.to(plan.dtype)[..., None, None]
        return torch.cat([torch.zeros_like(plan[:, :, :1]), mean], 2)

    def velocity(
        self, plan: Tensor, known: Tensor, times: Tensor, rank: Tensor, mean: Tensor | None = None
    ) -> Tensor:
        """Predict the velocity of noised plans, with no guidance.

        No gradient reaches the regression.

        Args:
            plan (Tensor): noised plans, known entries clean, ``[M, n, 1 + H, O]``.
            known (Tensor): bool, whose current observations are given, ``[M, n]``.
            times (Tensor): noise times, ``[M]``.
            rank (Tensor): ranks of the returns, ``[M]``, NaN where none is told.
            mean (Tensor, optional): from :meth:`expected`, if that is known already.

        Returns:
            Tensor: ``[M, n, 1 + H, O]``.
        """
        mean = (self.expected(plan, known, rank) if mean is None else mean).detach()
        scale = torch.nn.functional.pad(self.regression.scale.detach(), (0, 0, 1, 0), value=1.0)
        scale = torch.where(known[..., None, None], scale, 1.0)
        level = times.reshape(-1, 1, 1, 1)
        alpha, sigma = self.schedule.alpha(level), self.schedule.sigma(level)
        residual = plan - alpha * mean
        variance = (alpha * scale) ** 2 + sigma**2
        # What is given is given as it is.
        unit = inpaint(residual / variance.sqrt(), known, plan[:, :, 0])
        correction = self.denoiser(
            unit.flatten(-2).transpose(0, 1),
            known.to(plan.dtype).transpose(0, 1).unsqueeze(-1),
            times.unsqueeze(-1),
            self.condition(rank),
        )
        correction = correction.transpose(0, 1).reshape(plan.shape)
        gaussian = sigma * (alpha * (1 - scale**2) / variance * residual - mean)
        return gaussian - scale / variance.sqrt() * correction

    def guided(
        self, plan: Tensor, known: Tensor, times: Tensor, means: Tensor | None = None
    ) -> Tensor:
        """Predict the velocity under guidance.

        Args:
            plan (Tensor): as in :meth:`velocity`.
            known (Tensor): likewise.
            times (Tensor): likewise.
            means (Tensor, optional): from :meth:`expectations`, if they are known already.

        Returns:
            Tensor: ``[M, n, 1 + H, O]``.
        """
        ranks, weights = self._passes()
        if means is None:
            means = self.expectations(plan, known)
        many = len(ranks)
        rank = times.new_tensor(ranks).repeat_interleave(plan.shape[0])
        parts = self.velocity(
            plan.repeat(many, 1, 1, 1), known.repeat(many, 1), times.repeat(many), rank, means
        ).chunk(many)
        total = weights[0] * parts[0]
        return total if many == 1 else total + weights[1] * parts[1]

    def expectations(self, plan: Tensor, known: Tensor) -> Tensor:
        """The regression's means for all passes of :meth:`guided`, one after the other."""
        ranks, _ = self._passes()
        told = [self.expected(plan, known, plan.new_full((plan.shape[0],), rank)) for rank in ranks]
        return torch.cat(told)

    def _passes(self) -> tuple[list[float], list[float]]:
        """Ranks, NaN for none, that the network is asked for, and the weights of its answers."""
        if not self.conditional or self.guidance == 0:
            return [math.nan], [1.0]
        if self.guidance == 1:
            return [self.rank], [1.0]
        return [self.rank, math.nan], [self.guidance, 1 - self.guidance]

    @torch.no_grad()
    def sample(self, observation: Tensor) -> Tensor:
        """Draw the plans that each agent makes for the whole team.

        Args:
            observation (Tensor): ``[*B, n, O]``.

        Returns:
            Tensor: in the frame's coordinates, ``[*B, n, n, 1 + H, O]``: agent i's plan for
            agent j at ``[..., i, j, :, :]``. There ``[..., i, i, 0, :]`` is what i observes.
        """
        *batch, n, size = observation.shape
        current = self.frame.encode_current(observation.reshape(-1, n, size))
        rows = current.shape[0] * n
        known = torch.eye(n, dtype=torch.bool, device=current.device).repeat(current.shape[0], 1)
        # What agent i observes is put into its own plan only, whatever lies in the other places.
        given = known.unsqueeze(-1) * current.reshape(rows, 1, size)
        shape = (rows, n, 1 + self.horizon, size)
        plan = torch.zeros(shape, device=current.device)
        if self.temperature > 0:
            plan = self.temperature * torch.randn(shape, device=current.device)
        plan = inpaint(plan, known, given)
        means = self.expectations(plan, known)
        schedule = self.schedule
        levels = torch.linspace(1.0, schedule.t_min, self.n_steps + 1, device=current.device)
        for step, (t, s) in enumerate(pairwise(levels), 1):
            velocity = self.guided(plan, known, t.expand(rows), means)
            clean = schedule.alpha(t) * plan - schedule.sigma(t) * velocity
            noise = schedule.sigma(t) * plan + schedule.alpha(t) * velocity
            last = step == self.n_steps
            plan = clean if last else schedule.alpha(s) * clean + schedule.sigma(s) * noise
            plan = inpaint(plan, known, given)
        return plan.reshape(*batch, n, *shape[1:])

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the first change that each agent plans for itself."""
        plans = self.sample(self.observe(tensordict, tensordict.batch_dims))
        own = plans[..., 1, :].diagonal(dim1=-3, dim2=-2).transpose(-1, -2)
        return tensordict.set(self.plan_key, own)


def inpaint(plan: Tensor, known: Tensor, current: Tensor) -> Tensor:
    """Fill known current observations in.

    Args:
        plan (Tensor): ``[M, n, 1 + H, O]``.
        known (Tensor): bool, whose current observations are given, ``[M, n]``.
        current (Tensor): current observations in the frame's coordinates, ``[M, n, O]``.

    Returns:
        Tensor: ``[M, n, 1 + H, O]``, the other entries unchanged.

    Examples:
        >>> known = torch.tensor([[True, False]])
        >>> inpaint(torch.zeros(1, 2, 3, 1), known, torch.ones(1, 2, 1))[..., 0].tolist()
        [[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]
    """
    first = torch.where(known.unsqueeze(-1), current, plan[:, :, 0])
    return torch.cat([first.unsqueeze(2), plan[:, :, 1:]], 2)

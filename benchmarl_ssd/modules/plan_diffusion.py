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
from benchmarl_ssd.modules.plan_denoiser import PlanDenoiser
from benchmarl_ssd.modules.plan_frame import PlanFrame


class PlanDiffusion(TensorDictModuleBase):
    r"""Plans of a team, and as a TensorDict module: what each agent plans from what it observes.

    The model of the team's windows :math:`x` (see :class:`PlanFrame`) is trained to denoise
    :math:`x^t = \alpha_t x + \sigma_t z`. Known entries, the current observation of one agent, are
    never noised but filled in (inpainting): agent i plans with its own, and imagines those of its
    team mates along with everybody's future. So no decision of agent i depends on what another
    agent observes: execution is decentralised (Zhu et al., MADiff-D, arXiv 2305.17330).

    Plans are drawn by DDIM (Song et al., arXiv 2010.02502), evenly in time, from noise of standard
    deviation ``temperature``, under classifier-free guidance (Ho and Salimans, arXiv 2207.12598)

    .. math:: v = v(x^t, \varnothing) + w \left(v(x^t, \rho) - v(x^t, \varnothing)\right)

    by the rank :math:`\rho \in [0, 1]` that the return is to have among those in the data.

    Reads the observations ``[*B, n, ...]`` and writes each agent's own first planned change in
    units of its scale, ``[*B, n, O]``. Noise comes from torch's global generator.

    Args:
        denoiser (PlanDenoiser): of plans with (1 + H) * O entries.
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
        frame: PlanFrame,
        observation_keys: Sequence[NestedKey],
        plan_key: NestedKey = ("agents", "planned_change"),
        conditional: bool = True,
        rank: float = 0.95,
        guidance: float = 1.2,
        temperature: float = 0.5,
        n_steps: int = 6,
        schedule: VPNoiseSchedule | None = None,
    ) -> None:
        super().__init__()
        if not (0 <= rank <= 1 and guidance >= 0 and temperature >= 0 and n_steps >= 1):
            raise ValueError(
                "expected target_rank in [0, 1], guidance and temperature of at least 0 and "
                f"n_denoising_steps of at least 1, found {rank}, {guidance}, {temperature} and "
                f"{n_steps}"
            )
        self.denoiser, self.frame = denoiser, frame
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
        width: int = 192,
        depth: int = 2,
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
        frame = PlanFrame(n_agents, observation_dim, horizon, device)
        return cls(denoiser, frame, observation_keys, **kwargs)

    @property
    def horizon(self) -> int:
        """Steps that are planned."""
        return self.frame.change.shape[1]

    def observe(self, tensordict: TensorDictBase, batch_dims: int) -> Tensor:
        """Join the entries of the observations, ``[*B, n, O]`` with ``batch_dims`` of B."""
        entries = [tensordict.get(key).float() for key in self.in_keys]
        return torch.cat([entry.flatten(batch_dims + 1) for entry in entries], -1)

    def velocity(self, plan: Tensor, known: Tensor, times: Tensor, rank: Tensor | None) -> Tensor:
        """Predict the velocity of noised plans, with no guidance.

        Args:
            plan (Tensor): noised plans, known entries clean, ``[M, n, 1 + H, O]``.
            known (Tensor): bool, whose current observations are given, ``[M, n]``.
            times (Tensor): noise times, ``[M]``.
            rank (Tensor, optional): ranks of the returns, ``[M]``, NaN where none is told.

        Returns:
            Tensor: ``[M, n, 1 + H, O]``.
        """
        told = torch.zeros_like(times) if rank is None else (~rank.isnan()).to(times.dtype)
        value = torch.zeros_like(times) if rank is None else 2 * rank.nan_to_num(0.5) - 1
        velocity = self.denoiser(
            plan.flatten(-2).transpose(0, 1),
            known.to(plan.dtype).transpose(0, 1).unsqueeze(-1),
            times.unsqueeze(-1),
            torch.stack([told, value], -1),
        )
        return velocity.transpose(0, 1).reshape(plan.shape)

    def guided(self, plan: Tensor, known: Tensor, times: Tensor) -> Tensor:
        """Predict the velocity under guidance; shapes as in :meth:`velocity`."""
        if not self.conditional or self.guidance == 0:
            return self.velocity(plan, known, times, None)
        rank = torch.full_like(times, self.rank)
        if self.guidance == 1:
            return self.velocity(plan, known, times, rank)
        both = self.velocity(
            torch.cat([plan, plan]),
            torch.cat([known, known]),
            torch.cat([times, times]),
            torch.cat([rank, torch.full_like(rank, math.nan)]),
        )
        with_rank, without = both.chunk(2)
        return without + self.guidance * (with_rank - without)

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
        rows = len(current) * n
        known = torch.eye(n, dtype=torch.bool, device=current.device).repeat(len(current), 1)
        # What agent i observes is put into its own plan only, whatever lies in the other places.
        given = known.unsqueeze(-1) * current.reshape(rows, 1, size)
        shape = (rows, n, 1 + self.horizon, size)
        plan = torch.zeros(shape, device=current.device)
        if self.temperature > 0:
            plan = self.temperature * torch.randn(shape, device=current.device)
        plan = inpaint(plan, known, given)
        schedule = self.schedule
        levels = torch.linspace(1.0, schedule.t_min, self.n_steps + 1, device=current.device)
        for t, s in pairwise(levels):
            velocity = self.guided(plan, known, t.expand(rows))
            clean = schedule.alpha(t) * plan - schedule.sigma(t) * velocity
            noise = schedule.sigma(t) * plan + schedule.alpha(t) * velocity
            last = s == levels[-1]
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

r"""Fitted Q evaluation: what a policy would return, from logged transitions alone.

The return is the one this package reports everywhere: the undiscounted sum of the team's rewards
up to the time limit H. That is a finite-horizon value, so the critic knows the time, and the time
limit ends it like a termination does:

.. math::
    Q_t(x, a) = E\big[ r + \gamma\, 1[\text{not terminated}]\, 1[t + 1 < H]\;
        Q_{t+1}(x', \pi(x')) \big] , \qquad
    \hat J = \frac1E \sum_e Q_0(x^e_0, \pi(x^e_0)),

with :math:`\gamma = 1` unless said otherwise. H is the longest logged episode; an episode that was
cut before it (truncated early) bootstraps, since the score would have gone on. A discounted critic
would rank policies by another number than their score, and one without a clock would credit a state
near the limit with rewards that no longer come.

Sources: Le, Voloshin, Yue, Batch Policy Learning under Constraints, ICML 2019 (FQE); Hao et al.,
Bootstrapping Fitted Q-Evaluation for Off-Policy Inference, ICML 2021 (resampling episodes).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from benchmarl_ssd.data.statistics import NO_SPREAD
from benchmarl_ssd.evaluation.transitions import TeamTransitions
from benchmarl_ssd.modules import StackedLinear

_FREQUENCIES = 4


@dataclass(frozen=True)
class FqeOptions:
    """How the fit is done.

    Args:
        steps: gradient steps, at least 1.
        members: fits on bootstrap samples of the episodes, at least 2.
        num_cells: widths of the hidden layers; none is a linear fit.
        batch_size: transitions per step and member, at least 1.
        lr: learning rate at the start, > 0; it falls to zero along a cosine.
        gamma: discount of the estimated return, in (0, 1].
        confidence: nominal coverage of the interval, in (0, 1).
        warm_up: share of the steps, in [0, 1), that fit the logged returns-to-go: the data's own
            values, from which the policy's are reached sooner than from nothing.
        target_rate: share of the way that the target network goes at each step, in (0, 1].
        seed: of initial weights, bootstrap and batches.

    Raises:
        ValueError: if an option is out of range.
    """

    steps: int = 5000
    members: int = 5
    num_cells: Sequence[int] = (128, 128)
    batch_size: int = 256
    lr: float = 3e-3
    gamma: float = 1.0
    confidence: float = 0.95
    warm_up: float = 0.1
    target_rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("steps", 1), ("members", 2), ("batch_size", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"expected {name} of at least {low}, found {getattr(self, name)}")
        for name in ("lr", "gamma", "confidence", "target_rate"):
            high = math.inf if name == "lr" else 1.0
            if not 0 < getattr(self, name) <= high:
                raise ValueError(f"expected {name} in (0, {high:g}], found {getattr(self, name)}")
        if self.confidence == 1:
            raise ValueError("expected confidence in (0, 1), found 1.0")
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"expected warm_up in [0, 1), found {self.warm_up}")


@dataclass(frozen=True)
class FqeEstimate:
    """What a policy is estimated to return.

    Args:
        value: the estimate: mean over members, each over all initial states.
        interval: bootstrap interval at the options' confidence.
        members: the members' values on their own bootstrap samples, ``[M]``.
        horizon: the time limit H that the return adds up to, in steps.
        initial_states: how many initial states the mean is over.
    """

    value: float
    interval: tuple[float, float]
    members: tuple[float, ...]
    horizon: int
    initial_states: int


def fit_fqe(
    data: TeamTransitions,
    next_actions: Tensor,
    first_actions: Tensor,
    options: FqeOptions | None = None,
) -> FqeEstimate:
    r"""Estimate a policy's return by fitted Q evaluation.

    M critics are fitted at once, each to its own sample of the episodes with replacement and to
    its own targets. The interval is :math:`\hat J \pm t_{M-1} s`, s the standard deviation of the
    members' values, each averaged over its own sample's initial states, and t Student's quantile.
    It covers what the data leaves open by chance, not the critics' bias where the policy goes
    where the data never was.

    Args:
        data: the logged transitions.
        next_actions: the policy's encoded joint action after each transition, ``[T, a]``.
        first_actions: its encoded joint action at the start of each episode, ``[E, a]``.
        options: how to fit; the defaults if not given.

    Returns:
        The estimate and its interval.
    """
    options = options or FqeOptions()
    fit = _Fit(data, next_actions, first_actions, options)
    with torch.enable_grad():
        for step in range(options.steps):
            fit.step(step)
    value, members = fit.values()
    spread = members.std().item() * student_quantile(options.confidence, len(members) - 1)
    return FqeEstimate(
        value=value,
        interval=(value - spread, value + spread),
        members=tuple(members.tolist()),
        horizon=data.horizon,
        initial_states=len(data.starts),
    )


class _Critics(nn.Module):
    """M independent perceptrons with layer norm, ``[M, B, in]`` to ``[M, B]``."""

    def __init__(self, members: int, sizes: Sequence[int], device: torch.device) -> None:
        super().__init__()
        layers = [StackedLinear(members, i, o, device=device) for i, o in pairwise(sizes)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x)
            # Bounds how fast values grow off the data, which is where FQE diverges.
            x = silu(layer_norm(x, x.shape[-1:]))
        return self.layers[-1](x).squeeze(-1)


class _Fit:
    """The critics, their targets and their batches.

    The networks give the standardised mean reward per remaining step; Q is that times the
    (discounted) number of steps that remain. It keeps targets of one scale at all times, makes the
    value at the limit exactly zero, and lets targets be held to what the rewards allow.
    """

    def __init__(
        self,
        data: TeamTransitions,
        next_actions: Tensor,
        first_actions: Tensor,
        options: FqeOptions,
    ) -> None:
        self.data, self.options = data, options
        self.next_actions, self.first_actions = next_actions, first_actions
        self.generator = torch.Generator().manual_seed(options.seed)
        powers = torch.tensor(options.gamma, dtype=torch.float64) ** torch.arange(data.horizon)
        #: weight of the steps that remain at each time 0..H, ``[H + 1]``
        self.remaining = torch.cat([torch.zeros(1).double(), powers.cumsum(0)]).flip(0).float()
        per_step = data.returns_to_go() / (data.horizon - data.step)
        self.mean = data.reward.mean()
        self.scale = per_step.std(correction=0)
        least = NO_SPREAD * data.reward.abs().max()
        self.scale = self.scale.clamp_min(least.clamp_min(torch.finfo(least.dtype).tiny))
        self.logged = (per_step - self.mean) / self.scale
        # What the mean reward of the remaining steps can be; after a termination they pay nothing.
        self.low, self.high = data.reward.min().item(), data.reward.max().item()
        if bool(data.terminated.any()):
            self.low, self.high = min(self.low, 0.0), max(self.high, 0.0)
        sizes = (len(data.features(data.starts[:1])[0]), first_actions.shape[-1])
        inputs = sum(sizes) + 1 + 2 * _FREQUENCIES
        shape = [inputs, *options.num_cells, 1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            self.critics = _Critics(options.members, shape, torch.device("cpu")).to(data.device)
            self.targets = _Critics(options.members, shape, torch.device("cpu")).to(data.device)
        self.targets.load_state_dict(self.critics.state_dict())
        self.targets.requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.critics.parameters(), lr=options.lr)
        episodes = len(data.starts)
        #: each member's episodes, drawn with replacement, ``[M, E]``
        self.sample = torch.randint(episodes, (options.members, episodes), generator=self.generator)
        self._reach = data.lengths[self.sample].cumsum(1)

    def step(self, index: int) -> None:
        """Gradient step ``index`` of all members."""
        data, options = self.data, self.options
        rows = self._rows()
        time = data.step[rows]
        warming_up = index < options.warm_up * options.steps
        target = self.logged[rows].to(data.device) if warming_up else self._targets(rows, time)
        predicted = self._standardised(self.critics, data.features(rows), data.actions(rows), time)
        # Summed over members, so that each is fitted as if it were alone.
        loss = (predicted - target).square().mean(1).sum()
        for group in self.optimizer.param_groups:
            group["lr"] = options.lr * 0.5 * (1 + math.cos(math.pi * index / options.steps))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(
                self.targets.parameters(), self.critics.parameters(), strict=True
            ):
                slow.lerp_(fast, 1.0 if warming_up else options.target_rate)

    @torch.no_grad()
    def values(self) -> tuple[float, Tensor]:
        """Mean over all initial states and members; each member's over its own sample, ``[M]``."""
        parts = []
        for rows, acted in zip(
            self.data.starts.split(4096), self.first_actions.split(4096), strict=True
        ):
            many = (self.options.members, *rows.shape)
            x = self.data.features(rows).expand(*many, -1)
            time = torch.zeros(many, dtype=torch.long)
            action = acted.to(self.data.device).expand(*many, -1)
            parts.append(self._q(self.critics, x, action, time).cpu())
        value = torch.cat(parts, 1).double()
        return value.mean().item(), value.gather(1, self.sample).mean(1)

    def _rows(self) -> Tensor:
        """Transitions of each member's sample, uniformly, ``[M, B]``."""
        shape = (self.options.members, self.options.batch_size)
        drawn = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        place = (drawn * self._reach[:, -1:]).long()
        at = torch.searchsorted(self._reach, place, right=True)
        episode = self.sample.gather(1, at)
        offset = place - (self._reach.gather(1, at) - self.data.lengths[episode])
        return self.data.starts[episode] + offset

    @torch.no_grad()
    def _targets(self, rows: Tensor, time: Tensor) -> Tensor:
        data = self.data
        x = data.features(rows, following=True)
        following = self._q(self.targets, x, self.next_actions[rows].to(data.device), time + 1)
        goes_on = (~data.terminated[rows]).to(data.device)  # at H, Q itself is zero
        value = data.reward[rows].to(data.device) + self.options.gamma * goes_on * following
        return (value / self.remaining[time].to(data.device) - self.mean) / self.scale

    def _q(self, critics: _Critics, x: Tensor, action: Tensor, time: Tensor) -> Tensor:
        last = self.data.horizon - 1
        per_step = self._standardised(critics, x, action, time.clamp_max(last))
        per_step = (self.mean + self.scale * per_step).clamp(self.low, self.high)
        return self.remaining[time].to(per_step.device) * per_step

    def _standardised(self, critics: _Critics, x: Tensor, action: Tensor, time: Tensor) -> Tensor:
        share = (time / self.data.horizon).unsqueeze(-1).to(x.device)
        waves = math.pi * share * torch.arange(1, _FREQUENCIES + 1, device=x.device)
        clock = [2 * share - 1, waves.cos(), waves.sin()]
        return critics(torch.cat([x, action, *clock], -1))


def student_quantile(confidence: float, degrees: int) -> float:
    """Two-sided quantile of Student's t distribution, found by bisection on its integral.

    Args:
        confidence: probability between minus and plus the quantile, in (0, 1).
        degrees: degrees of freedom, at least 1.

    Examples:
        >>> [round(student_quantile(0.95, degrees), 2) for degrees in (1, 4, 100)]
        [12.71, 2.78, 1.98]
    """
    # With x = sqrt(n) tan(u) the density is cos(u)^(n - 1) on (-pi/2, pi/2).
    angle = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * math.pi / 2
    mass = angle.cos() ** (degrees - 1)
    reached = mass.cumsum(0) / mass.sum()
    at = int(torch.searchsorted(reached, confidence))
    return math.sqrt(degrees) * math.tan(angle[at].item())

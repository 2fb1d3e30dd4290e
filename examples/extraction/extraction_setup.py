"""The settings of the extraction that are compared, and what they are compared on."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor, nn

from benchmarl_ssd.algorithms import SsdConfig
from benchmarl_ssd.modules import ConditionalScore, MixtureScore, PreconditionedScoreNetwork
from benchmarl_ssd.modules.noise import NoiseWindow
from benchmarl_ssd.objectives import ScoreMatchingLoss, SsdLoss

OBSERVATION, ACTION = ("agents", "observation"), ("agents", "action")
DEFAULT = SsdConfig.get_from_yaml()
WINDOW = (DEFAULT.t_min, DEFAULT.t_max, DEFAULT.t_final, DEFAULT.t_width, DEFAULT.annealing)
ALL, SMALL = (0.02, 0.98, 0.98, 1.0, 0.0), (0.02, 0.2, 0.2, 1.0, 0.0)
SETTINGS = {
    "sigma2, all t (SRPO)": ("sigma2", ALL),
    "one, all t": ("one", ALL),
    "alpha/sigma, all t": ("alpha_over_sigma", ALL),
    "sigma2, t < 0.2": ("sigma2", SMALL),
    "alpha/sigma, t < 0.2": ("alpha_over_sigma", SMALL),
    "sigma2, sliding": ("sigma2", WINDOW),
    "alpha/sigma, sliding (default)": (DEFAULT.weighting, WINDOW),
}
NARROW, ERROR = 0.05, 0.1


class Free(nn.Module):
    """A team of its own in every row of the batch, whatever it observes."""

    def __init__(self, rows: int, n_agents: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(rows, n_agents, 1))

    def forward(self, observation: Tensor) -> Tensor:
        return self.weight.tanh()


class Erring(MixtureScore):
    """The exact noise prediction plus a smooth field of RMS ``ERROR``, another in every row."""

    def __init__(self, modes: Tensor, noise: float, rows: int) -> None:
        super().__init__(modes, noise)
        self.register_buffer("wave", torch.randn(2, rows, 16))
        self.register_buffer("phase", 2 * math.pi * torch.rand(rows, 16))

    def denoise(self, context, noised: Tensor, t: Tensor) -> Tensor:
        level = self.schedule.log_noise_to_signal(t)
        angle = noised * self.wave[0] + level * self.wave[1] + self.phase
        field = angle.cos().mean(-1, keepdim=True) * math.sqrt(2 * 16)
        return super().denoise(context, noised, t) + ERROR * field


class Plain(PreconditionedScoreNetwork):
    """The same network without a regression: around zero, with the scale of the action space."""

    def encode(self, condition: Tensor, prefix: Tensor, mask: Tensor):
        context = super().encode(condition, prefix, mask)
        return replace(context, mean=0 * context.mean, scale=torch.ones_like(context.scale))


def make_loss(score, setting, rows=1, n_agents=1, **options) -> SsdLoss:
    """Return the extraction alone: free actors, a critic that is not listened to."""
    weighting, window = setting
    joint = TensorDictModule(lambda action: action.flatten(-2), [ACTION], ["joint"])
    qvalue = TensorDictModule(nn.Linear(n_agents, 1), ["joint"], ["state_action_value"])
    value = TensorDictModule(nn.Linear(1, 1), [OBSERVATION], ["state_value"])
    score = ConditionalScore(score, n_agents, 1, [OBSERVATION])
    actor = TensorDictModule(Free(rows, n_agents), [OBSERVATION], [ACTION])
    options = {
        "beta": 0.0,
        "pretrain_steps": 0,
        "num_qvalue_nets": 1,
        "weighting": weighting,
        **options,
    }
    critic = TensorDictSequential(joint, qvalue)
    return SsdLoss(actor, score, critic, value, window=NoiseWindow(*window), **options)


def rows_of(observation: Tensor) -> TensorDict:
    return TensorDict({"agents": {"observation": observation}}, observation.shape[:1])


def two_modes(n_agents: int) -> Tensor:
    return torch.tensor([0.8, -0.8]).reshape(2, 1, 1).expand(2, n_agents, 1).contiguous()


def stages(setting) -> tuple[float, ...]:
    """Shares of the extraction at which a window is looked at: one, if it does not slide."""
    annealing = setting[1][-1]
    return (0.0, annealing / 2, 1.0) if annealing else (1.0,)


def fitted(network: type, steps: int = 400) -> tuple:
    """Fit a score to narrow behaviour around a nonlinear function of the observation."""
    torch.manual_seed(0)
    mean = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1), nn.Tanh())
    mean.requires_grad_(False)
    mean[0].weight.mul_(4), mean[2].weight.mul_(4)
    score = ConditionalScore(network(1, 4, 0, 1), 1, 1, [OBSERVATION])
    loss = ScoreMatchingLoss(score)
    optimizer = torch.optim.Adam(loss.parameters(), DEFAULT.score_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        data = rows_of(2 * torch.rand(256, 1, 4) - 1)
        data[ACTION] = mean(data[OBSERVATION]) + NARROW * torch.randn(256, 1, 1)
        optimizer.zero_grad()
        loss(data)["loss_score"].backward()
        optimizer.step()
        schedule.step()
    loss.score_network_params.to_module(score)
    observation = 2 * torch.rand(128, 1, 4) - 1
    return score.network.requires_grad_(False), mean(observation), observation


def resting(grid: Tensor, pulls: Tensor) -> list[float]:
    """Where the pull changes from up to down: an action to its left rises, to its right falls."""
    at = ((pulls[:-1] > 0) & (pulls[1:] <= 0)).nonzero().flatten()
    share = pulls[at] / (pulls[at] - pulls[at + 1])
    return [round(x, 2) + 0.0 for x in (grid[at] + share * (grid[at + 1] - grid[at])).tolist()]

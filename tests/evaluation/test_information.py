"""The integral over noise levels, with exact predictions: the information must come out."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarl_ssd.environments.coordination.bandit import joint_modes
from benchmarl_ssd.evaluation.information import (
    NoiseLevels,
    conditional_information,
    prefix_pair,
    time_at,
)
from benchmarl_ssd.modules import MixtureScore, VPNoiseSchedule


def played(modes: torch.Tensor, noise: float, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    action = modes[torch.randint(len(modes), (count,), generator=generator)]
    return action + noise * torch.randn(action.shape, generator=generator)


@pytest.mark.parametrize(("n", "k"), [(2, 2), (3, 3), (4, 2), (8, 2), (8, 4)])
@pytest.mark.parametrize("resolution", [0.01, 0.05])
def test_joint_modes_share_the_log_of_their_number(n, k, resolution):
    modes = joint_modes(n, k).unsqueeze(-1).float()
    action = played(modes, 0.05, 3000)
    score = MixtureScore(modes, 0.05)
    pair = prefix_pair(score, torch.zeros(n, 3000, 0), action)
    levels = NoiseLevels(resolution)
    targets = action.transpose(0, 1)
    generator = torch.Generator().manual_seed(2)
    arguments = (score.schedule, 16, generator)
    found, level, squared = conditional_information(pair, targets, levels, *arguments)
    adapted = levels.adapted(level, squared)
    better, _, _ = conditional_information(pair, targets, adapted, *arguments)
    errors = []
    for nats in (found, better):
        total = nats.sum(0)
        errors.append(total.std() / len(total) ** 0.5)
        assert abs(total.mean() - (n - 1) * math.log(k)) < 3.5 * errors[-1]
        assert errors[-1] < 0.01 * (n - 1) + 0.02
        assert (nats[0] == 0).all()  # nobody is before the first
    assert errors[1] < errors[0]


def test_independent_agents_share_nothing():
    levels = torch.tensor([-0.7, 0.7])
    modes = torch.cartesian_prod(levels, levels, levels).unsqueeze(-1)
    action = played(modes, 0.1, 200)
    score = MixtureScore(modes, 0.1)
    pair = prefix_pair(score, torch.zeros(3, 200, 0), action)
    found, _, _ = conditional_information(
        pair, action.transpose(0, 1), NoiseLevels(), score.schedule
    )
    assert found.abs().max() < 1e-3


@pytest.mark.parametrize("resolution", [0.05, 0.5])
@pytest.mark.parametrize("residual", [0.3, 0.0])
def test_gaussian_agents_share_what_the_resolution_leaves(resolution, residual):
    # a_2 = a_1 + residual * xi; residual 0 is an exact coupling, whose information has no bound
    rows, schedule = 4000, VPNoiseSchedule()
    generator = torch.Generator().manual_seed(3)
    first = 0.5 * torch.randn(rows, 1, generator=generator)
    action = (first + residual * torch.randn(rows, 1, generator=generator)).unsqueeze(0)

    def pair(noised, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        marginal, conditional = 0.25 + residual**2, residual**2
        return (
            sigma * noised / (alpha**2 * marginal + sigma**2),
            sigma * (noised - alpha * first) / (alpha**2 * conditional + sigma**2),
        )

    found, _, _ = conditional_information(
        pair, action, NoiseLevels(resolution, 100.0), schedule, 32, generator
    )
    variances = (0.25 + residual**2 + resolution**2, residual**2 + resolution**2)
    expected = 0.5 * math.log(variances[0] / variances[1])
    assert abs(found.mean() - expected) < 3.5 * found.std() / rows**0.5
    assert found.std() / rows**0.5 < 0.02


def test_weights_integrate_whatever_the_density():
    generator = torch.Generator().manual_seed(4)
    for density in (None, torch.tensor([1.0, 10.0, 0.1, 3.0])):
        level, weight = NoiseLevels(0.1, 10.0, density).draw(200, 400, generator)
        assert level.min() >= math.log(0.1) - 1e-5
        assert level.max() <= math.log(10.0) + 1e-5
        integral = (weight * level.square()).sum(0).mean()
        assert integral.item() == pytest.approx(2 / 3 * math.log(10.0) ** 3, rel=2e-3)


def test_times_have_the_levels_asked_for():
    for schedule in (VPNoiseSchedule(), VPNoiseSchedule(beta_min=3.0, beta_max=3.0)):
        level = torch.linspace(-4.6, 0.9, 50, dtype=torch.float64)
        found = schedule.log_noise_to_signal(time_at(schedule, level))
        torch.testing.assert_close(found, level)


@pytest.mark.parametrize("bad", [(0.0, 1.0), (2.0, 1.0), (0.1, 1000.0)])
def test_ranges_that_make_no_sense(bad):
    with pytest.raises(ValueError, match=f"found resolution {bad[0]} and coarsest {bad[1]}"):
        NoiseLevels(*bad)
    with pytest.raises(ValueError, match="positive density"):
        NoiseLevels(density=torch.tensor([1.0, 0.0]))

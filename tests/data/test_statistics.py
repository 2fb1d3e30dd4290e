"""Statistics of rewards."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarl_ssd.data.statistics import downside, sample_rows


def test_downside_of_gaussian_rewards_is_one():
    rewards = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    assert downside(rewards) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_downside_of_rare_rewards_is_their_odds(share: float):
    """Of rewards 1 with probability p, else 0: the mean is sqrt(p / (1 - p)) deviations up."""
    rewards = (torch.arange(10_000) < share * 10_000).float()
    odds = (share / (1 - share)) ** 0.5
    assert downside(rewards) == pytest.approx(max(odds / 2.665, odds**2), rel=1e-3)
    assert downside(-rewards) == pytest.approx(max(1 / odds / 2.665, 1.0), rel=1e-3)


def test_downside_sees_rare_catastrophes():
    """Rarer than one in a hundred, -100 among 0: no quantile sees them, the shortfall does."""
    rewards = torch.zeros(10_000)
    rewards[:50] = -100.0
    assert downside(rewards) == pytest.approx(
        49.5 / 2.665 / rewards.double().std(correction=0).item()
    )
    assert downside(rewards) > 2.5


def test_downside_of_equal_rewards_is_a_gaussians():
    assert downside(torch.full((100,), 3.0)) == 1.0
    assert downside(torch.tensor([3.0])) == 1.0


@given(st.floats(-100, 100), st.floats(0.1, 10), st.integers(0, 100))
def test_downside_does_not_depend_on_scale_and_offset(offset: float, scale: float, seed: int):
    rewards = torch.randn(50, generator=torch.Generator().manual_seed(seed)).double()
    assert downside(scale * rewards + offset) == pytest.approx(downside(rewards))


@given(st.integers(0, 3000), st.integers(1, 1000))
def test_sampled_rows_are_distinct_ascending_and_the_same_each_time(total: int, most: int):
    rows = sample_rows(total, most)
    assert len(rows) == min(total, most)
    assert (rows.diff() > 0).all()
    if len(rows):
        assert rows[0] >= 0
        assert rows[-1] < total
    assert rows.equal(sample_rows(total, most))


def test_sampled_rows_are_of_all_steps_of_episodes_as_long_as_the_stride():
    steps = sample_rows(25 * 4000, 4000) % 25
    assert steps.bincount(minlength=25).min() > 100  # 160 each are expected

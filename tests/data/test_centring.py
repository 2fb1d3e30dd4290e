"""Rewards without the constant of all values, on chains that are solved exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarl_ssd.data.centring import centred_rewards


def values(reward, terminated, following, gamma):
    """What every transition is worth where each is followed by one other, for ever or to the end.

    Args:
        reward: ``[T]``.
        terminated: ``[T]``, whether nothing follows.
        following: which transition follows, ``[T]``.
        gamma: the discount.
    """
    total = len(reward)
    next_of = torch.zeros(total, total, dtype=torch.float64)
    next_of[torch.arange(total), following] = gamma * (~terminated).double()
    return torch.linalg.solve(torch.eye(total, dtype=torch.float64) - next_of, reward)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 1000), st.floats(-1e4, 1e4), st.floats(0.0, 0.999), st.sampled_from([0, 0.1, 1])
)
def test_all_values_are_lower_by_one_constant(seed, offset, gamma, ends):
    """So that no comparison of actions, states or policies changes."""
    generator = torch.Generator().manual_seed(seed)
    reward = offset + torch.randn(30, 2, 1, generator=generator, dtype=torch.float64)
    terminated = torch.rand(30, 1, generator=generator) < ends
    following = torch.randint(0, 30, (30,), generator=generator)  # time limits cut anywhere
    new = centred_rewards(reward, terminated, gamma)
    assert new.mean().item() == pytest.approx(0, abs=1e-8 * (1 + abs(offset)))
    args = terminated.squeeze(-1), following, gamma
    lower = values(reward.mean((1, 2)), *args) - values(new.mean((1, 2)), *args)
    share = terminated.double().mean().item()
    constant = reward.mean().item() / (1 - gamma * (1 - share))
    torch.testing.assert_close(lower, torch.full_like(lower, constant), atol=1e-6, rtol=1e-9)


@pytest.mark.parametrize("ends", [False, True])
def test_a_constant_added_to_rewards_changes_nothing_where_lengths_are_equal(ends):
    reward, flag = torch.randn(100, 3, 1), torch.full((100, 1), ends)
    shifted = centred_rewards(reward.double() + 5e5, flag, 0.99)
    torch.testing.assert_close(shifted, centred_rewards(reward.double(), flag, 0.99))


def test_agents_keep_their_differences_and_the_dtype():
    reward = torch.tensor([[[1.0], [3.0]], [[5.0], [3.0]]])
    new = centred_rewards(reward, torch.tensor([[False], [True]]), 0.5)
    assert new.dtype == torch.float32
    # c = 3 / (1 - 0.25) = 4: 2 less where more follows, 4 less at the end.
    assert new.flatten().tolist() == [-1.0, 1.0, 1.0, -1.0]


def test_values_without_a_bound_are_refused():
    reward, never = torch.ones(4, 1, 1), torch.zeros(4, 1, dtype=torch.bool)
    for gamma in (1.0, 1.5, -0.1):
        with pytest.raises(ValueError, match=r"expected a gamma in \[0, 1\)"):
            centred_rewards(reward, never, gamma)
    assert centred_rewards(reward, ~never, 1.0).abs().max() == 0

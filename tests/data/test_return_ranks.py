from __future__ import annotations

import torch

from benchmarl_ssd.data.return_ranks import return_ranks


def brute_force(reward, episode):
    reward, episode = reward.tolist(), episode.tolist()
    steps, to_go = [], []
    for row, name in enumerate(episode):
        steps.append(row - episode.index(name))
        rest = [r for r, e in zip(reward[row:], episode[row:], strict=True) if e == name]
        to_go.append(round(sum(rest), 6))
    ranks = []
    for step, mine in zip(steps, to_go, strict=True):
        others = [g for s, g in zip(steps, to_go, strict=True) if s == step]
        ranks.append((sum(g < mine for g in others) + 0.5 * others.count(mine)) / len(others))
    return torch.tensor(ranks)


def test_ranks_equal_brute_force():
    torch.manual_seed(0)
    for ties in (False, True):
        lengths = torch.randint(1, 9, (40,))
        episode = torch.arange(40).mul(3).repeat_interleave(lengths)
        reward = torch.randint(0, 3, (len(episode),)).float() if ties else torch.randn(len(episode))
        expected = brute_force(reward.double(), episode)
        torch.testing.assert_close(return_ranks(reward, episode), expected)


def test_equal_returns_are_in_the_middle_whatever_they_sum_over():
    episode = torch.arange(30_000) // 3
    assert (return_ranks(torch.full((30_000,), 0.1), episode) == 0.5).all()
    assert (return_ranks(torch.full((30_000, 1), 1e6), episode) == 0.5).all()


def test_ranks_are_uniform_at_every_step():
    torch.manual_seed(0)
    rank = return_ranks(torch.randn(100_000) + 20, torch.arange(100_000) // 25).reshape(-1, 25)
    for quantile in (0.1, 0.5, 0.9):
        assert (rank.quantile(quantile, 0) - quantile).abs().max() < 0.001

"""Scores against closed forms, and the structure of their conditioning."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict

from benchmarl_ssd.modules import ConditionalScore, MixtureScore, StackedLinear, VPNoiseSchedule
from benchmarl_ssd.objectives import ScoreMatchingLoss

OBSERVATION = ("agents", "observation")


def test_stacked_layers_are_independent_linear_layers():
    torch.manual_seed(0)
    layer, x = StackedLinear(3, 5, 2), torch.randn(3, 4, 7, 5)
    for agent in range(3):
        expected = x[agent] @ layer.weight[agent] + layer.bias[agent]
        torch.testing.assert_close(layer(x)[agent], expected)


@pytest.mark.parametrize("joint", [False, True])
def test_mixture_score_is_the_gradient_of_the_noised_log_density(joint):
    torch.manual_seed(0)
    modes, noise, schedule = torch.rand(3, 2, 2).double() * 2 - 1, 0.2, VPNoiseSchedule()
    weights = torch.tensor([0.5, 0.3, 0.2]).double()
    net = MixtureScore(modes, noise, weights, joint=joint)
    prefix = torch.rand(5, 4).double() * 2 - 1
    mask = torch.zeros(1 if joint else 2, 1, 4).double()
    if not joint:
        mask[1, 0, :2] = 1  # agent 1 is given agent 0's action
    context = net.encode(torch.zeros(mask.shape[0], 5, 0), prefix, mask)
    dim = 4 if joint else 2
    for level in (0.05, 0.4, 0.9):
        t = torch.tensor(level).double()
        noised = torch.randn(mask.shape[0], 1, 5, dim).double().requires_grad_()
        times = t.expand(mask.shape[0], 1, 5, 1)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        centres = modes.reshape(3, 1, 4) if joint else modes  # [K, factor, dim]
        log_density = 0.0
        for factor in range(mask.shape[0]):
            log_w = weights.log().expand(5, 3).clone()
            if factor == 1:
                log_w = log_w - ((prefix[:, None, :2] - modes[:, 0]) ** 2).sum(-1) / (2 * noise**2)
            log_w = log_w.log_softmax(-1)
            offset = noised[factor, 0, :, None] - alpha * centres[:, factor]
            variance = alpha**2 * noise**2 + sigma**2
            log_density = (
                log_density
                + torch.logsumexp(log_w - (offset**2).sum(-1) / (2 * variance), -1).sum()
            )
        (score,) = torch.autograd.grad(log_density, noised)
        torch.testing.assert_close(net.denoise(context, noised, times), -sigma * score)


@pytest.mark.parametrize(
    ("order", "given"),
    [("fixed", [[0, 0, 0], [1, 0, 0], [1, 1, 0]]), ("reversed", [[0, 1, 1], [0, 0, 1], [0, 0, 0]])],
)
def test_prefix_mask(order, given):
    score = ConditionalScore.build(3, 2, 4, [OBSERVATION], order=order)
    mask = score.prefix_mask()
    assert mask.shape == (3, 1, 6)
    assert mask[:, 0, ::2].tolist() == given
    assert torch.equal(mask[..., ::2], mask[..., 1::2])


def test_random_order_gives_every_permutation():
    torch.manual_seed(0)
    mask = ConditionalScore.build(3, 1, 4, [OBSERVATION], order="random").prefix_mask(600)
    ranks = mask.sum(-1).transpose(0, 1)
    counts = torch.unique(ranks, dim=0, return_counts=True)[1]
    assert len(counts) == 6
    assert counts.min() > 60
    assert torch.equal(ranks.sort(-1).values, torch.arange(3.0).expand(600, 3))


@pytest.mark.parametrize("decomposition", ["sequential", "marginal"])
def test_a_factor_reads_nothing_but_its_prefix(decomposition):
    torch.manual_seed(0)
    score = ConditionalScore.build(3, 2, 12, [OBSERVATION], decomposition=decomposition)
    data = TensorDict(
        {
            "agents": {
                "observation": torch.randn(4, 3, 4),
                "action": torch.rand(4, 3, 2),
                "noised_action": torch.randn(4, 3, 2),
            },
            "noise_time": torch.rand(4, 3, 1) * 0.9 + 0.05,
        },
        [4],
    )
    before = score(data.clone())["agents", "noise"]
    for changed in range(3):
        other = data.clone()
        other["agents", "action"][:, changed] += 0.3
        after = score(other)["agents", "noise"]
        for agent in range(3):
            reads = decomposition == "sequential" and changed < agent
            assert torch.equal(before[:, agent], after[:, agent]) != reads
        # and another agent's noised action is no input at all
        other = data.clone()
        other["agents", "noised_action"][:, changed] += 0.3
        after = score(other)["agents", "noise"]
        for agent in range(3):
            assert torch.equal(before[:, agent], after[:, agent]) == (agent != changed)


def test_own_observation_as_condition():
    torch.manual_seed(0)
    score = ConditionalScore.build(
        2, 1, 4, [OBSERVATION], decomposition="marginal", condition="observation"
    )
    data = TensorDict({"agents": {"observation": torch.randn(5, 2, 4)}}, [5])
    action = torch.zeros(5, 2, 1)
    before = score.encode(data, action).mean.clone()
    data["agents", "observation"][:, 1] += 1
    after = score.encode(data, action).mean
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"decomposition": "chain"},
        {"order": "sorted"},
        {"condition": "none"},
        {"decomposition": "joint", "condition": "observation"},
    ],
)
def test_bad_options_are_errors(kwargs):
    with pytest.raises(ValueError, match="expected"):
        ConditionalScore.build(2, 1, 4, [OBSERVATION], **kwargs)


def train_score(actions, score, steps=1500, batch=256, lr=3e-3):
    loss = ScoreMatchingLoss(score, n_noise_draws=2)
    params = list(loss.score_network_params.parameters())
    optimizer = torch.optim.Adam(params, lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(actions), (batch,))
        n = actions.shape[1]
        data = TensorDict(
            {"agents": {"action": actions[rows], "observation": torch.zeros(batch, n, 1)}}, [batch]
        )
        optimizer.zero_grad()
        loss(data)["loss_score"].backward()
        torch.nn.utils.clip_grad_norm_(params, 5)
        optimizer.step()
    return score


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_learned_scores_of_a_gaussian_match_the_closed_form(seed):
    torch.manual_seed(seed)
    n, d = 3, 1
    root = torch.randn(n, n) * 0.3
    covariance = (root @ root.T + 0.02 * torch.eye(n)) * 0.5
    mean = torch.tensor([0.1, -0.2, 0.05])
    chol = torch.linalg.cholesky(covariance)
    actions = (mean + torch.randn(50_000, n) @ chol.T).unsqueeze(-1)
    score = train_score(
        actions, ConditionalScore.build(n, d, n, [OBSERVATION], hidden_sizes=(64, 64)), steps=1500
    )
    test = (mean + torch.randn(2000, n) @ chol.T).unsqueeze(-1)
    data = TensorDict({"agents": {"observation": torch.zeros(2000, n, 1)}}, [2000])
    schedule = score.schedule
    for sigma in (0.1, 0.4, 0.8):
        t = torch.tensor(schedule.time_of(sigma))
        alpha = schedule.alpha(t)
        noised = alpha * test + sigma * torch.randn_like(test)
        with torch.no_grad():
            context = score.encode(data, test)
            times = t.expand(1, 2000, n, 1)
            learned = score.predict(context, noised.unsqueeze(0), times).squeeze(0)[..., 0]
        for agent in range(n):
            prefix = test[:, :agent, 0] - mean[:agent]
            gain = torch.linalg.solve(covariance[:agent, :agent], covariance[:agent, agent])
            centre = mean[agent] + prefix @ gain
            variance = covariance[agent, agent] - covariance[agent, :agent] @ gain
            exact = (
                sigma * (noised[:, agent, 0] - alpha * centre) / (alpha**2 * variance + sigma**2)
            )
            error = (learned[:, agent] - exact).norm() / exact.norm()
            assert error < 0.1, (agent, sigma, float(error))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decomposition", "order"),
    [("sequential", "fixed"), ("sequential", "random"), ("marginal", "fixed")],
)
def test_samples_are_played_modes_exactly_if_the_chain_is_kept(decomposition, order):
    torch.manual_seed(0)
    n, modes = 3, torch.tensor([-0.8, 0.8])
    which = torch.arange(20_000) % 2
    actions = (modes[which, None].expand(-1, n) + 0.05 * torch.randn(20_000, n)).unsqueeze(-1)
    score = ConditionalScore.build(
        n, 1, n, [OBSERVATION], decomposition=decomposition, order=order, hidden_sizes=(64, 64)
    )
    train_score(actions, score)
    data = TensorDict({"agents": {"observation": torch.zeros(1000, n, 1)}}, [1000])
    distance = (score.sample(data, n_steps=32)[..., 0, None] - modes).abs()
    settled = (distance < 0.3).any(-1).all(1).float().mean()  # every agent at some level
    played = (distance < 0.3).all(1).any(-1).float().mean()  # all at the same one
    assert settled > 0.7
    share = played / settled
    if decomposition == "sequential":
        assert share > 0.97
    else:
        assert abs(share - 2.0 ** (1 - n)) < 0.06


def test_means_are_actions_and_corrections_teach_the_base_nothing():
    torch.manual_seed(0)
    score = ConditionalScore.build(2, 1, 3, [OBSERVATION], condition="observation")
    network = score.network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # far from where networks start
        network.correction[-1].weight.normal_(0, 0.1)
    data = TensorDict({"agents": {"observation": torch.randn(64, 2, 3)}}, [64])
    action = torch.rand(64, 2, 1) * 2 - 1
    context = score.encode(data, action)
    assert (context.mean.abs() <= 1).all()
    assert not torch.allclose(context.mean[1], context.base[1])  # which sees no prefix
    context.mean.sum().backward()
    assert all(parameter.grad is None for parameter in network.regression.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in network.correction.parameters())

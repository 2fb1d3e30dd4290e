"""A team's mixture of conventions: posterior, fit, and policies that end on one side."""

from __future__ import annotations

import pytest
import torch
from networks import ACTION, OBSERVATION, join
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from benchmarl_ssd.modules import ConditionalScore
from benchmarl_ssd.modules.conventions import ConventionNetwork, responsibilities
from benchmarl_ssd.objectives import SsdLoss

TOLD = ("agents", "convention")


def test_posterior_is_that_of_the_gaussian_mixture():
    torch.manual_seed(0)
    action, means = torch.randn(5, 3, 2), torch.randn(5, 3, 4, 2)
    log_density = torch.stack(
        [
            torch.distributions.Normal(means[:, :, k], 0.7).log_prob(action).sum((-1, -2))
            for k in range(4)
        ],
        -1,
    )
    expected = log_density.softmax(-1)
    torch.testing.assert_close(responsibilities(action, means, 0.49), expected)
    even = torch.full((5, 4), 0.25)
    torch.testing.assert_close(responsibilities(action, means, 0.49, sharpness=0.0), even)


def test_one_convention_is_no_mixture():
    with pytest.raises(ValueError, match="at least 2"):
        ConventionNetwork(2, 1, 3, 1, [OBSERVATION])


def two_conventions(n_agents, rows=2000, noise=0.1, value=(0.0, 0.0)):
    """All agents at +.7 or all at -.7, a coin for the team; reward by convention."""
    side = torch.randint(2, (rows,))
    level = (1.4 * side - 0.7).view(-1, 1, 1)
    reward = torch.tensor(value)[side].view(-1, 1, 1).expand(rows, n_agents, 1)
    observation = torch.eye(n_agents).expand(rows, n_agents, n_agents)
    ends = torch.ones(rows, 1, dtype=torch.bool)
    return TensorDict(
        {
            "agents": {
                "observation": observation,
                "action": level + noise * torch.randn(rows, n_agents, 1),
            },
            "next": {
                "agents": {"observation": observation, "reward": reward.clone()},
                "done": ends,
                "terminated": ends,
            },
        },
        [rows],
    )


def make_loss(n, **options):
    actor = TensorDictModule(
        nn.Sequential(nn.Linear(n, 16), nn.ReLU(), nn.Linear(16, 1), nn.Tanh()),
        in_keys=[OBSERVATION],
        out_keys=[ACTION],
    )

    def critic(keys, size, out):
        return TensorDictSequential(
            TensorDictModule(join, in_keys=keys, out_keys=["joint"]),
            TensorDictModule(
                nn.Sequential(nn.Linear(size, 32), nn.ReLU(), nn.Linear(32, 1)),
                in_keys=["joint"],
                out_keys=[out],
            ),
        )

    return SsdLoss(
        actor,
        ConditionalScore.build(
            n, 1, n + 2, [OBSERVATION, TOLD], condition="observation", hidden_sizes=(32, 32)
        ),
        critic([OBSERVATION, ACTION], n * n + n, "state_action_value"),
        critic([OBSERVATION], n * n, "state_value"),
        convention_network=ConventionNetwork(n, 2, n, 1, [OBSERVATION], hidden_sizes=(32,)),
        convention_key=TOLD,
        **options,
    )


def train(loss, data, steps, batch=128, lr=5e-3):
    optimizer = torch.optim.Adam(loss.parameters(), lr=lr)
    for _ in range(steps):
        rows = data[torch.randint(len(data), (batch,))]
        optimizer.zero_grad()
        sum(value for key, value in loss(rows).items() if key.startswith("loss")).backward()
        optimizer.step()


@pytest.mark.parametrize("n_agents", [2, 4])
def test_expectation_maximisation_parts_the_conventions(n_agents):
    torch.manual_seed(n_agents)
    data = two_conventions(n_agents)
    loss = make_loss(n_agents, pretrain_steps=10_000, warm_start=False)
    loss.sharpening_steps = 100
    train(loss, data, 300)
    with loss.convention_network_params.to_module(loss.convention_network):
        means = loss.convention_network(data[:1].select(OBSERVATION))["convention_action"]
    found = means[0, :, :, 0]  # agents, conventions
    assert (found.abs() - 0.7).abs().max() < 0.1
    assert (found.sign() == found[:1].sign()).all()  # a convention is the same side for all
    assert found[0, 0].sign() != found[0, 1].sign()
    assert (loss.convention_share - 0.5).abs().max() < 0.1


@pytest.mark.parametrize("better", [0, 1])
def test_policies_follow_the_convention_of_higher_value(better):
    torch.manual_seed(7 + better)
    data = two_conventions(3, value=(1.0, 0.0) if better == 0 else (0.0, 1.0))
    loss = make_loss(
        3, beta=0.0, score_steps=300, pretrain_steps=500, extraction_steps=300, critic="frozen"
    )
    loss.sharpening_steps = 100
    train(loss, data, 800)
    with torch.no_grad():
        action = loss.act(loss.actor_network, data[:1]).flatten()
    assert (action - (1.4 * better - 0.7)).abs().max() < 0.2


def test_an_unused_convention_is_not_followed():
    loss = make_loss(2)
    loss.convention_value.copy_(torch.tensor([0.0, 5.0]))
    assert loss.convention == 1
    loss.convention_share.copy_(torch.tensor([0.95, 0.05]))
    assert loss.convention == 0


def test_beta_from_data_is_smaller_where_a_convention_is_to_be_kept():
    loss = make_loss(2)
    loss.information.fill_(2.0)
    assert loss.data_beta == pytest.approx(0.5)


def test_beta_from_data_is_larger_where_there_is_little_to_lose():
    loss = make_loss(2)
    loss.n_conventions = 1
    loss.information.fill_(2.0)
    found = []
    for loss.downside in (2.0, 1.0, 0.5, 0.2, 0.0):
        found.append(loss.data_beta)
    assert found == pytest.approx([1.0, 2.0, 4.0, 10.0, 10.0])
    loss.information.fill_(0.0)
    assert loss.data_beta == 100.0

"""Critics of each agent: shapes, targets, and whom a gradient reaches."""

from __future__ import annotations

import pytest
import torch
from loss_tests import DEFAULT_KEYS, LossTests
from networks import (
    ACT,
    ACTION,
    OBSERVATION,
    N,
    make_actor,
    make_data,
    make_independent_qvalue,
    make_independent_value,
    make_qvalue,
    make_score,
    make_value,
)
from torch.autograd.functional import jacobian

from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.objectives import BcLoss, JointIQLLoss, Matd3BcLoss, SsdLoss

CRITICS = {
    "joint": (make_qvalue, make_value),
    "independent": (make_independent_qvalue, make_independent_value),
}


def implicit(kind="independent", **options):
    qvalue, value = CRITICS[kind]
    loss = JointIQLLoss(qvalue(), value(), **options)
    loss.make_value_estimator(gamma=0.9)
    return loss


def following(kind="independent", **options):
    loss = Matd3BcLoss(make_actor(), CRITICS[kind][0](), **options)
    loss.make_value_estimator(gamma=0.9)
    return loss


class TestIndependentIQL(LossTests):
    trains = {"loss_qvalue": "qvalue_network", "loss_value": "value_network"}
    deterministic = ("loss_qvalue", "loss_value")
    has_targets = True

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return JointIQLLoss(
            make_independent_qvalue(action=keys["action"], out=keys["state_action_value"]),
            make_independent_value(out=keys["value"]),
            reduction=reduction,
        )


class TestIndependentSsd(LossTests):
    trains = {
        "loss_score": "score_network",
        "loss_qvalue": "qvalue_network",
        "loss_value": "value_network",
        "loss_actor": "actor_network",
    }
    deterministic = ("loss_value",)
    has_targets = True

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return SsdLoss(
            make_actor(action=keys["action"]),
            make_score(decomposition="marginal"),
            make_independent_qvalue(action=keys["action"], out=keys["state_action_value"]),
            make_independent_value(out=keys["value"]),
            reduction=reduction,
        )


def test_every_agents_value_regresses_the_teams_reward_and_its_own_bootstrap():
    torch.manual_seed(0)
    data, loss = make_data((6,)), implicit(num_qvalue_nets=1, reward_scale=2.0)
    reward = 2 * data["next", "agents", "reward"].mean((-2, -1))
    with loss.target_value_network_params.to_module(loss.value_network):
        following = loss.value_network(data["next"].select(OBSERVATION))["state_value"]
    assert following.std(-2).min() > 0  # agents differ, so that a mix-up would be seen
    target = reward[:, None] + 0.9 * following.squeeze(-1) * ~data["next", "terminated"]
    predicted = loss.qvalues(data, loss.qvalue_network_params)[0]
    assert predicted.shape == (6, N)
    torch.testing.assert_close(loss.qvalue_loss(data)[0], ((predicted - target) ** 2).mean(-1))


def test_following_critics_bootstrap_from_each_agents_own_next_action():
    torch.manual_seed(0)
    data, loss = make_data((6,)), following(policy_noise=0.0)
    after = data["next"].select(OBSERVATION)
    with loss.target_actor_network_params.to_module(loss.actor_network):
        after = loss.actor_network(after)
    values = loss.qvalues(after, loss.target_qvalue_network_params).min(0).values
    assert values.shape == (6, N)
    torch.testing.assert_close(loss.next_policy_value(data), values)
    reward = data["next", "agents", "reward"].mean((-2, -1))
    target = reward[:, None] + 0.9 * values * ~data["next", "terminated"]
    error = (loss.qvalues(data, loss.qvalue_network_params) - target) ** 2
    torch.testing.assert_close(loss.policy_qvalue_loss(data)[0], error.sum(0).mean(-1))


def test_advantage_and_expectile_are_each_agents_own():
    torch.manual_seed(0)
    data, loss = make_data((6,)), implicit(expectile=0.9)
    advantage = loss.advantage(data)
    assert advantage.shape == (6, N)
    weight = torch.where(advantage > 0, 0.9, 0.1)
    torch.testing.assert_close(loss.value_loss(data)[0], (weight * advantage**2).mean(-1))


@pytest.mark.parametrize("kind", CRITICS)
def test_whose_action_a_value_depends_on(kind):
    torch.manual_seed(0)
    data, loss = make_data(()), implicit(kind)

    def values(action):
        return loss.qvalues_at(data, action, loss.qvalue_network_params)[0]

    slope = jacobian(values, data[ACTION])  # [n, n, d], or [n, d] of a joint critic
    reaches = slope.abs().sum(-1) > 0
    if kind == "joint":
        assert reaches.tolist() == [True] * N
    else:
        assert reaches.tolist() == torch.eye(N).bool().tolist()


@pytest.mark.parametrize("kind", CRITICS)
def test_policy_value_is_the_first_critics_and_its_gradient_is_kept(kind):
    torch.manual_seed(0)
    scaler = ActionScaler(-2.0, 4.0)
    data, loss = make_data((5,)), following(kind, action_scaler=scaler)
    action = (2 * torch.rand(5, N, ACT) - 1).requires_grad_()
    plain = loss.qvalues_at(data, action, loss.qvalue_network_params)[0]
    weight = torch.rand_like(plain)
    (expected,) = torch.autograd.grad((weight * plain).sum(), action)
    value = loss.policy_value(data, action)
    torch.testing.assert_close(value, plain)
    with torch.no_grad():  # as if the critic had been stepped before the actors' backward
        for parameter in loss.qvalue_network_params.values(True, True):
            parameter.mul_(-3.0)
    (found,) = torch.autograd.grad((weight * value).sum(), action)
    torch.testing.assert_close(found, expected)
    assert all(p.grad is None for p in loss.parameters())


@pytest.mark.parametrize("kind", CRITICS)
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_values_of_many_candidates_are_those_of_one_at_a_time(kind, batch):
    torch.manual_seed(0)
    data, loss = make_data(batch), implicit(kind)
    params = loss.qvalue_network_params
    candidates = 2 * torch.rand(5, *batch, N, ACT) - 1
    many = loss.qvalues_of(data, candidates, params)
    one = torch.stack([loss.qvalues_at(data, action, params) for action in candidates], 1)
    torch.testing.assert_close(many, one)


@pytest.mark.parametrize("kind", CRITICS)
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_own_values_change_one_agents_action_at_a_time(kind, batch):
    torch.manual_seed(0)
    data, loss = make_data(batch), implicit(kind)
    params, joint = loss.qvalue_network_params, kind == "joint"
    candidates = 2 * torch.rand(5, *batch, N, ACT) - 1
    team = 2 * torch.rand(*batch, N, ACT) - 1
    found = loss.own_qvalues_of(data, candidates, team, params, joint)
    assert found.shape == (2, 5, *batch, N)
    for k in range(5):
        for agent in range(N):
            action = team.clone()
            action[..., agent, :] = candidates[k, ..., agent, :]
            value = loss.qvalues_at(data, action, params)
            expected = value if joint else value[..., agent]
            torch.testing.assert_close(found[:, k, ..., agent], expected)


def test_clone_loss_takes_actions_that_are_known():
    torch.manual_seed(0)
    data, loss = make_data(), BcLoss(make_actor())
    known = loss.policy_action(data)
    torch.testing.assert_close(loss.clone_loss(data, action=known), loss.clone_loss(data))

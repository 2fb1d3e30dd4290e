"""OMIGA: the general tests, the minimiser of its value loss, and the mixing of both values."""

from __future__ import annotations

import pytest
import torch
from loss_tests import DEFAULT_KEYS, LossTests
from networks import (
    ACTION,
    N,
    make_actor,
    make_data,
    make_independent_value,
    make_mixed_qvalue,
    make_qvalue,
)
from torch import nn

from benchmarl_ssd.objectives import BcLoss, OmigaLoss


class TestOmiga(LossTests):
    trains = {
        "loss_qvalue": "qvalue_network",
        "loss_value": "value_network",
        "loss_actor": "actor_network",
    }
    deterministic = ("loss_qvalue", "loss_value", "loss_actor")
    has_targets = True

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return OmigaLoss(
            make_actor(action=keys["action"]),
            make_mixed_qvalue(action=keys["action"], out=keys["state_action_value"]),
            make_independent_value(out=keys["value"]),
            reduction=reduction,
        )


def make(**options):
    torch.manual_seed(0)
    loss = OmigaLoss(make_actor(), make_mixed_qvalue(), make_independent_value(), **options)
    loss.make_value_estimator(gamma=0.9)
    return loss


@pytest.mark.parametrize("alpha", [0.5, 2.0, 10.0])
def test_value_is_the_soft_maximum_of_two_actions(alpha):
    # One agent in one state plays 0 or 1 with values 1 and 3, three times in four the worse one.
    loss = make(alpha=alpha)
    qvalue = torch.tensor([1.0, 1.0, 1.0, 3.0]).double().unsqueeze(-1).expand(4, N)
    weight = torch.tensor([0.3, 1.0, 2.5]).double().expand(4, N)  # another one for every agent
    value = nn.Parameter(torch.zeros(N).double())
    optimizer = torch.optim.LBFGS(
        [value],
        max_iter=200,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        own = value.expand(4, N)
        out = loss.value_loss(weight * (qvalue - own) / alpha, weight, own).mean()
        out.backward()
        return out

    for _ in range(5):
        optimizer.step(closure)
    expected = alpha / weight[0] * (weight * qvalue / alpha).exp().mean(0).log()
    torch.testing.assert_close(value.detach(), expected, atol=1e-4, rtol=0)
    assert (value > qvalue.mean(0)).all()
    assert (value < 3).all()


def test_a_value_that_is_far_too_low_is_pulled_up_by_a_bounded_gradient():
    loss = make(alpha=1.0, max_weight=100.0)
    value = torch.tensor([[-50.0, -5.0, 0.0]], requires_grad=True)
    weight = torch.ones(1, N)
    loss.value_loss(weight * (0.0 - value), weight, value).sum().backward()
    expected = torch.tensor([[1 - 100.0, 1 - 100.0, 0.0]]) / N
    torch.testing.assert_close(value.grad, expected)
    low = torch.tensor([[-4.0, -1.0, 2.0]], requires_grad=True)
    loss.value_loss(-low, weight, low).sum().backward()
    torch.testing.assert_close(low.grad, (1 - (-low.detach()).exp()) / N)


def test_both_totals_are_of_the_same_weights():
    loss, data = make(), make_data()
    params = loss.target_qvalue_network_params
    weight, bias = (entry[0] for entry in loss.weigh(data["next"], params))
    assert weight.shape == (8, N)
    assert (weight >= 0).all()
    value = loss.local_values(data["next"], loss.target_value_network_params)
    torch.testing.assert_close(loss.next_team_value(data), (weight * value).sum(-1) + bias)
    following = data["next"].clone().set(ACTION, data[ACTION])
    local = loss.local_qvalues(following, params)[0]
    total = loss.qvalues(following, params)[0]
    torch.testing.assert_close(total, (weight * local).sum(-1) + bias)


def test_targets_bootstrap_from_the_teams_value():
    loss, data = make(reduction="none"), make_data()
    ended = data["next", "terminated"].squeeze(-1)
    assert ended.any()
    reward = data["next", "agents", "reward"].mean((-2, -1))
    target = reward + 0.9 * ~ended * loss.next_team_value(data)
    predicted = loss.qvalues(data, loss.qvalue_network_params)[0]
    torch.testing.assert_close(loss(data)["loss_qvalue"], (predicted - target) ** 2)


def test_actors_are_weighted_by_their_part_of_the_advantage():
    loss, data = make(alpha=0.05, max_weight=3.0, reduction="none"), make_data()
    exponent, weight, value = loss.exponent(data)
    local = loss.local_qvalues(data, loss.target_qvalue_network_params)[0]
    torch.testing.assert_close(exponent, weight * (local - value) / 0.05)
    counts = exponent.exp().clamp_max(3.0)
    assert (counts == 3.0).any()
    assert (counts < 1.0).any()
    distance = ((loss.policy_action(data) - loss.logged_action(data)) ** 2).mean(-1)
    torch.testing.assert_close(loss(data)["loss_actor"], (counts * distance).mean(-1))


def test_a_large_penalty_is_behaviour_cloning():
    loss, data = make(alpha=1e9), make_data()
    clone = BcLoss(make_actor())
    clone.actor_network_params.data.update_(loss.actor_network_params.data)
    torch.testing.assert_close(loss(data)["loss_actor"], clone(data)["loss_actor"])


def test_the_critics_loss_trains_local_critics_and_mixer():
    loss = make()
    loss(make_data())["loss_qvalue"].backward()
    for name, parameter in loss.qvalue_network_params.flatten_keys(".").items():
        if isinstance(parameter, nn.Parameter):
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "expected alpha above 0, found 0.0"),
        ({"max_weight": 1.0}, "expected max_weight above 1, found 1.0"),
        ({"num_qvalue_nets": 2}, "expected num_qvalue_nets of 1, found 2"),
    ],
)
def test_options_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_critic_without_a_mixer_is_an_error():
    with pytest.raises(ValueError, match="expected a qvalue_network that ends in a LinearMixer"):
        OmigaLoss(make_actor(), make_qvalue(), make_independent_value())

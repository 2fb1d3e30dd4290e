"""Implicit constraint Q-learning of a team: the general tests, limits, bootstraps."""

from __future__ import annotations

import pytest
import torch
from loss_tests import DATA_KEYS, DEFAULT_KEYS, LossTests
from networks import (
    ACT,
    ACTION,
    OBSERVATION,
    N,
    make_actor,
    make_data,
    make_independent_qvalue,
    make_independent_value,
    make_mixed_qvalue,
    make_qvalue,
    make_value,
)
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from benchmarl_ssd.objectives import BcLoss, MaicqLoss
from benchmarl_ssd.objectives.weighting import batch_softmax

KINDS = {
    "joint": (make_qvalue, make_value),
    "independent": (make_independent_qvalue, make_independent_value),
    "mixed": (make_mixed_qvalue, make_value),
}


def followed(batch=(8,), **keys):
    """Data with the next action, which rows 1 mod 4 lack; they do not terminate."""
    data = make_data(batch, **keys)
    action = keys.get("action", ACTION)
    generator = torch.Generator().manual_seed(3)
    taken = 2 * torch.rand(*batch, N, ACT, generator=generator) - 1
    acted = torch.arange(max(1, data.numel())).remainder(4).ne(1).reshape(*batch, 1)
    terminated = ("next", keys.get("terminated", "terminated"))
    data.set(terminated, data.get(terminated) & acted)
    data.set(("next", *action), taken * acted.unsqueeze(-1))
    return data.set(("next", "acted"), acted)


class TestMaicq(LossTests):
    trains = {"loss_qvalue": "qvalue_network", "loss_actor": "actor_network"}
    deterministic = ("loss_qvalue", "loss_actor")
    has_targets = True
    kind = "joint"

    @staticmethod
    def data(batch=(8,), keys=DEFAULT_KEYS):
        return followed(batch, **{key: keys[key] for key in DATA_KEYS})

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        qvalue, value = KINDS[self.kind]
        return MaicqLoss(
            make_actor(action=keys["action"]),
            qvalue(action=keys["action"], out=keys["state_action_value"]),
            value(out=keys["value"]) if "loss_value" in self.trains else None,
            reduction=reduction,
        )


class TestMaicqIndependent(TestMaicq):
    kind = "independent"


class TestMaicqMixed(TestMaicq):
    kind = "mixed"


class TestMaicqValue(TestMaicq):
    trains = {**TestMaicq.trains, "loss_value": "value_network"}

    # Without the next action, and without knowing whether there was one.
    @staticmethod
    def data(batch=(8,), keys=DEFAULT_KEYS):
        return make_data(batch, **{key: keys[key] for key in DATA_KEYS})


class TestMaicqValueIndependent(TestMaicqValue):
    kind = "independent"


class TestMaicqValueMixed(TestMaicqValue):
    kind = "mixed"


def make(kind="joint", value=False, **options):
    torch.manual_seed(0)
    qvalue, state_value = KINDS[kind]
    loss = MaicqLoss(make_actor(), qvalue(), state_value() if value else None, **options)
    loss.make_value_estimator(gamma=0.9)
    return loss


@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
def test_weights_sum_to_the_number_of_rows(temperature):
    torch.manual_seed(0)
    value, mask = torch.randn(64, N), torch.rand(64) < 0.7
    for given, rows in ((None, 64), (mask, int(mask.sum()))):
        weight = batch_softmax(value / temperature, 1, given)
        torch.testing.assert_close(weight.sum(0), torch.full((N,), float(rows)))
    assert not weight[~mask].any()
    nobody = batch_softmax(value, 1, torch.zeros(64, dtype=torch.bool))
    assert not nobody.any()


def test_targets_are_the_weighted_values_of_what_was_done_next():
    loss, data = make(critic_alpha=0.05, reduction="none"), followed((8,))
    following = data["next"].select(OBSERVATION, ACTION)
    params = loss.target_qvalue_network_params
    value = loss.qvalues(following, params).min(0).values
    ended = data["next", "terminated"].squeeze(-1)
    acted = data["next", "acted"].squeeze(-1)
    assert ended.any()
    assert (~acted & ~ended).any()
    used = acted & ~ended
    weight = (value / 0.05).exp() * used
    weight = weight / weight.sum() * used.sum()
    reward = data["next", "agents", "reward"].mean((-2, -1))
    target = reward + 0.9 * weight * value
    predicted = loss.qvalues(data, loss.qvalue_network_params)
    expected = ((predicted - target) ** 2).sum(0) * (acted | ended)
    torch.testing.assert_close(loss(data)["loss_qvalue"], expected)


@pytest.mark.parametrize("kind", list(KINDS))
def test_hot_critics_are_sarsa_and_hot_actors_clone(kind):
    loss, data = make(kind, alpha=1e9, critic_alpha=1e9, reduction="none"), followed((16,))
    following = data["next"].select(OBSERVATION, ACTION)
    value = loss.qvalues(following, loss.target_qvalue_network_params).min(0).values
    sarsa, _ = loss.regress(data, value)
    known = (data["next", "acted"] | data["next", "terminated"]).squeeze(-1)
    torch.testing.assert_close(loss(data)["loss_qvalue"], sarsa * known)
    clone = BcLoss(make_actor(), reduction="none")
    clone.actor_network_params.data.update_(loss.actor_network_params.data)
    torch.testing.assert_close(loss(data)["loss_actor"], clone(data)["loss_actor"])


def test_next_action_of_a_row_without_one_is_never_looked_at():
    loss, data = make(critic_alpha=0.1, reduction="none"), followed((8,))
    expected = loss(data)["loss_qvalue"]
    lacking = ~data["next", "acted"].squeeze(-1)
    other = data.clone()
    other["next", "agents", "action"][lacking] = 100.0
    torch.testing.assert_close(loss(other)["loss_qvalue"], expected)
    assert not expected[lacking & ~data["next", "terminated"].squeeze(-1)].any()


@pytest.mark.parametrize("critic_alpha", [1.0, 3.0, 1e6])
def test_value_is_every_states_own_soft_maximum(critic_alpha):
    # Two states of very different values, of two actions each. A batch's Z would mix the states.
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(1, 1)

        def forward(self, observation, action):
            return 10 * observation[..., 0, 1:] + action[..., 0, :]

    value = nn.Linear(2, 1, bias=False)
    loss = MaicqLoss(
        TensorDictModule(nn.Linear(2, 1), [OBSERVATION], [ACTION]),
        TensorDictModule(Table(), [OBSERVATION, ACTION], ["state_action_value"]),
        TensorDictModule(nn.Sequential(nn.Flatten(-2), value), [OBSERVATION], ["state_value"]),
        critic_alpha=critic_alpha,
        num_qvalue_nets=1,
    )
    state = torch.eye(2)[[0, 0, 0, 1, 1, 1]].unsqueeze(-2)
    action = torch.tensor([-1.0, -1.0, 1.0] * 2).reshape(6, 1, 1)
    data = TensorDict({"agents": {"observation": state, "action": action}}, [6])
    probability, outcome = torch.tensor([2 / 3, 1 / 3]), torch.tensor([-1.0, 1.0])
    weight = probability * (outcome / critic_alpha).exp()
    soft = (weight * outcome).sum() / weight.sum() + torch.tensor([0.0, 10.0])
    (parameter,) = loss.value_network_params.parameters()

    def slope(at):
        parameter.data.copy_(at)
        loss.zero_grad()
        loss.value_loss(data)[0].mean().backward()
        return parameter.grad[0].clone()

    torch.testing.assert_close(slope(soft), torch.zeros(2), atol=1e-5, rtol=0)
    assert (slope(soft + 0.1) > 0.001).all()
    assert (slope(soft - 0.1) < -0.001).all()
    assert (slope(soft + 100.0) > 5).all()  # far off, it still comes back
    assert (slope(soft - 100.0) < -5).all()


@pytest.mark.parametrize("kind", list(KINDS))
def test_actors_prefer_what_the_critic_does(kind):
    # The logged action's advantage over the policy's own decides, of the team or of each agent.
    loss, data = make(kind, alpha=0.1, reduction="none"), followed((16,))
    action = loss.policy_action(data).detach()
    own = loss.advantage(data, action)
    assert own.shape == ((16,) if kind == "joint" else (16, N))
    torch.testing.assert_close(
        loss.advantage(data, loss.logged_action(data)), torch.zeros_like(own)
    )
    if kind == "mixed":  # with one critic the parts add up to the total's difference
        loss = make(kind, num_qvalue_nets=1)
        params = loss.target_qvalue_network_params
        total = loss.qvalues(data, params) - loss.qvalues_at(data, action, params)
        torch.testing.assert_close(loss.advantage(data, action).sum(-1), total[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "expected alpha above 0, found 0.0"),
        ({"critic_alpha": -1.0}, "expected critic_alpha above 0, found -1.0"),
        ({"num_qvalue_nets": 0}, "num_qvalue_nets of at least 1"),
    ],
)
def test_options_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)

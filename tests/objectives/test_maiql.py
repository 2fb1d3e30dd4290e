"""Implicit Q-learning of a team: the general tests, TorchRL's own loss, and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from loss_tests import DEFAULT_KEYS, LossTests
from networks import (
    ACTION,
    OBSERVATION,
    N,
    make_actor,
    make_data,
    make_independent_qvalue,
    make_independent_value,
    make_qvalue,
    make_value,
)
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import nn
from torchrl.modules import IndependentNormal
from torchrl.objectives import IQLLoss

from benchmarl_ssd.objectives import BcLoss, MaiqlLoss
from benchmarl_ssd.objectives.weighting import effective_share


class TestMaiql(LossTests):
    trains = {
        "loss_qvalue": "qvalue_network",
        "loss_value": "value_network",
        "loss_actor": "actor_network",
    }
    deterministic = ("loss_qvalue", "loss_value", "loss_actor")
    has_targets = True
    critics = (make_qvalue, make_value)

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        qvalue, value = self.critics
        return MaiqlLoss(
            make_actor(action=keys["action"]),
            qvalue(action=keys["action"], out=keys["state_action_value"]),
            value(out=keys["value"]),
            reduction=reduction,
        )


class TestIndependentMaiql(TestMaiql):
    critics = (make_independent_qvalue, make_independent_value)


def independent(**options):
    return MaiqlLoss(make_actor(), make_independent_qvalue(), make_independent_value(), **options)


def test_equals_torchrls_iql_for_one_agent():
    # TorchRL's actor is a Gaussian; of variance 1/2 its negative log-likelihood is the squared
    # distance, and half a log pi for each of the d action entries.
    torch.manual_seed(0)
    size, d, batch = 4, 2, 16
    mean = nn.Linear(size, d)

    class Gaussian(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = mean

        def forward(self, observation):
            location = self.mean(observation)
            return location, torch.full_like(location, math.sqrt(0.5))

    class Critic(nn.Linear):
        def forward(self, observation, action):
            return super().forward(torch.cat([observation, action], -1))

    qvalue, value = Critic(size + d, 1), nn.Linear(size, 1)
    theirs = IQLLoss(
        ProbabilisticTensorDictSequential(
            TensorDictModule(Gaussian(), ["observation"], ["loc", "scale"]),
            ProbabilisticTensorDictModule(
                ["loc", "scale"], ["action"], distribution_class=IndependentNormal
            ),
        ),
        TensorDictModule(qvalue, ["observation", "action"], ["state_action_value"]),
        TensorDictModule(value, ["observation"], ["state_value"]),
        num_qvalue_nets=2,
        loss_function="l2",
        temperature=3.0,
        expectile=0.7,
    )
    theirs.make_value_estimator(gamma=0.9)

    class Flat(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *entries):
            return self.module(*[entry.squeeze(-2) for entry in entries])

    ours = MaiqlLoss(
        TensorDictModule(mean, [OBSERVATION], [ACTION]),
        TensorDictModule(Flat(qvalue), [OBSERVATION, ACTION], ["state_action_value"]),
        TensorDictModule(Flat(value), [OBSERVATION], ["state_value"]),
        temperature=3.0,
        expectile=0.7,
    )
    ours.make_value_estimator(gamma=0.9)
    # The ensembles start from random copies; make them the same.
    source = theirs.qvalue_network_params.flatten_keys(".")
    for name, found in ours.qvalue_network_params.flatten_keys(".").items():
        found.data.copy_(source[name.replace("module.module.", "module.")].data)
    source = theirs.target_qvalue_network_params.flatten_keys(".")
    for name, found in ours.target_qvalue_network_params.flatten_keys(".").items():
        found.data.copy_(source[name.replace("module.module.", "module.")].data)

    observation, action = torch.randn(batch, size), torch.rand(batch, d) * 2 - 1
    following, reward = torch.randn(batch, size), torch.randn(batch, 1)
    ends = torch.rand(batch, 1) < 0.3
    flags = {"done": ends, "terminated": ends}
    single = TensorDict(
        {
            "observation": observation,
            "action": action,
            "next": {"observation": following, "reward": reward, **flags},
        },
        [batch],
    )
    team = TensorDict(
        {
            "agents": {"observation": observation[:, None], "action": action[:, None]},
            "next": {
                "agents": {"observation": following[:, None], "reward": reward[:, None]},
                **flags,
            },
        },
        [batch],
    )
    expected, found = theirs(single), ours(team)
    torch.testing.assert_close(found["loss_qvalue"], expected["loss_qvalue"])
    torch.testing.assert_close(found["loss_value"], expected["loss_value"])
    weight = ours.advantage_weight(ours.advantage(team))
    assert weight.max() / weight.min() > 2
    constant = d / 2 * math.log(math.pi) * weight.mean()
    torch.testing.assert_close(d * found["loss_actor"] + constant, expected["loss_actor"])
    gradients = []
    for loss in (expected["loss_actor"], d * found["loss_actor"]):
        mean.zero_grad()
        loss.backward()
        gradients.append(mean.weight.grad.clone())
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_independent_values_are_each_agents_expectile(expectile):
    # Agent i's values are uniform on [0, i + 1]; the expectile v of [0, 1] solves
    # tau (1 - v)^2 = (1 - tau) v^2.
    loss = independent(expectile=expectile)
    levels = torch.linspace(0, 1, 2001)
    qvalue = levels.unsqueeze(-1) * torch.tensor([1.0, 2.0, 3.0])
    value = torch.zeros(N, requires_grad=True)
    optimizer = torch.optim.LBFGS([value], max_iter=60)
    data = TensorDict({}, [2001])

    def closure():
        optimizer.zero_grad()
        out = loss.value_loss(data, qvalue - value)[0].mean()
        out.backward()
        return out

    optimizer.step(closure)
    root = math.sqrt(expectile / (1 - expectile))
    expected = root / (1 + root) * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(value.detach(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0, 50.0])
def test_actors_converge_to_the_weighted_mean(temperature):
    # Two actions, of known advantages: the minimiser is their mean by exp(temperature A), bounded.
    loss = independent(temperature=temperature)
    actions = torch.tensor([[-0.6], [0.9]])
    advantage = torch.tensor([[-1.0, 0.0, 0.5], [1.0, 0.0, -0.5]])  # [2, agents]
    weight = loss.advantage_weight(advantage)
    mean = nn.Parameter(torch.zeros(N, 1))
    constant = TensorDictModule(
        lambda observation: mean.expand(*observation.shape[:-2], N, 1), [OBSERVATION], [ACTION]
    )
    data = TensorDict(
        {
            "agents": {
                "observation": torch.zeros(2, N, 1),
                "action": actions.unsqueeze(1).expand(2, N, 1),
            }
        },
        [2],
    )
    loss.policy_action = lambda tensordict: constant(tensordict.clone())[ACTION]
    optimizer = torch.optim.LBFGS([mean], max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        out = loss.clone_loss(data, weight).mean()
        out.backward()
        return out

    for _ in range(5):
        optimizer.step(closure)
    exact = (temperature * advantage.double()).exp().clamp_max(100)
    expected = (exact * actions).sum(0) / exact.sum(0)
    torch.testing.assert_close(mean.detach().squeeze(-1).double(), expected, atol=1e-4, rtol=0)


def test_at_temperature_zero_it_is_behaviour_cloning():
    torch.manual_seed(0)
    actor, data = make_actor(), make_data()
    loss = MaiqlLoss(actor, make_qvalue(), make_value(), temperature=0.0)
    torch.testing.assert_close(loss(data)["loss_actor"], BcLoss(actor)(data)["loss_actor"])


def test_weights_are_bounded_where_the_exponential_overflows():
    loss = independent(temperature=1000.0, max_weight=7.0)
    weight = loss.advantage_weight(torch.tensor([-5.0, 0.0, 5.0]))
    torch.testing.assert_close(weight, torch.tensor([0.0, 1.0, 7.0]))
    assert effective_share(weight).isfinite()


def test_a_joint_critics_weight_is_the_teams():
    torch.manual_seed(0)
    data = make_data()
    joint = MaiqlLoss(make_actor(), make_qvalue(), make_value())
    assert joint.advantage(data).shape == (8,)
    assert independent().advantage(data).shape == (8, N)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature of at least 0, found -1.0"),
        ({"max_weight": 0.0}, "max_weight above 0, found 0.0"),
        ({"expectile": 1.0}, "expectile in"),
    ],
)
def test_options_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        independent(**options)

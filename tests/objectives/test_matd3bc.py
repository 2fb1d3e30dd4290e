"""TD3+BC of a team: the general tests, TorchRL's own loss, and its limits."""

from __future__ import annotations

import pytest
import torch
from loss_tests import DEFAULT_KEYS, LossTests
from networks import (
    ACT,
    OBS,
    N,
    make_actor,
    make_data,
    make_independent_qvalue,
    make_qvalue,
)
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.objectives import TD3BCLoss, ValueEstimators

from benchmarl_ssd.objectives import BcLoss, Matd3BcLoss


class TestMatd3Bc(LossTests):
    trains = {"loss_qvalue": "qvalue_network", "loss_actor": "actor_network"}
    deterministic = ("loss_qvalue", "loss_actor")
    has_targets = True
    make_critic = staticmethod(make_qvalue)

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return Matd3BcLoss(
            make_actor(action=keys["action"]),
            self.make_critic(action=keys["action"], out=keys["state_action_value"]),
            policy_noise=0.0,
            reduction=reduction,
        )


class TestIndependentMatd3Bc(TestMatd3Bc):
    make_critic = staticmethod(make_independent_qvalue)


def actor_gradient(loss, data):
    loss.zero_grad()
    loss(data)["loss_actor"].backward()
    return [p.grad.clone() for p in loss.actor_network_params.parameters()]


@pytest.mark.parametrize("make_critic", [make_qvalue, make_independent_qvalue])
def test_without_the_critic_it_is_behaviour_cloning(make_critic):
    torch.manual_seed(0)
    actor, data = make_actor(), make_data()
    loss, clone = Matd3BcLoss(actor, make_critic(), alpha=0.0), BcLoss(actor)
    torch.testing.assert_close(loss(data)["loss_actor"], clone(data)["loss_actor"])
    for found, expected in zip(
        actor_gradient(loss, data), actor_gradient(clone, data), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make_critic", [make_qvalue, make_independent_qvalue])
@pytest.mark.parametrize("loss_function", ["l2", "smooth_l1"])
def test_one_agent_is_torchrls_td3bc(make_critic, loss_function):
    # TorchRL's loss knows no agents: it is given the same rows without their dimension.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(OBS, 16), nn.Tanh(), nn.Linear(16, ACT), nn.Tanh())
    body = nn.Sequential(nn.Linear(OBS + ACT, 16), nn.Tanh(), nn.Linear(16, 1))
    joint = make_critic is make_qvalue

    class Value(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, observation, action):
            value = self.body(torch.cat([observation, action], -1))
            return value.squeeze(-2) if joint else value

    ours = Matd3BcLoss(
        TensorDictModule(net, [("agents", "observation")], [("agents", "action")]),
        TensorDictModule(
            Value(), [("agents", "observation"), ("agents", "action")], ["state_action_value"]
        ),
        loss_function=loss_function,
    )
    ours.make_value_estimator(gamma=0.9)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, observation, action):
            return self.body(torch.cat([observation, action], -1))

    theirs = TD3BCLoss(
        TensorDictModule(net, ["observation"], ["action"]),
        TensorDictModule(Both(), ["observation", "action"], ["state_action_value"]),
        bounds=(-1.0, 1.0),
        loss_function=loss_function,
    )
    theirs.make_value_estimator(ValueEstimators.TD0, gamma=0.9)
    for part in ("actor_network", "qvalue_network"):
        for prefix in ("", "target_"):
            name = f"{prefix}{part}_params"
            mine, other = (getattr(loss, name).flatten_keys() for loss in (ours, theirs))
            assert len(list(mine.keys())) == len(list(other.keys()))
            for (_, to), (_, source) in zip(
                sorted(other.items()), sorted(mine.items()), strict=True
            ):
                to.data.copy_(source.data + (0.1 if prefix else 0.0))
                source.data.copy_(to.data)
    row = make_data((32,))
    flat = TensorDict(
        {
            "observation": row["agents", "observation"][:, 0],
            "action": row["agents", "action"][:, 0],
            "next": {
                "observation": row["next", "agents", "observation"][:, 0],
                "reward": row["next", "agents", "reward"][:, 0],
                "done": row["next", "done"],
                "terminated": row["next", "terminated"],
            },
        },
        [32],
    )
    team = TensorDict(
        {
            "agents": {
                "observation": flat["observation"].unsqueeze(1),
                "action": flat["action"].unsqueeze(1),
            },
            "next": {
                "agents": {
                    "observation": flat["next", "observation"].unsqueeze(1),
                    "reward": flat["next", "reward"].unsqueeze(1),
                },
                "done": flat["next", "done"],
                "terminated": flat["next", "terminated"],
            },
        },
        [32],
    )
    outs = []
    for loss, data in ((ours, team), (theirs, flat)):
        torch.manual_seed(3)  # the smoothing noise
        outs.append(loss(data))
    for name in ("loss_qvalue", "loss_actor"):
        torch.testing.assert_close(outs[0][name], outs[1][name])
        gradients = []
        for loss, out in zip((ours, theirs), outs, strict=True):
            loss.zero_grad()
            out[name].backward(retain_graph=True)
            params = getattr(loss, name.replace("loss_", "") + "_network_params").flatten_keys()
            gradients.append([value.grad for _, value in sorted(params.items())])
        for found, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected)
    assert outs[0]["loss_actor"].item() != 0


@pytest.mark.parametrize("make_critic", [make_qvalue, make_independent_qvalue])
def test_actors_do_not_mind_the_critics_scale(make_critic):
    torch.manual_seed(0)
    data, loss = make_data(), Matd3BcLoss(make_actor(), make_critic())
    before = actor_gradient(loss, data)
    with torch.no_grad():
        critics = loss.qvalue_network_params.items(True, True)
        output_layers = [value for name, value in critics if name[-2] == "2"]
        assert output_layers
        for value in output_layers:
            value.mul_(50.0)
    for found, expected in zip(actor_gradient(loss, data), before, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_each_agent_with_its_own_critic_is_an_agent_alone():
    # n agents with critics of their own: the mean of n losses of one agent each.
    torch.manual_seed(0)
    data = make_data((8,))
    loss = Matd3BcLoss(make_actor(), make_independent_qvalue(), alpha=2.5)
    action = loss.policy_action(data)
    value = loss.qvalues_at(data, action, loss.qvalue_network_params)[0]
    expected = 0.0
    for agent in range(N):
        mine = value[:, agent]
        distance = ((action - loss.logged_action(data))[:, agent] ** 2).mean(-1)
        expected = expected + (distance - 2.5 * mine / mine.abs().mean()) / N
    found, metrics = loss.actor_loss(data)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(metrics["policy_value"], value.mean())


@pytest.mark.parametrize(("option", "value"), [("alpha", -0.1), ("policy_noise", -1.0)])
def test_options_out_of_range(option, value):
    with pytest.raises(ValueError, match=f"expected {option} of at least 0, found"):
        Matd3BcLoss(make_actor(), make_qvalue(), **{option: value})

"""Counterfactual conservative Q-learning, and its model of the behaviour."""

from __future__ import annotations

import math

import pytest
import torch
from loss_tests import DEFAULT_KEYS, LossTests
from networks import (
    ACTION,
    OBS,
    OBSERVATION,
    N,
    behaviour_network,
    known,
    make_actor,
    make_data,
    make_independent_qvalue,
    make_qvalue,
    one_agent_data,
    quadratic,
    small_actor,
)
from tensordict import TensorDict

from benchmarl_ssd.modules.behaviour import BehaviourNetwork, behaviour_log_prob
from benchmarl_ssd.objectives import CfcqlLoss, MacqlLoss


class TestCfcql(LossTests):
    trains = {"loss_qvalue": "qvalue_network", "loss_actor": "actor_network"}
    deterministic = ("loss_actor",)
    has_targets = True

    def options(self):
        return {}

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return CfcqlLoss(
            make_actor(action=keys["action"]),
            make_qvalue(action=keys["action"], out=keys["state_action_value"]),
            reduction=reduction,
            **self.options(),
        )


class TestCfcqlLearnedWeights(TestCfcql):
    """Agents weighed by how close their policies are to the data."""

    trains = {**TestCfcql.trains, "loss_behaviour": "behaviour_network"}
    deterministic = ("loss_actor", "loss_behaviour")

    def options(self):
        return {"behaviour_network": behaviour_network(), "weight_tau": 1.0, "penalty_share": 0.5}


class TestCfcqlOtherPolicies(TestCfcql):
    """Actors that climb beside the others' policies."""

    def options(self):
        return {"counterfactual_actors": False}


# -- counterfactuals ----------------------------------------------------------------------------


def test_counterfactual_actions_change_exactly_one_agent():
    torch.manual_seed(0)
    loss, data, seen = CfcqlLoss(make_actor(), make_qvalue()), make_data((5,)), []
    qvalues_at = loss.qvalues_at

    def watch(tensordict, scaled_action, params):
        seen.append(scaled_action)
        return qvalues_at(tensordict, scaled_action, params)

    loss.qvalues_at = watch
    torch.manual_seed(1)
    loss.held_down(data)
    torch.manual_seed(1)
    sampled, _ = loss.propose(data)
    logged = data[ACTION]
    teams = seen[0].unflatten(0, (len(sampled), N, 5))
    for agent in range(N):
        others = [other for other in range(N) if other != agent]
        mine = teams[:, agent]
        assert torch.equal(mine[:, :, agent], sampled[:, :, agent])
        assert torch.equal(mine[:, :, others], logged[:, others].expand(len(sampled), -1, -1, -1))
        assert (mine[:, :, agent] != logged[:, agent]).all()


def test_counterfactual_penalty_by_hand():
    torch.manual_seed(0)
    loss = CfcqlLoss(
        make_actor(),
        make_qvalue(),
        num_sampled_actions=2,
        penalty_temperature=0.5,
        behaviour_network=behaviour_network(),
        weight_tau=0.3,
    )
    data = make_data((6,))
    predicted = loss.qvalues(data, loss.qvalue_network_params)
    torch.manual_seed(1)
    found = loss.penalty(data, predicted)
    torch.manual_seed(1)
    sampled, density = loss.propose(data)
    weight = loss.agent_weights(data)
    exact = -predicted.sum(0)
    for agent in range(N):
        values = []
        for draw, log_density in zip(sampled, density, strict=True):
            team = data[ACTION].clone()
            team[:, agent] = draw[:, agent]
            q = loss.qvalues_at(data, team, loss.qvalue_network_params)
            values.append(q / 0.5 - log_density[:, agent])
        most = 0.5 * torch.stack(values).exp().mean(0).log()
        exact = exact + weight[:, agent] * most.sum(0)
    torch.testing.assert_close(found, exact)


def test_for_one_agent_both_are_the_same():
    torch.manual_seed(0)
    qvalue = known(quadratic(1.0, 0.2))
    data = one_agent_data(2 * torch.rand(8, 1, 1) - 1)
    networks = small_actor(), qvalue
    found = []
    for loss_class in (MacqlLoss, CfcqlLoss):
        loss = loss_class(*networks, reduction="none")
        torch.manual_seed(1)
        out = loss(data)
        loss.zero_grad()
        out["loss_actor"].sum().backward()
        grads = [p.grad.clone() for p in loss.actor_network_params.parameters()]
        found.append([out["loss_qvalue"], out["loss_actor"], *grads])
    for team, counterfactual in zip(*found, strict=True):
        torch.testing.assert_close(team, counterfactual)


def test_weights_sum_to_one_and_favour_agents_close_to_the_data():
    torch.manual_seed(0)
    loss = CfcqlLoss(
        make_actor(), make_qvalue(), behaviour_network=behaviour_network(), weight_tau=2.0
    )
    data = make_data((6,))
    weight = loss.agent_weights(data)
    likely = loss.log_behaviour(data, loss.policy_action(data), loss.behaviour_network_params)
    torch.testing.assert_close(weight.sum(-1), torch.ones(6))
    torch.testing.assert_close(weight, (2 * likely).exp() / (2 * likely).exp().sum(-1, True))
    plain = CfcqlLoss(make_actor(), make_qvalue())
    torch.testing.assert_close(plain.agent_weights(data), torch.full((6, N), 1 / N))


def test_counterfactual_actors_climb_beside_logged_actions():
    # Q = a_0 a_1: each agent's gradient is the other's action, logged or the policy's.
    torch.manual_seed(0)
    data = one_agent_data(torch.tensor([[[0.5], [-0.25]]]), size=2)
    for counterfactual in (True, False):
        loss = CfcqlLoss(
            small_actor(), known(lambda a: a.prod(-2)), counterfactual_actors=counterfactual
        )
        action = loss.policy_action(data)
        action.retain_grad()
        loss.policy_action = lambda tensordict, action=action: action
        loss.actor_loss(data)[0].sum().backward()
        others = (data[ACTION] if counterfactual else action).detach().flip(-2)
        expected = -others / (2 if counterfactual else 1)  # a mean over the agents' own values
        torch.testing.assert_close(action.grad, expected)


def test_independent_critics_know_no_counterfactuals():
    loss = CfcqlLoss(make_actor(), make_independent_qvalue())
    with pytest.raises(ValueError, match="expected a joint critic"):
        loss(make_data((4,)))


# -- the behaviour model ------------------------------------------------------------------------


def test_behaviour_is_a_density():
    torch.manual_seed(0)
    mixture = torch.randn(1, 1, 3, 3)
    grid = torch.linspace(-12, 12, 200_001).reshape(-1, 1, 1)
    density = behaviour_log_prob(mixture.expand(len(grid), -1, -1, -1), grid).exp()
    assert torch.trapezoid(density.squeeze(), grid.squeeze()).item() == pytest.approx(1, abs=1e-3)


def test_behaviour_learns_two_modes():
    torch.manual_seed(0)
    network = BehaviourNetwork(2, OBS, 1, [OBSERVATION], n_components=4, hidden_sizes=(16,))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    data = TensorDict({"agents": {"observation": torch.zeros(512, 2, OBS)}}, [512])
    for _ in range(300):
        side = torch.randint(2, (512, 2, 1)) * 1.6 - 0.8
        action = side + 0.1 * torch.randn(512, 2, 1)
        loss = -behaviour_log_prob(network(data)["behaviour"], action).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    entropy = math.log(2) + math.log(0.1 * math.sqrt(2 * math.pi * math.e))
    assert loss.item() == pytest.approx(entropy, abs=0.1)
    at = torch.tensor([-0.8, 0.0, 0.8]).reshape(3, 1, 1).expand(3, 2, 1)
    found = behaviour_log_prob(network(data[:3])["behaviour"], at).detach()
    assert (found[[0, 2]] > 0).all()
    assert (found[1] < -3).all()

"""OMAR: the general tests, the action search, and its limits."""

from __future__ import annotations

import math

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
    make_qvalue,
)
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.objectives import Matd3BcLoss, OmarLoss
from benchmarl_ssd.objectives.action_search import ActionSearch

SEARCHES = {
    "elites": ActionSearch(),
    "weighted": ActionSearch(elites=None, std=2.0),
    "mujoco": ActionSearch(2, 20, 5),
}


class TestOmar(LossTests):
    trains = {"loss_qvalue": "qvalue_network", "loss_actor": "actor_network"}
    has_targets = True
    make_critic = staticmethod(make_independent_qvalue)
    options: dict = {}

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return OmarLoss(
            make_actor(action=keys["action"]),
            self.make_critic(action=keys["action"], out=keys["state_action_value"]),
            reduction=reduction,
            **self.options,
        )


class TestOmarOfBoth(TestOmar):
    options = {"coefficient": 0.5, "search": SEARCHES["weighted"]}


class TestJointOmar(TestOmar):
    make_critic = staticmethod(make_qvalue)


class TestPlain(TestOmar):
    options = {"coefficient": 0.0, "alpha": 0.0}
    deterministic = ("loss_qvalue", "loss_actor")


# -- the search -------------------------------------------------------------------------------


def quadratic(optimum, scale=1.0):
    return lambda action: -scale * ((action - optimum) ** 2).sum(-1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("name", SEARCHES)
def test_search_finds_the_optimum_of_a_quadratic(name, scale):
    torch.manual_seed(0)
    optimum = 1.6 * torch.rand(200, 3, 1) - 0.8
    value, start = quadratic(optimum, scale), torch.ones(200, 3, 1)
    found, best = SEARCHES[name](value, start, value(start))
    # 30 or 40 uniform draws would end 1/60 of the range's width from it, on average
    assert (found - optimum).abs().mean() < 0.08
    torch.testing.assert_close(best, value(found))


def test_more_rounds_come_as_close_as_wanted():
    torch.manual_seed(0)
    optimum = 1.6 * torch.rand(50, 3, 3) - 0.8
    value, start = quadratic(optimum), torch.zeros(50, 3, 3)
    search = ActionSearch(20, 50, 10)
    distance = (search(value, start, value(start))[0] - optimum).norm(dim=-1)
    assert distance.max() < 1e-2
    assert distance.median() < 1e-4


@pytest.mark.parametrize("name", SEARCHES)
def test_search_stays_in_range_and_reaches_its_border(name):
    torch.manual_seed(0)
    value, start = quadratic(torch.tensor([3.0, -3.0])), torch.zeros(100, 3, 2)
    seen = []
    found, _ = SEARCHES[name](
        lambda action: seen.append(action) or value(action), start, value(start)
    )
    assert len(seen) == SEARCHES[name].iterations
    assert all(action.shape == (SEARCHES[name].samples, 100, 3, 2) for action in seen)
    assert torch.cat(seen).abs().max() <= 1
    assert (found - torch.tensor([1.0, -1.0])).norm(dim=-1).mean() < 0.2


@pytest.mark.parametrize("name", SEARCHES)
def test_search_is_never_worse_than_its_start(name):
    torch.manual_seed(0)
    value = quadratic(torch.tensor([0.3]))
    start = torch.full((100, 3, 1), 0.3)
    found, best = SEARCHES[name](value, start, value(start))
    assert torch.equal(found, start)
    assert (best == 0).all()


def test_cold_weights_centre_a_round_on_the_best_and_hot_ones_on_the_mean():
    start, value = torch.zeros(20_000, 1, 1), quadratic(torch.tensor([0.5]))
    below = {}
    for temperature in (1e-6, 1e6):
        torch.manual_seed(0)
        rounds = []
        search = ActionSearch(2, 10, None, temperature=temperature)
        search(
            lambda action, into=rounds: into.append(action) or value(action), start, -start[..., 0]
        )
        first, second = rounds
        best = first.gather(0, value(first).argmax(0)[None, ..., None])[0]
        for name, centre in (("best", best), ("mean", first.mean(0))):
            inside = (centre.abs() < 0.9).squeeze()  # clipping moves no median there
            below[temperature, name] = (second < centre)[:, inside].float().mean().item()
    assert below[1e-6, "best"] == pytest.approx(0.5, abs=0.01)
    assert below[1e6, "mean"] == pytest.approx(0.5, abs=0.01)
    assert abs(below[1e-6, "mean"] - 0.5) > 0.1
    assert abs(below[1e6, "best"] - 0.5) > 0.1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"iterations": 0}, "iterations of at least 1, found 0"),
        ({"samples": 1, "elites": None}, "samples of at least 2, found 1"),
        ({"elites": 11}, r"elites from 2 to samples \(10\) or null, found 11"),
        ({"elites": 1}, "elites from 2"),
        ({"mean": 1.5}, r"mean in \[-1, 1\], found 1.5"),
        ({"std": 0.0}, "std above 0, found 0"),
        ({"temperature": math.nan}, "temperature above 0, found nan"),
    ],
)
def test_search_options_out_of_range(options, text):
    with pytest.raises(ValueError, match=f"expected {text}"):
        ActionSearch(**options)


# -- the loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("coefficient", [0.5, 1.0])
def test_actors_end_on_the_known_optimum(joint, coefficient):
    torch.manual_seed(0)
    scaler = ActionScaler(-2.0, 6.0)
    best = 1.6 * torch.rand(16, N, ACT) - 0.8  # in [-1, 1]

    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.action = nn.Parameter(torch.zeros(16, N, ACT))

        def forward(self, observation):
            return scaler.unscale(self.action) + 0 * observation[..., :ACT]

    class Known(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(()))

        def forward(self, row, action):
            gap = scaler.scale(action) - best[row.long()]
            value = self.offset - (gap**2).sum(-1, keepdim=True)
            return value.sum(-2) if joint else value

    loss = OmarLoss(
        TensorDictModule(Table(), [OBSERVATION], [ACTION]),
        TensorDictModule(Known(), ["row", ACTION], ["state_action_value"]),
        action_scaler=scaler,
        coefficient=coefficient,
    )
    data = make_data((16,)).set("row", torch.arange(16.0))
    optimiser = torch.optim.Adam(loss.actor_network_params.parameters(), lr=0.03)
    for _ in range(150):
        optimiser.zero_grad()
        loss.actor_loss(data)[0].sum().backward()
        optimiser.step()
    assert (loss.policy_action(data) - best).abs().max() < 0.05


def test_a_local_optimum_is_left_by_the_search_and_not_by_the_gradient():
    # Two bumps, the higher one beyond a valley: what the paper's Figure 1 is about.
    class Bumps(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(()))

        def forward(self, action):
            low, high = (torch.exp(-((action - at) ** 2) / 0.02) for at in (-0.6, 0.6))
            return self.offset + low + 2 * high

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.action = nn.Parameter(torch.full((N, 1), -0.5))

        def forward(self, observation):
            return self.action + 0 * observation[..., :1]

    ends = {}
    for coefficient in (0.0, 1.0):
        torch.manual_seed(0)
        loss = OmarLoss(
            TensorDictModule(Constant(), [OBSERVATION], [ACTION]),
            TensorDictModule(Bumps(), [ACTION], ["state_action_value"]),
            coefficient=coefficient,
        )
        data = TensorDict({OBSERVATION: torch.zeros(32, N, 2)}, [32])
        optimiser = torch.optim.Adam(loss.actor_network_params.parameters(), lr=0.03)
        for _ in range(200):
            optimiser.zero_grad()
            loss.actor_loss(data)[0].mean().backward()
            optimiser.step()
        ends[coefficient] = loss.policy_action(data)[0, 0].item()
    assert ends[0.0] == pytest.approx(-0.6, abs=0.05)
    assert ends[1.0] == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("make_critic", [make_qvalue, make_independent_qvalue])
def test_without_coefficient_and_penalty_it_is_plain_td3(make_critic):
    torch.manual_seed(0)
    actor, critic, data = make_actor(), make_critic(), make_data()
    plain = OmarLoss(actor, critic, coefficient=0.0, alpha=0.0)
    other = Matd3BcLoss(actor, critic, policy_noise=0.0)
    other.load_state_dict(plain.state_dict())
    found = plain(data)
    torch.testing.assert_close(found["loss_qvalue"], other(data)["loss_qvalue"])
    action = plain.policy_action(data)
    climbed = plain.qvalues_at(data, action, plain.qvalue_network_params)[0]
    torch.testing.assert_close(found["loss_actor"], -climbed.mean())
    (expected,) = torch.autograd.grad(-climbed.mean(), action)
    (gradient,) = torch.autograd.grad(
        -plain.per_sample(plain.policy_value(data, action), data).mean(), action
    )
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("make_critic", [make_qvalue, make_independent_qvalue])
def test_actor_loss_is_the_weighted_sum_of_both_terms(make_critic):
    torch.manual_seed(0)
    data = make_data()
    losses = {}
    for coefficient in (0.0, 0.3, 1.0):
        torch.manual_seed(1)
        loss = OmarLoss(make_actor(), make_critic(), coefficient=coefficient)
        torch.manual_seed(2)
        losses[coefficient] = loss.actor_loss(data)[0]
    torch.testing.assert_close(losses[0.3], 0.3 * losses[1.0] + 0.7 * losses[0.0])


def test_joint_critics_are_searched_beside_what_the_others_choose():
    # Q = -(a_1 - a_2)^2 - ..: each agent's best answer is the mean of the others' actions.
    class Meet(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset = nn.Parameter(torch.zeros(()))

        def forward(self, action):
            pairs = (action.unsqueeze(-2) - action.unsqueeze(-3)) ** 2
            return self.offset - pairs.sum((-3, -2, -1)).unsqueeze(-1)

    torch.manual_seed(0)
    loss = OmarLoss(
        make_actor(),
        TensorDictModule(Meet(), [ACTION], ["state_action_value"]),
        search=ActionSearch(20, 50, 10),
    )
    data, action = make_data((8,)), 1.6 * torch.rand(8, N, ACT) - 0.8
    value = loss.policy_value(data, action)
    assert value.shape == (8,)
    found = loss.best_action(data, action, value)
    others = (action.sum(-2, keepdim=True) - action) / (N - 1)
    torch.testing.assert_close(found, others, atol=1e-3, rtol=0)


def test_penalty_pushes_sampled_actions_down_and_logged_ones_up():
    torch.manual_seed(0)
    data, gaps = make_data((64,)), {}
    for alpha in (0.0, 5.0):
        torch.manual_seed(0)
        loss = OmarLoss(make_actor(), make_independent_qvalue(), alpha=alpha)
        narrow = data.clone().set(ACTION, 0.2 * data[ACTION] + 0.5)
        optimiser = torch.optim.Adam(loss.qvalue_network_params.parameters(), lr=1e-2)
        for _ in range(60):
            optimiser.zero_grad()
            loss(narrow)["loss_qvalue"].backward()
            optimiser.step()
        away = loss.qvalues_at(narrow, -narrow[ACTION], loss.qvalue_network_params)
        gaps[alpha] = (loss.qvalues(narrow, loss.qvalue_network_params) - away).mean().item()
    assert gaps[5.0] > gaps[0.0] + 1


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("coefficient", 1.1, r"in \[0, 1\], found 1.1"),
        ("alpha", -1.0, "of at least 0, found -1.0"),
        ("penalty_temperature", 0.0, "above 0, found 0.0"),
        ("num_sampled_actions", 0, "of at least 1, found 0"),
        ("noise_clip", -1.0, "of at least 0, found -1.0"),
    ],
)
def test_options_out_of_range(option, value, text):
    with pytest.raises(ValueError, match=f"expected {option} {text}"):
        OmarLoss(make_actor(), make_independent_qvalue(), **{option: value})

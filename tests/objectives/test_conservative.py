"""The conservative penalty: against integrals, by hand, and against TorchRL's."""

from __future__ import annotations

import math

import pytest
import torch
from networks import (
    ACT,
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
from scipy import integrate
from tensordict import TensorDict
from tensordict.nn import (
    NormalParamExtractor,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
    TensorDictSequential,
)
from torch import nn
from torch.distributions import Normal
from torchrl.objectives import CQLLoss

from benchmarl_ssd.modules.behaviour import BehaviourNetwork
from benchmarl_ssd.objectives import CfcqlLoss, MacqlLoss, conservative
from benchmarl_ssd.objectives.conservative import sample_around

# -- samples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("centre", [0.0, 0.7, -1.0])
@pytest.mark.parametrize("scale", [0.05, 0.2, 3.0])
def test_density_around_a_policy_is_that_of_the_samples(centre, scale):
    torch.manual_seed(0)
    samples, log_density = sample_around(torch.tensor([centre]), scale, 200_000)
    assert samples.abs().max() <= 1
    # E_p[f U / p] = E_U[f], where p has mass: over the region within three deviations.
    low, high = max(-1.0, centre - 2 * scale), min(1.0, centre + 2 * scale)
    inside = ((samples >= low) & (samples <= high)).squeeze(-1)
    for power in (0, 1, 2):
        weighted = (samples.squeeze(-1) ** power * (-log_density).exp() * inside).mean().item()
        exact = (high ** (power + 1) - low ** (power + 1)) / (power + 1) / 2
        assert weighted == pytest.approx(exact, abs=0.01 * (high - low))


def test_density_of_several_entries_is_their_product():
    torch.manual_seed(0)
    centre = torch.tensor([[0.3, -0.9]])
    samples, log_density = sample_around(centre, 0.2, 5)
    for draw, found in zip(samples[:, 0], log_density[:, 0], strict=True):
        exact = 0.0
        for entry, mean in zip(draw.tolist(), centre[0].tolist(), strict=True):
            normal = torch.distributions.Normal(torch.tensor(mean).double(), 0.2)
            mass = normal.cdf(torch.tensor(1.0)) - normal.cdf(torch.tensor(-1.0))
            exact += (normal.log_prob(torch.tensor(entry)) - mass.log()).item() + math.log(2)
        assert found.item() == pytest.approx(exact, abs=1e-4)


def test_samples_come_in_equal_parts_from_their_proposals():
    torch.manual_seed(0)
    loss = MacqlLoss(make_actor(), make_qvalue(), num_sampled_actions=500, sample_noise=0.01)
    data = make_data((4,))
    sampled, log_density = loss.propose(data)
    assert sampled.shape == (1500, 4, N, ACT)
    assert log_density.shape == (1500, 4, N)
    assert (log_density[:500] == 0).all()
    assert sampled[:500].std(0).sub(1 / math.sqrt(3)).abs().max() < 0.06
    now, then = (loss.policy_action(entries) for entries in (data, data["next"]))
    assert (sampled[500:1000].mean(0) - now).abs().max() < 0.003
    assert (sampled[1000:].mean(0) - then).abs().max() < 0.003
    assert not sampled.requires_grad


# -- the soft maximum ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "proposals", [["uniform"], ["uniform", "policy"], ["uniform", "policy", "next_policy"]]
)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_many_samples_give_the_integral(proposals, temperature):
    torch.manual_seed(0)
    loss = MacqlLoss(
        small_actor(),
        known(quadratic(2.0, 0.3)),
        num_sampled_actions=20_000,
        penalty_temperature=temperature,
        proposals=proposals,
        sample_noise=0.5,
    )
    data = one_agent_data(torch.tensor([[[0.9]], [[-0.4]]]))
    predicted = loss.qvalues(data, loss.qvalue_network_params)
    integral, _ = integrate.quad(lambda u: math.exp(-2 * (u - 0.3) ** 2 / temperature) / 2, -1, 1)
    exact = temperature * math.log(integral) - torch.tensor([-0.72, -0.98])
    torch.testing.assert_close(
        loss.penalty(data, predicted), 2 * exact, rtol=0, atol=0.03 * temperature
    )


def test_joint_penalty_is_the_log_sum_exp_over_a_grid_of_joint_actions():
    torch.manual_seed(0)
    grid = torch.tensor([-0.8, 0.1, 0.6])
    joint = torch.cartesian_prod(grid, grid)  # nine joint actions of two agents
    loss = MacqlLoss(
        small_actor(), known(lambda a: a.prod(-2) * 3 + a.sum(-2)), penalty_temperature=0.7
    )
    data = one_agent_data(torch.tensor([[[0.5], [-0.5]]]), size=2)
    sampled = joint.reshape(9, 1, 2, 1)
    loss.propose = lambda tensordict: (sampled, torch.zeros(9, 1, 2))
    predicted = loss.qvalues(data, loss.qvalue_network_params)
    total = sum(math.exp((3 * x * y + x + y) / 0.7) for x in grid.tolist() for y in grid.tolist())
    exact = 0.7 * math.log(total / 9) - 3 * 0.5 * -0.5
    torch.testing.assert_close(loss.penalty(data, predicted), torch.tensor([2 * exact]))


def test_penalty_of_a_constant_critic_is_zero():
    torch.manual_seed(0)
    loss = MacqlLoss(
        make_actor(), known(lambda a: 0 * a.sum((-2, -1))[..., None] + 5), proposals=["uniform"]
    )
    data = make_data((8,))
    predicted = loss.qvalues(data, loss.qvalue_network_params)
    assert loss.penalty(data, predicted).abs().max() < 1e-5


@pytest.mark.parametrize("make", [make_qvalue, make_independent_qvalue])
def test_alpha_zero_is_the_critic_of_td3(make):
    torch.manual_seed(0)
    loss = MacqlLoss(make_actor(), make(), alpha=0.0, reduction="none")
    if make is make_independent_qvalue:
        assert loss.qvalues(make_data((8,)), loss.qvalue_network_params).shape == (2, 8, N)
    data = make_data((8,))
    torch.manual_seed(1)
    plain = loss.policy_qvalue_loss(data)[0]
    torch.manual_seed(1)
    torch.testing.assert_close(loss(data)["loss_qvalue"], plain)


def test_independent_critics_are_each_held_down_at_their_own_actions():
    torch.manual_seed(0)
    loss = MacqlLoss(make_actor(), make_independent_qvalue(), num_sampled_actions=4)
    data = make_data((6,))
    predicted = loss.qvalues(data, loss.qvalue_network_params)
    torch.manual_seed(1)
    found = loss.penalty(data, predicted)
    torch.manual_seed(1)
    sampled, density = loss.propose(data)
    exact = torch.zeros(6)
    for critic in range(2):
        for agent in range(N):
            values = []
            for draw, weight in zip(sampled, density, strict=True):
                q = loss.qvalues_at(data, draw, loss.qvalue_network_params)[critic, :, agent]
                values.append(q - weight[:, agent])
            most = torch.stack(values).exp().mean(0).log()
            exact += (most - predicted[critic, :, agent]) / N
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("loss_class", [MacqlLoss, CfcqlLoss])
def test_the_gradient_raises_logged_values_and_lowers_others(loss_class):
    torch.manual_seed(0)
    loss = loss_class(small_actor(), lookup_module(), num_sampled_actions=64, proposals=["uniform"])
    data = one_agent_data(torch.full((4, 1, 1), 0.5))
    predicted = loss.qvalues(data, loss.qvalue_network_params)
    loss.penalty(data, predicted).mean().backward()
    (gradient,) = (p.grad for n, p in loss.named_parameters() if "weight" in n and "qvalue" in n)
    below, above = gradient[:, 0, 0], gradient[:, 1, 0]
    assert (below > 0.2).all()  # descent lowers what was not logged
    assert (above < -0.2).all()  # and raises what was
    torch.testing.assert_close(below + above, torch.zeros(2))  # the level is left alone


def lookup_module():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 1))

        def forward(self, action):
            side = (action.mean((-2, -1)) > 0).to(action.dtype).unsqueeze(-1)
            return (1 - side) * self.weight[0] + side * self.weight[1]

    return TensorDictModule(Table(), [ACTION], ["state_action_value"])


# -- cost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_class", [MacqlLoss, CfcqlLoss])
def test_pieces_give_the_same_gradient(loss_class, monkeypatch):
    torch.manual_seed(0)
    loss, data, found = loss_class(make_actor(), make_qvalue()), make_data((16,)), []
    for rows in (10**6, 100):
        monkeypatch.setattr(conservative, "_MAX_ROWS", rows)
        loss.zero_grad()
        torch.manual_seed(1)
        value = loss(data)["loss_qvalue"]
        value.backward()
        found.append([value, *[p.grad.clone() for p in loss.qvalue_network_params.parameters()]])
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(whole, pieces)


@pytest.mark.parametrize("loss_class", [MacqlLoss, CfcqlLoss])
def test_a_share_of_the_rows_gives_the_penalty_on_average(loss_class):
    torch.manual_seed(0)
    networks, options = (make_actor(), make_qvalue()), {"proposals": ["uniform"]}
    whole = loss_class(*networks, num_sampled_actions=300, **options)
    part = loss_class(*networks, num_sampled_actions=50, penalty_share=0.25, **options)
    part.load_state_dict(whole.state_dict())
    data = make_data((8,))
    with torch.no_grad():
        predicted = whole.qvalues(data, whole.qvalue_network_params)
        exact = whole.penalty(data, predicted)
        draws = torch.stack([part.penalty(data, predicted) for _ in range(400)])
    assert ((draws != 0).sum(1) == 2).all()
    assert (draws.mean(0) - exact).abs().max() < 0.25 * exact.abs().max()
    torch.testing.assert_close(draws.mean(), exact.mean(), rtol=0.1, atol=0.03)


# -- TorchRL ------------------------------------------------------------------------------------


def test_one_agent_has_the_penalty_of_torchrl():
    """At temperature 1, one action from each proposal, and a mean over the batch.

    With more actions TorchRL takes its log-sum-exp over the three proposals only, and evaluates
    what the policy does next in the next state, not in this one as the paper does; so both
    are given the same actions here.
    """
    torch.manual_seed(0)
    size, batch = 2, 16
    observation = torch.randn(batch, OBS)
    action = 2 * torch.rand(batch, size) - 1
    single = TensorDict({"observation": observation, "action": action}, [batch])
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(
            nn.Sequential(nn.Linear(OBS, 2 * size), NormalParamExtractor()),
            ["observation"],
            ["loc", "scale"],
        ),
        ProbabilisticTensorDictModule(["loc", "scale"], ["action"], distribution_class=Normal),
    )
    net = nn.Sequential(nn.Linear(OBS + size, 16), nn.Tanh(), nn.Linear(16, 1))
    both = TensorDictModule(lambda *x: torch.cat(x, -1), ["observation", "action"], ["both"])
    theirs = CQLLoss(
        actor,
        TensorDictSequential(both, TensorDictModule(net, ["both"], ["state_action_value"])),
        num_random=1,
        target_entropy=0.0,
    )
    samples, densities = sample_around(action * 0.5, 0.3, 2)
    given = iter(zip(samples, densities - size * math.log(2), strict=True))

    def policy_actions(data, actor_params, num_actions=10):
        draw, log_density = next(given)
        entries = TensorDict({"observation": observation, "action": draw}, [batch])
        return entries, log_density

    theirs._get_policy_actions = policy_actions
    values = theirs._vmap_qvalue_networkN0(single, theirs.qvalue_network_params)
    for name, value in zip(("pred_q1", "pred_q2"), values["state_action_value"], strict=True):
        single.set(getattr(theirs.tensor_keys, name), value)
    single.set("next", single.select("observation"))
    torch.manual_seed(3)
    expected = theirs.cql_loss(single)[0]
    torch.manual_seed(3)
    uniform = torch.empty(batch, size).uniform_(-1, 1)

    team = TensorDictModule(
        lambda *x: torch.cat([y.flatten(-2) for y in x], -1), [OBSERVATION, ACTION], ["both"]
    )
    ours = MacqlLoss(
        TensorDictModule(nn.Linear(OBS, size), [OBSERVATION], [ACTION]),
        TensorDictSequential(team, TensorDictModule(net, ["both"], ["state_action_value"])),
    )
    ours.qvalue_network_params.data.copy_(theirs.qvalue_network_params.data)
    data = TensorDict({OBSERVATION: observation[:, None], ACTION: action[:, None]}, [batch])
    sampled = torch.stack([uniform, *samples])[:, :, None]
    log_density = torch.stack([torch.zeros(batch), *densities])[..., None]
    ours.propose = lambda tensordict: (sampled, log_density)
    predicted = ours.qvalues(data, ours.qvalue_network_params)
    found = ours.penalty(data, predicted).mean()
    constant = math.log(3) + size * math.log(2)  # a sum over samples, and densities not relative
    torch.testing.assert_close(found + 2 * constant, expected)


# -- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        {"alpha": -1.0},
        {"penalty_temperature": 0.0},
        {"sample_noise": 0.0},
        {"num_sampled_actions": 0},
        {"penalty_share": 0.0},
        {"penalty_share": 1.5},
        {"proposals": []},
        {"proposals": ["uniform", "uniform"]},
        {"proposals": ["logged"]},
        {"policy_noise": -1.0},
    ],
)
def test_options_out_of_range_are_errors(option):
    with pytest.raises(ValueError, match="expected"):
        MacqlLoss(make_actor(), make_qvalue(), **option)


def test_weights_and_behaviour_model_go_together():
    for option in ({"weight_tau": -1.0}, {"weight_tau": 1.0}):
        with pytest.raises(ValueError, match="expected"):
            CfcqlLoss(make_actor(), make_qvalue(), **option)
    with pytest.raises(ValueError, match="expected a behaviour_network with"):
        CfcqlLoss(make_actor(), make_qvalue(), behaviour_network=behaviour_network())
    with pytest.raises(ValueError, match="n_components of at least 1"):
        BehaviourNetwork(2, 3, 1, [OBSERVATION], n_components=0)


@pytest.mark.parametrize("scale", [0.1, 7.0])
def test_the_penalty_is_in_units_of_the_reward(scale):
    """Rewards and critics in other units leave the loss what it was, in those units squared."""
    data, losses = make_data((16,)), []
    for factor in (1.0, scale):
        function = lambda action, c=factor: c * quadratic(2.0, 0.3)(action)  # noqa: E731
        loss = MacqlLoss(
            small_actor(N * ACT), known(function), alpha=0.7, penalty_temperature=0.5,
            proposals=("uniform",), reward_scale=factor, reduction="sum",
        )  # fmt: skip
        loss.next_policy_value = lambda td, c=factor: torch.full((16,), 3.0 * c)
        torch.manual_seed(5)
        losses.append(loss.conservative_qvalue_loss(data)[0])
    torch.testing.assert_close(losses[1], scale**2 * losses[0], rtol=1e-4, atol=1e-5)

"""What the losses compute: closed forms, known optima, and coordination with exact scores."""

from __future__ import annotations

import math

import pytest
import torch
from networks import ACTION, OBSERVATION, join, make_actor, make_data, make_qvalue, make_value
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.objectives import SoftUpdate

from benchmarl_ssd.modules import ActionScaler, ConditionalScore, MixtureScore, VPNoiseSchedule
from benchmarl_ssd.modules.noise import NoiseWindow
from benchmarl_ssd.objectives import BcLoss, JointIQLLoss, ScoreMatchingLoss, SsdLoss


def constant_value(value):
    return TensorDictModule(
        lambda observation: torch.full((*observation.shape[:-2], 1), value),
        in_keys=[OBSERVATION],
        out_keys=["state_value"],
    )


# -- behaviour cloning ------------------------------------------------------------------------


def test_bc_is_the_mean_squared_error_in_scaled_actions():
    torch.manual_seed(0)
    actor, data = make_actor(), make_data()
    scaler = ActionScaler(-2.0, 6.0)
    data[ACTION] = scaler.unscale(data[ACTION])
    predicted = scaler.scale(actor(data.select(OBSERVATION))[ACTION])
    expected = ((predicted - scaler.scale(data[ACTION])) ** 2).mean()
    torch.testing.assert_close(BcLoss(actor, scaler)(data)["loss_actor"], expected)


# -- critic -----------------------------------------------------------------------------------


def test_bootstrap_is_cut_by_termination_and_not_by_truncation():
    torch.manual_seed(0)
    data = make_data((6,))
    data["next", "done"] = torch.tensor([[0], [1], [1], [0], [1], [1]]).bool()
    data["next", "terminated"] = torch.tensor([[0], [0], [1], [0], [0], [1]]).bool()
    loss = JointIQLLoss(make_qvalue(), constant_value(10.0), reduction="none", num_qvalue_nets=1)
    loss.make_value_estimator(gamma=0.9)
    reward = data["next", "agents", "reward"].mean((-2, -1))
    target = reward + 0.9 * 10 * torch.tensor([1, 1, 0, 1, 1, 0])
    predicted = loss.qvalues(data, loss.qvalue_network_params)[0]
    torch.testing.assert_close(loss.qvalue_loss(data)[0], (predicted - target) ** 2)


def test_flags_of_every_agent_end_the_team_when_all_are_done():
    loss = JointIQLLoss(make_qvalue(), make_value())
    data = make_data((2,), terminated=("agents", "terminated"), done=("agents", "done"))
    flags = torch.tensor([[[1], [1], [0]], [[1], [1], [1]]]).bool()
    data["next", "agents", "terminated"] = flags
    data["next", "agents", "done"] = flags
    loss.set_keys(terminated=("agents", "terminated"), done=("agents", "done"))
    team = loss.team_transition(data)
    assert team["next", "team_terminated"].tolist() == [[False], [True]]


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_value_is_the_expectile_of_a_known_distribution(expectile):
    # Q is uniform on [0, 1]: its expectile v solves tau (1 - v)^2 = (1 - tau) v^2.
    torch.manual_seed(0)
    read_q = TensorDictModule(
        lambda action: action[..., 0, :], in_keys=[ACTION], out_keys=["state_action_value"]
    )
    qvalue = TensorDictSequential(
        TensorDictModule(nn.Identity(), in_keys=[OBSERVATION], out_keys=["seen"]),
        read_q,
        TensorDictModule(nn.Linear(1, 1), in_keys=["state_action_value"], out_keys=["unused"]),
    )
    weight = TensorDictModule(
        nn.Linear(1, 1, bias=False), in_keys=["one"], out_keys=["state_value"]
    )
    loss = JointIQLLoss(qvalue, weight, expectile=expectile, num_qvalue_nets=1)
    SoftUpdate(loss, tau=0.5)
    action = torch.linspace(0, 1, 5001).reshape(-1, 1, 1)
    data = TensorDict(
        {"agents": {"action": action, "observation": action}, "one": torch.ones(5001, 1)}, [5001]
    )
    optimizer = torch.optim.LBFGS(loss.value_network_params.parameters(), max_iter=50)

    def closure():
        optimizer.zero_grad()
        value = loss.value_loss(data)[0].mean()
        value.backward()
        return value

    optimizer.step(closure)
    root = math.sqrt(expectile / (1 - expectile))
    fitted = next(iter(loss.value_network_params.parameters())).item()
    assert fitted == pytest.approx(root / (1 + root), abs=1e-3)


def test_action_gradient_is_that_of_the_smaller_critic_in_scaled_units():
    torch.manual_seed(0)
    low, high = torch.tensor(-2.0), torch.tensor(4.0)
    loss = JointIQLLoss(make_qvalue(), make_value(), ActionScaler(low, high))
    data, scaled = make_data(), torch.rand(8, 3, 2)

    def smaller(u):
        read = data.select(OBSERVATION).set(ACTION, low + (u + 1) / 2 * (high - low))
        return loss.qvalues(read, loss.qvalue_network_params).min(0).values

    gradient, step = loss.action_gradient(data, scaled), 1e-2
    for agent, entry in ((0, 0), (2, 1)):
        shift = torch.zeros_like(scaled)
        shift[:, agent, entry] = step
        numeric = (smaller(scaled + shift) - smaller(scaled - shift)) / (2 * step)
        torch.testing.assert_close(gradient[:, agent, entry], numeric, atol=2e-3, rtol=2e-2)


# -- scores -----------------------------------------------------------------------------------


def test_exact_score_has_the_smallest_denoising_error():
    # The error of the exact prediction is E|z|^2 minus what the noised action tells about z.
    torch.manual_seed(0)
    modes = torch.tensor([[[0.8], [-0.8]], [[-0.8], [0.8]]])
    actions = modes[torch.arange(4000) % 2] + 0.1 * torch.randn(4000, 2, 1)
    data = TensorDict(
        {"agents": {"action": actions, "observation": torch.zeros(4000, 2, 1)}}, [4000]
    )

    def error(noise, modes=modes):
        torch.manual_seed(1)
        score = ConditionalScore(MixtureScore(modes, noise), 2, 1, [OBSERVATION])
        return ScoreMatchingLoss(score)(data)["denoising_error"].item()

    exact = error(0.1)
    assert exact < error(0.05)
    assert exact < error(0.2)
    assert exact < error(0.1, modes * 0.8)
    assert exact < error(0.1, modes.flip(1) * torch.tensor([[1.0], [-1.0]]))


# -- extraction -------------------------------------------------------------------------------


def extraction(modes, decomposition, n_seeds, noise=0.05, **options):
    """Extract ``n_seeds`` independent teams at once: row s of the batch trains team s alone."""
    n_agents = modes.shape[1]

    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(0.1 * torch.randn(n_seeds, n_agents, 1))

        def forward(self, observation):
            return torch.einsum("...ns,snd->...nd", observation, self.weight).tanh()

    actor = TensorDictModule(Table(), in_keys=[OBSERVATION], out_keys=[ACTION])
    qvalue = TensorDictSequential(
        TensorDictModule(join, in_keys=[ACTION], out_keys=["joint"]),
        TensorDictModule(
            nn.Linear(n_agents, 1), in_keys=["joint"], out_keys=["state_action_value"]
        ),
    )
    score = ConditionalScore(
        MixtureScore(modes, noise, joint=decomposition == "joint"),
        n_agents,
        1,
        [OBSERVATION],
        decomposition=decomposition,
        order=options.pop("order", "fixed"),
    )
    steps = options.pop("steps", 600)
    loss = SsdLoss(
        actor,
        score,
        qvalue,
        make_value(),
        beta=0.0,
        pretrain_steps=0,
        extraction_steps=steps,
        n_policy_noise_draws=4,
        **options,
    )
    eye = torch.eye(n_seeds).unsqueeze(1).expand(n_seeds, n_agents, n_seeds)
    data = TensorDict({"agents": {"observation": eye}}, [n_seeds])
    # Adam works on every entry by itself, so the teams of the batch do not meet.
    optimizer = torch.optim.Adam(loss.actor_network_params.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss.step += 1
        loss.actor_loss(data)[0].sum().backward()
        optimizer.step()
    with torch.no_grad():
        action = loss.act(loss.actor_network, data).squeeze(-1)
    distance = (action.unsqueeze(1) - modes.squeeze(-1)).abs().amax(-1).min(-1).values
    return (distance < 0.25).float().mean().item(), action


def joint_modes(n_agents, n_modes=2):
    levels = torch.linspace(-0.8, 0.8, n_modes)
    return torch.stack([levels[torch.randperm(n_modes)] for _ in range(n_agents)], 1).unsqueeze(-1)


@pytest.mark.parametrize("n_agents", [2, 4, 8])
@pytest.mark.parametrize("decomposition", ["sequential", "joint"])
def test_exact_scores_lead_every_team_to_a_played_mode(n_agents, decomposition):
    torch.manual_seed(n_agents)
    rate, _ = extraction(joint_modes(n_agents), decomposition, n_seeds=64)
    assert rate == 1.0


@pytest.mark.parametrize("n_agents", [2, 4, 8])
def test_exact_marginals_lead_to_a_played_mode_by_chance(n_agents):
    torch.manual_seed(n_agents)
    teams, chance = 256, 2.0 ** (1 - n_agents)
    rate, action = extraction(joint_modes(n_agents), "marginal", n_seeds=teams)
    assert abs(rate - chance) < 4 * math.sqrt(chance * (1 - chance) / teams) + 1e-9
    # each agent by itself does settle on one of its own levels
    assert ((action.abs() - 0.8).abs() < 0.25).all()


@pytest.mark.parametrize("order", ["reversed", "random"])
def test_the_order_of_the_agents_is_free(order):
    torch.manual_seed(0)
    rate, _ = extraction(joint_modes(4), "sequential", n_seeds=64, order=order)
    assert rate == 1.0


def test_three_modes():
    torch.manual_seed(0)
    rate, _ = extraction(joint_modes(3, n_modes=3), "sequential", 64)
    assert rate == 1.0


def test_averaging_over_all_noise_levels_collapses_to_the_mean():
    # The weighting of SRPO over its whole range of times: the smoothed modes' mean wins.
    torch.manual_seed(0)
    fixed = NoiseWindow(0.02, 0.98, 0.98, annealing=0.0)
    rate, action = extraction(
        joint_modes(2), "sequential", 64, weighting="sigma2", window=fixed, steps=1200
    )
    assert rate == 0.0
    assert action[:, 0].abs().mean() < 0.3


def test_surrogate_gradient_is_the_weighted_score_minus_beta_times_the_critics():
    torch.manual_seed(0)
    modes = torch.tensor([[[0.5], [0.5], [0.5]]]).expand(1, 3, 2).contiguous()
    noise, t, beta = 0.3, 0.4, 0.7
    actor, schedule = make_actor(), VPNoiseSchedule()
    score = ConditionalScore(MixtureScore(modes, noise), 3, 2, [OBSERVATION])
    loss = SsdLoss(
        actor,
        score,
        make_qvalue(),
        make_value(),
        beta=beta,
        normalise_q=False,
        window=NoiseWindow(t - 1e-6, t + 1e-6, t, annealing=0.0),
        n_policy_noise_draws=4000,
        pretrain_steps=0,
    )
    data = make_data((2,))
    action = loss.act(actor, data).detach()
    pull = loss._score_gradient(data, action)
    # For one Gaussian mode E[eps - z] = -sigma * grad log mu^t, at the noised action's mean.
    alpha, sigma = schedule.alpha(torch.tensor(t)), schedule.sigma(torch.tensor(t))
    exact = sigma * alpha * (action - 0.5) / (alpha**2 * noise**2 + sigma**2)
    torch.testing.assert_close(pull, exact, atol=0.05, rtol=0.05)

    leaf = action.clone().requires_grad_()
    torch.manual_seed(3)
    climb = loss.action_gradient(data, action)
    loss.act = lambda *_: leaf
    torch.manual_seed(4)
    loss.actor_loss(data)[0].sum().backward()
    torch.manual_seed(4)
    expected = loss._score_gradient(data, action) - beta * climb
    torch.testing.assert_close(leaf.grad, expected)


def test_normalised_critic_gradient_does_not_depend_on_the_rewards_scale():
    torch.manual_seed(0)
    actor, data = make_actor(), make_data()
    qvalue, value = make_qvalue(), make_value()
    score = ConditionalScore(MixtureScore(torch.zeros(1, 3, 2), 0.3), 3, 2, [OBSERVATION])
    loss = SsdLoss(actor, score, qvalue, value, beta=1.0, pretrain_steps=0, num_qvalue_nets=1)
    gradients = []
    for scale in (1.0, 1000.0):
        leaf = loss.act(actor, data).detach().requires_grad_()
        twin = SsdLoss(actor, score, qvalue, value, beta=1.0, pretrain_steps=0, num_qvalue_nets=1)
        twin.load_state_dict(loss.state_dict())
        with torch.no_grad():
            for parameter in list(twin.qvalue_network_params.parameters())[-2:]:
                parameter.mul_(scale)
        twin.act = lambda *_, leaf=leaf: leaf
        torch.manual_seed(1)
        twin.actor_loss(data)[0].sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-5)

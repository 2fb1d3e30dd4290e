"""MADiff: windows, plans of known truth, guidance, inverse dynamics, decentralised decisions."""

from __future__ import annotations

import pytest
import torch
from loss_tests import DEFAULT_KEYS, LossTests
from networks import ACT, OBS, OBSERVATION, N
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from benchmarl_ssd.modules.plan_diffusion import PlanDiffusion
from benchmarl_ssd.objectives import MadiffLoss

L = 5
CHANGE = ("agents", "planned_change")


def join(*entries):
    return torch.cat(entries, -1)


def make_inverse(observation=OBS, action=ACT, key=("agents", "action"), cells=16):
    net = nn.Sequential(nn.Linear(2 * observation, cells), nn.Tanh(), nn.Linear(cells, action))
    return TensorDictSequential(
        TensorDictModule(join, in_keys=[OBSERVATION, CHANGE], out_keys=["joined"]),
        TensorDictModule(net, in_keys=["joined"], out_keys=[key]),
    )


def make_plan(n_agents=N, observation=OBS, horizon=3, width=16, **options):
    options = {"depth": 1, "n_heads": 2, **options}
    return PlanDiffusion.build(n_agents, observation, horizon, [OBSERVATION], width, **options)


def make_windows(batch=(8,), length=L, seed=0, done=None, keys=DEFAULT_KEYS):
    """Random windows, of which some end with an episode."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch, length)
    path = torch.randn(*batch, length + 1, N, OBS, generator=generator)
    data = TensorDict({}, batch_size=shape)
    data.set(OBSERVATION, path[..., :-1, :, :])
    data.set(("next", *OBSERVATION), path[..., 1:, :, :])
    data.set(keys["action"], 2 * torch.rand(*shape, N, ACT, generator=generator) - 1)
    data.set("return_rank", torch.rand(*shape, 1, generator=generator))
    ends = torch.zeros(*shape, 1, dtype=torch.bool)
    ends[..., -1, :] = torch.rand(*batch, 1, generator=generator) < 0.5 if done is None else done
    data.set(("next", keys["done"]), ends)
    return data


class TestMadiff(LossTests):
    trains = {"loss_plan": "plan_network", "loss_actor": "actor_network"}
    deterministic = ("loss_actor",)
    conditional = True

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return MadiffLoss(
            make_plan(conditional=self.conditional),
            make_inverse(key=keys["action"]),
            reduction=reduction,
        )

    @staticmethod
    def data(batch=(8,), keys=DEFAULT_KEYS):
        return make_windows(batch, keys=keys)

    def test_layout_of_the_batch_does_not_matter(self):
        data = make_windows((2, 3))
        flat = self.seeded(self.ready("none"), data.reshape(6, L))
        square = self.seeded(self.ready("none"), data)
        for name in self.trains:  # the noise, too, is drawn for the rows in their order
            torch.testing.assert_close(square[name].reshape(6), flat[name])


class TestMadiffUnconditional(TestMadiff):
    conditional = False


class TestMadiffTransitions(TestMadiff):
    """Single transitions are windows of one step."""

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        inverse = make_inverse(key=keys["action"])
        return MadiffLoss(make_plan(horizon=1), inverse, windows=False, reduction=reduction)

    @staticmethod
    def data(batch=(8,), keys=DEFAULT_KEYS):
        return make_windows(batch, length=1, keys=keys)[..., 0]

    def test_layout_of_the_batch_does_not_matter(self):
        data = self.data((2, 3))
        windows = MadiffLoss(make_plan(horizon=1), make_inverse(), reduction="none")
        single = MadiffLoss(make_plan(horizon=1), make_inverse(), windows=False, reduction="none")
        single.load_state_dict(windows.state_dict())
        square, flat = self.seeded(single, data), self.seeded(windows, data.reshape(6, 1))
        for name in self.trains:
            torch.testing.assert_close(square[name].reshape(6), flat[name])


@pytest.mark.parametrize("option", [{"condition_dropout": 1.5}, {"n_noise_draws": 0}])
def test_options_out_of_range_are_errors(option):
    with pytest.raises(ValueError, match="expected condition_dropout in"):
        MadiffLoss(make_plan(), make_inverse(), **option)


# -- windows -------------------------------------------------------------------------------------


def drawn(loss, data, times=200):
    """First steps that windows were drawn from, with which steps of theirs count."""
    torch.manual_seed(0)
    found = set()
    for _ in range(times):
        with torch.no_grad():
            logged = loss._read_windows(data)[1]
            plan, valid, rank = loss._plans(logged, loss._first_steps(logged))
            current, future = loss.plan_network.frame.decode(plan)
        for row in range(len(plan)):
            (start,) = (data[row][OBSERVATION] - current[row]).abs().sum((1, 2)).lt(1e-4).nonzero()
            assert rank[row] == data[row]["return_rank"][start]
            count = int(valid[row].sum())
            assert valid[row, :count].all()  # the first ones
            expected = data[row]["next", "agents", "observation"][start : start + count]
            torch.testing.assert_close(future[row, :count], expected, atol=1e-5, rtol=1e-5)
            found.add((row, int(start), count))
    return found


def test_windows_begin_at_any_step_before_an_end_and_stop_there():
    data = make_windows((2,), length=4, done=torch.tensor([[False], [True]]))
    loss = MadiffLoss(make_plan(horizon=3), make_inverse())
    whole = {(0, 0, 3), (0, 1, 3)}  # as long as the plan, since nothing ends here
    assert drawn(loss, data) == whole | {(1, 0, 3), (1, 1, 3), (1, 2, 2), (1, 3, 1)}


def test_windows_shorter_than_the_plan_count_what_there_is():
    data = make_windows((2,), length=2, done=torch.tensor([[False], [True]]))
    loss = MadiffLoss(make_plan(horizon=4), make_inverse())
    assert drawn(loss, data) == {(0, 0, 2), (1, 0, 2), (1, 1, 1)}


def test_ends_inside_a_window_cut_the_plan():
    data = make_windows((1,), length=5, done=False)
    data["next", "done"][0, 2] = True
    loss = MadiffLoss(make_plan(horizon=4), make_inverse())
    assert drawn(loss, data) == {(0, 0, 3), (0, 1, 2)}


def test_what_lies_beyond_the_end_costs_nothing():
    data = make_windows((4,), length=1, done=True)
    loss = MadiffLoss(make_plan(horizon=3), make_inverse())
    torch.manual_seed(0)
    loss(data)["loss_plan"].backward()
    params = loss.plan_network_params
    bias = params["denoiser", "to_plan", "bias"].grad.reshape(N, 4, OBS)
    assert (bias[:, :2] != 0).all()
    assert (bias[:, 2:] == 0).all()
    for name in (("regression", "layers", "4", "bias"), ("regression", "scale_logit")):
        regression = params[name].grad.reshape(N, 3, OBS)
        assert (regression[:, :1] != 0).all()
        assert (regression[:, 1:] == 0).all()


# -- closed forms --------------------------------------------------------------------------------


def linear_paths(rows, horizon, generator):
    """Two agents, o_{k+1} = A o_k + B noise; their first observations are correlated, too."""
    shared = torch.randn(rows, 1, 1, generator=generator)
    own = torch.randn(rows, 2, 1, generator=generator)
    now = 0.8 * shared + 0.6 * own  # variance 1, covariance 0.64
    path = [now]
    for _ in range(horizon):
        noise = 0.3 * torch.randn(rows, 2, 1, generator=generator)
        now = 0.9 * now - 0.4 * now.flip(1) + noise
        path.append(now)
    return torch.stack(path, 1)  # [rows, 1 + H, n, 1]


def fitted(paths, steps, seed=0, rank=None, **options):
    torch.manual_seed(seed)
    horizon = paths.shape[1] - 1
    plan = make_plan(2, 1, horizon, width=64, conditional=rank is not None, **options)
    flat = paths[:, :-1].flatten(0, 1), paths[:, 1:].flatten(0, 1)
    plan.frame.fit(*flat, torch.arange(len(paths)).repeat_interleave(horizon))
    loss = MadiffLoss(plan, make_inverse(1, 1), n_noise_draws=1)
    optimizer = torch.optim.Adam(plan.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        index = torch.randint(len(paths), (256,))
        agents = {"observation": paths[index, :-1], "action": torch.zeros(256, horizon, 2, 1)}
        data = TensorDict({"agents": agents}, [256, horizon])
        data["next"] = {"agents": {"observation": paths[index, 1:]}}
        data["next", "done"] = torch.zeros(256, horizon, 1, dtype=torch.bool)
        if rank is not None:
            data["return_rank"] = rank[index, None, None].expand(256, horizon, 1)
        value = loss.plan_loss(data)[0].mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return plan


def test_scales_of_what_the_regression_leaves_are_all_fitted():
    """None is held at its bound by a first step beyond it."""
    plan = fitted(linear_paths(5_000, 2, torch.Generator().manual_seed(0)), 20)
    scale = plan.regression.scale
    assert ((scale > 0.01) & (scale < 1)).all()
    scale.sum().backward()
    assert (plan.regression.scale_logit.grad != 0).all()


@pytest.fixture(scope="module")
def linear():
    paths = linear_paths(40_000, 2, torch.Generator().manual_seed(0))
    return fitted(paths, 1200), paths


@pytest.mark.parametrize("time", [0.15, 0.4, 0.9])
@pytest.mark.parametrize("agent", [0, 1])
def test_denoiser_finds_the_conditional_mean_of_a_gaussian(linear, time, agent):
    # E[x | y] of a Gaussian x with covariance C, y = M x + D z, with noise z where noised.
    plan, paths = linear
    x = plan.frame.encode(paths[:, 0], paths[:, 1:])[:, :, :, 0]  # [rows, n, 1 + H]
    flat = x.flatten(1)
    covariance = flat.T @ flat / len(flat)
    schedule, t = plan.schedule, torch.tensor(time)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    size = flat.shape[1]
    noised = torch.ones(size)
    noised[agent * x.shape[2]] = 0.0  # the current observation of the agent that plans
    signal = torch.diag(torch.where(noised > 0, alpha, 1.0))
    observed = signal @ covariance @ signal + torch.diag(noised * sigma**2)
    gain = covariance @ signal @ torch.linalg.inv(observed + 1e-7 * torch.eye(size))

    torch.manual_seed(1)
    rows = flat[:4000]
    y = rows @ signal + noised * sigma * torch.randn_like(rows)
    exact = y @ gain.T
    known = torch.zeros(len(y), 2, dtype=torch.bool)
    known[:, agent] = True
    nobody = torch.full((len(y),), torch.nan)
    with torch.no_grad():
        velocity = plan.velocity(y.reshape(-1, 2, 3, 1), known, t.expand(len(y)), nobody).flatten(1)
    found = alpha * y - sigma * velocity
    # Of what is not given; in units of the entries, which have variance one.
    error = ((found - exact)[:, noised > 0] ** 2).mean().sqrt()
    assert error < 0.1 * exact[:, noised > 0].std(), error


def test_plans_have_the_mean_and_the_spread_of_the_data(linear):
    plan, _ = linear
    plan.temperature, plan.n_steps = 1.0, 100  # fewer steps plan less spread than there is
    torch.manual_seed(2)
    observation = torch.tensor([[1.0], [-0.5]]).expand(4000, 2, 1)
    plans = plan.sample(observation)[:, 0]  # what agent 0 plans for both
    current, future = plan.frame.decode(plans)
    plan.temperature, plan.n_steps = 0.5, 6
    assert torch.allclose(current[:, 0], torch.tensor(1.0), atol=1e-5)  # what it sees
    mate = current[:, 1, 0]  # imagined from the correlation of the two, 0.64
    assert mate.mean().item() == pytest.approx(0.64, abs=0.06)
    assert mate.std().item() == pytest.approx((1 - 0.64**2) ** 0.5, rel=0.08)
    own = future[:, 0, 0, 0]
    assert own.mean().item() == pytest.approx(0.9 - 0.4 * 0.64, abs=0.06)
    variance = 0.4**2 * (1 - 0.64**2) + 0.3**2
    assert own.std().item() == pytest.approx(variance**0.5, rel=0.08)


def test_low_temperature_keeps_to_the_mean(linear):
    plan, _ = linear
    observation = torch.tensor([[1.0], [-0.5]]).expand(2000, 2, 1)
    spread = {}
    for plan.temperature in (0.0, 0.5, 1.0):
        torch.manual_seed(3)
        spread[plan.temperature] = plan.sample(observation)[:, 0, 0, 1, 0].std().item()
    plan.temperature = 0.5
    assert spread[0.0] < 1e-5 < spread[0.5] < 0.7 * spread[1.0]


def test_guidance_asks_for_what_good_windows_do():
    # One step; the change is +1 where the return is in the upper half, else -1.
    generator = torch.Generator().manual_seed(0)
    rank = torch.rand(20_000, generator=generator)
    start = torch.randn(20_000, 1, 2, 1, generator=generator)
    change = torch.where(rank > 0.5, 1.0, -1.0).reshape(-1, 1, 1, 1)
    plan = fitted(torch.cat([start, start + change], 1), 400, rank=rank)
    plan.temperature, plan.n_steps = 1.0, 20
    observation = torch.zeros(1000, 2, 1)

    def share_of_good(guidance, rank):
        plan.guidance, plan.rank = guidance, rank
        torch.manual_seed(4)
        plans = plan.sample(observation)
        return (plans[:, 0, 0, 1] > 0).float().mean().item()

    assert share_of_good(0.0, 0.9) == pytest.approx(0.5, abs=0.1)
    assert share_of_good(1.0, 0.9) > 0.95
    assert share_of_good(1.0, 0.1) < 0.05
    assert share_of_good(1.2, 0.9) > 0.95


def test_inverse_dynamics_find_the_actions_of_a_linear_system():
    # o' = A o + B a, so a = B^-1 (o' - A o); the frame's scales are far from one.
    torch.manual_seed(0)
    a_matrix = torch.tensor([[1.0, 0.1], [0.0, 0.75]])
    b_matrix = torch.tensor([[0.05, 0.0], [0.01, 0.5]])
    observation = 3 * torch.randn(20_000, 2, 2)
    action = 2 * torch.rand(20_000, 2, 2) - 1
    following = observation @ a_matrix.T + action @ b_matrix.T
    plan = make_plan(2, 2, 1)
    plan.frame.fit(observation, following, torch.arange(20_000))
    inverse = make_inverse(2, 2, cells=128)
    loss = MadiffLoss(plan, inverse, windows=False)
    optimizer = torch.optim.Adam(inverse.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    data = TensorDict({"agents": {"observation": observation, "action": action}}, [20_000])
    data["next"] = {"agents": {"observation": following}}
    for _ in range(1000):
        value = loss.inverse_loss(data[torch.randint(20_000, (256,))]).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    assert loss.inverse_loss(data[:2000]).mean().sqrt() < 0.05


# -- decisions -----------------------------------------------------------------------------------


def policy(**options):
    torch.manual_seed(0)
    return TensorDictSequential(make_plan(**options), make_inverse())


def act(policy, observation, seed=1):
    torch.manual_seed(seed)
    data = TensorDict({"agents": {"observation": observation}}, [len(observation)])
    return policy(data)["agents", "action"]


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_no_agent_acts_on_what_another_observes(temperature):
    team, observation = policy(temperature=temperature), torch.randn(6, N, OBS)
    before = act(team, observation)
    for changed in range(N):
        other = observation.clone()
        other[:, changed] += torch.randn(6, OBS)
        after = act(team, other)
        for agent in range(N):
            assert torch.equal(before[:, agent], after[:, agent]) == (agent != changed)


def test_plans_follow_the_seed_and_without_temperature_need_none():
    observation = torch.randn(6, N, OBS)
    team = policy()
    assert torch.equal(act(team, observation), act(team, observation))
    assert not torch.equal(act(team, observation), act(team, observation, seed=2))
    still = policy(temperature=0.0)
    assert torch.equal(act(still, observation), act(still, observation, seed=2))


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_every_agents_own_observation_is_in_its_plan_exactly(guidance):
    plan, observation = make_plan(guidance=guidance), torch.randn(2, 3, N, OBS)
    with torch.no_grad():
        plan.frame.mean.normal_()
        plan.frame.deviation.uniform_(0.5, 2.0)
    plans = plan.sample(observation)
    assert plans.shape == (2, 3, N, N, 1 + plan.horizon, OBS)
    given = plan.frame.encode_current(observation)
    for agent in range(N):
        assert torch.equal(plans[:, :, agent, agent, 0], given[:, :, agent])
        mate = (agent + 1) % N
        assert not torch.isclose(plans[:, :, agent, mate, 0], given[:, :, mate]).all()


def test_guidance_interpolates_between_no_condition_and_more_than_it():
    plan = make_plan()
    noised, known = torch.randn(7, N, 4, OBS), torch.rand(7, N) < 0.5
    times, rank = torch.rand(7), torch.full((7,), plan.rank)
    without = plan.velocity(noised, known, times, torch.full((7,), torch.nan))
    with_rank = plan.velocity(noised, known, times, rank)
    assert not torch.allclose(without, with_rank)
    for plan.guidance in (0.0, 0.3, 1.0, 2.0):
        expected = without + plan.guidance * (with_rank - without)
        torch.testing.assert_close(plan.guided(noised, known, times), expected)
    unconditional = make_plan(conditional=False)
    unconditional.load_state_dict(plan.state_dict())
    torch.testing.assert_close(unconditional.guided(noised, known, times), without)

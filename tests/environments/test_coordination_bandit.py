"""The coordination bandit: its rules, its arithmetic, and its logged team."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torchrl.envs.utils import check_env_specs

from benchmarl_ssd.environments.common import TaskOptionError
from benchmarl_ssd.environments.coordination import (
    BanditEnv,
    BanditTeam,
    CoordinationTask,
    joint_modes,
)


def make(num_envs: int = 4, **overrides):
    task = CoordinationTask.BANDIT.get_with(overrides)
    env = task.get_env_fun(num_envs, continuous_actions=True, seed=0, device="cpu")()
    return task, env


def play(env: BanditEnv, joint: torch.Tensor) -> torch.Tensor:
    """Rewards ``[B, n, 1]`` of the joint actions ``[B, n]``."""
    td = env.reset().set(("agents", "action"), joint.unsqueeze(-1))
    return env.step(td)["next", "agents", "reward"]


@pytest.mark.parametrize("n_agents", [2, 3, 8])
@pytest.mark.parametrize("num_envs", [1, 5])
def test_specs(n_agents, num_envs):
    _, env = make(num_envs, n_agents=n_agents)
    check_env_specs(env)
    assert env.batch_size == (num_envs,)
    assert env.full_action_spec["agents", "action"].shape == (num_envs, n_agents, 1)
    assert env.full_observation_spec["agents", "observation"].shape[1:] == (n_agents, n_agents)


def test_every_option_of_the_yaml_is_a_field_of_the_task_config():
    task = CoordinationTask.BANDIT.get_from_yaml()
    assert set(task.config) == set(CoordinationTask.BANDIT.config_class().__dataclass_fields__)
    assert task.env_name() == "coordination"
    assert not task.supports_discrete_actions()


def test_one_step_then_terminated_and_never_truncated():
    task, env = make()
    after = env.rollout(10, break_when_any_done=True)
    assert after.shape == (4, task.max_steps(env)) == (4, 1)
    assert after["next", "done"].all()
    assert after["next", "terminated"].all()
    assert not after["next", "truncated"].any()


def test_observation_is_the_agents_index_and_nothing_else():
    _, env = make(3, n_agents=4)
    expected = torch.eye(4).expand(3, 4, 4)
    for _ in range(2):
        td = env.rollout(1)
        assert torch.equal(td["agents", "observation"][:, 0], expected)
        assert torch.equal(td["next", "agents", "observation"][:, 0], expected)


@pytest.mark.parametrize("n_agents", [2, 4, 8])
@pytest.mark.parametrize("mode_seed", [0, 1, 2])
def test_reward_truth_table(n_agents, mode_seed):
    signs = torch.tensor(list(itertools.product((-0.8, 0.8), repeat=n_agents)))
    _, env = make(len(signs), n_agents=n_agents, mode_seed=mode_seed)
    reward = play(env, signs)
    played = {tuple(mode) for mode in env.modes.tolist()}
    expected = torch.tensor([tuple(joint) in played for joint in signs.tolist()]).float()
    assert expected.sum() == 2
    assert torch.equal(reward, expected[:, None, None].expand_as(reward))


def test_reward_holds_up_to_the_tolerance_of_every_agent():
    _, env = make(4, n_agents=3, tolerance=0.2)
    inside = env.modes[0] - 0.199 * env.modes[0].sign()
    outside = inside.clone()
    outside[1] = env.modes[0, 1] - 0.201 * env.modes[0, 1].sign()
    joint = torch.stack([inside, outside, env.modes[1], torch.zeros(3)])
    assert play(env, joint)[:, 0, 0].tolist() == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(("n_agents", "n_modes"), [(2, 2), (4, 2), (8, 2), (2, 3), (3, 4), (4, 5)])
def test_a_product_of_marginals_is_far_from_the_data(n_agents, n_modes):
    modes = joint_modes(n_agents, n_modes, mode_seed=3)
    joint = {tuple(mode): 1 / n_modes for mode in modes.tolist()}
    marginals = []
    for column in modes.T.tolist():
        marginals.append({level: column.count(level) / n_modes for level in column})
    distance = 0.0
    for combination in itertools.product(*marginals):
        product = math.prod(m[a] for m, a in zip(marginals, combination, strict=True))
        distance += 0.5 * abs(joint.get(combination, 0.0) - product)
    assert distance == pytest.approx(1 - n_modes ** (1 - n_agents), abs=1e-9)


def test_modes_depend_on_their_own_seed_alone():
    torch.manual_seed(1)
    first = joint_modes(8, 4, mode_seed=5)
    torch.manual_seed(2)
    assert torch.equal(first, joint_modes(8, 4, mode_seed=5))
    assert not torch.equal(first, joint_modes(8, 4, mode_seed=6))
    assert all(column.unique().numel() == 4 for column in first.T)


def test_logged_team_is_balanced_always_paid_and_reproducible():
    task, env = make(101, n_agents=4, n_modes=3)

    def record(seed):
        torch.manual_seed(seed)
        team, start = BanditTeam(**task.config), env.reset()
        team.reset(start)
        td = env.rollout(1, team, auto_reset=False, tensordict=start)
        return td, env.played_mode(td["agents", "action"][:, 0])

    td, mode = record(0)
    counts = mode.bincount(minlength=3)
    assert counts.max() - counts.min() <= 1
    assert task.success(td).all()
    residual = td["agents", "action"][:, 0, :, 0] - env.modes[mode]
    assert residual.std() == pytest.approx(0.05, rel=0.15)
    assert torch.equal(td["agents", "action"], record(0)[0]["agents", "action"])
    assert not torch.equal(mode, record(1)[1])


def test_team_asks_for_a_reset():
    task, env = make(3)
    team = BanditTeam(**task.config)
    with pytest.raises(ValueError, match="Expected conventions for 3 episodes, found None"):
        team(env.reset())


def test_mixed_up_conventions_are_rarely_paid():
    task, env = make(4000, n_agents=4)
    start, team = env.reset(), BanditTeam(**task.config)
    team.reset(start)
    action = team(start)["agents", "action"]
    shuffled = torch.stack([action[torch.randperm(4000), i] for i in range(4)], dim=1)
    success = task.success(
        env.rollout(1, lambda td: td.set(("agents", "action"), shuffled), auto_reset=True)
    )
    assert success.float().mean() == pytest.approx(2**-3, abs=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_agents": 1}, "n_agents to be an integer >= 2, found 1"),
        ({"n_agents": True}, "n_agents to be an integer >= 2, found True"),
        ({"n_modes": 2.5}, "n_modes to be an integer >= 2, found 2.5"),
        ({"noise": -0.1}, "noise to be a finite number >= 0, found -0.1"),
        ({"noise": float("nan")}, "noise to be a finite number >= 0, found nan"),
        ({"tolerance": 0.0}, "tolerance to be a finite number > 0, found 0.0"),
        ({"tolerance": 0.8}, "tolerance < 0.8, half the spacing of 2 levels, found 0.8"),
        ({"n_modes": 5}, "Lower task.tolerance or task.n_modes"),
        ({"mode_seed": -1}, "mode_seed to be an integer >= 0, found -1"),
        ({"max_steps": 2}, "max_steps=1"),
        ({"n_agent": 3}, "unknown: \\['n_agent'\\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(TaskOptionError, match=message):
        CoordinationTask.BANDIT.get_with(options)


def test_render():
    task, env = make(2, n_agents=3, n_modes=3)
    before = env.render()
    env.rollout(1)
    after = task.render_callback(None, env, None)
    assert before.shape == after.shape
    assert before.shape[0] % 2 == before.shape[1] % 2 == 0
    assert not (before == after).all()

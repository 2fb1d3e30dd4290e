"""Two apples: its time limit, its secrecy, and its logged team."""

from __future__ import annotations

import pytest
import torch
from benchmarl.algorithms import MaddpgConfig
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import MlpConfig
from torchrl.envs.utils import check_env_specs

from benchmarl_ssd.environments.common import TaskOptionError
from benchmarl_ssd.environments.coordination import (
    CoordinationTask,
    TwoApplesEnv,
    TwoApplesTeam,
    world_positions,
)


def make(num_envs: int = 4, seed: int | None = 0, continuous: bool = True, **overrides):
    task = CoordinationTask.TWO_APPLES.get_with(overrides)
    env = task.get_env_fun(num_envs, continuous_actions=continuous, seed=seed, device="cpu")()
    return task, env


class MixedTeam(TwoApplesTeam):
    """Walks like the logged team, but each agent follows a convention of its own."""

    def __init__(self, sides: list[int], **config):
        super().__init__(**config)
        self.sides = sides

    def intended(self, observation, convention):
        walks = [
            super(MixedTeam, self).intended(observation, torch.full_like(convention, side))
            for side in self.sides
        ]
        return torch.stack([walk[:, i] for i, walk in enumerate(walks)], dim=1)


def walk(env: TwoApplesEnv, team: TwoApplesTeam, seed: int = 0):
    torch.manual_seed(seed)
    start = env.reset()
    team.reset(start)
    return env.rollout(100, team, auto_reset=False, tensordict=start)


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("n_agents", [2, 5])
def test_specs(n_agents, continuous):
    _, env = make(n_agents=n_agents, continuous=continuous)
    check_env_specs(env)
    observation = env.full_observation_spec["agents", "observation"]
    assert observation.shape == (4, n_agents, 8 + n_agents)
    if continuous:
        action = env.full_action_spec["agents", "action"]
        assert action.shape == (4, n_agents, 2)
        assert (action.space.low == -1).all()
        assert (action.space.high == 1).all()


def test_time_limit_truncates_and_does_not_terminate():
    _, env = make()
    td = env.rollout(100)
    assert td.shape == (4, 25)
    assert not td["next", "terminated"].any()
    assert not td["next", "truncated"][:, :-1].any()
    assert td["next", "truncated"][:, -1].all()
    assert torch.equal(td["next", "done"], td["next", "truncated"])


def test_episodes_follow_each_other_with_a_limit_each():
    _, env = make(2)
    td = env.rollout(60, break_when_any_done=False)
    ends = td["next", "truncated"][0, :, 0].nonzero().flatten().tolist()
    assert ends == [24, 49]
    assert not td["next", "terminated"].any()
    assert not td["truncated"].any()


def test_partial_reset_restarts_only_the_worlds_asked_for():
    _, env = make(3)
    td = env.rollout(5, break_when_any_done=False)[:, -1]["next"]
    ask = torch.tensor([[True], [False], [False]])
    again = env.reset(td.clone().set("_reset", ask))
    same = (again["agents", "observation"] == td["agents", "observation"]).flatten(1).all(1)
    assert same.tolist() == [False, True, True]


def test_same_seed_same_episodes_whatever_else_exists():
    starts = []
    for others in (0, 2):
        torch.manual_seed(others)
        _, env = make(seed=7)
        for other in range(others):
            make(seed=other)[1].rollout(3)
        starts.append(env.reset()["agents", "observation"])
    assert torch.equal(*starts)
    _, env = make(seed=7)
    env.set_seed(3)
    third = env.reset()["agents", "observation"]
    env.set_seed(3)
    assert torch.equal(third, env.reset()["agents", "observation"])
    assert not torch.equal(third, starts[0])


@pytest.mark.parametrize("n_agents", [2, 4, 8])
def test_logged_team_always_meets_at_balanced_apples(n_agents):
    task, env = make(501, n_agents=n_agents)
    td = walk(env, team := TwoApplesTeam(**task.config))
    assert task.success(td).float().mean() >= 0.99
    right = td["next", "agents", "observation"][:, -1, 0, 0] > 0
    assert torch.equal(right, team.convention.bool())
    assert int(right.sum()) in (250, 251)
    returns = td["next", "agents", "reward"][..., 0, 0].sum(1)
    assert 11 < returns.mean() < 14
    # Rewards are the team's, the same for every agent.
    assert (td["next", "agents", "reward"] == td["next", "agents", "reward"][:, :, :1]).all()
    assert (td["agents", "action"].abs() == 1).float().mean() < 0.01


@pytest.mark.parametrize("sides", [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]])
def test_a_divided_team_is_never_paid(sides):
    task, env = make(50)
    td = walk(env, MixedTeam(sides, **task.config))
    assert not task.success(td).any()
    assert td["next", "agents", "reward"].sum() == 0


@pytest.mark.parametrize("mirrored", [True, False])
def test_positions_are_recovered_from_each_agents_own_frame(mirrored):
    task, env = make(6, n_agents=3, mirrored=mirrored)
    td = walk(env, TwoApplesTeam(**task.config))
    assert task.success(td).all()
    bodies = torch.stack([body.state.pos for body in env._env.agents], dim=1)
    seen = td["next", "agents", "observation"][:, -1]
    assert torch.equal(world_positions(seen, mirrored), bodies)
    same_frame = torch.equal(seen[..., :2], bodies)
    assert same_frame is not mirrored


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_common_leaning_is_a_convention_only_without_mirrors(mirrored):
    """All agents walk to what *they* call right, as a network that ignores its inputs would."""
    task, env = make(6, mirrored=mirrored)
    config = {**task.config, "mirrored": False}
    td = walk(env, MixedTeam([1, 1, 1, 1], **config))
    assert task.success(td).all().item() is not mirrored


@pytest.mark.parametrize("continuous", [True, False])
def test_actions_are_in_the_agents_own_frame(continuous):
    _, env = make(9, n_agents=2, continuous=continuous, start_jitter=0.0)
    td = env.reset()
    if continuous:
        action = torch.linspace(-1, 1, 9)[:, None, None].expand(9, 2, 2)
    else:  # VMAS combines stay, down and up of both axes into nine moves
        action = torch.arange(9)[:, None].expand(9, 2)
    env.step(td.set(("agents", "action"), action))
    velocity = torch.stack([body.state.vel for body in env._env.agents], dim=1)
    assert velocity[:, 0, 0].unique().numel() == (9 if continuous else 3)
    assert torch.equal(velocity[:, 1, 0], -velocity[:, 0, 0])
    assert torch.equal(velocity[:, 1, 1], velocity[:, 0, 1])


def test_success_looks_at_the_first_end_of_each_episode():
    task, env = make(6)
    td = walk(env, TwoApplesTeam(**task.config))
    mixed = walk(env, MixedTeam([0, 1, 0, 1], **task.config))
    assert task.success(td).tolist() == [True] * 6
    assert task.success(list(td.unbind(0))).tolist() == [True] * 6
    padded = torch.cat([mixed, td], dim=1)
    assert task.success(padded).tolist() == [False] * 6
    assert task.success([*td.unbind(0), *mixed.unbind(0)]).tolist() == [True] * 6 + [False] * 6


def test_an_agent_sees_nothing_of_the_others_at_any_step():
    task, _ = make()
    for agent in range(4):
        seen = []
        for others in (0, 1):
            _, env = make(8)
            sides = [others] * 4
            sides[agent] = 0
            quiet = MixedTeam(sides, **{**task.config, "noise": 0.0})
            start = env.reset()
            for i, body in enumerate(env._env.agents):
                if others and i != agent:
                    body.set_pos(body.state.pos + torch.rand(8, 2) - 0.5, batch_index=None)
                    body.set_vel(torch.rand(8, 2) - 0.5, batch_index=None)
            start["agents", "observation"] = torch.stack(
                [env._env.scenario.observation(body) for body in env._env.agents], dim=1
            )
            quiet.reset(start)
            td = env.rollout(25, quiet, auto_reset=False, tensordict=start)
            seen.append(td)
        own = [
            torch.stack(
                [
                    td["agents", "observation"][:, :, agent],
                    td["next", "agents", "observation"][:, :, agent],
                ]
            )
            for td in seen
        ]
        assert torch.equal(*own)
        rest = [i for i in range(4) if i != agent]
        whole = [td["agents", "observation"][:, :, rest] for td in seen]
        assert not torch.equal(*whole)


def test_start_states_carry_no_information_on_the_convention():
    task, _ = make()
    starts, conventions = [], []
    for seed in range(2):  # the convention changes with the global seed, the starts don't
        torch.manual_seed(seed)
        _, env = make(4000, seed=0)
        start, team = env.reset(), TwoApplesTeam(**task.config)
        team.reset(start)
        starts.append(start["agents", "observation"])
        conventions.append(team.convention)
    assert torch.equal(*starts)
    assert not torch.equal(*conventions)
    # Nor do they correlate by chance of the controller: 3.9 standard errors over 4000 episodes.
    sign = conventions[0].float() * 2 - 1
    jitter = starts[0][..., :2].flatten(1)
    jitter = (jitter - jitter.mean(0)) / jitter.std(0)
    assert (jitter * sign[:, None]).mean(0).abs().max() < 3.9 / 4000**0.5
    assert (starts[0][..., 0].abs() <= 0.05).all()
    assert (starts[0][..., 2:4] == 0).all()


def test_one_seed_for_everything_does_not_repeat_random_numbers():
    """The starts and torch's global generator must not be made of the same random bits."""
    _, env = make(1000, seed=5, start_jitter=0.5, apple_distance=1.0)
    env.set_seed(5)
    torch.manual_seed(5)
    start = env.reset()["agents", "observation"][:, 0, :2] - torch.tensor([0.0, -0.4])
    same_stream = 2 * torch.rand(1000, 2) - 1
    assert (start / 0.5 - same_stream).abs().mean() > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_agents": 1}, "n_agents to be an integer >= 2, found 1"),
        ({"start_jitter": -0.1}, "start_jitter to be a finite number >= 0"),
        ({"apple_radius": 1.0}, "apple_radius \\+ start_jitter < apple_distance"),
        ({"apple_distance": 3.0}, "Raise task.max_steps or lower task.apple_distance"),
        ({"max_steps": 0}, "max_steps to be an integer >= 1"),
        ({"noise": float("inf")}, "noise to be a finite number >= 0"),
        ({"mirrored": 1}, "mirrored to be true or false"),
        ({"apples": 2}, "unknown: \\['apples'\\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(TaskOptionError, match=message):
        CoordinationTask.TWO_APPLES.get_with(options)


def test_render_needs_no_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    task, env = make(2)
    first = task.render_callback(None, env, None)
    assert first.shape == (200, 360, 3)
    assert first.dtype.name == "uint8"
    walk(env, TwoApplesTeam(**task.config))
    assert not (task.render_callback(None, env, None) == first).all()


@pytest.mark.parametrize("task", list(CoordinationTask), ids=lambda task: task.name.lower())
def test_trains_online_with_a_stock_algorithm(task, tmp_path):
    config = ExperimentConfig.get_from_yaml()
    config.loggers = []  # frames are made and stacked, but encoding a video is not our business
    config.create_json = True
    config.render = True
    config.evaluation = True
    config.save_folder = str(tmp_path)
    config.max_n_iters = 2
    config.max_n_frames = None
    config.off_policy_collected_frames_per_batch = 100
    config.off_policy_n_envs_per_worker = 4
    config.off_policy_n_optimizer_steps = 2
    config.off_policy_train_batch_size = 16
    config.off_policy_memory_size = 1000
    config.evaluation_interval = 100
    config.evaluation_episodes = 3
    experiment = Experiment(
        task=task.get_from_yaml(),
        algorithm_config=MaddpgConfig.get_from_yaml(),
        model_config=MlpConfig(
            num_cells=[8], layer_class=torch.nn.Linear, activation_class=torch.nn.Tanh
        ),
        seed=0,
        config=config,
    )
    seen = {}
    on_end = experiment._on_evaluation_end
    experiment._on_evaluation_end = lambda rollouts: (
        seen.update(rollouts=rollouts) or on_end(rollouts)
    )
    experiment.run()
    assert experiment.n_iters_performed == 2
    assert all(len(rollout) == experiment.max_steps for rollout in seen["rollouts"])
    assert experiment.task.success(seen["rollouts"]).shape == (3,)
    stored = experiment.replay_buffers["agents"].sample(50)
    at_limit = (
        stored["next", "truncated"] if experiment.max_steps > 1 else stored["next", "terminated"]
    )
    assert torch.equal(at_limit, stored["next", "done"])

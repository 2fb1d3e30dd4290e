"""Recordings hold whole episodes that say truly how they ended, and a seed repeats them."""

# ruff: noqa: NPY002 - simulators draw from numpy's global state, too.

import random

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import (
    Compose,
    EnvBase,
    InitTracker,
    SerialEnv,
    StepCounter,
    TensorDictPrimer,
    TransformedEnv,
)
from torchrl.envs.libs.vmas import VmasEnv

from benchmarl_ssd.data import DatasetError, OfflineDataset, record
from benchmarl_ssd.data.rollout import observation_keys, rollout_chunks


class Corridor(EnvBase):
    """Two walkers; the episode ends for good when both have passed 1.

    Args:
        batch_size: ``[]`` or ``[E]``.
        flags: where the end is told: ``root``, ``group`` or ``both``.
        team_reward: whether there is one reward for both walkers.
    """

    groups = {"walkers": ["left", "right"]}

    def __init__(self, batch_size=(), flags="root", team_reward=False):
        super().__init__(batch_size=torch.Size(batch_size))
        b, self.flags, self.team_reward = tuple(batch_size), flags, team_reward
        self.observation_spec = Composite(
            walkers=Composite(
                observation=Unbounded((*b, 2, 1)),
                info=Composite(noise=Unbounded((*b, 2, 1)), shape=(*b, 2)),
                shape=(*b, 2),
            ),
            state=Unbounded((*b, 2)),
            shape=b,
        )
        action = Bounded(low=-1.0, high=1.0, shape=(*b, 2, 1))
        self.action_spec = Composite(walkers=Composite(action=action, shape=(*b, 2)), shape=b)
        if team_reward:
            self.reward_spec = Composite(reward=Unbounded((*b, 1)), shape=b)
        else:
            reward = Composite(reward=Unbounded((*b, 2, 1)), shape=(*b, 2))
            self.reward_spec = Composite(walkers=reward, shape=b)
        done = Composite(shape=b)
        if flags != "group":
            done["done"] = Categorical(2, shape=(*b, 1), dtype=torch.bool)
        if flags != "root":
            done["walkers"] = Composite(
                done=Categorical(2, shape=(*b, 2, 1), dtype=torch.bool),
                terminated=Categorical(2, shape=(*b, 2, 1), dtype=torch.bool),
                truncated=Categorical(2, shape=(*b, 2, 1), dtype=torch.bool),
                shape=(*b, 2),
            )
        self.done_spec = done

    def _set_seed(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def _observed(self):
        walkers = {"observation": self.position.clone(), "info": {"noise": self.position * 0}}
        data = {"walkers": walkers, "state": self.position.squeeze(-1).clone()}
        passed = self.position > 1
        if self.flags != "group":
            data["done"] = passed.squeeze(-1).all(-1, keepdim=True)
            data["terminated"] = data["done"].clone()
        if self.flags != "root":
            walkers |= {"done": passed, "terminated": passed, "truncated": torch.zeros_like(passed)}
        return data

    def _reset(self, tensordict=None):
        start = torch.rand(*self.batch_size, 2, 1, generator=self.generator)
        if tensordict is not None:
            again = tensordict.get("_reset", None)
            again = (
                tensordict.get(("walkers", "_reset"), None) if again is None else again[..., None]
            )
            again = torch.ones_like(start, dtype=torch.bool) if again is None else again
            start = torch.where(again, start, self.position)
        self.position = start
        return TensorDict(self._observed(), batch_size=self.batch_size)

    def _step(self, tensordict):
        action = tensordict["walkers", "action"]
        self.position = self.position + 0.3 * action
        data = self._observed()
        if self.team_reward:
            data["reward"] = action.mean(-2)
        else:
            data["walkers"]["reward"] = action.clone()
        return TensorDict(data, batch_size=self.batch_size)


def walk(data):
    position = data["walkers", "observation"]
    return data.set(("walkers", "action"), torch.full_like(position, 0.5))


def one_chunk(env, policy=walk, **kwargs):
    env.set_seed(0)
    return next(rollout_chunks(env, policy, groups=Corridor.groups, **kwargs))


def episodes(chunk):
    ends = chunk["next", "done"].flatten().nonzero().flatten() + 1
    return chunk.split(torch.diff(ends, prepend=torch.zeros(1, dtype=torch.long)).tolist())


@pytest.mark.parametrize("batch_size", [(), (8,)])
@pytest.mark.parametrize("flags", ["root", "group", "both"])
def test_episodes_are_cut_at_their_first_end(batch_size, flags):
    chunk = one_chunk(Corridor(batch_size, flags), max_steps=50)
    assert len(episodes(chunk)) == (batch_size or (1,))[0]
    for episode in episodes(chunk):
        after = episode["next", "walkers", "observation"]
        assert torch.equal(after[:-1], episode["walkers", "observation"][1:])  # in time order
        assert (after[-1] > 1).all()
        assert not (after[:-1] > 1).flatten(1).all(1).any()
        assert episode["next", "terminated"][-1]
        assert not episode["next", "truncated"].any()


@pytest.mark.parametrize("batch_size", [(), (8,)])
@pytest.mark.parametrize("flags", ["root", "group", "both"])
def test_running_out_of_steps_is_truncation(batch_size, flags):
    chunk = one_chunk(Corridor(batch_size, flags), max_steps=3)
    for episode in episodes(chunk):
        arrived = (episode["next", "walkers", "observation"][-1] > 1).all()
        assert len(episode) == 3 or arrived
        assert episode["next", "terminated"][-1] == arrived
        assert episode["next", "truncated"][-1] == ~arrived
        if flags != "root":
            assert episode["next", "walkers", "done"][-1].all()


def test_an_environment_with_truncated_is_believed():
    env = TransformedEnv(Corridor((8,)), StepCounter(max_steps=4))
    chunk = one_chunk(env, max_steps=50)
    lengths = {len(episode) for episode in episodes(chunk)}
    assert max(lengths) == 4
    for episode in episodes(chunk):
        arrived = (episode["next", "walkers", "observation"][-1] > 1).all()
        assert episode["next", "terminated"][-1] == arrived
        assert episode["next", "truncated"][-1] == (len(episode) == 4)


def test_serial_environments(tmp_path):
    env = SerialEnv(3, Corridor)
    metadata = record(
        env, walk, tmp_path / "d", groups=Corridor.groups, max_steps=9, episodes=7, progress=False
    )
    assert metadata.episodes == 7
    assert metadata.counts["terminated"] == 7


@pytest.mark.parametrize("batch_size", [(), (4,)])
def test_one_reward_for_the_team_becomes_each_agents(batch_size):
    chunk = one_chunk(Corridor(batch_size, team_reward=True), max_steps=5)
    assert chunk["next", "walkers", "reward"].shape[1:] == (2, 1)
    assert (chunk["next", "walkers", "reward"] == 0.5).all()


def test_only_what_belongs_is_stored():
    hidden = Composite(walkers=Composite(hidden=Unbounded((4, 2, 5)), shape=(4, 2)), shape=(4,))
    env = TransformedEnv(
        Corridor((4,)),
        Compose(InitTracker(), StepCounter(), TensorDictPrimer(hidden, expand_specs=False)),
    )

    def policy(data):
        data["params"] = torch.zeros(4, 1)
        data["walkers", "log_prob"] = torch.zeros(4, 2)
        data["next", "walkers", "hidden"] = data["walkers", "hidden"] + 1
        return walk(data)

    chunk = one_chunk(env, policy, max_steps=5)
    seen = {"state", ("walkers", "observation")}
    ends = {("next", "done"), ("next", "terminated"), ("next", "truncated")}
    after = {("next", "state"), ("next", "walkers", "observation"), ("next", "walkers", "reward")}
    assert set(chunk.keys(True, True)) == seen | ends | after | {("walkers", "action")}
    info = [*observation_keys(env, Corridor.groups), ("walkers", "info", "noise")]
    assert ("walkers", "info", "noise") in one_chunk(env, policy, max_steps=5, keys=info).keys(True)


class DrawsOncePerEpisode:
    """Draws an action for each episode at its start and keeps to it."""

    def __init__(self):
        self.starts = 0

    def reset(self, data):
        self.starts += 1
        self.action = torch.rand(*data.batch_size, 1, 1) * 2 - 1

    def __call__(self, data):
        data["walkers", "action"] = self.action.expand_as(data["walkers", "observation"]).clone()


def test_a_policys_reset_is_called_for_each_batch_of_episodes(tmp_path):
    policy = DrawsOncePerEpisode()
    record(
        Corridor((4,)), policy, tmp_path / "d", groups=Corridor.groups, max_steps=6, episodes=12,
        progress=False,
    )  # fmt: skip
    assert policy.starts == 3
    data = OfflineDataset(tmp_path / "d").data
    drawn = [data["walkers", "action"][data["episode"] == e].unique() for e in range(12)]
    assert all(len(actions) == 1 for actions in drawn)
    assert len(torch.cat(drawn).unique()) == 12


# ------------------------------------------------------------------------------------- VMAS


def test_the_time_limit_of_vmas_is_truncation():
    env = VmasEnv("balance", num_envs=6, max_steps=12, seed=0)
    assert env.rollout(12)["next", "terminated"][:, -1].all()  # what VMAS itself says
    chunk = next(rollout_chunks(env, None, max_steps=100, groups=env.group_map))
    assert [len(episode) for episode in episodes(chunk)] == [12] * 6
    assert int(chunk["next", "truncated"].sum()) == 6
    assert not chunk["next", "terminated"].any()


@pytest.mark.parametrize("transform", [None, StepCounter, InitTracker])
def test_the_end_of_a_vmas_scenario_is_termination(transform):
    env = VmasEnv("balance", num_envs=32, max_steps=200, seed=0, random_package_pos_on_line=True)
    if transform is not None:
        env = TransformedEnv(env, transform())
    chunk = next(rollout_chunks(env, None, max_steps=200, groups=env.group_map))
    assert chunk["next", "terminated"].any()  # the package has fallen
    for episode in episodes(chunk):
        assert len(episode) == 200 or episode["next", "terminated"][-1]
        assert episode["next", "terminated"][-1] != episode["next", "truncated"][-1]


def test_benchmarls_task_records(tmp_path):
    from benchmarl.environments import VmasTask

    task = VmasTask.BALANCE.get_from_yaml()
    task.config["max_steps"] = 10
    env = task.get_env_fun(num_envs=4, continuous_actions=True, seed=0, device="cpu")()
    metadata = record(
        env, None, tmp_path / "d", groups=task.group_map(env), max_steps=task.max_steps(env),
        transitions=55, progress=False,
    )  # fmt: skip
    assert metadata.counts == {
        "transitions": 60, "episodes": 6, "terminated": 0, "truncated": 6,
    }  # fmt: skip
    assert metadata.bounds("agents")[0].tolist() == [[-1.0, -1.0]] * 4


def test_categorical_actions_are_recorded(tmp_path):
    env = VmasEnv("balance", num_envs=4, max_steps=5, seed=0, continuous_actions=False)
    metadata = record(
        env, None, tmp_path / "d", groups=env.group_map, max_steps=5, episodes=4, progress=False
    )
    assert metadata.tensors["agents/action"].dtype == "int64"
    assert metadata.action_bounds == {"agents": {"low": [0.0] * 3, "high": [8.0] * 3}}
    assert len(OfflineDataset(tmp_path / "d")) == 20


# ------------------------------------------------------------------------------------- seeds


def record_balance(path, seed, **kwargs):
    env = VmasEnv("balance", num_envs=4, max_steps=8, seed=123)
    return record(
        env, None, path, groups=env.group_map, max_steps=8, episodes=9, seed=seed, progress=False,
        **kwargs,
    )  # fmt: skip


def test_a_seed_repeats_a_dataset_byte_for_byte(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(5), np.random.rand(5), random.random()
        record_balance(tmp_path / name, seed)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert OfflineDataset(tmp_path / "a").metadata.checksum != (
        OfflineDataset(tmp_path / "c").metadata.checksum
    )


def test_random_states_are_given_back(tmp_path):
    other = VmasEnv("balance", num_envs=2, max_steps=8, seed=5)

    def draws():
        other.set_seed(0)
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        yield
        yield [
            torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(),
            other.reset()["agents", "observation"].tolist(),
        ]  # fmt: skip

    undisturbed = draws()
    next(undisturbed)
    expected = next(undisturbed)
    disturbed = draws()
    next(disturbed)
    recorder = VmasEnv("balance", num_envs=4, max_steps=8)  # made before: takes no draws below
    other.set_seed(0)
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    record(
        recorder, None, tmp_path / "d", groups=recorder.group_map, max_steps=8, episodes=4,
        progress=False,
    )  # fmt: skip
    assert next(disturbed) == expected


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": None}, "either transitions or episodes"),
        ({"transitions": 5}, "either transitions or episodes"),
        ({"episodes": 0}, "at least 1"),
        ({"max_steps": 0}, "max_steps of at least 1"),
        ({"exploration": "some"}, "deterministic, random"),
        ({"groups": {"runners": ["a"]}}, "action of group 'runners'"),
        ({"groups": {"walkers": ["a"]}}, "1 agents"),
        ({"policy": lambda d: walk(d).set(("walkers", "action"), d["walkers", "action"] * 3)},
         "actions in \\[-1, 1\\], found 1.5"),
        ({"policy": lambda d: walk(d).set(("walkers", "action"), d["walkers", "action"] / 0)},
         "expected finite actions"),
    ],
)  # fmt: skip
def test_bad_arguments_leave_nothing(tmp_path, arguments, message):
    arguments = {
        "env": Corridor((2,)), "policy": walk, "path": tmp_path / "a" / "b", "max_steps": 5,
        "groups": Corridor.groups, "episodes": 2, "progress": False, **arguments,
    }  # fmt: skip
    with pytest.raises(DatasetError, match=message):
        record(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(tmp_path):
    calls = []

    def policy(data):
        calls.append(1)
        if len(calls) > 60:
            raise KeyboardInterrupt
        return walk(data)

    with pytest.raises(KeyboardInterrupt):
        record(
            Corridor((2,)), policy, tmp_path / "d", groups=Corridor.groups, max_steps=5,
            transitions=10_000, progress=False,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []

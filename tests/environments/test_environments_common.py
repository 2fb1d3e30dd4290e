"""What the tasks share: configs, balanced draws, ends of episodes."""

from __future__ import annotations

import pickle

import pytest
import torch
from benchmarl.environments import VmasTask
from tensordict import TensorDict

from benchmarl_ssd._paths import conf_dir
from benchmarl_ssd.environments.common import TaskOptionError, balanced_choice, last_steps
from benchmarl_ssd.environments.coordination import CoordinationTask
from benchmarl_ssd.environments.vmas_env import TimeLimitedVmasEnv


@pytest.mark.parametrize("task", list(CoordinationTask), ids=lambda task: task.name.lower())
class TestOfflineTask:
    def test_yaml_lies_in_our_config_folder(self, task):
        yaml = conf_dir() / "task" / "coordination" / f"{task.name.lower()}.yaml"
        assert task.get_from_yaml(str(yaml)) == task.get_from_yaml() == task.get_task()
        first_lines = yaml.read_text().splitlines()[:3]
        assert first_lines[1:] == [f"  - coordination_{task.name.lower()}_config", "  - _self_"]

    def test_every_key_of_the_yaml_has_a_comment(self, task):
        yaml = conf_dir() / "task" / "coordination" / f"{task.name.lower()}.yaml"
        lines = yaml.read_text().split("_self_")[1].splitlines()
        keys = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
        assert len(keys) == len(task.get_from_yaml().config)
        assert all(lines[i - 1].startswith("# ") for i in keys)

    def test_config_survives_pickle_and_is_the_callers_own(self, task):
        built = task.get_from_yaml()
        assert pickle.loads(pickle.dumps(built)) == built
        config = dict(built.config)
        again = task.get_task(config)
        again.config["n_agents"] = 7
        assert config == built.config

    def test_incomplete_config_is_said(self, task):
        config = task.get_from_yaml().config
        del config["n_agents"]
        with pytest.raises(TaskOptionError, match=r"Missing: \['n_agents'\], unknown: \[\]"):
            task.get_task(config)


def test_stock_tasks_still_read_benchmarls_own_folder():
    assert "n_agents" in VmasTask.NAVIGATION.get_from_yaml().config


@pytest.mark.parametrize(("count", "n_options"), [(10, 2), (11, 2), (7, 3), (1, 4), (3, 8)])
def test_balanced_choice(count, n_options):
    sums = torch.zeros(n_options)
    for seed in range(200):
        torch.manual_seed(seed)
        counts = balanced_choice(count, n_options).bincount(minlength=n_options)
        assert counts.sum() == count
        assert counts.max() - counts.min() <= 1
        sums += counts
    # The odd ones out are drawn fairly: within 4 standard errors of an even share.
    assert (sums / 200 - count / n_options).abs().max() < 4 * 0.5 / 200**0.5


def test_balanced_choice_is_balanced_wherever_it_is_cut():
    prefixes = balanced_choice(30, 3).eq(torch.arange(3)[:, None]).cumsum(1)
    assert (prefixes.amax(0) - prefixes.amin(0)).max() <= 1


def test_balanced_choice_shuffles():
    torch.manual_seed(0)
    assert len({tuple(balanced_choice(8, 2).tolist()) for _ in range(50)}) == 2**4


def test_last_steps_of_padded_and_of_unfinished_episodes():
    done = torch.tensor([[0, 1, 0], [0, 0, 0], [1, 1, 1]]).bool().unsqueeze(-1)
    td = TensorDict({"t": torch.arange(3).expand(3, 3), "next": {"done": done}}, [3, 3])
    assert [int(step["t"]) for step in last_steps(td)] == [1, 2, 0]
    assert [int(step["t"]) for step in last_steps(list(td.unbind(0)))] == [1, 2, 0]


def test_vmas_ends_are_told_apart():
    """`balance` really ends when the package falls: such steps are terminated, not truncated."""
    env = TimeLimitedVmasEnv("balance", num_envs=16, max_steps=60, n_agents=3, seed=0)
    td = env.rollout(60, break_when_any_done=False)["next"]
    assert td["terminated"].any()
    assert torch.equal(td["done"], td["terminated"] | td["truncated"])
    unlimited = TimeLimitedVmasEnv("simple_spread", num_envs=2, max_steps=None, seed=0)
    assert not unlimited.rollout(5)["next", "done"].any()

"""The coordination tasks' data sets, built small."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarl_ssd.data import OfflineDataset, get_recipe, record
from benchmarl_ssd.environments.common import TaskOptionError
from benchmarl_ssd.environments.coordination import world_positions


def build_small(folder, id, transitions, seed=0, **config):
    recipe = dataclasses.replace(get_recipe(id), config=config)
    torch.manual_seed(seed)
    setup = recipe.setup(seed)
    record(
        setup.env,
        setup.policy,
        folder,
        groups=setup.groups,
        max_steps=setup.max_steps,
        transitions=transitions,
        seed=seed,
        task=setup.task,
        id=id,
        references=setup.references,
        progress=False,
    )
    dataset = OfflineDataset(folder)
    return dataset.metadata, dataset.data, setup


@pytest.mark.parametrize(("n_agents", "n_modes"), [(2, 2), (8, 2), (4, 3)])
def test_bandit(tmp_path, n_agents, n_modes):
    metadata, data, setup = build_small(
        tmp_path / "d", "coordination/bandit/modes", 1234, n_agents=n_agents, n_modes=n_modes
    )
    assert metadata.counts["transitions"] == metadata.counts["terminated"] == 1234
    assert metadata.task["config"]["n_agents"] == n_agents
    counts = setup.env.played_mode(data["agents", "action"]).bincount(minlength=n_modes)
    assert counts.sum() == 1234
    assert counts.max() - counts.min() <= 2
    assert data["next", "agents", "reward"].min() == 1
    assert setup.references["expert"] == 1.0
    assert 0.0 <= setup.references["random"] < 0.2


def test_two_apples(tmp_path):
    metadata, data, setup = build_small(
        tmp_path / "d", "coordination/two_apples/coin-flip", 26 * 25, n_agents=3, start_jitter=0.02
    )
    assert metadata.counts["episodes"] == metadata.counts["truncated"] == 26
    assert metadata.counts["terminated"] == 0
    episodes = data["next", "agents", "observation"].reshape(26, 25, 3, -1)
    sides = world_positions(episodes[:, -1], mirrored=True)[..., 0] > 0
    assert (sides == sides[:, :1]).all()
    assert int(sides[:, 0].sum()) == 13
    assert (data["next", "agents", "reward"].reshape(26, 25, 3)[:, -1] == 1).all()
    assert setup.references["random"] < 0.5
    assert 11 < setup.references["expert"] < 14


@pytest.mark.parametrize("id", ["coordination/bandit/modes", "coordination/two_apples/coin-flip"])
def test_same_seed_same_data(tmp_path, id):
    first, second, other = (
        build_small(tmp_path / str(i), id, 200, seed=seed) for i, seed in enumerate((3, 3, 4))
    )
    assert torch.equal(first[1]["agents", "action"], second[1]["agents", "action"])
    assert first[2].references == second[2].references
    assert not torch.equal(first[1]["agents", "action"], other[1]["agents", "action"])


def test_wrong_option():
    recipe = dataclasses.replace(get_recipe("coordination/bandit/modes"), config={"modes": 3})
    with pytest.raises(TaskOptionError, match="unknown: \\['modes'\\]"):
        recipe.setup(0)

"""Critics of each agent instead of one of the team, through the runner."""

from __future__ import annotations

import pytest
import torch
from runs import make, parameters, summary

from benchmarl_ssd.algorithms import OfflineRunError

pytestmark = pytest.mark.usefixtures("untouched")


def altered(batch, agent):
    """The same transitions, in which one agent saw and did something else."""
    other = batch.clone()
    for key in (("agents", "observation"), ("agents", "action")):
        other[key][..., agent, :] += 1.0
    return other


@pytest.mark.parametrize("name", ["ssd", "matd3bc", "omar"])
@pytest.mark.parametrize("critics", ["joint", "independent"])
def test_who_sees_whom(name, critics, two_apples, apples_data, tmp_path):
    experiment = make(name, two_apples, tmp_path, apples_data, critics=critics)
    loss, independent = experiment.losses["agents"], critics == "independent"
    batch = experiment.replay_buffers["agents"].sample()
    before = parameters(experiment)
    values = loss.qvalues(batch, loss.qvalue_network_params)
    assert values.shape == (2, *batch.batch_size, *([4] if independent else []))
    for agent in range(4):
        moved = loss.qvalues(altered(batch, agent), loss.qvalue_network_params) != values
        changed = moved.flatten(0, 1).any(0)
        assert changed.tolist() == ([i == agent for i in range(4)] if independent else True)
    experiment.run()
    assert summary(experiment)["steps"] == 12
    assert summary(experiment)["final"]["episodes"] == 8
    after = parameters(experiment)
    for network in ("qvalue_network", "actor_network"):
        assert any(not before[k].equal(after[k]) for k in before if k.startswith(network))
    assert all(torch.isfinite(value).all() for value in after.values())


def test_conventions_value_what_independent_critics_say(bandit, bandit_data, tmp_path):
    experiment = make("ssd", bandit, tmp_path, bandit_data, critics="independent", n_conventions=2)
    experiment.run()
    assert experiment.losses["agents"].convention_value.shape == (2,)


@pytest.mark.parametrize("name", ["ssd", "omar"])
def test_unknown_kind_of_critics_is_an_error(name, bandit, bandit_data, tmp_path):
    with pytest.raises(OfflineRunError, match=r"critics to be one of joint, independent; found 'm"):
        make(name, bandit, tmp_path, bandit_data, critics="my own")
    assert list(tmp_path.iterdir()) == []

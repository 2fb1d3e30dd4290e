"""Learned end to end through the real runner: actors that clone what the critic found better."""

from __future__ import annotations

import pytest
import torch
from runs import make, small_mlp, summary

from benchmarl_ssd.data import DatasetWriter, OfflineDataset

pytestmark = pytest.mark.slow
BUDGET = {
    "max_n_iters": 8,
    "off_policy_n_optimizer_steps": 50,
    "off_policy_train_batch_size": 256,
    "evaluation_interval": 8,
}
# Every kind of critic that the algorithms know, and both bootstraps.
VARIANTS = {
    "maiql": ("maiql", {}),
    "maiql independent": ("maiql", {"critics": "independent"}),
    "maicq": ("maicq", {}),
    "maicq joint": ("maicq", {"critics": "joint"}),
    "maicq value": ("maicq", {"bootstrap": "value"}),
    "omiga": ("omiga", {}),
}


@pytest.fixture(scope="module")
def paid_once(tmp_path_factory, bandit_data):
    """The bandit's data, as if only the first of the two conventions had been paid."""
    logged = OfflineDataset(bandit_data)
    metadata = logged.metadata
    data = logged.data.exclude("episode").clone()
    first = (data["agents", "action"][:, :1] > 0).expand(-1, 2, -1)
    data["next", "agents", "reward"] *= first
    low, high = metadata.bounds("agents")
    folder = tmp_path_factory.mktemp("paid") / "once"
    with DatasetWriter(
        folder,
        groups=metadata.groups,
        action_bounds={"agents": {"low": low, "high": high}},
        task=metadata.task,
    ) as writer:
        writer.extend(data)
    return folder


def train(name, bandit, data, folder, **changes):
    experiment = make(name, bandit, folder, data, 0, small_mlp((64, 64)), BUDGET, **changes)
    experiment.run()
    return experiment


@torch.no_grad()
def joint_action(experiment):
    return experiment.policy(experiment.test_env.reset())["agents", "action"][0].squeeze(-1)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_team_takes_what_was_paid(variant, bandit, paid_once, tmp_path):
    name, changes = VARIANTS[variant]
    experiment = train(name, bandit, paid_once, tmp_path, **changes)
    assert summary(experiment)["final"]["success_rate"] == 1.0
    assert joint_action(experiment)[0] > 0.5


# maicq's weights, sharp and relative to the batch, magnify what is left of the critic's errors:
# each of its agents leans to a side of its own.
@pytest.mark.parametrize("name", ["maiql", "omiga"])
def test_of_two_equal_conventions_it_takes_the_mean(name, bandit, bandit_data, tmp_path):
    # The limit of weighted regression with deterministic actors, which is behaviour cloning's, too.
    experiment = train(name, bandit, bandit_data, tmp_path)
    assert joint_action(experiment).abs().max() < 0.5
    assert summary(experiment)["final"]["success_rate"] == 0.0

"""Mixing of local values: a weighted sum whose weights are never negative."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from benchmarl_ssd.modules import LinearMixer

OBSERVATION, VALUE = ("agents", "observation"), ("agents", "value")


def data(batch=(50,)):
    torch.manual_seed(1)
    entries = {"observation": 5 * torch.randn(*batch, 3, 4), "value": torch.randn(*batch, 3, 1)}
    return TensorDict({"agents": entries, "state": torch.randn(*batch, 7)}, batch)


@pytest.mark.parametrize("batch", [(), (50,), (2, 3)])
def test_total_is_the_weighted_sum(batch):
    torch.manual_seed(0)
    mixer, read = LinearMixer(3, 12, [OBSERVATION], VALUE), data(batch)
    weight, bias = mixer.weigh(read)
    assert weight.shape == (*batch, 3)
    expected = (weight * read[VALUE].squeeze(-1)).sum(-1, keepdim=True) + bias.unsqueeze(-1)
    torch.testing.assert_close(mixer(read)["state_action_value"], expected)


def test_weights_are_not_negative_and_differ_between_states():
    torch.manual_seed(0)
    mixer, read = LinearMixer(3, 19, ["state", OBSERVATION], VALUE), data()
    mixer.network[
        -1
    ].weight.data *= 20  # so that what is taken the absolute value of has both signs
    weight, _ = mixer.weigh(read)
    assert (weight >= 0).all()
    assert (weight < 0.5).any()
    assert (weight.std(0) > 0).all()


def test_a_better_local_value_never_makes_the_total_worse():
    torch.manual_seed(0)
    mixer, read = LinearMixer(3, 7, ["state"], VALUE), data()
    better = read.clone()
    better[VALUE] += torch.rand(50, 3, 1)
    assert (mixer(better)["state_action_value"] >= mixer(read)["state_action_value"]).all()


def test_without_a_state_there_is_nothing_to_mix_by():
    with pytest.raises(ValueError, match="expected a state to mix by"):
        LinearMixer(3, 0, [], VALUE)


def test_it_starts_near_the_plain_sum():
    for seed in range(5):
        torch.manual_seed(seed)
        weight, _ = LinearMixer(3, 7, ["state"], VALUE).weigh(data())
        assert ((weight > 0.3) & (weight < 1.7)).float().mean() > 0.8

"""Actors with a width: they match what they are regularised towards, and clone by likelihood."""

from __future__ import annotations

import pytest
import torch
from networks import ACTION, OBSERVATION, make_actor, make_data, make_qvalue, make_value
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.modules import ProbabilisticActor, TanhNormal

from benchmarl_ssd.modules import ConditionalScore, MixtureScore
from benchmarl_ssd.objectives import SsdLoss

CENTRE, WIDTH = 0.2, 0.15


class Free(nn.Module):
    """The same mean and scale everywhere."""

    def __init__(self):
        super().__init__()
        self.params = nn.Parameter(torch.tensor([0.0, 0.0, 0.0, 0.0]))

    def forward(self, observation):
        return self.params.expand(*observation.shape[:-1], 4)


def free_actor():
    keys = [("agents", "loc"), ("agents", "scale")]
    net = nn.Sequential(Free(), NormalParamExtractor(scale_lb=0.02))
    return ProbabilisticActor(
        TensorDictModule(net, in_keys=[OBSERVATION], out_keys=keys),
        in_keys=keys,
        out_keys=[ACTION],
        distribution_class=TanhNormal,
    )


def loss_of(actor, **options):
    modes = torch.full((1, 3, 2), CENTRE)
    score = ConditionalScore(MixtureScore(modes, WIDTH), 3, 2, [OBSERVATION])
    loss = SsdLoss(
        actor,
        score,
        make_qvalue(),
        make_value(),
        weighting="alpha_over_sigma",
        stochastic_actors=True,
        **options,
    )
    loss.window = lambda progress: (0.01, 0.01)
    return loss


def moments(loss, data):
    with torch.no_grad():
        action, _ = loss.policy_sample(data.expand(500, *data.shape))
    return action.mean().item(), action.std().item()


def train(loss, data, objective, steps=300):
    optimizer = torch.optim.Adam(loss.actor_network_params.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(data).mean().backward()
        optimizer.step()


def test_without_a_critic_the_policy_becomes_the_behaviour_with_its_width():
    torch.manual_seed(0)
    loss, data = loss_of(free_actor(), beta=0.0, pretrain_steps=0), make_data((64,))
    train(loss, data, lambda batch: loss.actor_loss(batch)[0])
    mean, deviation = moments(loss, data[:4])
    assert mean == pytest.approx(CENTRE, abs=0.03)
    assert deviation == pytest.approx(WIDTH, rel=0.15)


def test_cloning_is_maximum_likelihood():
    torch.manual_seed(0)
    loss, data = loss_of(free_actor()), make_data((512,))
    data[ACTION] = CENTRE + WIDTH * torch.randn_like(data[ACTION])
    train(loss, data, loss.clone_loss)
    mean, deviation = moments(loss, data[:4])
    assert mean == pytest.approx(CENTRE, abs=0.03)
    assert deviation == pytest.approx(WIDTH, rel=0.15)


def test_actors_without_a_distribution_are_an_error():
    with pytest.raises(ValueError, match="expected stochastic actors to have a distribution"):
        loss_of(make_actor())


def test_target_policies_are_sampled_too():
    torch.manual_seed(0)
    loss = loss_of(free_actor(), policy_noise=0.0)
    data = TensorDict({"next": make_data((64,)).select(OBSERVATION)}, [64])
    assert loss.next_policy_action(data).std() > 0.3

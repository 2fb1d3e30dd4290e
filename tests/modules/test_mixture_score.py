"""Learned mixtures and corrected regressions, against distributions that are known."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from benchmarl_ssd.modules import ConditionalScore, MixtureScore
from benchmarl_ssd.objectives import ScoreMatchingLoss

OBSERVATION, ACTION = ("agents", "observation"), ("agents", "action")
MODES = torch.tensor([[[0.8], [0.8]], [[-0.8], [-0.8]]])


def logged(rows):
    centre = MODES[torch.randint(2, (rows,))]
    action = (centre + 0.1 * torch.randn(rows, 2, 1)).clamp(-1, 1)
    data = TensorDict({"agents": {"observation": torch.ones(rows, 2, 1)}}, [rows])
    return data.set(ACTION, action)


def fitted(estimator, steps=300):
    torch.manual_seed(0)
    score = ConditionalScore.build(
        2,
        1,
        1,
        [OBSERVATION],
        hidden_sizes=(32,),
        regression_sizes=(32,),
        estimator=estimator,
        condition="observation",
    )
    loss = ScoreMatchingLoss(score)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(logged(256))["loss_score"].backward()
        optimizer.step()
    with loss.score_network_params.to_module(score):
        values = {name: value.clone() for name, value in score.state_dict().items()}
    score.load_state_dict(values)
    return score


def test_learned_mixture_has_the_scores_of_the_known_one():
    score, truth = fitted("mixture"), ConditionalScore(MixtureScore(MODES, 0.1), 2, 1, [])
    data = TensorDict({"agents": {"observation": torch.ones(40, 2, 1)}}, [40])
    action = MODES[torch.arange(40) % 2] + 0.05
    noised = torch.linspace(-1, 1, 40).view(1, 40, 1, 1).expand(1, 40, 2, 1)
    t = torch.full((1, 40, 2, 1), 0.3)
    with torch.no_grad():
        found = score.predict(score.encode(data, action), noised, t)
        expected = truth.predict(
            MixtureScore(MODES, 0.1).encode(
                torch.zeros(2, 40, 0), action.flatten(1), score.prefix_mask()
            ),
            noised,
            t,
        )
    assert (found - expected).abs().mean() < 0.06


@pytest.mark.parametrize("estimator", ["diffusion", "mixture"])
def test_agents_behind_the_first_follow_it(estimator):
    score = fitted(estimator)
    data = TensorDict({"agents": {"observation": torch.ones(400, 2, 1)}}, [400])
    torch.manual_seed(1)
    sampled = score.sample(data).squeeze(-1).sign()
    assert (sampled[:, 0] == sampled[:, 1]).float().mean() > 0.95
    assert 0.35 < (sampled[:, 0] > 0).float().mean() < 0.65


def test_correction_of_the_mean_is_zero_at_first_and_leaves_the_base_alone():
    score = ConditionalScore.build(2, 1, 1, [OBSERVATION], condition="observation")
    data = logged(16)
    context = score.encode(data, data[ACTION])
    torch.testing.assert_close(context.mean, context.base)
    context.mean.sum().backward()
    touched = {
        name.split(".")[1]
        for name, p in score.named_parameters()
        if p.grad is not None and p.grad.any()
    }
    assert touched == {"correction"}

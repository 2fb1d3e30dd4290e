from __future__ import annotations

import pytest
import torch

from benchmarl_ssd.data.statistics import sample_rows
from benchmarl_ssd.modules.plan_denoiser import PlanDenoiser
from benchmarl_ssd.modules.plan_diffusion import PlanDiffusion
from benchmarl_ssd.modules.plan_frame import PlanFrame


def walk(episodes, length, n=2, size=3, seed=0):
    """Random walks: the change in k steps has the deviation 0.2 sqrt(k)."""
    generator = torch.Generator().manual_seed(seed)
    steps = 0.2 * torch.randn(episodes, length + 1, n, size, generator=generator)
    steps[:, 0] = 5 + 3 * torch.randn(episodes, n, size, generator=generator)
    path = steps.cumsum(1)
    path[..., -1] = 7.0  # something that never changes
    episode = torch.arange(episodes).repeat_interleave(length)
    return path[:, :-1].flatten(0, 1), path[:, 1:].flatten(0, 1), episode


def test_scales_are_those_of_the_data():
    frame = PlanFrame(2, 3, horizon=4).fit(*walk(8000, 5))
    assert frame.mean[:, :2].mean().item() == pytest.approx(5, abs=0.1)
    assert frame.deviation[:, :2].mean().item() == pytest.approx(3, rel=0.05)
    for k in range(4):
        found = frame.change[:, k, :2].mean().item()
        assert found == pytest.approx(0.2 * (k + 1) ** 0.5, rel=0.02)
    assert (frame.change[..., 2] == 0).all()
    assert (frame.deviation[:, 2] == 1).all()


def test_scales_are_of_all_steps():
    """Every fifth row would be the first of each episode only, where nothing has moved yet."""
    step = torch.arange(5.0).repeat(4000).reshape(-1, 1, 1)
    episode = torch.arange(4000).repeat_interleave(5)
    rows = sample_rows(len(step), 4000)
    frame = PlanFrame(1, 1, horizon=1).fit(step, (step + 1) * 2, episode, rows)
    assert frame.deviation.item() == pytest.approx(2**0.5, rel=0.03)  # of 0, 1, 2, 3, 4
    assert frame.change.item() == pytest.approx(18**0.5, rel=0.03)  # of 2, 3, 4, 5, 6


def test_scales_stop_at_the_ends_of_episodes():
    # Were the next episode's observations taken for changes, the scales would be about 4.
    frame = PlanFrame(2, 3, horizon=6).fit(*walk(2000, 3))
    assert frame.change[..., :2].max() < 0.5
    assert torch.equal(frame.change[:, 3:], frame.change[:, 2:3].expand(-1, 3, -1))


def test_plans_are_of_unit_size_and_invertible():
    observation, following, _ = data = walk(4000, 5)
    frame = PlanFrame(2, 3, horizon=5).fit(*data)
    current = observation.reshape(4000, 5, 2, 3)[:, 0]
    future = following.reshape(4000, 5, 2, 3)
    plan = frame.encode(current, future)
    assert plan.shape == (4000, 2, 6, 3)
    assert (plan[:, :, 1:, :2].square().mean((0, 1, 3)).sqrt() - 1).abs().max() < 0.05
    torch.testing.assert_close(frame.decode(plan), (current, future), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(plan[:, :, 0], frame.encode_current(current))
    torch.testing.assert_close(plan[:, :, 1], frame.encode_step(current, future[:, 0]))
    # What never changes in the data is not made to change by an error of a plan.
    noisy = frame.decode(plan + 1)[1] - frame.decode(plan + 1)[0].unsqueeze(1)
    assert (noisy[..., 2] == 0).all()


def test_attention_tells_agents_of_each_other():
    torch.manual_seed(0)
    denoiser = PlanDenoiser(3, 5, width=16, depth=1, n_heads=2)
    plan, known = torch.randn(3, 4, 5), torch.zeros(3, 4, 1)
    team = torch.full((4, 1), 0.5), torch.zeros(4, 2)
    before = denoiser(plan, known, *team)
    plan[1, 2] += 1.0
    after = denoiser(plan, known, *team)
    changed = (before != after).any(-1)
    assert changed[:, 2].all()  # every agent, in this row
    assert not changed[:, [0, 1, 3]].any()


@pytest.mark.parametrize(
    "option",
    [
        {"width": 10, "n_heads": 4},
        {"depth": 0},
        {"n_heads": 0},
        {"horizon": 0},
        {"rank": 1.5},
        {"guidance": -1.0},
        {"temperature": -1.0},
        {"n_steps": 0},
    ],
)
def test_options_out_of_range_are_errors(option):
    horizon = option.pop("horizon", 2)
    with pytest.raises(ValueError, match="expected"):
        PlanDiffusion.build(2, 3, horizon, [("agents", "observation")], **option)

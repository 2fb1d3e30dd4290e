from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarl_ssd.modules import VPNoiseSchedule
from benchmarl_ssd.modules.noise import NoiseWindow, noise_weight


@given(st.floats(1e-3, 1.0))
def test_variance_is_preserved(t):
    schedule, t = VPNoiseSchedule(), torch.tensor(t, dtype=torch.float64)
    assert abs(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2 - 1) < 1e-12


def test_signal_follows_its_differential_equation():
    # d log alpha / dt = -beta(t) / 2 with beta rising linearly from beta_min to beta_max.
    schedule = VPNoiseSchedule()
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(schedule.log_alpha(t).sum(), t)
    rate = schedule.beta_min + t * (schedule.beta_max - schedule.beta_min)
    torch.testing.assert_close(slope, -rate.detach() / 2)


@given(st.floats(0.02, 0.99))
def test_time_of_inverts_sigma(sigma):
    schedule = VPNoiseSchedule()
    t = torch.tensor(schedule.time_of(sigma), dtype=torch.float64)
    assert float(schedule.sigma(t)) == pytest.approx(sigma, rel=1e-9)


@pytest.mark.parametrize(
    "kwargs",
    [{"beta_min": 0.0}, {"beta_min": 2.0, "beta_max": 1.0}, {"t_min": 0.0}, {"t_min": 1.0}],
)
def test_bad_schedules_are_errors(kwargs):
    with pytest.raises(ValueError, match="expected"):
        VPNoiseSchedule(**kwargs)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"t_min": 0.0},
        {"t_min": 0.5, "t_final": 0.2},
        {"t_max": 1.1},
        {"t_final": 0.99, "t_max": 0.98},
        {"width": 0.0},
        {"annealing": 1.5},
    ],
)
def test_bad_windows_are_errors(kwargs):
    with pytest.raises(ValueError, match="expected"):
        NoiseWindow(**kwargs)


@given(st.floats(0, 1))
def test_window_stays_in_range_and_never_rises(progress):
    window = NoiseWindow()
    low, high = window(progress)
    assert window.t_min <= low < high <= window.t_max
    later_low, later_high = window(min(1.0, progress + 0.1))
    assert later_low <= low + 1e-12
    assert later_high <= high + 1e-12


def test_weights():
    schedule, t = VPNoiseSchedule(), torch.tensor([0.1, 0.9])
    assert noise_weight(schedule, t, "one").tolist() == [1.0, 1.0]
    torch.testing.assert_close(noise_weight(schedule, t, "sigma2"), schedule.sigma(t) ** 2)
    torch.testing.assert_close(
        noise_weight(schedule, t, "alpha_over_sigma"), schedule.alpha(t) / schedule.sigma(t)
    )

"""Single steps computed by hand, and steps measured on the literature's environments."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarl_ssd.environments.mpe.cooperative_navigation import CooperativeNavigation
from benchmarl_ssd.environments.mpe.physics import Bodies, Physics
from benchmarl_ssd.environments.mpe.predator_prey import PredatorPrey, screen_penalty
from benchmarl_ssd.environments.mpe.scenario import Scenario, State, to_worlds_last
from benchmarl_ssd.environments.mpe.world import World

GOLDEN = Path(__file__).parents[1] / "data" / "mpe_golden.npz"


def still(observation: torch.Tensor) -> torch.Tensor:
    """A prey that does nothing: what a prey decides is not the subject here."""
    return observation.new_zeros(len(observation), 2)


def column(*points: tuple[float, float]) -> torch.Tensor:
    """Points as ``[2, points, 1]`` in double precision: one world."""
    return torch.tensor(points, dtype=torch.float64).t().unsqueeze(-1)


def physics(movers: int, landmarks: int = 0, size: float = 0.15, **limits: float) -> Physics:
    count = movers + landmarks
    return Physics(
        Bodies(
            size=(size,) * count,
            collides=(True,) * count,
            acceleration=(limits.get("acceleration"),) * movers,
            max_speed=(limits.get("max_speed"),) * movers,
        ),
        dtype=torch.float64,
    )


def test_force_and_damping_of_a_free_body() -> None:
    position, velocity = physics(1).step(column((0, 0)), column((0.4, 0)), column((0.5, -1)))
    # v = 0.75 * 0.4 + 5 * 0.5 * 0.1 and 5 * (-1) * 0.1
    torch.testing.assert_close(velocity, column((0.55, -0.5)))
    torch.testing.assert_close(position, column((0.055, -0.05)))


def test_acceleration_is_applied_twice() -> None:
    _, velocity = physics(1, acceleration=3.0).step(column((0, 0)), column((0, 0)), column((1, 0)))
    torch.testing.assert_close(velocity, column((0.9, 0)))  # 3 * 3 * 0.1


def test_speed_limit_keeps_the_direction() -> None:
    limited = physics(1, acceleration=4.0, max_speed=1.3)
    position, velocity = limited.step(column((0, 0)), column((0, 0)), column((1, 1)))
    component = 1.3 / math.sqrt(2)  # 1.6 per axis, too fast
    torch.testing.assert_close(velocity, column((component, component)))
    torch.testing.assert_close(position, velocity * 0.1)


def test_speed_below_the_limit_is_kept() -> None:
    limited = physics(1, acceleration=3.0, max_speed=1.0)
    _, velocity = limited.step(column((0, 0)), column((0, 0)), column((0.5, 0)))
    torch.testing.assert_close(velocity, column((0.45, 0)))


def test_contact_pushes_two_agents_apart() -> None:
    position = column((0, 0), (0.2, 0))
    position, velocity = physics(2).step(position, column((0, 0), (0, 0)), column((0, 0), (0, 0)))
    # penetration 0.3 - 0.2 = 0.1, far from the soft margin: force 100 * 0.1 along x, v = F dt
    torch.testing.assert_close(velocity, column((-1.0, 0), (1.0, 0)))
    torch.testing.assert_close(position, column((-0.1, 0), (0.3, 0)))


def test_contact_is_soft_at_the_surface() -> None:
    force = physics(2).contact_forces(column((0, 0), (0, 0.3)))
    expected = 100 * 1e-3 * math.log(2)
    torch.testing.assert_close(force, column((0, -expected), (0, expected)))


def test_landmark_pushes_and_stays() -> None:
    position, velocity = physics(1, 1).step(
        column((0, 0), (0.25, 0)), column((0, 0)), column((0, 0))
    )
    torch.testing.assert_close(velocity, column((-0.5, 0)))
    torch.testing.assert_close(position, column((-0.05, 0), (0.25, 0)))


def test_bodies_that_do_not_collide_pass() -> None:
    bodies = Bodies((0.15, 0.15), (True, False), (None,), (None,))
    force = Physics(bodies, torch.float64).contact_forces(column((0, 0), (0.01, 0)))
    torch.testing.assert_close(force, column((0, 0)))


def test_bodies_on_the_same_spot_stay_finite() -> None:
    position = column((0, 0), (0, 0)).requires_grad_()
    force = physics(2).contact_forces(position)
    force.sum().backward()
    assert force.isfinite().all()
    assert position.grad is not None
    assert position.grad.isfinite().all()


def test_reward_of_cooperative_navigation_by_hand() -> None:
    scenario = CooperativeNavigation(dtype=torch.float64)
    agents = [(0.0, 0.0), (0.25, 0.0), (0.0, 1.0)]
    landmarks = [(0.05, 0.0), (0.25, -0.5), (0.0, 3.0)]
    reward = scenario.rewards(State(column(*agents, *landmarks), column(*[(0, 0)] * 3)))
    # nearest distances 0.05 (clipped to 10), 0.5 and 2; agents 0 and 1 are closer than 0.3
    torch.testing.assert_close(reward, torch.tensor([[7.5, 7.5, 12.5]], dtype=torch.float64))


def test_reward_of_predator_prey_by_hand() -> None:
    scenario = PredatorPrey(still, dtype=torch.float64)
    movers = [(0.0, 0.0), (0.0, 0.12), (1.0, 0.0), (0.0, 0.1)]
    state = State(column(*movers, (5, 5), (5, 6)), column(*[(0, 0)] * 4))
    distance = 0.1 + 0.02 + math.hypot(1, 0.1)
    expected = 20 - 0.1 * distance
    torch.testing.assert_close(scenario.rewards(state)[0].tolist(), [expected] * 3)
    torch.testing.assert_close(scenario.prey_rewards(state).item(), -expected)


def test_rewards_of_world_by_hand() -> None:
    scenario = World(still, dtype=torch.float64)
    movers = [(0.0, 0.0), (0.0, 0.5), (1.0, 0.0), (0.95, 0.0)]
    landmarks = [(5, 5), (0.95, 0.05), (0.0, 0.0), (0.9, 0.0), (-0.9, 0.0)]
    state = State(column(*movers, *landmarks), column(*[(0, 0)] * 4))
    distance = 0.95 + math.hypot(0.95, 0.5) + 0.05
    torch.testing.assert_close(scenario.rewards(state)[0, 0].item(), 5 - 0.1 * distance)
    prey = 0.1 * distance - 5 - 2 * 0.5 + 2 + 0.05 * 0.05
    torch.testing.assert_close(scenario.prey_rewards(state).item(), prey)
    flags = scenario.forest_flags(state).squeeze(-1)
    assert flags.tolist() == [[-1, -1], [-1, -1], [1, -1], [1, -1]]


def test_screen_penalty() -> None:
    values = screen_penalty(torch.tensor([0.89, -0.95, 1.0, 1.5, 3.0], dtype=torch.float64))
    torch.testing.assert_close(values.tolist(), [0.0, 0.5, 1.0, math.e, 10.0])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", ["simple_spread", "simple_tag", "simple_world"])
def test_measured_steps(name: str, dtype: torch.dtype, tolerance: float) -> None:
    scenario: Scenario
    if name == "simple_spread":
        scenario = CooperativeNavigation(dtype=dtype)
    else:
        scenario = {"simple_tag": PredatorPrey, "simple_world": World}[name](still, dtype=dtype)
    with np.load(GOLDEN) as archive:
        golden = {
            key.removeprefix(f"{name}/"): torch.from_numpy(archive[key]).to(dtype)
            for key in archive.files
            if key.startswith(f"{name}/")
        }
    movers, agents = scenario.bodies.movers, scenario.n_agents
    assert len(golden["position"]) == 300

    before = torch.cat((golden["position"], golden["landmarks"]), 1)
    inputs = (to_worlds_last(x) for x in (before, golden["velocity"], golden["action"]))
    state = State(*scenario.physics.step(*inputs))
    observation, reward = golden["next_observation"], golden["reward"]

    # relative in float32, since rewards reach 20 and a float32 has seven digits
    check = {"atol": tolerance, "rtol": tolerance}
    moved = state.position[:, :movers].permute(2, 1, 0)
    torch.testing.assert_close(moved, golden["next_position"], **check)
    torch.testing.assert_close(state.velocity.permute(2, 1, 0), golden["next_velocity"], **check)
    torch.testing.assert_close(scenario.observe(state), observation[:, :agents], **check)
    torch.testing.assert_close(scenario.rewards(state), reward[:, :agents], **check)
    if isinstance(scenario, (PredatorPrey, World)):
        seen = observation[:, agents, : scenario.prey_observation_size]
        torch.testing.assert_close(scenario.observe_prey(state), seen, **check)
        torch.testing.assert_close(scenario.prey_rewards(state), reward[:, agents], **check)

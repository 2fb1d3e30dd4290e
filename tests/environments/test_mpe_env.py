"""The MPE tasks as a TorchRL environment and as BenchMARL tasks."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from benchmarl_ssd.environments.mpe.common import MpeClass, MpeTask
from benchmarl_ssd.environments.mpe.env import SCENARIOS, MpeEnv, make_scenario

CONFIGS = {
    "cooperative_navigation": {"max_steps": 25, "n_agents": 3},
    "predator_prey": {"max_steps": 25, "prey_policy": None},
    "world": {"max_steps": 25, "prey_policy": None},
}
#: environment variable with a folder that holds the original preys, and their files
PREY_FOLDER = "BENCHMARL_SSD_OMAR_PREY"
PREY_FILES = {"predator_prey": "simple_tag.pt", "world": "simple_world.pt"}
each_task = pytest.mark.parametrize("name", list(SCENARIOS))


def original_prey(name: str) -> dict[str, str]:
    """Settings for the original prey of a task, or a skip with the reason."""
    if name not in PREY_FILES:
        return {}
    folder = os.environ.get(PREY_FOLDER)
    if folder is None:
        pytest.skip(f"{PREY_FOLDER} is not set: it names the folder with {PREY_FILES[name]}")
    return {"prey_policy": str(Path(folder) / PREY_FILES[name])}


@each_task
def test_specs(name: str) -> None:
    check_env_specs(MpeEnv(name, num_envs=3, seed=0))


@each_task
def test_shapes_and_types(name: str) -> None:
    env = MpeEnv(name, num_envs=4, seed=0, dtype=torch.float64)
    step = env.rand_step(env.reset())
    size = {"cooperative_navigation": 18, "predator_prey": 16, "world": 24}[name]
    assert step["agents", "observation"].shape == (4, 3, size)
    assert step["agents", "action"].shape == (4, 3, 2)
    assert step["next", "agents", "reward"].shape == (4, 3, 1)
    assert step["next", "agents", "reward"].dtype == torch.float64
    for key in ("done", "terminated", "truncated"):
        assert step["next", key].shape == (4, 1)


@pytest.mark.parametrize("n_agents", [3, 4, 10])
def test_number_of_agents(n_agents: int) -> None:
    env = MpeEnv("cooperative_navigation", num_envs=64, n_agents=n_agents, seed=0)
    check_env_specs(env)
    observation = env.reset()["agents", "observation"]
    assert observation.shape == (64, n_agents, 6 * n_agents)
    spread = observation[..., 2:4].abs().max().item()
    assert (spread > 1.5) == (n_agents > 3)


@pytest.mark.parametrize("n_agents", [2, 11])
def test_number_of_agents_is_checked(n_agents: int) -> None:
    with pytest.raises(ValueError, match="from 3 to 10"):
        MpeEnv("cooperative_navigation", n_agents=n_agents)


def test_unknown_task_lists_the_known() -> None:
    with pytest.raises(ValueError, match="cooperative_navigation, predator_prey, world"):
        make_scenario("simple_tag")


@each_task
def test_seeds_reproduce_episodes(name: str) -> None:
    def rollout(env: MpeEnv) -> TensorDict:
        torch.manual_seed(1)
        return env.rollout(30, break_when_any_done=False)

    env = MpeEnv(name, num_envs=2, seed=5)
    first, second = rollout(env), rollout(env)
    assert (first == rollout(MpeEnv(name, num_envs=2, seed=5))).all()
    assert not (first["agents", "observation"] == second["agents", "observation"]).all()
    env.set_seed(5)
    assert (first == rollout(env)).all()


@each_task
def test_seeding_leaves_the_global_generator_alone(name: str) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    MpeEnv(name, num_envs=2, seed=3).reset()
    assert torch.equal(torch.rand(1), expected)


@each_task
def test_episodes_are_truncated_and_never_terminate(name: str) -> None:
    rollout = MpeEnv(name, num_envs=2, seed=0).rollout(60)
    assert rollout.shape == (2, 25)
    truncated = rollout["next", "truncated"].squeeze(-1)
    assert truncated[:, -1].all()
    assert not truncated[:, :-1].any()
    assert torch.equal(rollout["next", "done"], rollout["next", "truncated"])
    assert not rollout["next", "terminated"].any()


@each_task
def test_partial_reset(name: str) -> None:
    env = MpeEnv(name, num_envs=4, seed=0)
    _, step = env.step_and_maybe_reset(env.rand_action(env.reset()))
    before = step["agents", "observation"].clone()
    mask = torch.tensor([True, False, True, False]).unsqueeze(-1)
    step.set("_reset", mask)
    after = env.reset(step)["agents", "observation"]
    changed = (after != before).flatten(1).any(1)
    assert torch.equal(changed, mask.squeeze(-1))
    assert (after[mask.squeeze(-1), :, :2] == 0).all()

    # the two clocks now differ by one step
    flags = env.rollout(24, auto_reset=False, tensordict=env.reset(step), break_when_any_done=False)
    assert not flags["next", "truncated"][mask.squeeze(-1)].any()


@each_task
def test_actions_outside_the_box_are_clamped(name: str) -> None:
    scenario = make_scenario(name)
    state = scenario.reset(8, torch.Generator().manual_seed(0))
    action = torch.randn(8, scenario.n_agents, 2) * 3
    far, _, _ = scenario.step(state, action)
    near, _, _ = scenario.step(state, action.clamp(-1, 1))
    assert torch.equal(far.position, near.position)


@each_task
def test_rendering(name: str) -> None:
    env = MpeEnv(name, num_envs=2, seed=0)
    with pytest.raises(RuntimeError, match="reset"):
        env.render()
    env.reset()
    frame = env.render(mode="rgb_array", world=1, size=(90, 120))
    assert frame.shape == (90, 120, 3)
    assert frame.dtype == np.uint8
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 2
    with pytest.raises(ValueError, match="rgb_array"):
        env.render(mode="human")


@pytest.mark.parametrize(
    ("name", "expected", "error"),
    [("cooperative_navigation", 159.4, 5.0), ("predator_prey", -3.9, 0.9), ("world", -6.3, 0.6)],
)
def test_random_returns_are_the_literatures(name: str, expected: float, error: float) -> None:
    env = MpeEnv(name, num_envs=1024, seed=0, **original_prey(name))
    torch.manual_seed(0)
    rewards = env.rollout(25)["next", "agents", "reward"]
    returns = rewards.squeeze(-1).mean(-1).sum(-1)
    own_error = returns.std().item() / len(returns) ** 0.5
    assert abs(returns.mean().item() - expected) < 3 * (error**2 + own_error**2) ** 0.5


@each_task
def test_benchmarl_task(name: str) -> None:
    task = MpeTask[name.upper()].get_task(config=dict(CONFIGS[name]))
    assert isinstance(task, MpeClass)
    assert task.env_name() == "mpe"
    env = task.get_env_fun(num_envs=3, continuous_actions=True, seed=0, device="cpu")()
    assert task.max_steps(env) == 25
    assert task.group_map(env) == {"agents": ["agent_0", "agent_1", "agent_2"]}
    assert task.observation_spec(env)["agents", "observation"].shape[0] == 3
    assert task.action_spec(env)["agents", "action"].shape == (3, 2)
    assert task.supports_continuous_actions()
    assert not task.supports_discrete_actions()
    with pytest.raises(ValueError, match="continuous"):
        task.get_env_fun(num_envs=1, continuous_actions=False, seed=0, device="cpu")
    env.reset()
    assert task.render_callback(None, env, env.reset()).shape[-1] == 3


@each_task
def test_configuration_matches_its_dataclass(name: str) -> None:
    from importlib import import_module

    from omegaconf import OmegaConf

    module = import_module(f"benchmarl_ssd.environments.mpe.{name}")
    loaded = OmegaConf.load(Path(__file__).parents[2] / "conf" / "task" / "mpe" / f"{name}.yaml")
    values = {key: value for key, value in loaded.items() if key != "defaults"}
    typed = OmegaConf.merge(OmegaConf.structured(module.TaskConfig), values)
    assert OmegaConf.to_container(typed) == CONFIGS[name]
    assert MpeTask[name.upper()].get_from_yaml().config == CONFIGS[name]

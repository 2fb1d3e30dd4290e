"""The prey's policy: what it computes, and which files it is read from."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarl_ssd.environments.mpe.env import MpeEnv
from benchmarl_ssd.environments.mpe.predator_prey import PredatorPrey
from benchmarl_ssd.environments.mpe.prey import PreyPolicy, load_prey


def make_prey(size: int = 14) -> PreyPolicy:
    prey = PreyPolicy(size, hidden=8)
    prey(torch.randn(64, size) * 2 + 1)  # moves the statistics of the batch norm
    return prey.eval()


def write_checkpoint(path: Path, prey: PreyPolicy, predators: int = 3) -> Path:
    """A file in the layout of the literature's pretrained preys."""
    other = {"policy": PreyPolicy(16).state_dict(), "critic": {}}
    agents = [other] * predators + [{"policy": prey.state_dict(), "critic": {}}]
    torch.save({"init_dict": {"hidden_dim": 8}, "agent_params": agents}, path)
    return path


def test_prey_by_hand() -> None:
    prey = PreyPolicy(1, hidden=1).eval()
    for parameter in prey.parameters():
        parameter.data.fill_(1.0)
    prey.in_fn.running_mean.fill_(2.0)
    prey.in_fn.running_var.fill_(4.0 - prey.in_fn.eps)
    # normalised (3 - 2) / 2 = 0.5, times weight plus bias 1.5, then 2.5, 3.5 and tanh(4.5)
    torch.testing.assert_close(prey(torch.tensor([[3.0]]))[0].tolist(), [math.tanh(4.5)] * 2)


@pytest.mark.parametrize(("task", "size"), [("predator_prey", 14), ("world", 22)])
def test_shipped_prey(task: str, size: int) -> None:
    prey = load_prey(task)
    action = prey(torch.randn(100, size))
    assert action.shape == (100, 2)
    assert action.abs().max() <= 1
    assert not prey.training
    assert not any(p.requires_grad for p in prey.parameters())
    assert (
        load_prey(task, dtype=torch.float64)(torch.randn(2, size).double()).dtype == torch.float64
    )


def test_both_layouts_give_the_same_prey(tmp_path: Path) -> None:
    prey = make_prey()
    save_file(prey.state_dict(), tmp_path / "prey.safetensors")
    observation = torch.randn(10, 14)
    for path in (tmp_path / "prey.safetensors", write_checkpoint(tmp_path / "prey.pt", prey)):
        loaded = load_prey("predator_prey", str(path))
        torch.testing.assert_close(loaded(observation), prey(observation))


def test_prey_policy_changes_the_environment(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "prey.pt", make_prey())
    rollouts = []
    for prey in (None, str(path)):
        torch.manual_seed(0)
        rollouts.append(MpeEnv("predator_prey", num_envs=4, seed=0, prey_policy=prey).rollout(5))
    first, second = (rollout["agents", "observation"] for rollout in rollouts)
    torch.testing.assert_close(first[:, 0], second[:, 0])
    assert not torch.allclose(first[:, -1], second[:, -1])


def test_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt.*task\.prey_policy"):
        PredatorPrey("nowhere.pt")


def test_wrong_contents(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected the parameters of a batch norm"):
        load_prey("world", tmp_path / "other.safetensors")
    torch.save({"agent_params": []}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="3 predators and the prey"):
        load_prey("world", tmp_path / "other.pt")


def test_prey_of_the_other_task(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "prey.pt", make_prey(size=22))
    with pytest.raises(ValueError, match=r"observes 14 entries.*22 entries"):
        PredatorPrey(path)


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    torch.save({"agent_params": [Path("anything")]}, tmp_path / "bad.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        load_prey("world", tmp_path / "bad.pt")

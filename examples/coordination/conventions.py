"""Do teams settle on one convention where conventions turn with the state, overlap, or are many?

Logged teams of three draw one of K conventions for each step, evenly. In convention k every agent
moves in the direction 2 pi k / K, turned by a quarter at most with the state that all see, and
with Gaussian noise: neighbouring conventions lie d apart, d / (2 noise) deviations from what parts
them. No reward tells them apart. A cell is one run of `ssd` on 20 000 such steps through
BenchMARL's Experiment; measured is in how many of 2000 new states the policies' actions are all
nearest to one convention, and how far they are from it. By chance it is one in K squared.

    python examples/coordination/conventions.py            # three seeds; finished cells are kept
    python examples/coordination/conventions.py --seeds 0
    python examples/coordination/conventions.py --table
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import torch
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import MlpConfig
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from benchmarl_ssd import conf_dir
from benchmarl_ssd.algorithms import SsdConfig
from benchmarl_ssd.data import from_arrays
from benchmarl_ssd.environments import LoggedTask

RESULTS = Path(__file__).parent / "results" / "conventions.jsonl"
AGENTS, STEPS, RADIUS, STATES = 3, 20_000, 0.6, 2000
# Budget, fixed before the runs and equal for all: iterations, steps in each, transitions per step.
BUDGET = (30, 50, 256)
COUNTS, NOISES, SEEDS = (2, 3, 4), (0.1, 0.3), range(3)
METHODS = ("marginal", "sequential", "told K", "told 2 K")


def directions(state: np.ndarray, count: int) -> np.ndarray:
    """Return every convention's noiseless action, ``[T, K, 2]``, in states ``[T, 2]``."""
    turn = math.pi / 2 * state[:, :1]
    angle = 2 * math.pi * np.arange(count) / count + turn
    return RADIUS * np.stack([np.cos(angle), np.sin(angle)], -1)


def log_teams(folder: Path, count: int, noise: float) -> None:
    """Write what the logged teams did."""
    random = np.random.default_rng(0)
    state = random.uniform(-1, 1, (STEPS, 2))
    chosen = directions(state, count)[np.arange(STEPS), random.integers(count, size=STEPS)]
    action = chosen[:, None] + noise * random.normal(size=(STEPS, AGENTS, 2))
    from_arrays(
        folder,
        observations=np.repeat(state[:, None], AGENTS, 1),
        actions=action.clip(-1, 1),
        rewards=np.ones(STEPS),
        terminations=np.ones(STEPS, dtype=bool),
        action_low=-1.0,
        action_high=1.0,
    )


def run(count: int, noise: float, method: str, seed: int) -> dict[str, float]:
    """Train one cell and measure its policies."""
    algorithm = SsdConfig.get_from_yaml()
    if method == "marginal":
        algorithm.decomposition = "marginal"
    algorithm.n_conventions = {"told K": count, "told 2 K": 2 * count}.get(method, 1)
    config = ExperimentConfig.get_from_yaml(str(conf_dir() / "experiment" / "offline.yaml"))
    config.max_n_iters, config.off_policy_n_optimizer_steps = BUDGET[:2]
    config.off_policy_train_batch_size = BUDGET[2]
    config.evaluation_interval = config.max_n_iters
    config.loggers, config.create_json, config.checkpoint_at_end = [], False, False
    layers = {"layer_class": torch.nn.Linear, "activation_class": torch.nn.Tanh}
    network = MlpConfig(num_cells=[64, 64], **layers)
    with tempfile.TemporaryDirectory() as folder:
        log_teams(Path(folder) / "data", count, noise)
        config.save_folder = folder
        little = {"fqe_steps": 1, "fqe_members": 2, "fqe_num_cells": [8]}  # there is no reward
        task = LoggedTask.DATASET.get_with({"dataset": f"{folder}/data", **little})
        experiment = Experiment(task, algorithm, network, seed, config, critic_model_config=network)
        experiment.run()
        return measure(experiment, count)


def measure(experiment: Experiment, count: int) -> dict[str, float]:
    """How often all agents are nearest to one convention, and their distance to the nearest."""
    state = np.random.default_rng(1).uniform(-1, 1, (STATES, 2))
    seen = torch.from_numpy(state).float().unsqueeze(1).expand(-1, AGENTS, -1)
    data = TensorDict({"agents": {"observation": seen}}, [STATES])
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        action = experiment.policy(data.to(experiment.config.train_device))["agents", "action"]
    known = torch.from_numpy(directions(state, count)).float().unsqueeze(1)
    distance, nearest = (action.cpu().unsqueeze(2) - known).norm(dim=-1).min(-1)
    agree = (nearest == nearest[:, :1]).all(1)
    return {"agree": agree.float().mean().item(), "distance": distance.mean().item()}


def cells() -> list[dict]:
    """Return the finished cells."""
    return [json.loads(line) for line in RESULTS.open()] if RESULTS.exists() else []


def fill(seeds: list[int]) -> None:
    """Run the cells that are missing."""
    for seed, count, noise, method in product(seeds, COUNTS, NOISES, METHODS):
        cell = {"conventions": count, "noise": noise, "method": method, "seed": seed}
        if any(cell.items() <= done.items() for done in cells()):
            continue
        found = cell | run(count, noise, method, seed)
        with RESULTS.open("a") as out:
            out.write(json.dumps(found) + "\n")
        print(found, flush=True)


def table() -> str:
    """Return the shares of states in which all agents follow one convention, every seed."""
    done = sorted(cells(), key=lambda cell: cell["seed"])
    lines = ["| conventions | noise | by chance | " + " | ".join(METHODS) + " |"]
    lines.append("| --- " * (3 + len(METHODS)) + "|")
    for count, noise in product(COUNTS, NOISES):
        row = [str(count), str(noise), f"{count ** (1 - AGENTS):.2f}"]
        for method in METHODS:
            wanted = {"conventions": count, "noise": noise, "method": method}
            found = [f"{c['agree']:.2f}" for c in done if wanted.items() <= c.items()]
            row.append(", ".join(found))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="print the table of what is done")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        fill(options.seeds)
    print(table())

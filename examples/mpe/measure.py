"""Measure the returns of all levels of play, with their noise and without it.

    python examples/mpe/measure.py --output examples/mpe/results/levels.json
    python examples/mpe/measure.py --prey-folder FOLDER --output examples/mpe/results/levels.json

With ``--prey-folder``, a folder with the original preys ``simple_tag.pt`` and ``simple_world.pt``,
Predator-Prey and World are measured against these too, on the literature's scale. With
``--references`` the noisy returns against the package's own preys go to a second file.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarl_ssd.environments.mpe.env import SCENARIOS, make_scenario
from benchmarl_ssd.environments.mpe.policies import Behaviour, kinds, load_behaviours
from benchmarl_ssd.environments.mpe.scenario import EPISODE_STEPS, Scenario

PREYS = {"predator_prey": "simple_tag.pt", "world": "simple_world.pt"}


@torch.inference_mode()
def episode_returns(
    scenario: Scenario, behaviour: Behaviour, episodes: int, generator: torch.Generator
) -> torch.Tensor:
    """Returns of one episode per world, averaged over agents: ``[episodes]``."""
    state = scenario.reset(episodes, generator)
    observation = scenario.observe(state)
    total = torch.zeros(episodes)
    for _ in range(EPISODE_STEPS):
        action = behaviour.act(observation, generator)
        state, observation, reward = scenario.step(state, action)
        total += reward.mean(1)
    return total


def measure(scenario: Scenario, behaviours: list[Behaviour], episodes: int, seed: int) -> Any:
    """Statistics over episodes, each behaviour playing its share of them."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        episode_returns(scenario, part, round(part.share * episodes), generator)
        for part in behaviours
    ]
    returns = torch.cat(parts)
    statistics = {
        "mean": returns.mean().item(),
        "standard_error": returns.std().item() / len(returns) ** 0.5,
        "standard_deviation": returns.std().item(),
        "best": returns.max().item(),
        "episodes": len(returns),
    }
    if len(parts) > 1:
        statistics["parts"] = [part.mean().item() for part in parts]
    return statistics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prey-folder", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--references", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    results: dict[str, Any] = {}
    for task in SCENARIOS:
        scenarios = {"own": make_scenario(task)}
        if arguments.prey_folder and task in PREYS:
            prey = arguments.prey_folder / PREYS[task]
            scenarios["original_prey"] = make_scenario(task, prey_policy=prey)
        results[task] = {}
        for name, scenario in scenarios.items():
            for level in kinds(task):
                behaviours = load_behaviours(task, level)
                quiet = [Behaviour(part.policy, 0.0, part.share) for part in behaviours]
                entry = {
                    "as_in_data": measure(scenario, behaviours, arguments.episodes, arguments.seed),
                    "without_noise": measure(scenario, quiet, arguments.episodes, arguments.seed),
                    "noise": [round(part.noise, 4) for part in behaviours],
                }
                results[task].setdefault(name, {})[level] = entry
                means = [entry[key]["mean"] for key in ("as_in_data", "without_noise")]
                print(f"{task} {name} {level}: {means[0]:.1f}, without noise {means[1]:.1f}")
    command = "python examples/mpe/measure.py " + " ".join(
        "FOLDER" if previous == "--prey-folder" else argument
        for previous, argument in zip(["", *sys.argv[1:]], sys.argv[1:], strict=False)
    )
    record = {"command": command, "seed": arguments.seed, "results": results}
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    if arguments.references:
        references = {
            task: {level: entry["as_in_data"] for level, entry in levels["own"].items()}
            for task, levels in results.items()
        }
        arguments.references.write_text(json.dumps(references, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Measure how many environment steps per second the MPE tasks take.

    python examples/mpe/speed.py --threads 2 --output examples/mpe/results/speed.json

``core`` is a scenario's step on plain tensors, ``environment`` the step of the TorchRL environment,
``data`` a noisy expert's play with resets, in transitions (worlds times steps) per second.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarl_ssd.environments.mpe.env import SCENARIOS, MpeEnv
from benchmarl_ssd.environments.mpe.policies import load_behaviours
from benchmarl_ssd.environments.mpe.scenario import EPISODE_STEPS, Scenario


def rate(work: Callable[[], None], steps: int, seconds: float) -> float:
    """Steps per second: the best of five shares of the time, since other load only slows down."""
    work()
    best = 0.0
    for _ in range(5):
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / 5:
            work()
            done += steps
        best = max(best, done / (time.perf_counter() - start))
    return best


def play_episode(scenario: Scenario, worlds: int) -> None:
    """One noisy expert episode in each world."""
    [expert] = load_behaviours(scenario.name, "expert")
    state = scenario.reset(worlds)
    observation = scenario.observe(state)
    for _ in range(EPISODE_STEPS):
        state, observation, _ = scenario.step(state, expert.act(observation))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worlds", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    worlds, results = arguments.worlds, {}
    load = round(os.getloadavg()[0], 1)  # of everybody's processes, before the measurement
    for task in SCENARIOS:
        env = MpeEnv(task, num_envs=worlds, seed=0, max_steps=None)
        scenario, start = env.scenario, env.reset()
        action = env.rand_action(start)
        state, values = env.state, action["agents", "action"]
        measured = {
            "core": rate(lambda: scenario.step(state, values), worlds, arguments.seconds),  # noqa: B023
            "environment": rate(lambda: env.step(action), worlds, arguments.seconds),  # noqa: B023
            "data": rate(
                lambda: play_episode(scenario, worlds),  # noqa: B023
                worlds * EPISODE_STEPS,
                arguments.seconds,
            ),
        }
        results[task] = {name: round(value) for name, value in measured.items()}
        print(task, {name: f"{value:,}" for name, value in results[task].items()}, flush=True)
    record = {
        "threads": arguments.threads,
        "worlds": worlds,
        "load_average": load,
        "steps_per_second": results,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

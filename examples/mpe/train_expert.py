"""Train an expert for one of the MPE tasks by gradients through the simulator.

    python examples/mpe/train_expert.py world --output expert.safetensors
    python examples/mpe/train_expert.py world --prey simple_world.pt --output expert.safetensors

``--prey`` adds a second prey as an opponent, taken in turn with the package's own. In Cooperative
Navigation the network first imitates a script (``--imitate`` iterations, see teacher.py). The
checkpoint with the best evaluation is kept, beside it a JSON file with the learning curve.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from analytic import Settings, evaluate, train
from safetensors.torch import load_file, save_file
from teacher import imitate

from benchmarl_ssd.environments.mpe.cooperative_navigation import CooperativeNavigation
from benchmarl_ssd.environments.mpe.env import SCENARIOS, make_scenario
from benchmarl_ssd.environments.mpe.policies import AgentPolicy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=SCENARIOS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--own-prey", help="instead of the prey of the package")
    parser.add_argument("--prey", help="a further prey to train against")
    parser.add_argument("--initial", type=Path, help="parameters to start from")
    parser.add_argument("--imitate", type=int, default=0, help="steps of imitation beforehand")
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--worlds", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--temperature", type=float, nargs=2, default=(0.03, 0.03))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    if arguments.task == CooperativeNavigation.name:
        scenarios = [make_scenario(arguments.task)]
    else:
        preys = [arguments.own_prey] + ([arguments.prey] if arguments.prey else [])
        scenarios = [make_scenario(arguments.task, prey_policy=prey) for prey in preys]
    policy = AgentPolicy(scenarios[0].observation_size, scenarios[0].n_agents, arguments.hidden)
    if arguments.initial:
        policy.load_state_dict(load_file(arguments.initial))

    start, log = time.time(), []
    best = -float("inf")

    def report(stage: str, iteration: int, value: float) -> None:
        nonlocal best
        returns = [evaluate(scenario, policy, episodes=1000)[0] for scenario in scenarios]
        entry = {"stage": stage, "iteration": iteration, "returns": returns, "value": value}
        log.append(entry | {"seconds": round(time.time() - start)})
        print(log[-1], flush=True)
        if sum(returns) > best:
            best = sum(returns)
            save_file(policy.state_dict(), arguments.output)
        record = {"arguments": {k: str(v) for k, v in vars(arguments).items()}, "log": log}
        arguments.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")

    if arguments.imitate and isinstance(scenarios[0], CooperativeNavigation):
        for iteration, loss in imitate(policy, scenarios[0], arguments.imitate):
            if iteration % 1000 == 0:
                report("imitation", iteration, loss)
        report("imitation", arguments.imitate, loss)
    settings = Settings(
        iterations=arguments.iterations,
        worlds=arguments.worlds,
        learning_rate=arguments.learning_rate,
        noise=(arguments.noise, arguments.noise),
        temperature=tuple(arguments.temperature),
    )
    for iteration, value in train(policy, scenarios, settings):
        if iteration % 50 == 0:
            report("gradient", iteration, value)
    report("gradient", arguments.iterations, value)


if __name__ == "__main__":
    main()

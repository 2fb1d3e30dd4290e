"""Record a training history from scratch up to the medium level, for medium-replay data.

    python examples/mpe/train_history.py world --until 60 --output history.safetensors

The policy is trained as in train_expert.py, but slowly and with exploration noise that falls from
the first to the last value of ``--noise``. Training stops when the noisy evaluation reaches
``--until``. Kept are ``--snapshots`` policies, evenly spaced over the training from the initial to
the final one, which is the medium policy.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from analytic import Settings, evaluate, train
from safetensors.torch import save_file
from torch import Tensor

from benchmarl_ssd.environments.mpe.cooperative_navigation import CooperativeNavigation
from benchmarl_ssd.environments.mpe.env import SCENARIOS, make_scenario
from benchmarl_ssd.environments.mpe.policies import AgentPolicy
from benchmarl_ssd.environments.mpe.scenario import Scenario


def record(
    policy: AgentPolicy,
    scenarios: Sequence[Scenario],
    settings: Settings,
    noise_range: tuple[float, float],
    until: float,
    every: int,
) -> list[tuple[int, float, dict[str, Tensor]]]:
    """Train until the medium level; returns (iteration, noise, parameters) every few iterations."""
    start, (first_noise, last_noise) = time.time(), noise_range
    initial, _ = evaluate(scenarios[0], policy, episodes=1000)
    history = []
    for iteration, _ in train(policy, scenarios, settings):
        if iteration % every:
            continue
        reached, _ = evaluate(scenarios[0], policy, episodes=1000, noise=last_noise)
        # how long training will take is unknown, so noise falls with the return, not with time
        progress = min(1.0, max(0.0, (reached - initial) / (until - initial)))
        noise = first_noise + (last_noise - first_noise) * progress
        settings.noise = (noise, noise)
        parameters = {key: value.detach().clone() for key, value in policy.state_dict().items()}
        history.append((iteration, noise, parameters))
        print(f"{iteration} {time.time() - start:.0f} s: {reached:.1f}, {noise:.2f}", flush=True)
        if reached >= until:
            return history
    raise SystemExit(f"the medium level was not reached: {reached:.1f} < {until}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=SCENARIOS)
    parser.add_argument("--until", type=float, required=True, help="return of the medium level")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--prey", help="a further prey to train against, in turn")
    parser.add_argument("--snapshots", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=1500, help="give up after these")
    parser.add_argument("--every", type=int, default=5, help="iterations between evaluations")
    parser.add_argument("--worlds", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--noise", type=float, nargs=2, default=(0.4, 0.1))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    if arguments.task == CooperativeNavigation.name:
        scenarios = [make_scenario(arguments.task)]
    else:
        preys = [None] + ([arguments.prey] if arguments.prey else [])
        scenarios = [make_scenario(arguments.task, prey_policy=prey) for prey in preys]
    policy = AgentPolicy(scenarios[0].observation_size, scenarios[0].n_agents, arguments.hidden)
    settings = Settings(
        iterations=arguments.iterations,
        worlds=arguments.worlds,
        learning_rate=arguments.learning_rate,
    )
    history = record(policy, scenarios, settings, arguments.noise, arguments.until, arguments.every)
    count = arguments.snapshots
    kept = [round(i * (len(history) - 1) / (count - 1)) for i in range(count)]
    tensors: dict[str, Tensor] = {}
    parts = []
    for position, index in enumerate(kept):
        iteration, noise, parameters = history[index]
        tensors |= {f"{position}.{key}": value for key, value in parameters.items()}
        probe = AgentPolicy(scenarios[0].observation_size, scenarios[0].n_agents, arguments.hidden)
        probe.load_state_dict(parameters)
        returns = [evaluate(s, probe, 1000, noise=noise)[0] for s in scenarios]
        parts.append({"iteration": iteration, "noise": noise, "returns": returns})
        print(parts[-1])
    save_file(tensors, arguments.output, metadata={"history": json.dumps(parts)})
    summary = {"arguments": {k: str(v) for k, v in vars(arguments).items()}, "history": parts}
    arguments.output.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()

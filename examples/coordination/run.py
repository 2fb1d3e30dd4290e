"""Who ends on a convention that the data holds? All decompositions on the coordination tasks.

Runs every cell (task, agents, method, seed) through BenchMARL's Experiment, one after another, and
appends it to a result file; finished cells are not run again. `--table` prints the table.

    python examples/coordination/run.py bandit        # 10 seeds, n = 2, 4, 8
    python examples/coordination/run.py two_apples    # 5 seeds, n = 4
    python examples/coordination/run.py --table
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import MlpConfig

from benchmarl_ssd import conf_dir
from benchmarl_ssd.algorithms import BcConfig, SsdConfig
from benchmarl_ssd.data.recipes import build
from benchmarl_ssd.environments import CoordinationTask, changed_options

RESULTS = Path(__file__).parent / "results"
RECIPES = {"bandit": "coordination/bandit/modes", "two_apples": "coordination/two_apples/coin-flip"}
# Budget and network sizes, fixed before the runs and equal for all methods of a task.
# Iterations, optimiser steps in each, transitions per step.
BUDGET = {"bandit": (30, 50, 256), "two_apples": (60, 100, 256)}
CELLS = {
    "bandit": ([2, 4, 8], ["sequential", "joint", "marginal"], range(10)),
    "two_apples": ([4], ["sequential", "marginal", "bc"], range(5)),
}


def run(task_name: str, n_agents: int, method: str, seed: int) -> dict:
    """Train one cell and return its summary."""
    task = CoordinationTask[task_name.upper()].get_with({"n_agents": n_agents})
    changed = changed_options(task)
    algorithm = (BcConfig if method == "bc" else SsdConfig).get_from_yaml()
    algorithm.dataset = str(build(RECIPES[task_name], config=changed, progress=False))
    if method != "bc":
        algorithm.decomposition = method
    network = MlpConfig(
        num_cells=[64, 64], layer_class=torch.nn.Linear, activation_class=torch.nn.Tanh
    )
    config = ExperimentConfig.get_from_yaml(str(conf_dir() / "experiment" / "offline.yaml"))
    iterations, steps, batch = BUDGET[task_name]
    config.max_n_iters, config.off_policy_n_optimizer_steps = iterations, steps
    config.off_policy_train_batch_size = batch
    config.evaluation_interval = config.max_n_iters
    config.loggers, config.create_json, config.checkpoint_at_end = [], False, False
    with tempfile.TemporaryDirectory() as folder:
        config.save_folder = folder
        experiment = Experiment(task, algorithm, network, seed, config, critic_model_config=network)
        experiment.run()
        return json.loads((experiment.folder_name / "summary.json").read_text())


def fill(task_name: str) -> None:
    """Run the cells that are missing."""
    sizes, methods, seeds = CELLS[task_name]
    file = RESULTS / f"{task_name}.jsonl"
    done = {tuple(cell["cell"]) for cell in read(file)}
    for seed in seeds:
        for n_agents in sizes:
            for method in methods:
                if (n_agents, method, seed) in done:
                    continue
                started = time.perf_counter()
                summary = run(task_name, n_agents, method, seed)
                line = {"cell": [n_agents, method, seed], **summary}
                with file.open("a") as out:
                    out.write(json.dumps(line) + "\n")
                rate = summary["final"]["success_rate"]
                print(f"{line['cell']}: {rate} ({time.perf_counter() - started:.0f} s)", flush=True)


def read(file: Path) -> list[dict]:
    """Return the finished cells of a result file."""
    return [json.loads(line) for line in file.open()] if file.exists() else []


def table() -> str:
    """Return all results as a Markdown table."""
    rows = [
        "| task | agents | method | seeds | seeds on one convention | mean success | mean return |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task_name, (sizes, methods, _) in CELLS.items():
        cells = read(RESULTS / f"{task_name}.jsonl")
        for n_agents in sizes:
            for method in methods:
                found = [c["final"] for c in cells if c["cell"][:2] == [n_agents, method]]
                if not found:
                    continue
                success = [final["success_rate"] for final in found]
                agree = sum(rate >= 0.95 for rate in success)
                value = sum(final["return_mean"] for final in found) / len(found)
                rows.append(
                    f"| {task_name} | {n_agents} | {method} | {len(found)} | {agree} | "
                    f"{100 * sum(success) / len(success):.0f} % | {value:.2f} |"
                )
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=list(CELLS))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    if options.task:
        fill(options.task)
    if options.table or not options.task:
        print(table())

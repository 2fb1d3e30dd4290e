"""Does ssd learn from the MPE data, and better than its own ablations and the other algorithms?

Runs every cell (task, quality, method, seed) through BenchMARL's Experiment, one after another, and
appends it to a result file; finished cells are not run again, so several processes may share the
work by tasks or qualities. `--table` prints the tables.

    python examples/offline_mpe/run.py --task cooperative_navigation --seeds 0 1 2 3 4
    python examples/offline_mpe/run.py --quality mixed
    python examples/offline_mpe/run.py --quality medium --method omar cfcql reversed --seeds 0
    python examples/offline_mpe/run.py --table
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import MlpConfig

from benchmarl_ssd import conf_dir
from benchmarl_ssd.algorithms import algorithm_config_registry
from benchmarl_ssd.comparison.statistics import Bootstrap, interquartile_mean
from benchmarl_ssd.data.recipes import build
from benchmarl_ssd.environments.mpe.common import MpeTask
from benchmarl_ssd.environments.mpe.conventions import CONVENTIONS, convention_of

RESULTS = Path(__file__).parent / "results"
# Of datasets that the same recipes built on another machine: equal but for rounding, which is
# enough for another checksum; `benchmarl-ssd report --same-recipe` takes both as one.
REBUILT = RESULTS / "rebuilt"
TASKS = ("cooperative_navigation", "predator_prey", "world")
QUALITIES = ("expert", "medium", "medium-replay", "random", "mixed")
# Every algorithm of the package, and settings of ssd.
METHODS: dict[str, tuple[str, dict]] = {
    **{name: (name, {}) for name in algorithm_config_registry},
    # Their published 0.1 leaves two fifths and a quarter of a batch any weight here.
    "maicq": ("maicq", {"alpha": 1.0}),
    "omiga": ("omiga", {"alpha": 1.0}),
    "marginal": ("ssd", {"decomposition": "marginal"}),
    "marginal-independent": ("ssd", {"decomposition": "marginal", "critics": "independent"}),
    "ssd-independent": ("ssd", {"critics": "independent"}),
    "joint": ("ssd", {"decomposition": "joint"}),
    "reversed": ("ssd", {"order": "reversed"}),
    "random-order": ("ssd", {"order": "random"}),
    "weight-one": ("ssd", {"weighting": "one"}),
    "weight-sigma2": ("ssd", {"weighting": "sigma2"}),
    "mixture": ("ssd", {"score_estimator": "mixture"}),
    "frozen": ("ssd", {"critic": "frozen"}),
    "stochastic": ("ssd", {"stochastic_actors": True}),
    "shared": ("ssd", {}),
    "beta-1": ("ssd", {"beta": 1.0}),
    "beta-3": ("ssd", {"beta": 3.0}),
    "beta-10": ("ssd", {"beta": 10.0}),
    "ssd-conventions": ("ssd", {"n_conventions": 2}),
}
DEFAULT_METHODS = ("ssd", "marginal", "bc", "ssd-conventions")
# Settings of ssd that have been run on more than mixed data.
SETTINGS = ["ssd", "marginal", "ssd-independent"]
# What differs from the defaults of `experiment=offline`, fixed before the runs, for all cells:
# episodes have 25 steps, and contacts want bends that ReLU gives and Tanh does not.
GAMMA = 0.9
# Published by task and quality, see the algorithms' configs; of mixed data as of expert data.
# Their critics, and those of one agent each, have the 64 units of their authors.
CQL_ALPHA = dict(zip(QUALITIES, (5.0, 5.0, 1.0, 0.5, 5.0), strict=True))
PUBLISHED: dict[str, dict[str, dict[str, dict[str, float]]]] = {
    "macql": {task: {q: {"alpha": a} for q, a in CQL_ALPHA.items()} for task in TASKS},
    "omar": {
        task: {
            q: {"alpha": CQL_ALPHA[q], "coefficient": c}
            for q, c in zip(QUALITIES, coefficients, strict=True)
        }
        for task, coefficients in zip(
            TASKS,
            ((1, 1, 1, 1, 1), (0.9, 0.7, 0.9, 0.9, 0.9), (0.9, 0.1, 0.7, 1, 0.9)),
            strict=True,
        )
    },
    "cfcql": {
        task: {q: {"alpha": a} for q, a in zip(QUALITIES, alphas, strict=True)}
        for task, alphas in zip(
            TASKS,
            ((2.5, 5, 1, 0.5, 5), (2, 0.6, 0.5, 0.5, 2), (0.3, 0.32, 0.5, 0.5, 0.3)),
            strict=True,
        )
    },
}
SMALL_CRITIC, SMALL_CRITICS = [64, 64], (*PUBLISHED, "maicq", "omiga")
ACTOR = {"num_cells": [128, 128], "layer_class": torch.nn.Linear, "activation_class": torch.nn.ReLU}


def prepare(
    task_name: str,
    quality: str,
    method: str,
    seed: int,
    folder: str,
    device: str = "cpu",
    **more: Any,
) -> tuple[Experiment, dict[str, Any]]:
    """Return the experiment of a cell, and its settings that are not the defaults.

    Args:
        task_name: one of ``TASKS``.
        quality: one of ``QUALITIES``.
        method: one of ``METHODS``.
        seed: of the experiment.
        folder: where it writes.
        device: what it trains on.
        **more: further options of the algorithm.
    """
    name, changes = METHODS[method]
    algorithm = algorithm_config_registry[name].get_from_yaml()
    algorithm.dataset = str(build(f"mpe/{task_name}/{quality}", progress=False))
    algorithm.cuda_graphs = device.startswith("cuda")
    published = PUBLISHED.get(method, {}).get(task_name, {}).get(quality, {})
    settings = {**published, **changes, **more}
    for option, value in settings.items():
        setattr(algorithm, option, value)
    critic = MlpConfig.get_from_yaml()
    if method in SMALL_CRITICS:
        critic.num_cells = SMALL_CRITIC
    config = ExperimentConfig.get_from_yaml(str(conf_dir() / "experiment" / "offline.yaml"))
    config.gamma = GAMMA
    config.train_device = config.buffer_device = device
    config.share_policy_params = method == "shared"
    config.loggers, config.create_json, config.checkpoint_at_end = [], False, False
    config.save_folder = folder
    experiment = Experiment(
        MpeTask[task_name.upper()].get_from_yaml(),
        algorithm,
        MlpConfig(**ACTOR),
        seed,
        config,
        critic_model_config=critic,
    )
    return experiment, {**settings, "critic": list(critic.num_cells)}


def run(task_name: str, quality: str, method: str, seed: int, device: str) -> dict:
    """Train one cell and return its summary."""
    with tempfile.TemporaryDirectory() as folder:
        experiment, settings = prepare(task_name, quality, method, seed, folder, device)
        experiment.run()
        summary = json.loads((experiment.folder_name / "summary.json").read_text())
    summary["settings"] = settings
    if quality == "mixed":
        summary["agreement"] = agreement(experiment)
    if METHODS[method][0] == "ssd":
        loss = experiment.losses["agents"]
        summary["information"] = loss.information.item()
        summary["beta"] = loss.temperature
    return summary


@torch.no_grad()
def agreement(experiment: Experiment, worlds: int = 2000) -> float:
    """Share of episodes in whose first step all agents follow the same convention."""
    env = experiment.task.get_env_fun(worlds, continuous_actions=True, seed=1, device="cpu")()
    start = experiment.policy(env.reset().to(experiment.config.train_device)).cpu()
    found = convention_of(start["agents", "observation"], start["agents", "action"], CONVENTIONS)
    return (found == found[:, :1]).all(1).float().mean().item()


def fill(
    tasks: list[str], qualities: list[str], methods: list[str], seeds: list[int], device: str
) -> None:
    """Run the cells that are missing."""
    for seed, task, quality, method in product(seeds, tasks, qualities, methods):
        if quality == "mixed" and task != "cooperative_navigation":
            continue
        if method == "ssd-conventions" and quality != "mixed":
            continue
        file = RESULTS / f"{task}-{quality}.jsonl"
        if any(cell["cell"] == [method, seed] for cell in cells_of(task, quality)):
            continue
        started = time.perf_counter()
        line = {"cell": [method, seed], **run(task, quality, method, seed, device)}
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
        final = line["final"]
        print(
            f"{task}/{quality} {method} {seed}: {final['return_mean']:.1f}, normalised "
            f"{final['normalised']:.1f} ({time.perf_counter() - started:.0f} s)",
            flush=True,
        )


def read(file: Path) -> list[dict]:
    """Return the finished cells of a result file."""
    return [json.loads(line) for line in file.open()] if file.exists() else []


def cells_of(task: str, quality: str) -> list[dict]:
    """Return the finished cells of a dataset, wherever it was built."""
    return [
        cell for folder in (RESULTS, REBUILT) for cell in read(folder / f"{task}-{quality}.jsonl")
    ]


def normalised(cells: list[dict]) -> str:
    """Interquartile mean of the final returns, its interval, and the number of seeds."""
    scores = [[cell["final"]["normalised"]] for cell in cells]
    found = interquartile_mean(scores, Bootstrap())
    if found.low is None or found.high is None:
        return f"{found.value:.0f}"
    return f"{found.value:.0f} [{found.low:.0f}, {found.high:.0f}] ({len(cells)})"


def table() -> str:
    """Return Markdown tables: the algorithms, then ssd beside two of its settings."""
    found: dict[tuple[str, str], dict[str, list[dict]]] = {}
    for task, quality in product(TASKS, QUALITIES):
        for cell in cells_of(task, quality):
            found.setdefault((task, quality), {}).setdefault(cell["cell"][0], []).append(cell)
    algorithms = [name for name in METHODS if name in algorithm_config_registry]
    return f"{_pivot(found, algorithms)}\n\n{_pivot(found, SETTINGS)}"


def _pivot(found: dict[tuple[str, str], dict[str, list[dict]]], methods: list[str]) -> str:
    """Rows of data, columns of methods, of what there are results of beside ssd's."""
    compared = set(methods) - {"ssd"}
    used = {place: cells for place, cells in found.items() if compared & cells.keys()}
    columns = [m for m in methods if any(m in cells for cells in used.values())]
    rows = [
        " | ".join(["| task", "data", "its mean", *columns]) + " |",
        "| --- " * (3 + len(columns)) + "|",
    ]
    for (task, quality), cells in used.items():
        data = next(iter(cells.values()))[0]["dataset"]
        low, high = data["references"]["random"], data["references"]["expert"]
        mean = 100 * (data["return_mean"] - low) / (high - low)
        entries = [normalised(cells[m]) if m in cells else "" for m in columns]
        rows.append(" | ".join([f"| {task}", quality, str(round(mean)), *entries]) + " |")
    return "\n".join(rows)


def agreement_table() -> str:
    """Return what every method returns on mixed data, and how often all its agents agree."""
    rows = ["| method | return | agree in the first step, every seed |", "| --- | --- | --- |"]
    cells = cells_of("cooperative_navigation", "mixed")
    for method in METHODS:
        mine = sorted((c for c in cells if c["cell"][0] == method), key=lambda c: c["cell"][1])
        if mine:
            shares = ", ".join(f"{cell['agreement']:.2f}" for cell in mine)
            rows.append(f"| {method} | {normalised(mine)} | {shares} |")
    return "\n".join(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--quality", nargs="+", choices=QUALITIES, default=list(QUALITIES))
    parser.add_argument("--method", nargs="+", choices=METHODS, default=DEFAULT_METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--device", default="cpu", help="what to train on, such as cuda")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    if not options.table:
        fill(options.task, options.quality, options.method, options.seeds, options.device)
    print(table(), agreement_table(), sep="\n\n")

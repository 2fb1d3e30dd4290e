"""The demo: one dataset with two conventions, three ways to learn from it.

Builds the two-apples dataset, trains `ssd`, its `marginal` setting and behaviour cloning on it with
the stock BenchMARL runner, and writes a table, a figure and a GIF. `make demo` runs it.

    python examples/demo/run.py [--seed 1] [--out demo_output] [--jobs 2]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RECIPE = "coordination/two_apples/coin-flip"
TASK = "coordination/two_apples"
METHODS = {
    "ssd": ["algorithm=ssd"],
    "ssd, marginal": ["algorithm=ssd", "algorithm.decomposition=marginal"],
    "behaviour cloning": ["algorithm=bc"],
}
# Small networks are enough here.
NETWORKS = [f"{name}.{key}" for name in ("model", "critic_model") for key in ("num_cells=[64,64]",)]


def command(method: str, dataset: Path, seed: int, folder: Path) -> list[str]:
    """Return the stock BenchMARL command that trains a method."""
    return [
        sys.executable,
        "-m",
        "benchmarl.run",
        *METHODS[method],
        f"task={TASK}",
        "experiment=offline",
        f"algorithm.dataset={dataset}",
        f"seed={seed}",
        f"hydra.run.dir={folder}",
        *NETWORKS,
    ]


def train(method: str, dataset: Path, seed: int, out: Path) -> Path:
    """Train a method in a process of its own; return its experiment folder."""
    folder = out / "runs" / method.replace(", ", "-").replace(" ", "-")
    words = command(method, dataset, seed, folder)
    print(f"training {method}: {shlex.join(['python', *words[1:]])}", flush=True)
    folder.mkdir(parents=True)
    started = time.perf_counter()
    with (folder / "output.txt").open("w") as log:
        done = subprocess.run(
            words, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    if done.returncode != 0:
        raise SystemExit(f"error: training {method} failed; see {folder / 'output.txt'}")
    print(f"trained {method} in {time.perf_counter() - started:.0f} s", flush=True)
    (summary,) = folder.glob("*/summary.json")
    return summary.parent


def play(run: Path, episodes: int = 64):
    """Reload a trained team and play; return the task, the rollouts and their positions."""
    import torch
    from benchmarl.experiment import Experiment

    from benchmarl_ssd.environments.coordination.two_apples_scenario import world_positions
    from benchmarl_ssd.evaluation.episodes import rollout_episodes

    checkpoint = max((run / "checkpoints").iterdir(), key=lambda path: path.stat().st_mtime)
    with tempfile.TemporaryDirectory() as scratch:
        experiment = Experiment.reload_from_file(
            str(checkpoint), {"save_folder": scratch, "loggers": [], "create_json": False}
        )
        torch.manual_seed(0)
        env, task = experiment.test_env, experiment.task
        rollouts = rollout_episodes(env, experiment.policy, episodes, experiment.max_steps)
        experiment.close()
    seen = torch.stack([rollout["next", "agents", "observation"] for rollout in rollouts])
    return task, world_positions(seen, task.config["mirrored"])


def logged_positions(dataset: Path, mirrored: bool):
    """Return the positions of the logged teams, ``[E, T, n, 2]``."""
    from benchmarl_ssd.data import OfflineDataset
    from benchmarl_ssd.environments.coordination.two_apples_scenario import world_positions

    data = OfflineDataset(dataset, check="fast").data["next", "agents", "observation"]
    return world_positions(data.unflatten(0, (-1, 25)), mirrored)


def table(summaries: dict[str, dict]) -> str:
    """Return the results as a Markdown table."""
    data = next(iter(summaries.values()))["dataset"]
    rows = [
        "| method | success rate | return | episodes | training |",
        "| --- | --- | --- | --- | --- |",
    ]
    for method, summary in summaries.items():
        final = summary["final"]
        rows.append(
            f"| {method} | {100 * final['success_rate']:.0f} % | {final['return_mean']:.2f} "
            f"± {final['return_se']:.2f} | {final['episodes']} | {summary['train_seconds']:.0f} s |"
        )
    rows.append(
        f"| *the data* |  | {data['return_mean']:.2f} (best {data['return_best']:.2f}) |  |  |"
    )
    return "\n".join(rows)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("demo_output"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one core each")
    options = parser.parse_args()
    if (options.out / "runs").exists():
        raise SystemExit(f"error: {options.out / 'runs'} exists; move it away or choose --out")
    started = time.perf_counter()

    from benchmarl_ssd.data.recipes import build

    out = options.out.resolve()
    dataset = build(RECIPE, root=out / "datasets")
    print(f"dataset: {dataset}", flush=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = dict(
            zip(
                METHODS,
                pool.map(lambda m: train(m, dataset, options.seed, out), METHODS),
                strict=True,
            )
        )
    summaries = {
        method: json.loads((run / "summary.json").read_text()) for method, run in runs.items()
    }
    draw(runs, dataset, out)
    text = table(summaries)
    (out / "table.md").write_text(f"{text}\n")
    print(f"\n{text}\n\nfigure: {out / 'paths.png'}\nfilm: {out / 'team.gif'}")
    print(f"seed {options.seed}, {time.perf_counter() - started:.0f} s in all")


def draw(runs: dict[str, Path], dataset: Path, out: Path) -> None:
    """Write the figure of all paths and the film of the trained team."""
    from benchmarl_ssd.environments.coordination.drawing import draw_apples
    from benchmarl_ssd.evaluation.figures import plot_paths, tile_frames, write_gif

    played = {method: play(run) for method, run in runs.items()}
    task, ssd = played["ssd"]
    distance, radius = task.config["apple_distance"], task.config["apple_radius"]
    paths = {"data": logged_positions(dataset, task.config["mirrored"])}
    paths.update({method: positions for method, (_, positions) in played.items()})
    plot_paths(paths, distance, radius, path=out / "paths.png")
    films = [[draw_apples(step.numpy(), distance, radius) for step in team] for team in ssd[:4]]
    write_gif(tile_frames(films), out / "team.gif")


if __name__ == "__main__":
    main()

"""Do estimates from data alone rank policies as playing them does? Cooperative Navigation.

For 15 policies of very different quality, fitted Q evaluation (what a run on `task=logged/dataset`
reports) on a dataset is set against the mean return of 1000 played episodes. Two datasets of
200 000 transitions: `levels` holds play of all levels, a quarter each of the expert, medium,
medium-replay and random sets; `medium-replay` holds nothing better than the medium policy, so for
policies that are better, an estimate can only guess.

Finished policies are not evaluated again; a second process may help with `--reverse`. Writes
results.json, the policies' own files in results/, and correlation.png.

    python examples/off_policy_evaluation/run.py levels
    python examples/off_policy_evaluation/run.py medium-replay
    python examples/off_policy_evaluation/run.py --table
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import MlpConfig
from tensordict import TensorDict
from torch import Tensor

from benchmarl_ssd import conf_dir
from benchmarl_ssd.algorithms import BcConfig
from benchmarl_ssd.data import DatasetWriter, OfflineDataset, build
from benchmarl_ssd.environments import MpeTask
from benchmarl_ssd.environments.mpe import MpeEnv
from benchmarl_ssd.environments.mpe.policies import LEVELS, load_behaviours
from benchmarl_ssd.evaluation.episodes import episode_returns, rollout_episodes, summarise
from benchmarl_ssd.evaluation.fqe import FqeOptions
from benchmarl_ssd.evaluation.off_policy import estimate

HERE = Path(__file__).parent
RESULTS = HERE / "results"
TASK = "cooperative_navigation"
TRANSITIONS = 200_000
EPISODES = 1000
# The defaults of conf/task/logged/dataset.yaml but for the members: one less, for time.
OPTIONS = FqeOptions(members=4)
DATASETS = ("levels", "medium-replay")

Act = Callable[[Tensor], Tensor]
KEY = ("agents", "action")


def shipped() -> dict[str, Act]:
    """Policies that come with the task, also with noise or slowed down."""
    (expert,), (medium,) = (load_behaviours(TASK, level) for level in ("expert", "medium"))
    history = load_behaviours(TASK, "medium-replay")
    first, second = expert.policy, medium.policy
    found: dict[str, Act] = {"expert": first, "medium": second}
    for index in (0, 2, 5):
        found[f"history {index}"] = history[index].policy
    for sigma in (0.5, 1.0):
        found[f"expert, noise {sigma}"] = noisy(first, sigma)
    found["medium, noise 1.0"] = noisy(second, 1.0)
    for factor in (0.25, 0.5):
        found[f"expert times {factor}"] = lambda o, by=factor: by * first(o)
    found["uniform"] = lambda o: torch.rand(*o.shape[:-1], 2) * 2 - 1
    return found


def noisy(act: Act, sigma: float) -> Act:
    return lambda o: (act(o) + sigma * torch.randn(*o.shape[:-1], 2)).clamp(-1, 1)


def cloned(level: str) -> Act:
    """Behaviour cloning on one of the sets, through BenchMARL's Experiment."""
    algorithm = BcConfig.get_from_yaml()
    algorithm.dataset = str(dataset_of(level))
    algorithm.final_evaluation_episodes = 32
    network = MlpConfig(
        num_cells=[64, 64], layer_class=torch.nn.Linear, activation_class=torch.nn.ReLU
    )
    config = ExperimentConfig.get_from_yaml(str(conf_dir() / "experiment" / "offline.yaml"))
    config.max_n_iters, config.evaluation_interval = 20, 20
    config.loggers, config.create_json, config.checkpoint_at_end = [], False, False
    with tempfile.TemporaryDirectory() as folder:
        config.save_folder = folder
        task = MpeTask.COOPERATIVE_NAVIGATION.get_from_yaml()
        experiment = Experiment(task, algorithm, network, 0, config)
        experiment.run()
        return lambda o: experiment.policy(as_tensordict(o)).get(KEY)


def as_tensordict(observation: Tensor):
    return TensorDict({"agents": {"observation": observation}}, observation.shape[:-2])


def as_policy(act: Act):
    return lambda td: td.set(KEY, act(td.get(("agents", "observation"))))


def dataset_of(level: str) -> Path:
    return build(f"mpe/{TASK}/{level}", transitions=TRANSITIONS, progress=False)


def write_levels(path: Path) -> Path:
    """A quarter of each level, as one dataset."""
    parts = [OfflineDataset(dataset_of(level), check="fast") for level in LEVELS]
    metadata = parts[0].metadata
    with DatasetWriter(
        path,
        groups=metadata.groups,
        action_bounds=metadata.action_bounds,
        task=metadata.task,
        references=metadata.references,
        source={"kind": "mixture", "levels": list(LEVELS)},
    ) as writer:
        for part in parts:
            ends = part.data["next", "done"].flatten().nonzero().flatten() + 1
            quarter = int(ends[ends <= TRANSITIONS // len(LEVELS)][-1])
            writer.extend(part.data[:quarter].exclude("episode"))
    return path


@torch.no_grad()
def truth(act: Act) -> dict:
    """Mean return of played episodes."""
    torch.manual_seed(0)
    env = MpeEnv(TASK, num_envs=EPISODES, seed=10_000)
    rollouts = rollout_episodes(env, as_policy(act), EPISODES, env.max_steps)
    return summarise(episode_returns(rollouts, ["agents"]), None)


def run(name: str, reverse: bool) -> None:
    """Evaluate the policies that are missing on a dataset."""
    makers: dict[str, Callable[[], Act]] = {k: lambda v=v: v for k, v in shipped().items()}
    makers |= {f"bc on {level}": lambda level=level: cloned(level) for level in LEVELS}
    with tempfile.TemporaryDirectory() as folder:
        own = name == "levels"
        path = write_levels(Path(folder) / name) if own else dataset_of(name)
        dataset = OfflineDataset(path, check="fast")
        for policy in sorted(makers, key=list(makers).index, reverse=reverse):
            if policy in read(name):
                continue
            act = makers[policy]()
            played = truth(act)
            torch.manual_seed(0)
            started = time.process_time()
            found = estimate(dataset, as_policy(act), OPTIONS)
            line = {
                "policy": policy,
                "played": played,
                "estimated": found,
                "cpu_seconds": round(time.process_time() - started, 1),
                "dataset_return": dataset.metadata.episode_return,
                "dataset_checksum": dataset.metadata.checksum,
            }
            with (RESULTS / f"{name}.jsonl").open("a") as out:
                out.write(json.dumps(line) + "\n")
            value = found["fqe_return_estimate"]
            print(
                f"{name}, {policy}: {value:.1f}, played {played['return_mean']:.1f} "
                f"({line['cpu_seconds']} s)",
                flush=True,
            )


def read(name: str) -> dict[str, dict]:
    """Return the finished policies of a dataset, best first."""
    file = RESULTS / f"{name}.jsonl"
    lines = [json.loads(line) for line in file.open()] if file.exists() else []
    lines.sort(key=lambda line: -line["played"]["return_mean"])
    return {line["policy"]: line for line in lines}


def numbers(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Estimates ``[P]``, their intervals ``[P, 2]`` and played returns ``[P]``."""
    lines = list(read(name).values())
    return (
        torch.tensor([line["estimated"]["fqe_return_estimate"] for line in lines]),
        torch.tensor([line["estimated"]["fqe_interval"] for line in lines]),
        torch.tensor([line["played"]["return_mean"] for line in lines]),
    )


def spearman(one: Tensor, two: Tensor) -> float:
    """Rank correlation; there are no ties among mean returns."""
    ranks = torch.stack([one.argsort().argsort(), two.argsort().argsort()]).double()
    return torch.corrcoef(ranks)[0, 1].item()


def agreement(name: str) -> dict:
    """How well estimates and played returns agree on a dataset."""
    estimated, interval, played = numbers(name)
    inside = (interval[:, 0] <= played) & (played <= interval[:, 1])
    return {
        "policies": len(played),
        "spearman": spearman(estimated, played),
        "pearson": torch.corrcoef(torch.stack([estimated, played]))[0, 1].item(),
        "mean_absolute_error": (estimated - played).abs().mean().item(),
        "played_return_inside_interval": inside.double().mean().item(),
        "played_return_of_the_policy_estimated_best": played[int(estimated.argmax())].item(),
        "played_return_of_the_best_policy": played.max().item(),
    }


def table(name: str) -> str:
    """All policies, best first, as a Markdown table."""
    rows = [
        "| policy | played | estimated | interval | distance to the data |",
        "| --- | --- | --- | --- | --- |",
    ]
    for policy, line in read(name).items():
        found = line["estimated"]
        low, high = found["fqe_interval"]
        rows.append(
            f"| {policy} | {line['played']['return_mean']:.0f} | "
            f"{found['fqe_return_estimate']:.0f} | {low:.0f} to {high:.0f} | "
            f"{found['action_distance']:.2f} |"
        )
    return "\n".join(rows)


def figure(names: list[str]) -> None:
    """Estimates with their intervals against played returns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4.4 * len(names), 4.0), layout="constrained", dpi=150)
    FigureCanvasAgg(drawing)
    panels = drawing.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        estimated, interval, played = numbers(name)
        bars = torch.stack([estimated - interval[:, 0], interval[:, 1] - estimated])
        panel.errorbar(
            played, estimated, bars, fmt="o", color="#0072B2", ecolor="#56B4E9", markersize=4
        )
        ends = [played.min().item(), played.max().item()]
        panel.plot(ends, ends, color="#bbbbbb", zorder=0)
        panel.set_title(f"{name}: rank correlation {spearman(estimated, played):.2f}", fontsize=10)
        panel.set_xlabel("return, played")
    panels[0].set_ylabel("return, estimated from the data")
    drawing.savefig(HERE / "correlation.png")


def publish() -> None:
    """Write results.json and the figure from what is finished, and print it."""
    names = [name for name in DATASETS if len(read(name)) >= 2]
    content = {
        "command": [f"python examples/off_policy_evaluation/run.py {name}" for name in names],
        "task": f"mpe/{TASK}",
        "transitions": TRANSITIONS,
        "episodes_played": EPISODES,
        "options": vars(OPTIONS),
        "agreement": {name: agreement(name) for name in names},
    }
    (HERE / "results.json").write_text(json.dumps(content, indent=2) + "\n")
    figure(names)
    for name in names:
        print(f"\n{name}: {json.dumps(content['agreement'][name])}\n\n{table(name)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", nargs="?", choices=DATASETS)
    parser.add_argument("--reverse", action="store_true", help="begin with the last policy")
    parser.add_argument("--table", action="store_true", help="print the results, run nothing")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    if chosen.dataset is not None:
        print("command:", "python", *sys.argv, flush=True)
        run(chosen.dataset, chosen.reverse)
    publish()

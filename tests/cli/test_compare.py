"""`compare` and `report`: from a grid of real runs to tables and figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from summaries import make_summary

from benchmarl_ssd.data.recipes import build

TINY = [
    "experiment.max_n_iters=4",
    "experiment.evaluation_interval=2",
    "experiment.off_policy_n_optimizer_steps=3",
    "experiment.off_policy_train_batch_size=32",
    "algorithm.final_evaluation_episodes=8",
]


@pytest.fixture(scope="module")
def bandit_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("recipes")
    path = build("coordination/bandit/modes", root, 500, progress=False)
    return path.rename(root / "modes")


def options(*overrides):
    return [part for override in overrides for part in ("-o", override)]


def test_list_writes_and_builds_nothing(tmp_path, run, monkeypatch):
    monkeypatch.setenv("BENCHMARL_SSD_ROOT", str(tmp_path / "root"))
    grid = ["--datasets", "mpe/world/expert,coordination/bandit/modes", "--seeds", "0-1"]
    code, said, error = run(
        "compare", "--algorithms", "ssd,bc", *grid, "--out", tmp_path / "out", "--list"
    )
    assert (code, error) == (0, "")
    assert said.splitlines()[0] == "missing     mpe/world/expert/ssd/seed-0"
    assert said.splitlines()[-1] == "8 runs: 8 missing"
    assert not list(tmp_path.iterdir())


MISTAKES = {
    "algorithm": (["--algorithms", "mappo"], "expected algorithms of"),
    "dataset": (["--datasets", "nothing"], "recipe's id"),
    "seeds": (["--seeds", "a"], "--seeds"),
    "override": (["-o", "algorithm.nothing=1"], "nothing"),
    "launcher": (["--launcher", "nothing"], "hydra-nothing-launcher"),
    "jobs": (["--launcher", "basic", "--jobs", "2"], "--jobs with the joblib launcher"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line(tmp_path, run, bandit_data, arguments, message):
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    given = {"--algorithms": "bc", "--datasets": str(bandit_data), "--seeds": "0"} | given
    flat = [part for pair in given.items() for part in pair]
    code, _, error = run("compare", *flat, "--out", tmp_path / "out")
    assert code == 1
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_grid_of_real_runs(tmp_path, run, bandit_data):
    out = tmp_path / "out put"
    grid = ["--datasets", bandit_data, "--out", out, *options(*TINY)]
    # A second algorithm whose option no run can take: Hydra accepts any text there.
    broken = options("two:algorithm.lr_schedule=nonsense")
    half = out / "coordination" / "bandit" / "modes" / "bc" / "seed-1"
    half.mkdir(parents=True)
    (half / "weights").write_text("half")
    code, said, error = run(
        "compare", "--algorithms", "bc,two=bc", "--seeds", "0,1", *grid, *broken
    )
    assert code == 1
    assert "4 runs: 1 interrupted, 3 missing; running 4" in said
    assert "4 runs: 2 done, 2 failed" in said
    assert "error: 2 of 4 runs are not done" in error
    assert "two/seed-0" in error
    assert "lr_schedule to be one of cosine, constant; found 'nonsense'" in error
    assert (half.with_name("seed-1.aside-1") / "weights").read_text() == "half"
    cells = half.parent.parent
    assert "Traceback" in (cells / "two" / "seed-1" / "error.txt").read_text()
    summaries = [cells / "bc" / f"seed-{seed}" / "summary.json" for seed in (0, 1)]
    first = [(path.read_bytes(), path.stat().st_mtime_ns) for path in summaries]
    content = json.loads(first[0][0])
    assert content["comparison"]["algorithm"] == "bc"
    assert content["comparison"]["options"] == TINY
    assert (content["steps"], content["batch_size"], content["final"]["episodes"]) == (12, 32, 8)

    # Without that option, the same command does what is left and only that.
    code, said, error = run("compare", "--algorithms", "bc,two=bc", "--seeds", "0", *grid)
    assert code == 0, error
    assert "2 runs: 1 done, 1 failed; running 1" in said
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in summaries] == first
    assert (cells / "two" / "seed-0.aside-1" / "error.txt").exists()

    other = ["--seeds", "0", "-o", "experiment.gamma=0.5"]
    code, _, error = run("compare", "--algorithms", "bc", *grid, *other)
    assert code == 1
    assert "experiment.gamma=0.95 instead of 0.5" in error

    code, said, error = run("report", out, "--out", tmp_path / "report", "--repetitions", 50)
    assert code == 0, error
    assert "| bc | 2 | " in said
    assert "| two | 1 | " in said
    assert (tmp_path / "report" / "curves.png").exists()  # read from what BenchMARL wrote
    # A cell is a stock run: its folder can be resumed and evaluated like any other.
    assert (half / ".hydra" / "overrides.yaml").exists()
    assert list(half.glob("*/checkpoints/*.pt"))


# -------------------------------------------------------------------------------------- report


def write_runs(folder: Path, **changes):
    for algorithm, values in (("bc", [1.0, 2.0, 3.0]), ("ssd", [2.0, 3.0, 4.0])):
        for seed, value in enumerate(values):
            run_folder = folder / algorithm / f"seed-{seed}"
            run_folder.mkdir(parents=True)
            summary = make_summary(value, algorithm=algorithm, seed=seed, **changes)
            (run_folder / "summary.json").write_text(json.dumps(summary))


def test_report_from_folders_and_from_a_collected_file_are_the_same(tmp_path, run):
    write_runs(tmp_path / "runs")
    kept = tmp_path / "results" / "x.jsonl"
    code, said, _ = run("report", tmp_path / "runs", "--collect", kept)
    assert (code, said) == (0, f"6 runs, 6 of them new in {kept}\n")
    few = ["--repetitions", 50, "--json"]
    reports = [run("report", path, *few) for path in (tmp_path / "runs", kept)]
    assert reports[0] == reports[1]
    content = json.loads(reports[0][1])
    rows = content["datasets"][0]["rows"]
    assert [row["return"]["value"] for row in rows] == [2.0, 3.0]
    reordered = json.loads(run("report", kept, *few, "--algorithms", "ssd,bc")[1])
    assert [r["algorithm"] for r in reordered["datasets"][0]["rows"]] == ["ssd", "bc"]
    assert run("report", kept, *few, "--seed", 1)[1] != reports[0][1]


def test_report_refuses_in_one_line(tmp_path, run):
    write_runs(tmp_path / "a")
    write_runs(tmp_path / "b", steps=100)
    for folder, seed in (("a", 0), ("b", 1)):  # disjoint seeds, different budgets
        for path in (tmp_path / folder).glob("*/seed-*"):
            if path.name != f"seed-{seed}":
                (path / "summary.json").unlink()
    code, _, error = run("report", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    assert code == 1
    assert "same optimiser steps, found 7500 in bc seed 0" in error
    assert not (tmp_path / "out").exists()
    code, _, error = run("report", tmp_path)
    assert code == 1
    code, _, error = run("report", tmp_path / "a", "--collect", "x.jsonl", "--json")
    assert "--collect alone" in error

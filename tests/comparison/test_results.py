"""Reading runs, keeping them in files, and refusing what must not be averaged."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from summaries import make_estimated, make_summary

from benchmarl_ssd.comparison import ComparisonError
from benchmarl_ssd.comparison.groups import grouped
from benchmarl_ssd.comparison.results import Result, collect, only, read_results

ROOT = Path(__file__).parents[2]


def write(folder, summary):
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_marl_eval(folder, name="run"):
    steps = {
        f"step_{n}": {"step_count": frames, "return": [value, value + 2]}
        for n, (frames, value) in enumerate([(1, 0.0), (15, 4.0), (75, 6.0)])
    }
    content = {"mpe": {"world": {"ssd": {"seed_0": {"absolute_metrics": {}, **steps}}}}}
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_runs_are_found_once_whatever_lies_below(tmp_path):
    for seed in (0, 1):
        folder = write(tmp_path / "out" / f"seed-{seed}", make_summary(seed, seed=seed))
        write(folder / "ssd_world_mlp", make_summary(seed, seed=seed))  # BenchMARL's own folder
    write(tmp_path / "out" / "seed-1.aside-1", make_summary(9.0, seed=1))
    write(tmp_path / "out" / ".launches" / "x", make_summary(9.0, seed=1))
    found = read_results([tmp_path / "out", tmp_path / "out" / "seed-1"])
    assert [(run.seed, run.value) for run in found] == [(0, 0.0), (1, 1.0)]


def test_names(tmp_path):
    compared = {"algorithm": "marginal", "dataset": "mine"}
    runs = [
        (make_summary(), ("ssd", "expert")),
        (make_summary(comparison=compared), ("marginal", "mine")),
        (make_summary(cell=["ssd-conventions", 0]), ("ssd-conventions", "expert")),
        (make_summary(dataset=None), ("ssd", "own experience")),
        (make_estimated(), ("ssd", "mpe-world-expert")),
    ]
    for summary, names in runs:
        result = Result(summary, "x")
        assert (result.algorithm, result.dataset) == names
    unnamed = make_summary()
    unnamed["dataset"]["id"] = None
    assert Result(unnamed, "x").dataset == "c" * 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON in .*:2"),
        ("[]", "expected a summary in .*:2, found list"),
        ("{}", "found one without"),
        (json.dumps({**make_summary(), "final": {}}), "found one without 'return_mean'"),
        (json.dumps({**make_summary(), "final": 3}), "found one without"),
        (json.dumps({**make_summary(), "seed": "0"}), "expected numbers"),
    ],
)
def test_lines_that_are_no_results(tmp_path, text, message):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(make_summary()) + "\n" + text + "\n")
    with pytest.raises(ComparisonError, match=message):
        read_results([path])


def test_nothing_there(tmp_path):
    for path in (tmp_path, tmp_path / "missing", tmp_path / "missing.jsonl"):
        with pytest.raises(ComparisonError):
            read_results([path])


def test_two_results_for_one_run_are_refused(tmp_path):
    folders = [write(tmp_path / n, make_summary(v)) for n, v in (("a", 1.0), ("b", 2.0))]
    with pytest.raises(ComparisonError, match="one run of ssd on mpe/world, expert, with seed 0"):
        read_results(folders)


def test_curves_come_from_marl_eval_or_csv(tmp_path):
    folder = write(tmp_path / "json" / "ssd_world_mlp", make_summary())
    (folder / "a.json").write_text('{"mpe": 1}')  # some other file
    write_marl_eval(folder, "b")
    # 7500 steps in 75 frames: evaluations after 100, 1500 and 7500.
    expected = [[100.0, 1.0], [1500.0, 5.0], [7500.0, 7.0]]
    assert read_results([folder])[0].curve == expected
    folder = write(tmp_path / "csv", make_summary())
    scalars = folder / "ssd_world_mlp" / "ssd_world_mlp" / "scalars"
    scalars.mkdir(parents=True)
    (scalars / "eval_reward_episode_reward_mean.csv").write_text("0,1.0\n14,5.0\n74,7.0\n")
    assert read_results([folder])[0].curve == expected
    old = make_summary()
    del old["frames"]
    (folder / "summary.json").write_text(json.dumps(old))
    assert read_results([folder])[0].curve == []


# --------------------------------------------------------------------------------------- files


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), unique=True, min_size=1),
    st.data(),
)
def test_a_file_holds_what_was_collected_in_whatever_order(tmp_path_factory, runs, data):
    path = tmp_path_factory.mktemp("collect") / "sub" / "x.jsonl"
    results = [
        Result(make_summary(seed, algorithm=name, seed=seed), "x", [[1.0, 2.0]])
        for name, seed in runs
    ]
    cut = data.draw(st.integers(0, len(results)))
    first = collect(results[:cut], path) if cut else 0
    assert first + collect(results[max(0, cut - 1) :], path) == len(results)
    found = read_results([path])
    assert [(run.algorithm, run.seed) for run in found] == sorted(runs)
    assert all(run.curve == [[1.0, 2.0]] for run in found)
    text = path.read_bytes()
    assert collect(results[::-1], path) == 0
    assert path.read_bytes() == text
    assert list(path.parent.iterdir()) == [path]


def test_a_file_keeps_its_results(tmp_path):
    path = tmp_path / "x.jsonl"
    collect([Result(make_summary(1.0), "x")], path)
    text = path.read_bytes()
    with pytest.raises(ComparisonError, match=r"found two that differ, in .*x\.jsonl:1"):
        collect([Result(make_summary(2.0), "y")], path)
    assert path.read_bytes() == text
    with pytest.raises(ComparisonError, match=r"ending in \.jsonl"):
        collect([Result(make_summary(1.0), "x")], tmp_path / "x.json")
    other = tmp_path / "notes.jsonl"
    other.write_text("not results\n")
    with pytest.raises(ComparisonError, match="expected JSON"):
        collect([Result(make_summary(1.0), "x")], other)
    assert other.read_text() == "not results\n"
    assert {each.name for each in tmp_path.iterdir()} == {"x.jsonl", "notes.jsonl"}


def test_committed_results_of_the_examples_are_read():
    files = sorted((ROOT / "examples" / "offline_mpe" / "results").glob("*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    found = read_results(files)
    assert {(run.algorithm, run.seed, run.value) for run in found} == {
        (*line["cell"], line["final"]["return_mean"]) for line in lines
    }


# -------------------------------------------------------------------------------------- groups


def changed(summary, path, value):
    summary = copy.deepcopy(summary)
    *way, last = path.split(".")
    entry = summary
    for name in way:
        entry = entry[name]
    entry[last] = value
    return summary


CONDITIONS = [
    (make_summary, "steps", 100, "optimiser steps, found 7500 in bc seed 0 .* and 100 in ssd"),
    (make_summary, "batch_size", 64, "batch size, found 512"),
    (make_summary, "batch_size", None, "batch size, found 512 .* and nothing said"),
    (make_summary, "dataset.checksum", "d", "dataset checksum"),
    (make_summary, "dataset.references", {"random": 0.0, "expert": 11.0}, "references"),
    (make_summary, "dataset.references", None, "references"),
    (make_summary, "final.episodes", 32, "evaluation episodes, found 320"),
    (make_estimated, "final.fqe_steps", 5, "FQE steps"),
    (make_estimated, "final.fqe_gamma", 0.9, "FQE discount"),
]


@pytest.mark.parametrize(("make", "path", "value", "message"), CONDITIONS)
def test_runs_that_differ_are_not_averaged(make, path, value, message):
    one = Result(make(algorithm="bc"), "A")
    other = Result(changed(make(seed=1), path, value), "B")
    grouped([one, Result(make(seed=1), "B")])
    with pytest.raises(ComparisonError, match=message):
        grouped([one, other])


def with_options(*options, **changes):
    compared = {"algorithm": changes.get("algorithm", "ssd"), "dataset": "d", "options": options}
    return Result(make_summary(comparison=compared, **changes), f"seed {changes.get('seed', 0)}")


def built(checksum, mean=5.0, seed=0, **changes):
    summary = make_summary(seed=seed)
    summary["dataset"].update(checksum=checksum, return_mean=mean, **changes)
    return Result(summary, checksum)


def test_builds_of_one_recipe_are_taken_as_one_if_asked_for():
    near, far = built("d" * 64, 5.0099, seed=1), built("d" * 64, 5.0101, seed=1)
    here = built("c" * 64)
    with pytest.raises(ComparisonError, match="as builds of one recipe, with --same-recipe"):
        grouped([here, near])
    (group,) = grouped([here, near], same_recipe=True)
    assert group.builds == 2
    assert len(group.runs["ssd"]) == 2
    (alone,) = grouped([here], same_recipe=True)
    assert alone.builds == 1
    with pytest.raises(ComparisonError, match=r"mean returns within 0.01, found 5 in .* 5.0101"):
        grouped([here, far], same_recipe=True)
    for changes in ({"transitions": 999}, {"id": None}):
        # Of no recipe: by its label it would still lie beside the other.
        other = built("d" * 64, seed=1, **changes)
        for run in (here, other):
            run.summary["comparison"] = {"algorithm": "ssd", "dataset": "mine", "options": []}
        with pytest.raises(ComparisonError, match="the same recipe of the dataset"):
            grouped([here, other], same_recipe=True)
    nothing = built("d" * 64, 5.0049, seed=1, references=None)
    (group,) = grouped([built("c" * 64, references=None), nothing], same_recipe=True)
    assert group.builds == 2


def test_runs_of_one_algorithm_have_the_same_options():
    common = ("task.n_agents=8", "experiment.gamma=0.9")
    one = with_options(*common, "algorithm.beta=1")
    for changed in (("algorithm.beta=2",), (), ("algorithm.beta=1", "algorithm.beta=2")):
        with pytest.raises(ComparisonError, match=r"same options, found algorithm.beta=1 in ssd"):
            grouped([one, with_options(*common, *changed, seed=1)])
    neutral = ("++algorithm.beta=1", "experiment.train_device=cuda", "experiment.loggers=[]")
    grouped([one, with_options(*common, *neutral, seed=1)])
    grouped([one, with_options(*common, algorithm="bc")])
    said = Result(make_summary(settings={"alpha": 1.0}), "A")
    for other in ({"alpha": 0.5}, {}):
        with pytest.raises(ComparisonError, match=r"same options, found alpha=1\.0"):
            grouped([said, Result(make_summary(seed=1, settings=other), "B")])
    grouped([said, Result(make_summary(seed=1), "B")])  # not on record


def test_all_algorithms_play_the_same_task():
    one = with_options("task.n_agents=8", algorithm="bc")
    with pytest.raises(ComparisonError, match=r"options of the task, found task.n_agents=8 in bc"):
        grouped([one, with_options("algorithm.beta=1")])
    grouped([one, with_options("algorithm.beta=1", "task.n_agents=8")])


def test_cells_that_are_not_done_are_left_out(tmp_path):
    """A run inside them has a summary before its cell has, under the algorithm's own name."""
    done, half = tmp_path / "marginal" / "seed-0", tmp_path / "marginal" / "seed-1"
    for seed, cell in enumerate((done, half)):
        (cell / "run").mkdir(parents=True)
        (cell / "output.txt").write_text("")
        (cell / "run" / "summary.json").write_text(json.dumps(make_summary(seed=seed)))
    compared = {"algorithm": "marginal", "dataset": "expert", "options": []}
    (done / "summary.json").write_text(json.dumps(make_summary(comparison=compared)))
    assert [(r.algorithm, r.seed) for r in read_results([tmp_path])] == [("marginal", 0)]


def test_datasets_may_differ_in_budget_and_estimates_stay_apart():
    dataset = {**make_summary()["dataset"], "id": "mpe/world/medium"}
    runs = [
        Result(make_estimated(task="mpe/world"), "A"),
        Result(make_summary(), "B"),
        Result(make_summary(steps=5, dataset=dataset), "C"),
    ]
    groups = grouped(runs)
    assert [(group.kind, group.dataset) for group in groups] == [
        ("played", "expert"),
        ("played", "medium"),
        ("fqe", "expert"),
    ]


def test_algorithms_can_be_chosen_and_ordered():
    runs = [Result(make_summary(algorithm=name), "x") for name in ("a", "b", "c")]
    assert [run.algorithm for run in only(runs, ["c", "a"])] == ["c", "a"]
    with pytest.raises(ComparisonError, match="of a, b, c; found 'd'"):
        only(runs, ["d"])

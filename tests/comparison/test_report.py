"""What a report says, against numbers worked out by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from summaries import make_estimated, make_summary

from benchmarl_ssd.comparison import ComparisonError
from benchmarl_ssd.comparison.content import describe, to_json
from benchmarl_ssd.comparison.figures import plot_curves, plot_scores
from benchmarl_ssd.comparison.groups import grouped
from benchmarl_ssd.comparison.report import write_report
from benchmarl_ssd.comparison.results import Result, only, read_results
from benchmarl_ssd.comparison.statistics import Bootstrap, interquartile_mean
from benchmarl_ssd.comparison.suite import make_suite
from benchmarl_ssd.comparison.tables import csv_table, markdown

FEW = Bootstrap(repetitions=100)


def runs(algorithm, values, dataset="expert", references=(0.0, 10.0), **changes):
    low, high = references or (None, None)
    made = []
    for seed, value in enumerate(values):
        summary = make_summary(value, algorithm=algorithm, seed=seed, **changes)
        summary["dataset"]["id"] = f"mpe/world/{dataset}"
        summary["dataset"]["checksum"] = dataset
        summary["dataset"]["references"] = {"random": low, "expert": high} if references else None
        curve = [[100.0, value / 2], [7500.0, value]]
        made.append(Result(summary, f"{algorithm}-{seed}", curve))
    return made


def report(*results):
    groups = grouped([result for each in results for result in each])
    return groups, describe(groups, FEW)


def test_a_table_of_known_numbers():
    groups, content = report(
        runs("bc", [1.0]), runs("ssd", [0.0, 2.0, 4.0, 100.0], references=(0.0, 10.0))
    )
    bc, ssd = content["datasets"][0]["rows"]
    assert ssd["return"]["value"] == 3.0
    assert ssd["normalised"]["value"] == 30.0
    assert ssd["normalised"]["low"] == pytest.approx(10 * ssd["return"]["low"])
    assert ssd["normalised"]["high"] == pytest.approx(10 * ssd["return"]["high"])
    assert ssd["best"] == {"return": 4.0, "normalised": 40.0}
    assert ssd["curve"]["return"] == [1.5, 3.0]
    assert bc["return"] == {"value": 1.0, "low": None, "high": None}
    assert [pair["value"] for pair in content["improvement"]] == [0.25]
    text = markdown(content)
    assert "| bc | 1 | 1 | 10.0 | 2 (20) | - | 10 s |" in text
    assert "| ssd | 4 | 3 [" in text
    assert "| *the data* |  | 5 (best 12) | 50.0 (best 120.0) |  |  |  |" in text
    assert "7500 optimiser steps of 512 transitions, 320 episodes a run" in text
    assert "random (0) is 0, expert (100) is 10." in text
    assert "no interval is given" in text
    assert "1 of 2 results rest on fewer than 3 seeds" in text
    lines = list(csv.DictReader(csv_table(groups).splitlines()))
    assert [(line["algorithm"], line["seed"], line["return"]) for line in lines] == [
        ("bc", "0", "1.0"), ("ssd", "0", "0.0"), ("ssd", "1", "2.0"), ("ssd", "2", "4.0"),
        ("ssd", "3", "100.0"),
    ]  # fmt: skip


def test_times_of_training_are_not_mixed():
    here, there = runs("bc", [1.0, 2.0]), runs("bc", [3.0], device="cuda", cuda_graphs=True)
    there[0].summary["seed"] = 2
    _, content = report(here, there, runs("ssd", [1.0, 2.0], device="cpu"))
    bc, ssd = content["datasets"][0]["rows"]
    assert bc["train_seconds"] is None
    assert ssd["train_seconds"] == 10.0
    assert "trained on different devices" in markdown(content)
    _, content = report(here)
    assert "devices" not in markdown(content)


def test_several_builds_of_a_recipe_are_noted():
    one, other = runs("bc", [1.0])[0], runs("ssd", [2.0])[0]
    other.summary["dataset"]["checksum"] = "other"
    groups = grouped([one, other], same_recipe=True)
    content = describe(groups, FEW)
    assert content["datasets"][0]["data"]["builds"] == 2
    assert "2 on mpe/world, expert." in markdown(content)
    lines = list(csv.DictReader(csv_table(groups).splitlines()))
    assert [line["checksum"] for line in lines] == ["expert", "other"]


def test_every_row_has_as_many_cells_as_the_head():
    logged = [Result(make_estimated(seed=seed), "x") for seed in range(2)]
    _, content = report(runs("bc", [1.0]), runs("ssd", [1.0, 2.0], "medium", None), logged)
    tables, width = 0, 0
    for line in markdown(content).splitlines():
        if not line.startswith("|"):
            width = 0
            continue
        if not width:
            tables, width = tables + 1, line.count("|")
        assert line.count("|") == width, line
    assert tables == 3


def test_enough_seeds_need_no_note():
    _, content = report(runs("bc", [1.0, 2.0, 3.0, 4.0]), runs("ssd", [1.0, 2.0, 3.0, 5.0]))
    assert content["notes"] == []


def test_all_datasets_together():
    expert, medium = (0.0, 10.0), (100.0, 200.0)
    _, content = report(
        runs("bc", [2.0, 4.0], "expert", expert),
        runs("bc", [120.0, 140.0, 999.0], "medium", medium),  # the third seed is on one only
        runs("ssd", [6.0, 8.0], "expert", expert),
        runs("ssd", [110.0, 130.0], "medium", medium),
        runs("ssd", [1.0], "random", expert),
    )
    bc, ssd = content["overall"]["rows"]
    assert content["overall"]["datasets"] == [["mpe/world", "expert"], ["mpe/world", "medium"]]
    assert bc["normalised"]["value"] == pytest.approx(30.0)  # of 20, 40, 20, 40
    assert ssd["normalised"]["value"] == pytest.approx(45.0)  # of 60, 80, 10, 30: 30 and 60
    (pair,) = content["improvement"]
    assert (pair["x"], pair["y"], pair["datasets"], pair["runs"]) == ("bc", "ssd", 2, [2, 2])
    assert pair["value"] == pytest.approx((0 + 3 / 4) / 2)
    notes = " ".join(content["notes"])
    assert "without mpe/world, random" in notes
    assert "without 1 runs of bc" in notes


def test_estimates_enter_no_comparison_with_what_was_played():
    logged = [
        Result(make_estimated(5.0, algorithm=name, task="mpe/world"), name)
        for name in ("bc", "cql")
    ]
    _, content = report(runs("bc", [1.0]), runs("ssd", [2.0]), logged)
    assert [each["kind"] for each in content["datasets"]] == ["played", "fqe"]
    assert [(pair["x"], pair["y"]) for pair in content["improvement"]] == [("bc", "ssd")]
    row = content["datasets"][1]["rows"][0]
    assert (row["return"]["value"], row["normalised"], row["best"]) == (5.0, None, None)
    text = markdown(content)
    assert "| bc | 1 | 5 | 0.25 | 10 s |" in text
    assert "estimated by FQE are not played" in text


def test_pairs_without_a_common_dataset_are_left_out():
    groups, content = report(runs("bc", [1.0], "expert"), runs("ssd", [1.0], "medium"))
    assert content["improvement"] == []
    assert content["overall"] is None
    assert make_suite(groups).groups == []
    assert any("No overall scores" in note for note in content["notes"])


def test_a_report_is_written_whole_and_again(tmp_path):
    groups, content = report(runs("bc", [1.0, 2.0]), runs("ssd", [1.0, 4.0]))
    folder = tmp_path / "deep" / "report"
    written = write_report(content, groups, FEW, folder)
    names = ["report.md", "report.csv", "report.json", "scores.png",
             "performance_profile.png", "improvement.png", "curves.png"]  # fmt: skip
    assert [path.name for path in written] == names
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert json.loads((folder / "report.json").read_text()) == content
    for path in written[3:]:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert f"]({path.name})" in (folder / "report.md").read_text()
    before = {path.name: path.read_bytes() for path in written}
    (folder / "notes.txt").write_text("mine")
    write_report(content, groups, FEW, folder)
    assert {path.name: path.read_bytes() for path in written} == before
    # Of one algorithm there is no improvement to draw; the old figure goes, the note stays.
    groups, content = report(runs("bc", [1.0, 2.0]))
    write_report(content, groups, FEW, folder)
    assert not (folder / "improvement.png").exists()
    assert not (folder / "scores.png").exists()
    assert (folder / "notes.txt").read_text() == "mine"


def test_scores_are_drawn_where_they_are():
    _, content = report(
        runs("bc", [1.0, 2.0], "expert"), runs("ssd", [4.0], "expert"), runs("bc", [3.0], "medium")
    )
    axes = plot_scores(content).axes
    drawn = [[line.get_xdata() for line in axis.lines] for axis in axes]
    (bc, ssd), (alone,) = (dataset["rows"] for dataset in content["datasets"])
    interval, *points = drawn[0][:-1]  # the last one is the mean of the data
    unit = "normalised" if bc["normalised"] else "return"
    assert list(interval) == [bc[unit]["low"], bc[unit]["high"]]
    assert [list(each) for each in points] == [[bc[unit]["value"]]] * 2 + [[ssd[unit]["value"]]] * 2
    assert [list(each) for each in drawn[1][:-1]] == [[alone[unit]["value"]]] * 2
    assert [label.get_text() for label in axes[1].get_yticklabels()] == ["ssd", "bc"]


@pytest.mark.parametrize("name", ["report.md", "report.json", "curves.png"])
def test_files_of_others_are_never_overwritten(tmp_path, name):
    groups, content = report(runs("bc", [1.0]))
    (tmp_path / name).write_text("{}")
    with pytest.raises(ComparisonError, match=f"found {name} of another origin"):
        write_report(content, groups, FEW, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "{}"


COMMITTED = {
    "offline_mpe/report": ["offline_mpe/results/*.jsonl", "offline_mpe/results/rebuilt/*.jsonl"],
    "comparison/results/bandit": [
        "comparison/results/bandit.jsonl",
        "comparison/results/ablations.jsonl",
    ],
    "comparison/results/two_apples": ["comparison/results/two_apples.jsonl"],
    "comparison/results/ablations": ["comparison/results/ablations.jsonl"],
}


@pytest.mark.slow
@pytest.mark.parametrize("folder", COMMITTED)
def test_committed_reports_are_of_the_committed_results(folder):
    examples = Path(__file__).parents[2] / "examples"
    written = json.loads((examples / folder / "report.json").read_text())
    names = dict.fromkeys(row["algorithm"] for each in written["datasets"] for row in each["rows"])
    files = [path for pattern in COMMITTED[folder] for path in sorted(examples.glob(pattern))]
    groups = grouped(only(read_results(files), list(names)), same_recipe=True)
    found = {
        (each["task"], each["dataset"], row["algorithm"]): (row["seeds"], row["return"]["value"])
        for each in written["datasets"]
        for row in each["rows"]
    }
    expected = {
        (group.task, group.dataset, name): (
            [run.seed for run in runs],
            pytest.approx(interquartile_mean([[run.value] for run in runs], Bootstrap(1)).value),
        )
        for group in groups
        for name, runs in group.runs.items()
    }
    assert found == expected


def test_a_run_that_diverged_is_named_and_leaves_json_that_can_be_read():
    runs = [Result(make_summary(seed=0), "A"), Result(make_summary(float("nan"), seed=1), "B")]
    content = describe(grouped(runs), Bootstrap(50))
    text = to_json(content)

    def refuse(name):
        raise AssertionError(name)

    assert json.loads(text, parse_constant=refuse)["datasets"][0]["rows"][0]["seeds"] == [0, 1]
    assert any("no number in ssd seed 1 (B)" in note for note in content["notes"])
    assert "ssd" in markdown(content)


def test_pairs_without_a_common_seed_are_named():
    """The dataset that both ran on is there, but bc has other seeds on each of the two."""
    _, content = report(
        runs("bc", [1.0], "expert"),
        runs("bc", [0.0, 1.0], "medium")[1:],
        runs("ssd", [1.0], "expert"),
        runs("ssd", [1.0], "medium"),
        runs("omar", [1.0], "expert"),
    )
    assert {(pair["x"], pair["y"]) for pair in content["improvement"]} == {
        ("bc", "omar"), ("ssd", "omar"),
    }  # fmt: skip
    assert any("improvement between bc and ssd: one of them" in each for each in content["notes"])


def test_curves_have_one_legend_beside_them():
    _, content = report(
        runs("bc", [1.0]), runs("ssd", [1.0, 2.0]), runs("bc", [1.0], "medium"),
        runs("omar", [1.0], "medium"),
    )  # fmt: skip
    figure = plot_curves(content)
    assert [axis.get_legend() for axis in figure.axes] == [None, None]
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["bc", "ssd", "omar", "mean of the data"]

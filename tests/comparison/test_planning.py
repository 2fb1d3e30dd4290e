"""Which runs a grid means."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarl.hydra_config import load_task_config_from_hydra
from omegaconf import OmegaConf

from benchmarl_ssd.comparison import ComparisonError
from benchmarl_ssd.comparison.grid import Named, parse_override
from benchmarl_ssd.comparison.planning import choose_dataset, plan, read_plan, write_plan
from benchmarl_ssd.data import DatasetError
from benchmarl_ssd.data.examples import write_example

SSD, BC = Named("ssd", "ssd"), Named("bc", "bc")


def test_cells_and_their_folders(tmp_path):
    choices = [choose_dataset(Named("", "mpe/world/expert"))]
    overrides = [parse_override(t) for t in ("experiment.gamma=0.9", "marginal:algorithm.beta=2")]
    algorithms = [SSD, Named("marginal", "ssd")]
    cells = plan(tmp_path, algorithms, choices, [0, 3], overrides)
    assert [str(cell.folder.relative_to(tmp_path)) for cell in cells] == [
        "mpe/world/expert/ssd/seed-0",
        "mpe/world/expert/ssd/seed-3",
        "mpe/world/expert/marginal/seed-0",
        "mpe/world/expert/marginal/seed-3",
    ]
    assert [cell.config["seed"] for cell in cells] == [0, 3, 0, 3]
    assert [cell.config["algorithm"]["beta"] for cell in cells] == [None, None, 2, 2]
    assert {cell.config["experiment"]["gamma"] for cell in cells} == {0.9}
    assert {cell.config["algorithm"]["dataset"] for cell in cells} == {"mpe/world/expert"}
    assert {cell.config["experiment"]["max_n_iters"] for cell in cells} == {75}  # offline.yaml
    assert cells[2].options == ["experiment.gamma=0.9", "algorithm.beta=2"]
    assert not list(tmp_path.iterdir())
    write_plan(cells, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == cells


def test_a_folder_brings_the_options_of_its_task(tmp_path, bandit_data):
    choice = choose_dataset(Named("", str(bandit_data)))
    assert (choice.label, choice.task) == ("trio", "coordination/bandit")
    cell = plan(tmp_path, [BC], [choice], [0])[0]
    task = load_task_config_from_hydra(OmegaConf.create(cell.config["task"]), cell.task)
    assert task.config["n_agents"] == 3
    assert Path(cell.config["algorithm"]["dataset"]) == bandit_data
    override = [parse_override("task.n_agents=5")]  # the user has the last word
    assert plan(tmp_path, [BC], [choice], [0], override)[0].config["task"]["n_agents"] == 5


def test_a_dataset_without_a_simulator_is_its_own_task(tmp_path):
    folder = write_example(tmp_path / "robots")
    choice = choose_dataset(Named("mine", str(folder)), "logged/dataset")
    cell = plan(tmp_path, [BC], [choice], [0])[0]
    assert cell.name == "logged/dataset/mine/bc/seed-0"
    assert cell.config["task"]["dataset"] == str(folder)
    assert cell.config["algorithm"]["dataset"] is None


def test_another_experiment_config_replaces_the_default(tmp_path):
    choices = [choose_dataset(Named("", "mpe/world/expert"))]
    cell = plan(tmp_path, [BC], choices, [0], [parse_override("experiment=base_experiment")])[0]
    assert cell.config["experiment"]["max_n_iters"] is None


@pytest.mark.parametrize(
    ("algorithm", "overrides", "message"),
    [
        (Named("x", "mappo"), [], "expected algorithms of"),
        (BC, ["algorithm.beta=1"], "beta"),
        (BC, ["experiment.gamma=often"], "gamma"),
        (BC, ["model=layers/nothing"], "layers/nothing"),
        (BC, ["sdd:experiment.gamma=1"], "found one for 'sdd'"),
    ],
)
def test_mistakes_are_found_before_anything_runs(tmp_path, algorithm, overrides, message):
    choices = [choose_dataset(Named("", "mpe/world/expert"))]
    given = [parse_override(text) for text in overrides]
    with pytest.raises(ComparisonError, match=message):
        plan(tmp_path, [algorithm], choices, [0], given)


def test_datasets_that_are_none(tmp_path, bandit_data):
    with pytest.raises(DatasetError, match="did you mean mpe/world/expert"):
        choose_dataset(Named("", "mpe/world/exprt"))
    with pytest.raises(DatasetError, match=r"metadata\.json"):
        choose_dataset(Named("", str(tmp_path)))
    with pytest.raises(ComparisonError, match="found mpe/nothing"):
        choose_dataset(Named("", str(bandit_data)), "mpe/nothing")
    twins = [choose_dataset(Named("a", str(bandit_data))) for _ in range(2)]
    with pytest.raises(ComparisonError, match="two for"):
        plan(tmp_path, [BC], twins, [0])

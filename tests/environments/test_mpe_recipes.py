"""The MPE data sets, built small: their returns, their make-up, and how a run gets them."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from runs import make as make_experiment
from runs import summary
from tensordict import TensorDict

from benchmarl_ssd.data import DatasetError, OfflineDataset, build, get_recipe, register_recipe
from benchmarl_ssd.data.recipes import recipes
from benchmarl_ssd.environments.common import TaskOptionError
from benchmarl_ssd.environments.mpe import MpeTask
from benchmarl_ssd.environments.mpe.policies import (
    ASSETS,
    LEVELS,
    TASKS,
    Behaviour,
    load_behaviours,
)
from benchmarl_ssd.environments.mpe.recipes import BehaviourTeam, make, measured

IDS = [f"mpe/{task}/{level}" for task in TASKS for level in LEVELS]
EPISODES = 1000


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Builds a recipe's first 1000 episodes, once."""
    root = tmp_path_factory.mktemp("recipes")
    return lambda id: build(id, root=root, transitions=25 * EPISODES, progress=False)


def start(worlds: int) -> TensorDict:
    return TensorDict({"agents": {"observation": torch.zeros(worlds, 3, 24)}}, [worlds])


@pytest.mark.parametrize("id", IDS)
def test_a_build_is_as_committed(built, id):
    metadata = OfflineDataset(built(id)).metadata
    assert metadata.counts == {
        "transitions": 25 * EPISODES, "episodes": EPISODES, "terminated": 0, "truncated": EPISODES,
    }  # fmt: skip
    assert metadata.episode_length == {"mean": 25.0, "min": 25, "max": 25}
    found, expected = metadata.episode_return, get_recipe(id).expected_return
    error = math.hypot(found["std"] / EPISODES**0.5, expected.standard_error)
    assert abs(found["mean"] - expected.mean) < 4 * error
    assert found["std"] == pytest.approx(expected.standard_deviation, rel=0.2)


@pytest.mark.parametrize("task", TASKS)
def test_qualities_are_ordered(built, task):
    means = [
        OfflineDataset(built(f"mpe/{task}/{level}")).metadata.episode_return["mean"]
        for level in LEVELS
    ]
    assert means == sorted(means, reverse=True)
    assert min(better - worse for better, worse in pairwise(means)) > 10


@pytest.mark.parametrize(
    ("task", "references", "whose"),
    [
        ("cooperative_navigation", {"random": 159.8, "expert": 516.8}, "literature"),
        ("predator_prey", None, "measured against the shipped prey"),
        ("world", None, "measured against the shipped prey"),
    ],
)
def test_metadata_says_recipe_and_references(built, task, references, whose):
    metadata = OfflineDataset(built(f"mpe/{task}/random")).metadata
    levels = measured()[task]
    wanted = references or {
        level: pytest.approx(levels[level].mean, abs=0.01) for level in ("random", "expert")
    }
    assert metadata.references == wanted
    assert metadata.id == f"mpe/{task}/random"
    assert metadata.task["config"]["max_steps"] == 25
    source = metadata.source
    assert (source["kind"], source["references"], source["seed"]) == ("recipe", whose, 0)


# ------------------------------------------------------------------------------ other options


def test_other_options_have_no_references(tmp_path):
    path = build("mpe/world/medium", tmp_path, 1000, progress=False, config={"max_steps": 10})
    metadata = OfflineDataset(path).metadata
    assert metadata.references is None
    assert metadata.source["references"] == "none for these options"
    assert metadata.episode_length["max"] == 10
    prey = {"prey_policy": str(ASSETS / "predator_prey_prey.safetensors")}
    assert make("predator_prey", "random", 0, prey).references is None
    other = get_recipe("mpe/predator_prey/random").configured(prey)
    assert other.references is other.expected_return is None


def test_other_numbers_of_agents(tmp_path):
    id = "mpe/cooperative_navigation/"
    path = build(f"{id}random", tmp_path, 50, progress=False, config={"n_agents": 5})
    assert OfflineDataset(path).data["agents", "observation"].shape == (50, 5, 30)
    with pytest.raises(TaskOptionError, match=r"n_agents=3 .*found 5.*cooperative_navigation/rand"):
        build(f"{id}medium", tmp_path, 50, progress=False, config={"n_agents": 5})


# ------------------------------------------------------------------------------- medium-replay


@pytest.mark.parametrize("worlds", [4000, 403, 7])
def test_worlds_are_dealt_in_shares_wherever_a_recording_ends(worlds):
    shares = torch.tensor([0.05, 0.15, 0.5, 0.3])
    torch.manual_seed(0)
    team = BehaviourTeam([Behaviour(None, 0.0, share) for share in shares.tolist()])
    deals = []
    for _ in range(20):
        team.reset(start(worlds))
        played = torch.nn.functional.one_hot(team.deal, 4).cumsum(0)
        wanted = torch.arange(1, worlds + 1).unsqueeze(1) * shares
        assert (played[-1] - wanted[-1]).abs().max() < 1.01
        assert (played - wanted).abs().max() < 4
        deals.append(team.deal)
    if worlds > 7:
        assert not torch.equal(deals[0], deals[1])


def test_shares_below_a_world_are_dealt_by_chance():
    torch.manual_seed(0)
    team = BehaviourTeam([Behaviour(None, 0.0, 0.1)] * 10)
    played = torch.zeros(10)
    for _ in range(1000):
        team.reset(start(3))
        played += team.deal.bincount(minlength=10)
    assert (played - 300).abs().max() < 4 * (1000 * 0.3 * 0.7) ** 0.5


def test_every_world_is_played_by_its_behaviour():
    behaviours = load_behaviours("world", "medium-replay")
    team = BehaviourTeam([replace(part, noise=0.0) for part in behaviours])
    data = TensorDict({"agents": {"observation": torch.randn(50, 3, 24)}}, [50])
    team.reset(data)
    action = team(data)["agents", "action"]
    for world, part in enumerate(team.deal.tolist()):
        expected = behaviours[part].policy(data["agents", "observation"][world])
        torch.testing.assert_close(action[world], expected)


def played_by(data: TensorDict, parts: list[Behaviour]) -> torch.Tensor:
    """The likeliest behaviour of every episode, given its actions that were not clamped."""
    observation, action = (
        data["agents", key].reshape(-1, 25, 3, data["agents", key].shape[-1])
        for key in ("observation", "action")
    )
    free, scores = action.abs() < 1, []
    for part in parts:
        error = (action - part.policy(observation)) / part.noise
        scores.append((-0.5 * error.square() - math.log(part.noise)).where(free, 0).sum((1, 2, 3)))
    return torch.stack(scores).argmax(0)


@pytest.mark.parametrize("task", TASKS)
def test_a_small_build_holds_the_whole_history(built, task):
    path = built(f"mpe/{task}/medium-replay")
    data = OfflineDataset(path).data[:20_000].clone()
    parts = load_behaviours(task, "medium-replay")
    counts = played_by(data, parts).bincount(minlength=len(parts))
    shares = torch.tensor([part.share for part in parts])
    assert (counts - 800 * shares).abs().max() < 10  # some are mistaken for their neighbour's


def test_same_seed_same_bytes(tmp_path):
    def fingerprint(name: str, seed: int) -> list[str]:
        torch.manual_seed(len(name))
        folder = build("mpe/world/medium-replay", tmp_path / name, 1000, seed, progress=False)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    first = fingerprint("a", 1)
    assert first == fingerprint("again", 1)
    assert first != fingerprint("other", 2)


# --------------------------------------------------------------------------------------- names


def test_all_twelve_are_there_and_bad_names_list_them():
    assert set(IDS) <= set(recipes())
    assert {recipes()[id].transitions for id in IDS} == {1_000_000}
    with pytest.raises(DatasetError, match="did you mean mpe/world/medium") as caught:
        get_recipe("mpe/world/meduim")
    assert all(id in str(caught.value) for id in IDS)


def test_a_run_builds_its_data_on_first_use(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("BENCHMARL_SSD_ROOT", str(tmp_path / "root"))
    # The recipe itself, but for its size: a million transitions take seconds and 600 MB.
    small = replace(get_recipe("mpe/world/medium"), id="test/world/medium", transitions=500)
    register_recipe(small)
    task = MpeTask.WORLD.get_from_yaml()
    results = []
    for name in ("first", "second"):
        experiment = make_experiment("bc", task, tmp_path / name, dataset=small.id)
        experiment.run()
        said = capsys.readouterr().out.count(f"building the dataset of recipe {small.id} in")
        assert said == (name == "first")
        results.append(summary(experiment))
    dataset = results[0]["dataset"]
    assert dataset == results[1]["dataset"]
    assert (dataset["id"], dataset["transitions"]) == (small.id, 500)
    assert dataset["references"] == small.references
    assert results[0]["task"] == "mpe/world"
    assert results[0]["final"]["normalised"] is not None

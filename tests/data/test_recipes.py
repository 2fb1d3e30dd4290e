"""Recipes build their datasets once, in a place of the user's, whoever asks at the same time."""

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchrl.envs.libs.vmas import VmasEnv

from benchmarl_ssd.data import DatasetError, OfflineDataset, build, get_recipe, resolve
from benchmarl_ssd.data.recipes import (
    ExpectedReturn,
    Recipe,
    RecordingSetup,
    default_root,
    recipe_path,
    recipes,
    register_recipe,
)

MADE = []


def make_balance(seed, config):
    MADE.append(seed)
    env = VmasEnv("balance", num_envs=4, seed=seed, **config)
    return RecordingSetup(
        env=env,
        policy=None,
        max_steps=config["max_steps"],
        groups=env.group_map,
        task={"environment": "vmas", "name": "balance", "config": config},
        source={"policy": "uniform"},
    )


BALANCE = register_recipe(
    Recipe(
        id="test/balance/uniform",
        description="Uniform actions on balance.",
        environment="vmas",
        name="balance",
        make=make_balance,
        config={"max_steps": 5},
        transitions=60,
        references={"random": -1.0, "expert": 2.0},
    )
)


@pytest.fixture(autouse=True)
def _forget():
    MADE.clear()


def test_a_recipe_is_built_once(tmp_path):
    path = build(BALANCE.id, root=tmp_path, progress=False)
    assert (
        path == tmp_path / "test" / "balance" / "uniform" / "v1-60-transitions-seed-0-max_steps=5"
    )
    assert build(BALANCE.id, root=tmp_path, progress=False) == path
    assert MADE == [0]
    metadata = OfflineDataset(path).metadata
    assert (metadata.id, metadata.transitions) == (BALANCE.id, 60)
    assert metadata.references == {"random": -1.0, "expert": 2.0}
    assert metadata.task["config"] == {"max_steps": 5}
    assert (metadata.source["kind"], metadata.source["seed"]) == ("recipe", 0)
    assert metadata.source["recipe"] == {"config": {"max_steps": 5}, "version": 1}


def test_seeds_and_sizes_have_folders_of_their_own(tmp_path):
    variants = [{}, {"seed": 1}, {"transitions": 20}, {"transitions": 20, "seed": 1}]
    paths = [build(BALANCE.id, root=tmp_path, progress=False, **v) for v in variants]
    assert len(set(paths)) == 4
    checksums = {OfflineDataset(path).metadata.checksum for path in paths}
    assert len(checksums) == 4


def test_a_rebuilt_dataset_is_the_same(tmp_path):
    torch.manual_seed(0)
    first = build(BALANCE.id, root=tmp_path / "a", progress=False)
    torch.manual_seed(1)
    second = build(BALANCE.id, root=tmp_path / "b", progress=False)
    for file in first.rglob("*.*"):
        assert file.read_bytes() == (second / file.relative_to(first)).read_bytes()


def test_references_and_expected_return_hold_for_the_recipes_own_options(tmp_path):
    expected = ExpectedReturn(1.0, 0.1, 1.0, 3.0, 100)
    recipe = register_recipe(replace(BALANCE, id="test/options", expected_return=expected))
    assert recipe.configured(None) == recipe.configured({"max_steps": 5}) == recipe
    other = recipe.configured({"max_steps": 4})
    assert (other.config, other.references, other.expected_return) == ({"max_steps": 4}, None, None)
    path = build(recipe.id, root=tmp_path, progress=False, config={"max_steps": 4})
    assert OfflineDataset(path).metadata.references is None


def test_building_leaves_the_random_state_alone(tmp_path):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build(BALANCE.id, root=tmp_path, progress=False)
    assert torch.equal(torch.rand(3), expected)


def test_the_root_is_chosen_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARL_SSD_ROOT", str(tmp_path / "chosen"))
    assert default_root() == tmp_path / "chosen"
    monkeypatch.delenv("BENCHMARL_SSD_ROOT")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root().name == "benchmarl-ssd"
    assert recipe_path(BALANCE.id).is_relative_to(default_root())


def test_resolve_finds_folders_and_recipes(tmp_path, capsys, monkeypatch):
    built = resolve(BALANCE.id, root=tmp_path)
    said = capsys.readouterr().out
    assert said == f"building the dataset of recipe {BALANCE.id} in {built} (once)\n"
    assert resolve(BALANCE.id, root=tmp_path) == built
    assert resolve(built) == built
    assert resolve(str(built)) == built
    assert capsys.readouterr().out == ""
    # An unrelated folder of the same name is no dataset: the recipe is meant.
    monkeypatch.chdir(tmp_path)
    assert resolve(BALANCE.id, root=tmp_path) == built


def test_what_is_neither_is_an_error_that_names_both(tmp_path):
    message = "a dataset's folder or a recipe's id, found .*no such folder.*recipes are .*test/bal"
    with pytest.raises(DatasetError, match=message):
        resolve(str(tmp_path / "nothing"))
    with pytest.raises(DatasetError, match="did you mean test/balance/uniform"):
        resolve("test/balance/unifrom")
    with pytest.raises(DatasetError, match="did you mean test/balance/uniform"):
        get_recipe("test/balance/unifrom")


@pytest.mark.parametrize("arguments", [{"transitions": 0}, {"transitions": -1}, {"seed": -1}])
def test_numbers_out_of_range_build_nothing(tmp_path, arguments):
    with pytest.raises(DatasetError, match="at least"):
        build(BALANCE.id, root=tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_build_says_how_to_mend_it(tmp_path):
    path = build(BALANCE.id, root=tmp_path, progress=False)
    (path / "data" / "episode.memmap").unlink()
    with pytest.raises(DatasetError, match=f"remove {path} to build it anew"):
        build(BALANCE.id, root=tmp_path)


def test_a_failed_build_leaves_nothing(tmp_path):
    def fail(seed, config):
        raise KeyboardInterrupt

    recipe = register_recipe(replace(BALANCE, id="test/fails", make=fail))
    with pytest.raises(KeyboardInterrupt):
        build(recipe.id, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_recipes_are_found_by_name(tmp_path):
    lazy = replace(BALANCE, id="test/lazy", make="vmas_recipes_that_do_not_exist:make")
    register_recipe(lazy)
    assert recipes()["test/lazy"] is lazy
    with pytest.raises(ModuleNotFoundError):
        build("test/lazy", root=tmp_path)


def test_an_id_stands_for_one_recipe():
    register_recipe(BALANCE)
    with pytest.raises(DatasetError, match="another recipe"):
        register_recipe(replace(BALANCE, transitions=1))
    for id in ("", "../out", "a//b", "/a", "a/.."):
        with pytest.raises(DatasetError, match="expected an id"):
            register_recipe(replace(BALANCE, id=id))


def _build(root, barrier):
    barrier.wait()
    build(BALANCE.id, root=root, progress=False)


def test_two_builders_at_once_do_not_disturb_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    builders = [context.Process(target=_build, args=(tmp_path, barrier)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(120)
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    path = recipe_path(BALANCE.id, tmp_path)
    assert list(path.parent.iterdir()) == [path]
    assert len(OfflineDataset(path)) == 60


def test_the_root_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert build(BALANCE.id, root=Path("here"), progress=False).exists()


def test_folders_are_of_what_a_file_holds(tmp_path, monkeypatch):
    recipe = Recipe("toy/left", "Always left.", "toy", "left", make="toy.recipes:left")
    names = []
    for folder, content in (("a", "one"), ("b", "two"), ("c", "one")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "prey.pt").write_text(content)
        monkeypatch.chdir(tmp_path / folder)
        names.append(recipe.configured({"prey": "prey.pt"}).folder_name())
    assert names[0] == names[2] != names[1]
    one, other = ({"a": "1-b=2"}, {"a": 1, "b": 2})
    assert recipe.configured(one).folder_name() != recipe.configured(other).folder_name()
    assert recipe.configured({"n": 8}).folder_name().endswith("-n=8")

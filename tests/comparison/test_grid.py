"""What a grid is written as."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from benchmarl_ssd.comparison import ComparisonError
from benchmarl_ssd.comparison.grid import (
    Named,
    Override,
    check_targets,
    literal,
    overrides_for,
    parse_algorithms,
    parse_datasets,
    parse_override,
    parse_seeds,
)


@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True))
def test_seeds_are_those_written(seeds):
    assert parse_seeds(",".join(map(str, seeds))) == seeds


@given(st.integers(0, 500), st.integers(0, 500))
def test_ranges_hold_both_ends(first, length):
    assert parse_seeds(f"{first}-{first + length}") == list(range(first, first + length + 1))


@pytest.mark.parametrize("text", ["", "a", "-1", "1,,2", "3-1", "1,1", "0-2,1", "0-1000000", "1.5"])
def test_seeds_that_are_none(text):
    with pytest.raises(ComparisonError, match="--seeds"):
        parse_seeds(text)


def test_algorithms_have_labels():
    assert parse_algorithms("ssd, marginal=ssd") == [Named("ssd", "ssd"), Named("marginal", "ssd")]


@pytest.mark.parametrize("text", ["", "ssd,", "ssd,ssd", "a=ssd,a=bc", "../x=ssd", "a/b", ".x=ssd"])
def test_algorithms_that_are_none(text):
    with pytest.raises(ComparisonError, match="--algorithms"):
        parse_algorithms(text)


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert parse_datasets("a=b,c=d") == [Named("", "a=b"), Named("c", "d")]
    assert parse_datasets("x/v1-n_agents=3") == [Named("", "x/v1-n_agents=3")]


@pytest.mark.parametrize(
    ("text", "target", "override"),
    [
        ("experiment.gamma=0.9", None, "experiment.gamma=0.9"),
        ("ssd:algorithm.beta=1", "ssd", "algorithm.beta=1"),
        ("mpe/world/expert:model=layers/gnn", "mpe/world/expert", "model=layers/gnn"),
        ("++a.b='x:y=z'", None, "++a.b='x:y=z'"),
        ('e.map={"cuda:0":"cpu"}', None, 'e.map={"cuda:0":"cpu"}'),
        ("ssd:+a.b=", "ssd", "+a.b="),
    ],
)
def test_overrides(text, target, override):
    assert parse_override(text) == Override(override, target)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("seed=1", "--seeds"),
        ("ssd:algorithm=bc", "--algorithms"),
        ("task=mpe/world", "--task"),
        ("++algorithm.dataset=x", "--datasets"),
        ("hydra.run.dir=x", "--launcher"),
        ("experiment.save_folder=x", "--out"),
        ("gamma", "KEY=VALUE"),
        ("", "KEY=VALUE"),
    ],
)
def test_overrides_that_the_grid_sets(text, instead):
    with pytest.raises(ComparisonError, match=instead):
        parse_override(text)


def test_an_override_for_nothing_is_a_mistake():
    with pytest.raises(ComparisonError, match=r"bc, ssd; found one for 'sdd' \(a=1\)"):
        check_targets([Override("a=1", "sdd")], ["ssd", "bc"])


keys = st.sampled_from(["a.x", "a.y", "b"])
targets = st.sampled_from([None, "ssd", "bc"])


@given(st.lists(st.tuples(keys, st.integers(0, 9), targets)))
def test_the_last_override_of_a_key_counts(given_overrides):
    overrides = [Override(f"{key}={value}", target) for key, value, target in given_overrides]
    wanted = {key: value for key, value, target in given_overrides if target in (None, "ssd")}
    chosen = overrides_for(overrides, ["ssd"])
    assert dict(each.split("=") for each in chosen) == {k: str(v) for k, v in wanted.items()}


plain = st.none() | st.booleans() | st.integers(-(10**9), 10**9)
# Hydra resolves ${...}; a path with that in its name would be read as an interpolation.
text = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="$\r\n"))
names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(lambda name: name not in ("null",))
values = st.recursive(
    plain | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@given(values)
def test_hydra_reads_what_is_written(value):
    found = OverridesParser.create().parse_override(f"key={literal(value)}").value()
    assert found == value

"""Datasets made out of datasets have exactly the episodes asked for, and say where from."""

import hashlib
import json
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from benchmarl_ssd.data import (
    DatasetError,
    DatasetWriter,
    OfflineDataset,
    validate,
)
from benchmarl_ssd.data.auditing import audit
from benchmarl_ssd.data.editing import Selection, merge, split, subset
from benchmarl_ssd.data.examples import example_episodes, write_example

TASK = {"environment": "toy", "name": "left", "config": {"max_steps": 9, "n_agents": 2}}
REFERENCES = {"random": 0.0, "expert": 2.0}


def write(path, lengths=(3, 1, 4, 2), seed=0, high=1.0, agents=2, **kwargs):
    parts = [example_episodes(1, n, agents, seed=seed * 100 + i) for i, n in enumerate(lengths)]
    groups = {"agents": [f"agent_{i}" for i in range(agents)]}
    limit = torch.ones(agents, 1)
    bounds = {"agents": {"low": -limit, "high": high * limit}}
    settings = {"groups": groups, "action_bounds": bounds, "task": TASK, **kwargs}
    with DatasetWriter(path, **settings) as writer:
        writer.extend(torch.cat(parts))
    return path


def episodes(path):
    """Give each episode as the bytes of everything it holds, in the dataset's order."""
    data = OfflineDataset(path, check="full").data
    ends = data["next", "done"].flatten().nonzero().flatten() + 1
    parts = data.exclude("episode").split(torch.diff(ends, prepend=torch.tensor([0])).tolist())
    keys = sorted(data.exclude("episode").keys(True, True), key=str)
    return [b"".join(part[key].numpy().tobytes() for key in keys) for part in parts]


def returns(path):
    data = OfflineDataset(path).data
    reward = data["next", "agents", "reward"].double().mean((1, 2))
    count = int(data["episode"][-1]) + 1
    return torch.zeros(count, dtype=torch.float64).index_add_(0, data["episode"], reward)


def fingerprint(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


LENGTHS = st.lists(st.integers(1, 6), min_size=2, max_size=12)
EVERYWHERE = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(params=[1, 10**7], ids=["an episode a piece", "one piece"])
def piece(request, monkeypatch):
    monkeypatch.setattr("benchmarl_ssd.data.reading.CHUNK_BYTES", request.param)


# -------------------------------------------------------------------------- what must be the case


@EVERYWHERE
@given(
    lengths=LENGTHS,
    cuts=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    by=st.sampled_from(["random", "order", "return"]),
    piece=st.sampled_from([1, 500, 10**7]),
    seed=st.integers(0, 9),
)
def test_a_merged_split_is_the_dataset(
    tmp_path_factory, monkeypatch, lengths, cuts, by, piece, seed
):
    monkeypatch.setattr("benchmarl_ssd.data.reading.CHUNK_BYTES", piece)
    folder = tmp_path_factory.mktemp("split")
    path = write(folder / "data", lengths, references=REFERENCES)
    outs = [folder / str(part) for part in range(len(cuts))]
    edges = torch.tensor([0, *cuts]).cumsum(0) / sum(cuts) * len(lengths)
    assume(len(set(map(round, edges.tolist()))) == len(edges))
    parts = split(path, outs, [cut / sum(cuts) for cut in cuts], by=by, seed=seed)
    whole = merge(outs, folder / "merged")
    assert Counter(episodes(folder / "merged")) == Counter(episodes(path))
    original = validate(path)
    assert whole.counts == original.counts
    assert whole.episode_length == original.episode_length
    assert whole.episode_return == pytest.approx(original.episode_return)
    assert sum(part.episodes for part in parts) == len(lengths)
    assert whole.references == REFERENCES
    if by == "order":
        assert whole.checksum == original.checksum
    if by == "return":
        ranked = torch.cat([returns(out).sort().values for out in outs])
        assert torch.equal(ranked, ranked.sort().values)
    for out in [*outs, folder / "merged"]:
        assert not audit(out).errors


@EVERYWHERE
@given(
    lengths=LENGTHS,
    low=st.integers(0, 9),
    width=st.integers(1, 10),
    piece=st.sampled_from([1, 500, 10**7]),
)
def test_quantiles_are_exactly_those_episodes(
    tmp_path_factory, monkeypatch, lengths, low, width, piece
):
    monkeypatch.setattr("benchmarl_ssd.data.reading.CHUNK_BYTES", piece)
    low, high = low / 10, min(10, low + width) / 10
    first, last = round(low * len(lengths)), round(high * len(lengths))
    assume(first < last)
    folder = tmp_path_factory.mktemp("subset")
    path = write(folder / "data", lengths)
    found = subset(path, folder / "out", Selection(quantiles=(low, high)))
    order = torch.argsort(returns(path), stable=True)[first:last].sort().values
    content = episodes(path)
    assert episodes(folder / "out") == [content[i] for i in order.tolist()]
    assert found.episodes == last - first
    assert torch.equal(returns(folder / "out"), returns(path)[order])


@EVERYWHERE
@given(lengths=LENGTHS, wanted=st.integers(1, 30), seed=st.none() | st.integers(0, 9))
def test_transitions_are_whole_episodes_up_to_the_number(tmp_path_factory, lengths, wanted, seed):
    assume(wanted <= sum(lengths))
    folder = tmp_path_factory.mktemp("subset")
    path = write(folder / "data", lengths)
    found = subset(path, folder / "out", Selection(transitions=wanted, seed=seed))
    assert wanted <= found.transitions < wanted + max(lengths)
    kept, content = episodes(folder / "out"), episodes(path)
    assert not Counter(kept) - Counter(content)
    if seed is None:
        assert kept == content[: len(kept)]


# --------------------------------------------------------------------------------------- subset


def test_everything_is_the_same_dataset(tmp_path, piece):
    path = write(tmp_path / "data", references=REFERENCES)
    before = fingerprint(path)
    found = subset(path, tmp_path / "out")
    original = validate(path)
    assert found.checksum == original.checksum
    assert (found.task, found.references, found.groups) == (TASK, REFERENCES, original.groups)
    assert found.action_bounds == original.action_bounds
    assert fingerprint(path) == before


def test_options_narrow_the_choice_in_order(tmp_path, piece):
    path = write(tmp_path / "data", [2] * 10)
    best = torch.argsort(returns(path), stable=True)[5:].tolist()
    content = episodes(path)
    ids = range(2, 10)
    kept = [i for i in ids if i in best]
    selection = Selection(ids=ids, top=0.5, episodes=2)
    found = subset(path, tmp_path / "out", selection)
    assert episodes(tmp_path / "out") == [content[i] for i in kept[:2]]
    assert found.source["selection"] == {"ids": list(ids), "top": 0.5, "episodes": 2}


def test_a_seed_draws_and_repeats(tmp_path):
    path = write(tmp_path / "data", [1] * 40)
    chosen = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        subset(path, tmp_path / name, Selection(episodes=10, seed=seed))
        chosen[name] = episodes(tmp_path / name)
    assert chosen["a"] == chosen["b"] != chosen["c"]
    assert len(set(chosen["a"])) == 10
    assert chosen["a"] != episodes(path)[:10]


def test_sources_name_what_they_are_from(tmp_path):
    path = write(tmp_path / "data", id="toy/left/good", source={"kind": "recipe", "seed": 3})
    original = validate(path)
    merge([path, path], tmp_path / "merged")
    found = subset(tmp_path / "merged", tmp_path / "out", Selection(top=0.5))
    assert (found.id, found.source["kind"]) == (None, "subset")
    (parent,) = found.source["parents"]
    assert (parent["folder"], parent["source"]["kind"]) == ("merged", "merge")
    grandparents = parent["source"]["parents"]
    assert [entry["checksum"] for entry in grandparents] == [original.checksum] * 2
    assert [entry["id"] for entry in grandparents] == ["toy/left/good"] * 2
    assert grandparents[0]["source"]["seed"] == 3
    assert str(tmp_path) not in (tmp_path / "out" / "metadata.json").read_text()


def damage(folder, name, row, value):
    raw = json.loads((folder / "metadata.json").read_text())
    file = folder / raw["tensors"][name]["file"]
    values = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.float32)
    values.view(raw["tensors"][name]["shape"])[row, 0, 0] = value
    file.write_bytes(values.numpy().tobytes())


def test_sound_episodes_alone(tmp_path, piece):
    path = write(tmp_path / "data", [3, 1, 4, 2, 3, 2])
    content = episodes(path)
    damage(path, "agents/observation", 3, float("nan"))  # episode 1
    damage(path, "agents/action", 7, 3.0)  # episode 2
    damage(path, "next/agents/observation", 10, 0.5)  # episode 4: 10, 11, 12
    with pytest.raises(DatasetError):
        subset(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = subset(path, tmp_path / "out", sound=True)
    assert episodes(tmp_path / "out") == [content[i] for i in (0, 3, 5)]
    assert found.source["unsound_episodes_left_out"] == 3
    assert audit(tmp_path / "out").errors == 0


def test_the_best_are_chosen_among_sound_episodes(tmp_path):
    """An episode with a return that is no number is neither the best nor counted."""
    path = write(tmp_path / "data", lengths=(2,) * 10)
    sound = returns(path)
    damage(path, "next/agents/reward", 4, float("nan"))  # episode 2
    sound[2] = -torch.inf
    found = subset(path, tmp_path / "best", Selection(top=0.1), sound=True)
    assert found.episodes == 1
    assert found.episode_return["mean"] == pytest.approx(sound.max().item())
    third = subset(path, tmp_path / "third", Selection(top=1 / 3), sound=True)
    assert third.episodes == 3  # of nine


def test_a_time_limit_moves_ends_of_that_length_alone(tmp_path, piece):
    data = torch.cat([example_episodes(1, n, seed=n) for n in (5, 3, 5, 5)])
    data["next", "agents", "terminated"] = data["next", "terminated"].unsqueeze(1).expand(-1, 2, 1)
    data["next", "agents", "truncated"] = torch.zeros(18, 2, 1, dtype=torch.bool)
    bounds = {"agents": {"low": -torch.ones(2, 1), "high": torch.ones(2, 1)}}
    with DatasetWriter(tmp_path / "data", groups={"agents": ["a", "b"]}, action_bounds=bounds) as w:
        w.extend(data)
    found = subset(tmp_path / "data", tmp_path / "out", Selection(ids=[0, 1, 3]), time_limit=5)
    assert found.counts == {"transitions": 13, "episodes": 3, "terminated": 1, "truncated": 2}
    after = OfflineDataset(tmp_path / "out").data["next"]
    assert after["terminated"].flatten().nonzero().flatten().tolist() == [7]
    assert after["truncated"].flatten().nonzero().flatten().tolist() == [4, 12]
    for flag in ("terminated", "truncated"):
        assert torch.equal(after["agents", flag], after[flag].unsqueeze(1).expand(-1, 2, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantiles": (0.5, 0.5)}, "0 <= from < to <= 1, found 0.5 and 0.5"),
        ({"quantiles": (-0.1, 0.5)}, "0 <= from < to <= 1"),
        ({"top": 0.0}, "top in \\(0, 1\\]"),
        ({"top": 0.1}, "at least one episode of 4 to be selected, found none"),
        ({"top": 0.5, "quantiles": (0.0, 1.0)}, "either top or quantiles"),
        ({"episodes": 1, "transitions": 1}, "either episodes or transitions"),
        ({"episodes": 5}, "5 episodes to select, found 4"),
        ({"transitions": 11}, "11 transitions to select, found 10"),
        ({"episodes": 0}, "at least 1 of episodes"),
        ({"seed": 1}, "how many to draw"),
        ({"ids": [4]}, "from 0 to 3, found 4"),
        ({"ids": []}, "found none"),
    ],
)
def test_selections_that_select_nothing_are_errors(tmp_path, options, message):
    path = write(tmp_path / "data")
    with pytest.raises(DatasetError, match=message):
        subset(path, tmp_path / "out", Selection(**options))
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


# ---------------------------------------------------------------------------------------- merge


def test_merge_keeps_the_order_and_the_values(tmp_path, piece):
    a, b = write(tmp_path / "a", seed=1), write(tmp_path / "b", [2, 2], seed=2)
    found = merge([b, a], tmp_path / "out")
    assert episodes(tmp_path / "out") == episodes(b) + episodes(a)
    assert found.counts == {"transitions": 14, "episodes": 6, "terminated": 6, "truncated": 0}
    assert OfflineDataset(tmp_path / "out").data["episode"][-1] == 5


OTHERS = {
    "task": ({"task": {**TASK, "name": "right"}}, "task \\(toy/left; toy/right\\)"),
    "no task": ({"task": None}, "task \\(toy/left; none\\)"),
    "options": (
        {"task": {**TASK, "config": {"max_steps": 8, "n_agents": 2}}},
        "the task's max_steps \\(9; 8\\)",
    ),
    "agents": ({"agents": 3}, "groups \\(agents: agent_0, agent_1; .*observation \\(float32"),
    "names": ({"groups": {"agents": ["left", "right"]}}, "groups \\(.*; agents: left, right\\)"),
    "bounds": ({"high": 2.0}, "action bound high of agents \\(\\[\\[1.0\\], \\[1.0\\]\\]; "),
    "references": ({"references": {"random": 1.0}}, "equal references, found .*references-from"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_does_not_fit_is_not_merged(tmp_path, kind):
    options, message = OTHERS[kind]
    a = write(tmp_path / "a", references=REFERENCES)
    b = write(tmp_path / "b", **{"references": REFERENCES, **options})
    with pytest.raises(DatasetError, match=message):
        merge([a, b], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_references_are_those_of_the_one_named(tmp_path):
    a, b = write(tmp_path / "a", references=REFERENCES), write(tmp_path / "b")
    assert merge([a, b], tmp_path / "with", references_from=a).references == REFERENCES
    assert merge([a, b], tmp_path / "without", references_from=b).references is None
    with pytest.raises(DatasetError, match="give one of"):
        merge([a, b], tmp_path / "out", references_from=tmp_path)


# --------------------------------------------------------------- nothing half, nothing overwritten


@pytest.mark.parametrize("make", ["merge", "subset", "split"])
def test_what_is_there_stays(tmp_path, make):
    path = write(tmp_path / "data")
    (tmp_path / "out").mkdir()
    before = fingerprint(tmp_path)
    calls = {
        "merge": lambda out: merge([path, path], out),
        "subset": lambda out: subset(path, out),
        "split": lambda out: split(path, [tmp_path / "first", out]),
    }
    with pytest.raises(DatasetError, match="never overwritten"):
        calls[make](tmp_path / "out")
    with pytest.raises(DatasetError, match="outside of"):
        calls[make](path / "data" / "new")
    assert fingerprint(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out"]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_split_that_fails_at_its_end_leaves_no_part(tmp_path, monkeypatch, failing):
    path = write(tmp_path / "data")
    close, calls = DatasetWriter.close, []

    def failing_close(writer):
        calls.append(writer)
        if len(calls) == failing + 1:
            (tmp_path / f"part{failing}").mkdir()  # somebody else was faster
            (tmp_path / f"part{failing}" / "theirs").write_text("kept")
        return close(writer)

    monkeypatch.setattr(DatasetWriter, "close", failing_close)
    with pytest.raises(DatasetError, match="never overwritten"):
        split(path, [tmp_path / "part0", tmp_path / "part1"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", f"part{failing}"]
    assert (tmp_path / f"part{failing}" / "theirs").read_text() == "kept"


@pytest.mark.parametrize(
    ("outs", "fractions", "message"),
    [
        (["a", "b"], [0.5, 0.6], "sum to 1, found 0.5, 0.6"),
        (["a", "b"], [1.0, 0.0], "above 0"),
        (["a"], [1.0], "at least two fractions"),
        (["a", "b"], [1.0], "found 1 fractions and 2 folders"),
        (["a", "a"], None, "found 2 fractions and 1 folders"),
        ([], None, "expected folders to write.*found 0 fractions and 0 folders"),
        (["a", "b"], [0.95, 0.05], "none in part 2 of 4 episodes"),
    ],
)
def test_shares_that_cannot_be_are_errors(tmp_path, outs, fractions, message):
    path = write(tmp_path / "data")
    with pytest.raises(DatasetError, match=message):
        split(path, [tmp_path / out for out in outs], fractions)
    with pytest.raises(DatasetError, match="random, order or return, found 'luck'"):
        split(path, [tmp_path / "a", tmp_path / "b"], by="luck")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_damaged_dataset_is_not_handed_on(tmp_path):
    path = write_example(tmp_path / "data")
    damage(path, "next/agents/observation", 0, 0.25)
    for call in (
        lambda: subset(path, tmp_path / "out", Selection(ids=[3])),
        lambda: merge([path, path], tmp_path / "out"),
        lambda: split(path, [tmp_path / "out", tmp_path / "other"]),
    ):
        with pytest.raises(DatasetError, match="the contents were changed"):
            call()
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_equal_calls_write_equal_bytes(tmp_path):
    path = write(tmp_path / "data", [2] * 20)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        split(path, [tmp_path / name / "x", tmp_path / name / "y"], seed=5)
    sums = [
        sorted(hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / name).rglob("*.*"))
        for name in ("a", "b")
    ]
    assert sums[0] == sums[1]

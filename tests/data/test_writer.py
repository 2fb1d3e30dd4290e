"""Datasets come into being whole or not at all."""

# ruff: noqa: PT012 - what must raise is the end of a `with` block as a whole.

import hashlib
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from benchmarl_ssd.data import DatasetError, DatasetMetadata, DatasetWriter, OfflineDataset
from benchmarl_ssd.data.examples import example_episodes

INF = float("inf")
GROUPS = {"agents": ["agent_0", "agent_1"]}
BOUNDS = {"agents": {"low": -torch.ones(2, 1), "high": torch.ones(2, 1)}}


def new_writer(path, **kwargs):
    return DatasetWriter(path, **{"groups": GROUPS, "action_bounds": BOUNDS, **kwargs})


def test_chunks_are_appended_and_episodes_numbered(tmp_path):
    chunks = [example_episodes(seed=seed, length=seed + 1) for seed in range(3)]
    with new_writer(tmp_path / "data") as writer:
        for chunk in chunks:
            writer.extend(chunk)
    dataset = OfflineDataset(tmp_path / "data")
    whole = torch.cat(chunks)
    for key in whole.keys(True, True):
        assert torch.equal(dataset.data[key], whole[key]), key
    ends = dataset.data["next", "done"].flatten().long()
    assert torch.equal(dataset.data["episode"], ends.cumsum(0) - ends)
    assert dataset.metadata.counts == {
        "transitions": 24, "episodes": 12, "terminated": 6, "truncated": 6,
    }  # fmt: skip
    assert dataset.metadata.episode_length == {"mean": 2.0, "min": 1, "max": 3}


def test_returns_are_sums_over_time_of_means_over_agents_and_groups(tmp_path):
    groups = {"hunters": ["h0", "h1"], "prey": ["p0"]}
    end = torch.tensor([[False], [True], [True]])

    def group(n, reward):
        observation = torch.zeros(3, n, 4)
        return (
            {"observation": observation, "action": torch.zeros(3, n, 2)},
            {"observation": observation, "reward": torch.tensor(reward).view(3, n, 1)},
        )

    hunters, hunters_next = group(2, [1.0, 3.0, 2.0, 2.0, 0.0, 8.0])
    prey, prey_next = group(1, [-2.0, 0.0, 6.0])
    data = TensorDict(
        {
            "hunters": hunters,
            "prey": prey,
            "state": torch.zeros(3, 7),
            "next": {
                "hunters": hunters_next,
                "prey": prey_next,
                "state": torch.zeros(3, 7),
                "terminated": end,
                "truncated": torch.zeros_like(end),
            },
        },
        batch_size=[3],
    )
    bounds = {g: {"low": -torch.ones(len(a), 2), "high": torch.ones(len(a), 2)} for g, a in
              groups.items()}  # fmt: skip
    with DatasetWriter(tmp_path / "data", groups=groups, action_bounds=bounds) as writer:
        writer.extend(data)
    dataset = OfflineDataset(tmp_path / "data")
    # Episode 1: (2 - 2) / 2 + (2 + 0) / 2; episode 2: (4 + 6) / 2.
    assert dataset.metadata.episode_return == {
        "mean": 3.0, "std": 2.0, "min": 1.0, "max": 5.0, "median": 3.0,
    }  # fmt: skip
    mine = dataset.group_data("prey")
    assert set(mine.keys()) == {"prey", "state", "episode", "next"}
    assert set(mine["next"].keys()) == {"prey", "state", "done", "terminated", "truncated"}


def test_metadata_survives_its_text(tmp_path):
    task = {"environment": "vmas", "name": "balance", "config": {"n_agents": 2, "a": [1, (2,)]}}
    references = {"random": -1.5, "expert": None}
    with new_writer(
        tmp_path / "data", id="a/b", task=task, references=references, source={"kind": "policy"}
    ) as writer:
        writer.extend(example_episodes())
    read = DatasetMetadata.read(tmp_path / "data")
    assert read.to_json() == writer.metadata.to_json()
    assert (read.id, read.references, read.source["kind"]) == ("a/b", references, "policy")
    assert read.task == {**task, "config": {"a": [1, [2]], "n_agents": 2}}
    assert read.source["versions"]["torch"] == torch.__version__
    assert "agents/action: float32[20, 2, 1]" in repr(read)
    file = tmp_path / "data" / read.tensors["agents/action"].file
    assert hashlib.sha256(file.read_bytes()).hexdigest() == read.tensors["agents/action"].sha256


def with_entry(key, value):
    def change(data):
        data[key] = value(data[key]) if callable(value) else value
        return data

    return change


def without(*keys):
    return lambda data: data.exclude(*keys)


BAD_CHUNKS = {
    "nan": (
        with_entry(("agents", "observation"), lambda x: x * float("nan")),
        "found nan in agents/ob",
    ),
    "inf": (
        with_entry(("next", "agents", "reward"), lambda x: x / 0),
        "found -inf in next/agents/re",
    ),
    "bounds": (
        with_entry(("agents", "action"), lambda x: x + 3),
        "expected actions in \\[-1, 1\\]",
    ),
    "open end": (lambda data: data[:-1], "whole episodes"),
    "empty": (lambda data: data[:0], "batch size \\[t\\]"),
    "two dimensions": (lambda data: data.reshape(4, 5), "batch size \\[t\\]"),
    "flags": (with_entry(("next", "done"), lambda x: ~x), "done to be terminated or truncated"),
    "no action": (without(("agents", "action")), "agents/action"),
    "no observation": (without(("agents", "observation")), "agents/observation"),
    "no next": (without(("next", "agents", "observation")), "next/agents/observation"),
    "no reward": (without(("next", "agents", "reward")), "next/agents/reward"),
    "no truncated": (without(("next", "truncated")), "next/truncated"),
    "agents": (lambda data: data.apply(lambda x: x[:, :1] if x.ndim > 2 else x), "2 agents"),
    "reward's shape": (
        with_entry(("next", "agents", "reward"), torch.zeros(20, 2)),
        "float \\[T, 2, 1\\]",
    ),
    "more": (with_entry("hidden", torch.zeros(20, 3)), "found hidden as well"),
    "dtype": (
        with_entry(("agents", "observation"), lambda x: x.double()),
        "like agents/observation",
    ),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", BAD_CHUNKS)
def test_bad_chunks_are_refused_and_nothing_is_left(tmp_path, kind, first):
    change, message = BAD_CHUNKS[kind]
    with pytest.raises(DatasetError) as caught, new_writer(tmp_path / "a" / "b") as writer:
        if not first:
            writer.extend(example_episodes())
        writer.extend(change(example_episodes().clone()))
    if first:
        assert caught.match(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["folder", "file", "link"])
def test_nothing_is_overwritten(tmp_path, there):
    path = tmp_path / "data"
    if there == "folder":
        path.mkdir()
    elif there == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="never overwritten"):
        new_writer(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", ["empty", "full"])
def test_what_appears_meanwhile_is_kept(tmp_path, there):
    path = tmp_path / "data"
    with pytest.raises(DatasetError, match="never overwritten"), new_writer(path) as writer:
        writer.extend(example_episodes())
        path.mkdir()
        if there == "full":
            (path / "note").write_text("mine")
    assert list(tmp_path.iterdir()) == [path]
    assert len(list(path.iterdir())) == (there == "full")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_recording_leaves_nothing(tmp_path, error):
    with pytest.raises(error), new_writer(tmp_path / "new" / "data") as writer:
        writer.extend(example_episodes())
        raise error
    assert list(tmp_path.iterdir()) == []


def test_no_transitions_are_an_error(tmp_path):
    with pytest.raises(DatasetError, match="no transitions"), new_writer(tmp_path / "data"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_finished_writer_writes_no_more(tmp_path):
    with new_writer(tmp_path / "data") as writer:
        writer.extend(example_episodes())
    with pytest.raises(DatasetError, match="finished or given up"):
        writer.extend(example_episodes())
    assert len(OfflineDataset(tmp_path / "data")) == 20


@pytest.mark.parametrize(
    "arguments",
    [
        {"groups": {}, "action_bounds": {}},
        {"groups": {"next": ["a"]}, "action_bounds": {"next": BOUNDS["agents"]}},
        {"groups": {"a/b": ["a"]}, "action_bounds": {"a/b": BOUNDS["agents"]}},
        {"groups": {"agents": []}},
        {"action_bounds": {}},
    ],
)
def test_bad_arguments_write_nothing(tmp_path, arguments):
    with pytest.raises(DatasetError):
        new_writer(tmp_path / "data", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "low", [torch.ones(2, 1) * 2, -torch.ones(3, 1), torch.ones(2, 1) * float("nan"), "low", None]
)
def test_bad_bounds_are_refused(tmp_path, low):
    bounds = {"agents": {"low": low, "high": torch.ones(2, 1)}}
    with (
        pytest.raises(DatasetError, match="bound"),
        new_writer(tmp_path / "data", action_bounds=bounds) as writer,
    ):
        writer.extend(example_episodes())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error(tmp_path):
    # A limit on the size of files fails as a full disk does, in a process of its own.
    script = f"""
        import resource, torch
        from benchmarl_ssd.data import DatasetError
        from benchmarl_ssd.data.examples import write_example
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_example({str(tmp_path / "data")!r}, episodes=1000, length=50)
        except DatasetError as error:
            print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith(f"cannot write {tmp_path / 'data'}")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="cannot write"):
        new_writer(tmp_path / "file" / "data")


def test_folders_have_the_usual_permissions(tmp_path):
    with new_writer(tmp_path / "data") as writer:
        writer.extend(example_episodes())
    (tmp_path / "plain").mkdir()
    modes = {os.stat(tmp_path / name).st_mode for name in ("data", "plain")}  # noqa: PTH116
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"references": {"random": float("nan")}}, r"finite number or null at references.random"),
        ({"references": {"random": "low"}}, r"finite number or null at references.random"),
        ({"task": {"environment": "toy", "name": "left"}}, r"an entry at task.config"),
        (
            {"task": {"environment": "t", "name": "l", "config": {"c": float("inf")}}},
            "finite.*task",
        ),
        ({"source": {"noise": INF}}, "finite numbers in source"),
        ({"id": 3}, "str or NoneType at id"),
    ],
)
def test_what_could_not_be_written_or_read_is_refused_at_the_start(about, told, tmp_path):
    with pytest.raises(DatasetError, match=told) as error:
        new_writer(tmp_path / "data", **about)
    assert "restore the file" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path):
    references = {"random": np.float32(0.5), "expert": torch.tensor(2.0), "other": None}
    config = {"steps": np.int64(3), "places": np.array([1.0, 2.0])}
    task = {"environment": "toy", "name": "left", "config": config}
    with new_writer(tmp_path / "data", references=references, task=task) as writer:
        writer.extend(example_episodes())
    metadata = OfflineDataset(tmp_path / "data").metadata
    assert metadata.references == {"random": 0.5, "expert": 2.0, "other": None}
    assert metadata.task["config"] == {"steps": 3, "places": [1.0, 2.0]}


def test_closing_again_changes_nothing(tmp_path):
    with new_writer(tmp_path / "data") as writer:
        writer.extend(example_episodes())
        metadata = writer.close()
    assert writer.close() is metadata
    assert OfflineDataset(tmp_path / "data").metadata == metadata

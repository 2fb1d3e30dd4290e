"""Datasets open without a copy, stay as they are, and say clearly when they are damaged."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.data import SamplerWithoutReplacement
from torchrl.data.datasets.common import BaseDatasetExperienceReplay

from benchmarl_ssd.data import DatasetError, DatasetWriter, OfflineDataset, validate
from benchmarl_ssd.data.examples import example_episodes, write_example


@pytest.fixture
def folder(tmp_path):
    return write_example(tmp_path / "data")


def fingerprint(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_mode)
        + ((hashlib.sha256(path.read_bytes()).hexdigest(),) if path.is_file() else ())
        for path in [folder, *folder.rglob("*")]
    }


# ---------------------------------------------------------------------------- sound datasets


def test_it_is_a_torchrl_dataset(folder):
    dataset = OfflineDataset(folder, batch_size=8)
    assert isinstance(dataset, BaseDatasetExperienceReplay)
    assert (dataset.data_path, dataset.data_path_root) == (folder, folder.parent)
    assert len(dataset) == 20
    assert dataset.sample()["next", "agents", "reward"].shape == (8, 2, 1)
    assert dataset[3]["agents", "action"].shape == (2, 1)
    assert "agents/observation: float32[20, 2, 3]" in repr(dataset)


def test_samplers_and_transforms_are_torchrls(folder):
    from torchrl.envs import RewardScaling

    transform = RewardScaling(0.0, 10.0, in_keys=[("next", "agents", "reward")])
    dataset = OfflineDataset(
        folder, batch_size=5, sampler=SamplerWithoutReplacement(), transform=transform
    )
    seen = [dataset.sample() for _ in range(4)]
    assert sorted(torch.cat([s["index"] for s in seen]).tolist()) == list(range(20))
    reward = dataset.data["next", "agents", "reward"][seen[0]["index"]]
    assert torch.allclose(seen[0]["next", "agents", "reward"], reward * 10)


def test_plain_tensordict_opens_the_data(folder):
    loaded = TensorDict.load_memmap(folder / "data")
    data = OfflineDataset(folder).data
    assert loaded.batch_size == data.batch_size
    assert set(loaded.keys(True, True)) == set(data.keys(True, True))
    assert all((loaded[key] == data[key]).all() for key in data.keys(True, True))


def test_index_files_are_those_of_tensordict(folder, tmp_path):
    OfflineDataset(folder).data.clone().memmap(tmp_path / "theirs")
    for file in (tmp_path / "theirs").rglob("meta.json"):
        ours = folder / "data" / file.relative_to(tmp_path / "theirs")
        assert json.loads(ours.read_text()) == json.loads(file.read_text())


def test_values_are_mapped_not_copied(folder):
    dataset = OfflineDataset(folder)
    assert dataset.group_data("agents")["agents", "action"].data_ptr() == (
        dataset.data["agents", "action"].data_ptr()
    )
    maps = Path("/proc/self/maps")
    if maps.exists():
        lines = [line for line in maps.read_text().splitlines() if str(folder) in line]
        assert len(lines) == len(dataset.metadata.tensors)
        assert all(line.split()[1] == "rw-p" for line in lines)  # private: writes stay in memory


def test_the_folder_is_the_same_before_and_after_use(folder):
    before = fingerprint(folder)
    dataset = OfflineDataset(folder, batch_size=4)
    dataset.sample()
    dataset.data["agents", "action"].fill_(0.5)
    dataset.data.zero_()
    assert not hasattr(dataset.storage, "scratch_dir")
    assert dataset.state_dict() == {}
    dataset.load_state_dict({})
    for use in (
        lambda: dataset.add(dataset[0]),
        lambda: dataset.extend(dataset[:2]),
        lambda: dataset.__setitem__(0, dataset[0]),
        dataset.empty,
        dataset.delete,
        lambda: dataset.loads(folder),
    ):
        with pytest.raises(DatasetError, match="read-only"):
            use()
    assert fingerprint(folder) == before


def test_a_read_only_folder_opens(folder):
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(OfflineDataset(folder, batch_size=2).sample()) == 2
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_moved_or_linked_folder_opens(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "copy")
    checksums = {
        OfflineDataset(tmp_path / name).metadata.checksum for name in ("data", "copy", "link")
    }
    assert len(checksums) == 1


def test_an_unknown_group_is_an_error(folder):
    with pytest.raises(DatasetError, match="groups \\['agents'\\], found 'prey'"):
        OfflineDataset(folder).group_data("prey")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    agents=st.integers(1, 4),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    chunked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_whatever_is_written_is_read(
    tmp_path_factory, lengths, agents, sizes, dtype, chunked, seed
):
    torch.manual_seed(seed)
    path = tmp_path_factory.mktemp("round") / "trip"
    episodes = []
    for length in lengths:
        observation = torch.randn(length + 1, agents, sizes[0]).to(dtype)
        terminated, truncated = torch.zeros(2, length, 1, dtype=torch.bool)
        (terminated if torch.rand(()) < 0.5 else truncated)[-1] = True
        episodes.append(
            TensorDict(
                {
                    "team": {
                        "observation": {"vector": observation[:-1], "seen": observation[:-1] > 0},
                        "action": (torch.rand(length, agents, sizes[1]) * 2 - 1).to(dtype),
                    },
                    "next": {
                        "team": {
                            "observation": {"vector": observation[1:], "seen": observation[1:] > 0},
                            "reward": torch.randn(length, agents, 1).to(dtype),
                        },
                        "terminated": terminated,
                        "truncated": truncated,
                    },
                },
                batch_size=[length],
            )
        )
    whole = torch.cat(episodes)
    limit = torch.ones(agents, sizes[1])
    with DatasetWriter(
        path,
        groups={"team": [str(i) for i in range(agents)]},
        action_bounds={"team": {"low": -limit, "high": limit}},
    ) as writer:
        for chunk in episodes if chunked else [whole]:
            writer.extend(chunk)
    dataset = OfflineDataset(path, check="full")
    for key in whole.keys(True, True):
        assert torch.equal(dataset.data[key], whole[key])
    assert dataset.metadata.counts["episodes"] == len(lengths)
    assert dataset.metadata.episode_length["max"] == max(lengths)
    reward = whole["next", "team", "reward"].double().mean((1, 2))
    returns = torch.stack([part.sum() for part in reward.split(lengths)])
    assert dataset.metadata.episode_return["mean"] == pytest.approx(returns.mean().item(), abs=1e-9)


# -------------------------------------------------------------------------- damaged datasets


def edit(change):
    """Change the metadata, its own checksum included: what is left to find is the change."""

    def damage(folder):
        file = folder / "metadata.json"
        raw = json.loads(file.read_text())
        change(raw)
        file.write_text(json.dumps(raw))

    return damage


def put(name, index, value, dtype=torch.float32):
    """Write one value into a tensor's file."""

    def damage(folder):
        file = folder / "data" / f"{name}.memmap"
        values = torch.frombuffer(bytearray(file.read_bytes()), dtype=dtype)
        values[index] = value
        file.write_bytes(values.numpy().tobytes())

    return damage


def link_out(folder):
    file = folder / "data" / "episode.memmap"
    shutil.move(file, folder.parent / "elsewhere")
    file.symlink_to(folder.parent / "elsewhere")


def resize(name, by):
    def damage(folder):
        file = folder / name
        os.truncate(file, file.stat().st_size + by)

    return damage


def shapes(name, shape):
    def change(raw):
        raw["tensors"][name]["shape"] = shape

    return change


def no_transitions(folder):
    def change(raw):
        raw["counts"]["transitions"] = 0
        for info in raw["tensors"].values():
            info["shape"][0] = info["bytes"] = 0

    edit(change)(folder)
    for file in folder.rglob("*.memmap"):
        file.write_bytes(b"")


FAST = {
    "no folder": (shutil.rmtree, "found nothing there"),
    "a file": (
        lambda f: (shutil.rmtree(f), f.write_text("")),
        "expected a folder at .* found a file",
    ),
    "an empty folder": (
        lambda f: [shutil.rmtree(f), f.mkdir()],
        "expected metadata.json in .* a dataset is a folder",
    ),
    "no metadata": (lambda f: (f / "metadata.json").unlink(), "expected metadata.json in"),
    "metadata is a folder": (
        lambda f: [(f / "metadata.json").unlink(), (f / "metadata.json").mkdir()],
        "expected a file",
    ),
    "no data": (lambda f: shutil.rmtree(f / "data"), "expected data in"),
    "no JSON": (lambda f: (f / "metadata.json").write_text("{"), "expected JSON"),
    "deep JSON": (lambda f: (f / "metadata.json").write_text("[" * 100_000), "expected JSON"),
    "no text": (lambda f: (f / "metadata.json").write_bytes(b"\xff\xfe\x00"), "not UTF-8"),
    "a list": (lambda f: (f / "metadata.json").write_text("[]"), "holds something else"),
    "another format": (edit(lambda raw: raw.update(format="minari")), "found 'minari'"),
    "version": (
        edit(lambda raw: raw.update(format_version=7)),
        "unknown format version 7; this package reads version 1; upgrade",
    ),
    "version's type": (edit(lambda raw: raw.update(format_version=True)), "unknown format version"),
    "missing entry": (edit(lambda raw: raw.pop("groups")), "an entry at groups"),
    "wrong type": (edit(lambda raw: raw.update(tensors=[])), "dict at tensors"),
    "wrong count": (edit(lambda raw: raw["counts"].update(episodes="4")), "int at counts.episodes"),
    "no groups": (edit(lambda raw: raw.update(groups={})), "at least one group"),
    "no agents": (edit(lambda raw: raw.update(groups={"agents": []})), "agents' names"),
    "dtype": (edit(lambda raw: raw["tensors"]["episode"].update(dtype="object")), "one of float16"),
    "negative shape": (edit(shapes("episode", [-20])), "a list of sizes"),
    "size": (edit(shapes("agents/action", [20, 2, 9])), "1440 .* at tensors.agents/action.bytes"),
    "path out": (
        edit(lambda raw: raw["tensors"]["episode"].update(file="../elsewhere")),
        "expected 'data/episode.memmap' at tensors.episode.file",
    ),
    "absolute path": (
        edit(lambda raw: raw["tensors"]["episode"].update(file="/etc/passwd")),
        "episode.memmap'",
    ),
    "name out": (
        edit(lambda raw: raw["tensors"].update({"../x": raw["tensors"]["episode"]})),
        "tensor names such as",
    ),
    "index out": (
        edit(lambda raw: raw["index"].update({"/etc/hostname": {"bytes": 1, "sha256": ""}})),
        "/etc/hostname",
    ),
    "link out": (link_out, "a link out of it"),
    "missing file": (
        lambda f: (f / "data" / "agents" / "action.memmap").unlink(),
        "expected data/agents/action.memmap in .* No such file",
    ),
    "missing index": (lambda f: (f / "data" / "meta.json").unlink(), "expected data/meta.json in"),
    "truncated file": (
        resize("data/agents/observation.memmap", -4),
        "480 bytes .* found 476.*truncated",
    ),
    "long file": (resize("data/next/done.memmap", 1), "20 bytes .* found 21.*too long"),
    "agents": (
        edit(lambda raw: raw["groups"]["agents"].append("third")),
        "\\[T, 3, ...\\] for the 3",
    ),
    "bounds": (
        edit(lambda raw: raw["action_bounds"]["agents"].update(low=[[0.0]])),
        "of shape \\[2, 1\\]",
    ),
    "transitions": (
        edit(lambda raw: raw["counts"].update(transitions=21)),
        "expected 21 transitions .* found 20",
    ),
    "empty": (no_transitions, "empty dataset"),
    "checksum": (
        edit(lambda raw: raw.update(checksum="0" * 64)),
        "expected checksum .* was changed",
    ),
    "tensor's checksum": (
        edit(lambda raw: raw["tensors"]["episode"].update(sha256="0" * 64)),
        "was changed",
    ),
    "references": (
        edit(lambda raw: raw.update(references={"random": "low"})),
        "at references.random",
    ),
}
FULL = {
    "nan": (
        put("agents/observation", 13, float("nan")),
        "finite values, found nan in agents/observation at transition 2",
    ),
    "inf": (
        put("next/agents/reward", 39, float("inf")),
        "finite values, found inf in next/agents/reward at transition 19",
    ),
    "out of bounds": (
        put("agents/action", 7, 1.5),
        "actions in \\[-1, 1\\], found 1.5 in agents/action at transition 3, agent 1",
    ),
    "done": (put("next/done", 2, True, torch.bool), "done=True, terminated=False, .* transition 2"),
    "both flags": (put("next/truncated", 3, True, torch.bool), "transition 3"),
    "episodes": (put("episode", 7, 0, torch.int64), "expected episode 1, found 0 at transition 7"),
    "contents": (
        put("next/agents/observation", 0, 0.25),
        "checksum .*next/agents/observation.memmap",
    ),
    "index": (
        lambda f: (f / "data" / "meta.json").write_bytes(
            b" " * (f / "data" / "meta.json").stat().st_size
        ),
        "checksum .*data/meta.json",
    ),
}


@pytest.mark.parametrize("kind", FAST)
def test_damage_found_by_the_fast_check(folder, kind):
    damage, message = FAST[kind]
    damage(folder)
    for check in ("fast", "full"):
        with pytest.raises(DatasetError, match=message):
            OfflineDataset(folder, check=check)


@pytest.mark.parametrize("kind", FULL)
def test_damage_found_by_the_full_check(folder, kind):
    damage, message = FULL[kind]
    damage(folder)
    before = fingerprint(folder)
    with pytest.raises(DatasetError, match=message):
        OfflineDataset(folder)
    validate(folder, "fast")
    assert fingerprint(folder) == before


def test_a_string_is_a_path_too(folder):
    assert validate(str(folder)).episodes == 4


def test_damage_far_in_a_large_file_is_found(tmp_path):
    folder = write_example(tmp_path / "data", episodes=4000, length=200)
    put("next/agents/observation", 4_700_000, float("nan"))(folder)
    with pytest.raises(DatasetError, match="at transition 783333"):
        OfflineDataset(folder)


def test_an_unknown_check_is_an_error(folder):
    with pytest.raises(DatasetError, match="full, fast, auto"):
        OfflineDataset(folder, check="none")


def test_example_chunks_have_whole_episodes():
    assert example_episodes(episodes=3, length=2)["next", "done"].flatten().tolist() == [
        False, True, False, True, False, True,
    ]  # fmt: skip

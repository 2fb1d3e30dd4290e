"""Datasets open without a copy, and stay as they are."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from folders import fingerprint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torchrl.data import SamplerWithoutReplacement
from torchrl.data.datasets.common import BaseDatasetExperienceReplay

from benchmarl_ssd.data import DatasetError, DatasetWriter, OfflineDataset
from benchmarl_ssd.data.examples import example_episodes, write_example


@pytest.fixture
def folder(tmp_path):
    return write_example(tmp_path / "data")


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


def test_example_chunks_have_whole_episodes():
    assert example_episodes(episodes=3, length=2)["next", "done"].flatten().tolist() == [
        False, True, False, True, False, True,
    ]  # fmt: skip

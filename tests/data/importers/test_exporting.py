"""Export and import give the very same dataset, and the file is plain HDF5."""

import json

import h5py
import numpy as np
import pytest
import torch
from import_sources import own_arrays, played

from benchmarl_ssd.data import DatasetError, DatasetWriter, OfflineDataset, from_arrays
from benchmarl_ssd.data.examples import example_episodes, write_example
from benchmarl_ssd.data.exporting import export
from benchmarl_ssd.data.importers import exported, import_exported


def write_rich(path):
    """Two groups, several dtypes, a state, a mask, nested keys."""
    data = example_episodes(episodes=6)
    bounds = {"low": -torch.ones(2, 1), "high": torch.ones(2, 1)}
    count = len(data)
    walkers = {
        "action": torch.arange(3 * count).view(count, 3) % 5,
        "observation": {"image": torch.randint(0, 255, (count, 3, 4, 4), dtype=torch.uint8),
                        "speed": torch.randn(count, 3, 1).to(torch.bfloat16)},
        "action_mask": torch.rand(count, 3, 5) < 0.5,
    }  # fmt: skip
    data["walkers"] = walkers
    data["state"] = torch.randn(count, 7, dtype=torch.float64)
    data["next", "state"] = torch.randn(count, 7, dtype=torch.float64)
    data["next", "walkers"] = {k: v for k, v in walkers.items() if k != "action"}
    data["next", "walkers", "reward"] = torch.randn(count, 3, 1)
    with DatasetWriter(
        path,
        groups={"agents": ["a", "b"], "walkers": ["x", "y", "z"]},
        action_bounds={"agents": bounds, "walkers": {"low": [0] * 3, "high": [4] * 3}},
        task={"environment": "logged", "name": "rich", "config": {"ä": [1, None, 0.1]}},
        id="a/b",
        references={"random": None, "expert": 0.1 + 0.2},
        source={"kind": "test", "note": "x" * 100_000},  # more than an HDF5 attribute holds
    ) as writer:
        writer.extend(data)
    return path


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("write", [write_example, write_rich])
def test_there_and_back(tmp_path, monkeypatch, write, compress):
    folder = write(tmp_path / "dataset")
    file = export(folder, tmp_path / "d.hdf5", compress=compress, progress=False)
    monkeypatch.setattr(exported, "_PIECE", 1)  # one episode at a time
    import_exported(file, tmp_path / "back", progress=False)
    before, after = (
        json.loads((p / "metadata.json").read_text()) for p in (folder, tmp_path / "back")
    )
    assert after == before
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path / "back") for p in (tmp_path / "back").rglob("*")
                           if p.is_file())  # fmt: skip
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    OfflineDataset(tmp_path / "back", check="full")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back", "d.hdf5", "dataset"]


def test_the_file_has_the_datasets_keys(tmp_path):
    dataset = OfflineDataset(write_rich(tmp_path / "dataset"))
    file = export(dataset.data_path, tmp_path / "d.hdf5", progress=False)
    with h5py.File(file) as archive:
        assert archive.attrs["format"] == "benchmarl-ssd dataset"
        for name, info in dataset.metadata.tensors.items():
            assert archive[name].shape == info.shape
            assert archive[name].attrs["torch_dtype"] == info.dtype
        np.testing.assert_array_equal(archive["state"][:], dataset.data["state"].numpy())
        assert archive["walkers/action_mask"].dtype == np.dtype(bool)


def test_pieces_of_a_larger_dataset(tmp_path):
    from_arrays(tmp_path / "dataset", **own_arrays(played(lengths=(300,) * 100, n=3, size=40)))
    file = export(tmp_path / "dataset", tmp_path / "d.hdf5", compress=False, progress=False)
    metadata = import_exported(file, tmp_path / "back", progress=False)
    assert metadata.transitions == 30_000
    assert metadata.size > 3 * exported._PIECE
    assert metadata.checksum == OfflineDataset(tmp_path / "dataset").metadata.checksum


def test_a_change_since_the_export_is_told(tmp_path):
    file = export(write_example(tmp_path / "d"), tmp_path / "d.hdf5", progress=False)
    with h5py.File(file, "r+") as archive:
        archive["next/agents/reward"][3] = 0.25
    with pytest.warns(UserWarning, match="changed since its export"):
        import_exported(file, tmp_path / "back", progress=False)
    assert OfflineDataset(tmp_path / "back").data["next", "agents", "reward"][3, 0] == 0.25


def test_a_flipped_bit_is_found(tmp_path):
    file = export(write_example(tmp_path / "d"), tmp_path / "d.hdf5", compress=False,
                  progress=False)  # fmt: skip
    with h5py.File(file) as archive:
        at = archive["agents/action"].id.get_chunk_info(0).byte_offset
    content = bytearray(file.read_bytes())
    content[at + 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DatasetError, match="cannot read"):
        import_exported(file, tmp_path / "back", progress=False)
    assert not (tmp_path / "back").exists()


def test_an_export_replaces_nothing(tmp_path):
    folder = write_example(tmp_path / "d")
    (tmp_path / "d.hdf5").write_text("mine")
    with pytest.raises(DatasetError, match="nothing is yet"):
        export(folder, tmp_path / "d.hdf5")
    assert (tmp_path / "d.hdf5").read_text() == "mine"
    with pytest.raises(DatasetError, match="expected a file outside of"):
        export(folder, folder / "d.hdf5")
    with pytest.raises(DatasetError, match="expected a folder"):
        export(folder, tmp_path / "no" / "d.hdf5")
    (folder / "data" / "episode.memmap").write_bytes(b"")
    with pytest.raises(DatasetError, match="truncated"):
        export(folder, tmp_path / "e.hdf5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "d.hdf5"]

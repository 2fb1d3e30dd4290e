"""Reading in pieces gives what reading at once gives, in pieces that are bounded."""

import hashlib
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarl_ssd.data import DatasetError, DatasetMetadata, DatasetWriter, OfflineDataset
from benchmarl_ssd.data.examples import example_episodes, write_example
from benchmarl_ssd.data.reading import EpisodeTable, read_episodes, read_rows, whole_episodes

EVERYWHERE = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=10)


def write(path, lengths):
    bounds = {"agents": {"low": -torch.ones(2, 1), "high": torch.ones(2, 1)}}
    with DatasetWriter(path, groups={"agents": ["a", "b"]}, action_bounds=bounds) as writer:
        for seed, length in enumerate(lengths):
            writer.extend(example_episodes(1, length, seed=seed))
    return path, writer.metadata


@pytest.mark.parametrize("limit", [1, 400, 10**7])
def test_pieces_are_the_whole_and_bounded(tmp_path, monkeypatch, limit):
    monkeypatch.setattr("benchmarl_ssd.data.reading.CHUNK_BYTES", limit)
    path = write_example(tmp_path / "data")
    metadata = DatasetMetadata.read(path)
    digests = {name: hashlib.sha256() for name in metadata.tensors}
    pieces = list(read_rows(path, metadata.tensors, digests=digests))
    row_bytes = metadata.size // metadata.transitions
    for _, rows in pieces:
        size = sum(values.numel() * values.element_size() for values in rows.values())
        assert size <= max(limit, row_bytes)
    data = OfflineDataset(path).data
    for name, info in metadata.tensors.items():
        whole = torch.cat([rows[name] for _, rows in pieces])
        assert torch.equal(whole, data[tuple(name.split("/"))])
        assert digests[name].hexdigest() == info.sha256
    assert next(row for row, _ in pieces) == 0


@EVERYWHERE
@given(lengths=LENGTHS, cuts=st.integers(1, 7))
def test_an_episode_table_does_not_depend_on_the_pieces(tmp_path_factory, lengths, cuts):
    path, metadata = write(tmp_path_factory.mktemp("table") / "data", lengths)
    table = EpisodeTable(["agents"])
    tensors = {name: metadata.tensors[name] for name in table.names}
    spans = [(a, min(a + cuts, sum(lengths))) for a in range(0, sum(lengths), cuts)]
    for _, rows in read_rows(path, tensors, spans):
        table.add(rows)
    found, at_once = table.episodes(), read_episodes(path, metadata)
    assert found.lengths.tolist() == lengths
    assert found.starts.tolist() == [sum(lengths[:i]) for i in range(len(lengths))]
    assert torch.equal(found.returns, at_once.returns)
    assert found.returns.mean().item() == pytest.approx(metadata.episode_return["mean"])
    assert found.terminated.all()


@EVERYWHERE
@given(lengths=LENGTHS, data=st.data(), limit=st.sampled_from([1, 300, 1000, 10**7]))
def test_spans_are_whole_episodes_with_all_that_is_chosen(
    tmp_path_factory, monkeypatch, lengths, data, limit
):
    monkeypatch.setattr("benchmarl_ssd.data.reading.CHUNK_BYTES", limit)
    path, metadata = write(tmp_path_factory.mktemp("spans") / "data", lengths)
    episodes = read_episodes(path, metadata)
    count = len(lengths)
    chosen = torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    spans = list(whole_episodes(metadata, episodes, chosen))
    starts, ends = episodes.starts, episodes.starts + episodes.lengths
    rows = limit // (metadata.size // metadata.transitions)
    for start, stop in spans:
        assert start in starts
        assert stop in ends
        assert stop - start <= max(rows, max(lengths))
    assert all(first[1] <= second[0] for first, second in pairwise(spans))
    covered = [any(a <= s and e <= b for a, b in spans) for s, e in zip(starts, ends, strict=True)]
    assert all(covered[i] for i in chosen.nonzero().flatten())
    assert bool(spans) == bool(chosen.any())


def test_flags_that_count_otherwise_are_an_error(tmp_path):
    path = write_example(tmp_path / "data")
    file = path / "data" / "next" / "done.memmap"
    content = bytearray(file.read_bytes())
    content[2] = 1
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"expected 4 whole episodes .* found 5"):
        read_episodes(path, DatasetMetadata.read(path))

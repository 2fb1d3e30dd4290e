"""What a description says of datasets whose numbers are known."""

import json

import pytest
import torch
from tensordict import TensorDict

from benchmarl_ssd.cli import main
from benchmarl_ssd.data import DatasetError, DatasetWriter
from benchmarl_ssd.data.coverage import Grid, sample_observations
from benchmarl_ssd.data.describing import describe
from benchmarl_ssd.data.examples import write_example
from benchmarl_ssd.data.metadata import DatasetMetadata


def write(path, rewards, action, observation=None, high=2.0):
    """Write episodes of given rewards ``[[...], ...]``, one action and one observation per row."""
    lengths = [len(episode) for episode in rewards]
    total = sum(lengths)
    end = torch.zeros(total, 1, dtype=torch.bool)
    end[torch.tensor(lengths).cumsum(0) - 1] = True
    if observation is None:
        observation = torch.arange(total).float().view(total, 1, 1)
    data = TensorDict(
        {
            "team": {"observation": observation, "action": action},
            "next": {
                "team": {
                    "observation": observation,
                    "reward": torch.tensor([r for e in rewards for r in e]).view(-1, 1, 1).float(),
                },
                "terminated": end,
                "truncated": torch.zeros_like(end),
            },
        },
        batch_size=[total],
    )
    bounds = {"team": {"low": torch.zeros(1, 1), "high": torch.full((1, 1), high)}}
    with DatasetWriter(path, groups={"team": ["solo"]}, action_bounds=bounds) as writer:
        writer.extend(data)
    return path


@pytest.mark.parametrize("piece", [1, 10**7])
def test_numbers_of_a_known_dataset(tmp_path, monkeypatch, piece):
    monkeypatch.setattr("benchmarl_ssd.data.reading.CHUNK_BYTES", piece)
    rewards = [[1.0, 1.0], [3.0], [1.0, 2.0, 3.0, 1.0], [4.0], [0.0]]
    action = torch.tensor([0, 0, 0, 0.001, 0.5, 1, 2, 1.999, 1.5]).view(9, 1, 1)
    found = describe(write(tmp_path / "data", rewards, action))
    assert found.episodes.returns.tolist() == [2.0, 3.0, 7.0, 4.0, 0.0]
    assert found.episodes.starts.tolist() == [0, 2, 3, 7, 8]
    assert found.returns["mean"] == pytest.approx(3.2)
    assert found.returns["best"] == 7.0
    assert found.returns["std"] == pytest.approx(torch.tensor([2.0, 3, 7, 4, 0]).std(correction=0))
    assert found.returns["standard_error"] == pytest.approx(2.5884 / 5**0.5, rel=1e-4)
    quantiles = found.returns["quantiles"]
    assert (quantiles["0.0"], quantiles["0.5"], quantiles["1.0"]) == (0.0, 3.0, 7.0)
    assert quantiles["0.25"] == 2.0
    assert quantiles["0.05"] == pytest.approx(0.4)
    histogram = found.returns["histogram"]
    assert (len(histogram["counts"]), len(histogram["edges"])) == (20, 21)
    assert sum(histogram["counts"]) == 5
    for value in (0.0, 2.0, 3.0, 4.0, 7.0):  # each in the bin that its edges say
        at = min(int(value / 7.0 * 20 + 1e-9), 19)
        assert histogram["counts"][at] == 1, value
    assert found.lengths["mean"] == 1.8
    assert found.lengths["quantiles"]["1.0"] == 4.0
    actions = {name: values[0][0] for name, values in found.actions["team"].items()}
    assert actions["mean"] == pytest.approx(action.mean().item())
    assert actions["std"] == pytest.approx(action.std(correction=0).item())
    assert (actions["min"], actions["max"]) == (0.0, 2.0)
    # Bounds [0, 2]: within 0.002 of a bound.
    assert (actions["at_low"], actions["at_high"]) == (4 / 9, 2 / 9)
    json.dumps(found.to_dict(), allow_nan=False)


def test_equal_returns_and_one_episode(tmp_path):
    path = write(tmp_path / "data", [[1.0, 2.0]], torch.zeros(2, 1, 1))
    found = describe(path)
    assert found.returns["standard_error"] is None
    assert found.returns["histogram"] == {"edges": [3.0, 3.0], "counts": [1]}
    json.dumps(found.to_dict(), allow_nan=False)


def test_distinct_starts(tmp_path):
    observation = torch.tensor([5.0, 1, 5, 2, 7, 5]).view(6, 1, 1)
    rewards = [[0.0, 0.0], [0.0, 0.0], [0.0], [0.0]]
    path = write(tmp_path / "data", rewards, torch.zeros(6, 1, 1), observation)
    assert describe(path).coverage["distinct_starts"] == 2


# ------------------------------------------------------------------------------------- coverage


def measure(points):
    return Grid.fit(points).measure(points)


def test_evenly_filled_squares_fill_all_cells():
    side = torch.linspace(0, 1, 101)
    points = torch.cartesian_prod(side, side)
    found = measure(points)
    assert (found["cells"], found["dimensions"], found["axes"]) == (100, 2, 2)
    assert found["occupied"] == 100
    assert found["effective_cells"] == pytest.approx(100, rel=0.02)
    assert found["effective_dimensions"] == pytest.approx(2, abs=1e-3)
    assert found["outside"] < 0.04
    assert found["explained"] == pytest.approx(1.0)


def test_two_clusters_fill_two_cells():
    points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]).repeat(500, 1)
    found = measure(points)
    assert (found["occupied"], found["cells"]) == (2, 10)  # a line has one axis
    assert found["effective_cells"] == pytest.approx(2.0)
    assert found["effective_dimensions"] == pytest.approx(1.0)
    lopsided = measure(torch.cat([points, points[:1].expand(3000, 3)]))
    assert 1.0 < lopsided["effective_cells"] < 2.0


def test_what_never_varies_covers_one_cell():
    found = measure(torch.full((50, 4), 3.0))
    assert (found["dimensions"], found["axes"], found["effective_dimensions"]) == (0, 0, 0.0)
    assert (found["cells"], found["occupied"], found["effective_cells"]) == (1, 1, 1.0)


def test_units_do_not_matter():
    points = torch.randn(3000, 5, generator=torch.Generator().manual_seed(0))
    points[:, 3] += points[:, 0]
    scaled = points * torch.tensor([1.0, 1e-3, 1e4, 5.0, 2.0]) + 7
    for entry, value in measure(points).items():
        assert measure(scaled)[entry] == pytest.approx(value, rel=1e-2), entry


def test_one_grid_compares_datasets(tmp_path):
    side = torch.linspace(-1, 1, 60)
    square = torch.cartesian_prod(side, side).view(-1, 1, 2)
    quarter = square[(square > 0).all(-1).flatten()]
    paths = []
    for name, points in (("whole", square), ("part", quarter), ("far", square + 10)):
        n = len(points)
        paths.append(write(tmp_path / name, [[0.0]] * n, torch.zeros(n, 1, 1), points))
    whole, part = describe(paths[0]), describe(paths[1])
    assert part.coverage["share"] == pytest.approx(whole.coverage["share"], rel=0.05)
    compared = describe(paths[1], grid=whole.grid).coverage
    assert compared["effective_cells"] == pytest.approx(25, rel=0.1)
    assert describe(paths[2], grid=whole.grid).coverage["outside"] == 1.0
    assert describe(paths[2], grid=whole.grid).coverage["effective_cells"] == 0.0
    with pytest.raises(DatasetError, match=r"2 numbers in all.*found 6"):
        describe(write_example(tmp_path / "other"), grid=whole.grid)


def test_samples_are_all_over_the_dataset_and_bounded(tmp_path):
    path = write_example(tmp_path / "data", episodes=6000, length=5)
    metadata = DatasetMetadata.read(path)
    points = sample_observations(path, metadata)
    assert points.shape == (20_000, 6)
    info = metadata.tensors["agents/observation"]
    values = torch.frombuffer(bytearray((path / info.file).read_bytes()), dtype=torch.float32)
    values = values.view(30_000, 6)
    row = {tuple(value): index for index, value in enumerate(values.tolist())}
    rows = torch.tensor([row[tuple(point)] for point in points.tolist()])
    assert (rows.diff() > 0).all()
    thirds = (rows // 10_000).bincount(minlength=3)
    assert (thirds - 20_000 / 3).abs().max() < 200  # 4 deviations
    steps = (rows % 5).bincount(minlength=5)
    assert (steps - 4000).abs().max() < 200  # every k-th would see some steps more


def test_wide_observations_are_projected(tmp_path):
    wide = torch.randn(40, 1, 3000, generator=torch.Generator().manual_seed(0))
    path = write(tmp_path / "data", [[0.0]] * 40, torch.zeros(40, 1, 1), wide)
    points = sample_observations(path, DatasetMetadata.read(path))
    assert points.shape == (40, 1024)
    distances, projected = torch.pdist(wide.flatten(1)), torch.pdist(points)
    ratio = projected / distances
    assert ratio.min() > 0.4  # about sqrt(1024 / 3000) = 0.58
    assert ratio.max() < 0.8


def test_choices_are_described(tmp_path, capsys):
    choice = torch.tensor([[0, 2], [1, 1], [2, 0], [2, 1]])
    data = TensorDict(
        {
            "agents": {"observation": torch.randn(4, 2, 3), "action": choice},
            "next": {
                "agents": {"observation": torch.randn(4, 2, 3), "reward": torch.randn(4, 2, 1)},
                "terminated": torch.zeros(4, 1, dtype=torch.bool),
                "truncated": (torch.arange(4) == 3).unsqueeze(1),
            },
        },
        [4],
    )
    bounds = {"agents": {"low": torch.zeros(2), "high": torch.full((2,), 2)}}
    path, groups = tmp_path / "data", {"agents": ["a", "b"]}
    with DatasetWriter(path, groups=groups, action_bounds=bounds) as writer:
        writer.extend(data)
    found = describe(path).actions["agents"]
    assert found["mean"] == [[1.25], [1.0]]
    assert found["at_high"] == [[0.5], [0.25]]
    for more in ([], ["--json"], ["--figure", str(tmp_path / "figure.png")]):
        with pytest.raises(SystemExit) as end:
            main(["describe", str(path), *more])
        assert not end.value.code, capsys.readouterr().err
    assert "1.25" in capsys.readouterr().out

"""The buffer of a training loop: the dataset's data, whatever the loop hands over."""

import copy

import pytest
import torch

from benchmarl_ssd.data import DatasetError, OfflineDataset, OfflineReplayBuffer
from benchmarl_ssd.data.examples import write_example


@pytest.fixture
def dataset(tmp_path):
    return OfflineDataset(write_example(tmp_path / "data", episodes=30, length=7))


def test_samples_are_transitions_of_the_dataset(dataset):
    buffer = OfflineReplayBuffer(dataset, "agents", batch_size=16)
    sample = buffer.sample()
    assert sample.batch_size == (16,)
    rows = dataset.data[sample["index"]]
    for key in rows.keys(True, True):
        assert torch.equal(sample[key], rows[key])


def test_what_the_loop_does_changes_nothing(dataset):
    buffer = OfflineReplayBuffer(dataset, "agents", batch_size=16)
    before = dataset.data.clone()
    fresh = buffer.sample()
    buffer.extend(fresh.to(buffer.storage.device).zero_())
    buffer.add(fresh[0])
    buffer.update_tensordict_priority(buffer.sample().fill_(("agents", "action"), 9.0))
    assert len(buffer) == 210
    assert (dataset.data == before).all()
    assert buffer.state_dict() == {}
    buffer.load_state_dict(copy.deepcopy(buffer.state_dict()))
    assert not hasattr(buffer.storage, "scratch_dir")


@pytest.mark.parametrize("sequence_length", [None, 3])
def test_a_seed_reproduces_the_draws(dataset, sequence_length):
    def draws(seed):
        torch.manual_seed(seed)
        buffer = OfflineReplayBuffer(
            dataset, "agents", batch_size=12, sequence_length=sequence_length
        )
        return torch.stack([buffer.sample()["index"] for _ in range(5)])

    assert torch.equal(draws(3), draws(3))
    assert not torch.equal(draws(3), draws(4))


def test_every_transition_is_drawn_equally_often(dataset):
    torch.manual_seed(0)
    buffer = OfflineReplayBuffer(dataset, "agents", batch_size=21_000)
    counts = buffer.sample()["index"].bincount(minlength=210)
    assert counts.min() > 50
    assert counts.max() < 150


def test_windows_are_consecutive_steps_of_one_episode(dataset):
    buffer = OfflineReplayBuffer(dataset, "agents", batch_size=50, sequence_length=4)
    for _ in range(20):
        windows = buffer.sample()
        assert windows.batch_size == (12, 4)
        assert windows["is_init"].shape == (12, 4, 1)
        assert windows["is_init"][:, 0].all()
        assert not windows["is_init"][:, 1:].any()
        assert (windows["index"].squeeze(-1).diff(dim=1) == 1).all()
        assert (windows["episode"] == windows["episode"][:, :1]).all()
        rows = dataset.data[windows["index"].flatten()].reshape(12, 4)
        assert torch.equal(windows["next", "truncated"], rows["next", "truncated"])
        assert torch.equal(windows["next", "done"], rows["next", "done"])


def test_windows_as_long_as_the_episodes(dataset):
    buffer = OfflineReplayBuffer(dataset, "agents", batch_size=14, sequence_length=7)
    assert buffer.sample()["next", "done"][:, -1].all()


def test_short_episodes_are_left_out_with_a_warning(tmp_path):
    from benchmarl_ssd.data import DatasetWriter
    from benchmarl_ssd.data.examples import example_episodes

    bounds = {"agents": {"low": -torch.ones(2, 1), "high": torch.ones(2, 1)}}
    with DatasetWriter(tmp_path / "d", groups={"agents": ["a", "b"]}, action_bounds=bounds) as w:
        w.extend(example_episodes(length=3))
        w.extend(example_episodes(length=6))
    dataset = OfflineDataset(tmp_path / "d")
    with pytest.warns(UserWarning, match="4 of 8 episodes are shorter than sequence_length=5"):
        buffer = OfflineReplayBuffer(dataset, "agents", batch_size=10, sequence_length=5)
    assert (buffer.sample()["episode"] >= 4).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"group": "prey"}, "found 'prey'"),
        ({"batch_size": 0}, "at least 1"),
        ({"sequence_length": 0}, "at least 1"),
        ({"sequence_length": 8}, "at least sequence_length=8 steps, found none longer than 7"),
        ({"batch_size": 2, "sequence_length": 3}, "2 < 3"),
    ],
)
def test_impossible_sizes_are_errors(dataset, arguments, message):
    with pytest.raises(DatasetError, match=message):
        OfflineReplayBuffer(dataset, **{"group": "agents", "batch_size": 8, **arguments})


def test_transforms_are_applied(dataset):
    from torchrl.envs import RewardScaling

    transform = RewardScaling(1.0, 0.0, in_keys=[("next", "agents", "reward")])
    buffer = OfflineReplayBuffer(dataset, "agents", batch_size=8, transform=transform)
    reward = buffer.sample()["next", "agents", "reward"]
    assert torch.allclose(reward, torch.ones_like(reward), atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("sequence_length", [None, 4])
def test_data_is_copied_to_the_gpu_once(dataset, sequence_length):
    buffer = OfflineReplayBuffer(
        dataset, "agents", batch_size=16, device="cuda", sequence_length=sequence_length
    )
    assert buffer.storage._storage["agents", "action"].device.type == "cuda"
    sample = buffer.sample()
    assert sample.device.type == "cuda"
    assert sample["agents", "action"].device.type == "cuda"
    rows = dataset.data[sample["index"].flatten().cpu()]
    assert torch.equal(sample["agents", "action"].flatten(0, -3).cpu(), rows["agents", "action"])


@pytest.mark.parametrize("sequence_length", [None, 4])
def test_next_action_is_the_next_row_of_the_same_episode(dataset, sequence_length):
    torch.manual_seed(0)
    buffer = OfflineReplayBuffer(
        dataset, "agents", batch_size=4000, sequence_length=sequence_length, next_action=True
    )
    sample = buffer.sample().reshape(-1)
    action, length = dataset.data["agents", "action"], 7
    seen = set()
    for row, taken, acted in zip(
        sample["index"].flatten().tolist(),
        sample["next", "agents", "action"],
        sample["next", "acted"].flatten().tolist(),
        strict=True,
    ):
        last = row % length == length - 1
        assert acted == (not last)
        assert torch.equal(taken, torch.zeros_like(taken) if last else action[row + 1])
        seen.add(row)
    assert len(seen) > 150
    assert 209 in seen  # the very last row of the dataset


def test_next_action_costs_nothing_unless_asked_for(dataset):
    sample = OfflineReplayBuffer(dataset, "agents", batch_size=8).sample()
    assert "acted" not in sample["next"]
    assert "action" not in sample["next", "agents"]
    with_it = OfflineReplayBuffer(dataset, "agents", batch_size=8, next_action=True)
    # the actions are not kept a second time
    assert ("next", "agents", "action") not in with_it.storage._storage.keys(True, True)


@pytest.mark.parametrize("choices", [False, True])
def test_next_action_of_collected_steps_stops_at_ends(choices):
    from benchmarl_ssd.data.examples import example_episodes
    from benchmarl_ssd.data.following import add_next_action

    # Two environments, each of which collected two episodes of three steps.
    batch = example_episodes(episodes=4, length=3).reshape(2, 6)
    if choices:  # one number per agent
        batch["agents", "action"] = (10 * batch["agents", "action"][..., 0]).long()
    add_next_action(batch, "agents")
    acted = batch["next", "acted"].squeeze(-1)
    assert acted.tolist() == [[True, True, False, True, True, False]] * 2
    assert torch.equal(
        batch["next", "agents", "action"][acted],
        batch["agents", "action"][:, 1:][acted[:, :-1]],
    )
    assert not batch["next", "agents", "action"][~acted].any()
    with pytest.raises(DatasetError, match="at least 2 steps of every environment"):
        add_next_action(batch[:, :1], "agents")

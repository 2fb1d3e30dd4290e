"""Tasks that play a dataset back: specs, episodes, names, errors."""

from __future__ import annotations

import pickle

import pytest
import torch
from logged_data import write_factory
from torchrl.data import Bounded, Categorical
from torchrl.envs.utils import check_env_specs

from benchmarl_ssd.data import OfflineDataset
from benchmarl_ssd.data.examples import write_example
from benchmarl_ssd.data.layout import name_key
from benchmarl_ssd.environments import LoggedTask, TaskOptionError, named_tasks
from benchmarl_ssd.environments.logged import LoggedTaskError, PlaybackEnv


@pytest.fixture(scope="module", params=["state", "no state"])
def factory(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("factory") / "data"
    return write_factory(path, state=request.param == "state")


def make(folder, num_envs=3, seed=0):
    task = LoggedTask.DATASET.get_with({"dataset": str(folder)})
    continuous = task.supports_continuous_actions()
    return task, task.get_env_fun(num_envs, continuous, seed, "cpu")()


class TestSpecs:
    def test_are_the_datasets(self, factory):
        task, env = make(factory)
        metadata = OfflineDataset(factory).metadata
        assert task.group_map(env) == metadata.groups == {"arms": ["a", "b"], "belts": ["c"]}
        assert task.max_steps(env) == metadata.episode_length["max"] == 6
        observed = task.observation_spec(env)
        assert set(observed.keys(True, True)) == {
            ("arms", "observation"),
            ("arms", "camera"),
            ("belts", "observation"),
        }
        for key in observed.keys(True, True):
            info = metadata.tensors["/".join(key)]
            assert observed[key].shape == info.shape[1:]
            assert observed[key].dtype == info.torch_dtype
        for group in metadata.groups:
            action = task.action_spec(env)[group, "action"]
            low, high = metadata.bounds(group)
            assert isinstance(action, Bounded)
            assert action.space.low.equal(low)
            assert action.space.high.equal(high)
        assert task.info_spec(env) is None
        assert task.action_mask_spec(env) is None

    def test_state_is_a_spec_of_its_own(self, factory):
        task, env = make(factory)
        state = task.state_spec(env)
        if "state" in OfflineDataset(factory).metadata.tensors:
            assert state["state"].shape == (5,)
        else:
            assert state is None

    def test_hold_what_is_played(self, factory):
        check_env_specs(make(factory)[1])

    def test_choices_and_masks(self, tmp_path):
        task, env = make(write_factory(tmp_path / "data", discrete=True))
        assert task.supports_discrete_actions()
        assert not task.supports_continuous_actions()
        action = task.action_spec(env)["arms", "action"]
        assert isinstance(action, Categorical)
        assert action.n == 4
        assert task.action_mask_spec(env)["arms", "action_mask"].shape == (2, 4)
        assert ("arms", "action_mask") not in task.observation_spec(env).keys(True, True)
        check_env_specs(env)


class TestPlayback:
    def test_is_the_stored_episodes_bit_for_bit(self, factory):
        dataset = OfflineDataset(factory)
        episodes = dataset.metadata.episodes
        env = PlaybackEnv(dataset, num_envs=episodes)
        rollout = env.rollout(6, break_when_any_done=False, auto_reset=True)
        names = [name for name in dataset.metadata.tensors if not name.endswith("action")]
        ends = set()
        for index in range(episodes):
            stored = dataset.data[dataset.data["episode"] == index]
            played = rollout[index, : len(stored)]
            for name in names:
                if name != "episode":
                    key = name_key(name)
                    assert played[key].numpy().tobytes() == stored[key].numpy().tobytes(), name
            last = played["next"][-1]
            ends.add((bool(last["terminated"]), bool(last["truncated"])))
        assert ends == {(True, False), (False, True)}  # the data has both, so the check means it

    def test_actions_change_nothing(self, factory):
        envs = [make(factory, seed=3)[1] for _ in range(2)]
        torch.manual_seed(0)
        one = envs[0].rollout(6, break_when_any_done=False)
        torch.manual_seed(1)
        two = envs[1].rollout(6, break_when_any_done=False)
        assert not one["arms", "action"].equal(two["arms", "action"])
        assert (one["next"] == two["next"]).all()

    def test_every_episode_is_played_before_one_is_again(self, factory):
        dataset = OfflineDataset(factory)
        env = PlaybackEnv(dataset, num_envs=2, seed=5)
        seen = []
        for _ in range(dataset.metadata.episodes // 2):
            env.reset()
            seen += env.episode.tolist()
        assert sorted(seen) == list(range(dataset.metadata.episodes))
        assert seen != sorted(seen)
        env.reset()
        assert env.episode.tolist() == seen[:2]

    def test_seed_is_the_order(self, factory):
        first, again, other = (make(factory, 4, seed)[1] for seed in (1, 1, 2))
        orders = []
        for env in (first, again, other):
            env.reset()
            orders.append(env.episode.tolist())
        assert orders[0] == orders[1] != orders[2]

    def test_a_finished_environment_goes_on_alone(self, factory):
        """BenchMARL resets those that are done; the others must not notice."""
        dataset = OfflineDataset(factory)
        env = PlaybackEnv(dataset, num_envs=dataset.metadata.episodes)
        lengths = torch.unique_consecutive(dataset.data["episode"], return_counts=True)[1]
        assert lengths.unique().numel() > 1
        rollout = env.rollout(6, break_when_any_done=False)
        longest = int(lengths.argmax())
        stored = dataset.data[dataset.data["episode"] == longest]
        assert rollout[longest]["next", "arms", "reward"].equal(stored["next", "arms", "reward"])

    def test_stays_at_the_end_until_reset(self, factory):
        env = PlaybackEnv(OfflineDataset(factory), num_envs=1)
        td = env.reset()
        for _ in range(8):
            td["next"] = (env.step(env.rand_action(td)))["next"]
        assert bool(td["next", "done"])


class TestNames:
    def test_are_folders_of_the_root_with_a_dataset(self, tmp_path):
        root = tmp_path / "logged"
        root.mkdir()
        for name in ("robots", "arm-2", "dataset", "Upper", "sp ace"):
            write_example(root / name)
        (root / "empty").mkdir()
        (root / "file").write_text("")
        assert list(named_tasks(tmp_path)) == ["arm-2", "robots"]
        task = named_tasks(tmp_path)["robots"].get_from_yaml()
        assert task.name == "robots"
        assert task.dataset == (root / "robots").resolve()
        assert task.config.keys() == LoggedTask.DATASET.get_from_yaml().config.keys()

    def test_no_root_is_no_names(self, tmp_path):
        assert named_tasks(tmp_path / "nowhere") == {}

    def test_follow_the_variable(self, tmp_path, monkeypatch):
        (tmp_path / "logged").mkdir()
        write_example(tmp_path / "logged" / "robots")
        monkeypatch.setenv("BENCHMARL_SSD_ROOT", str(tmp_path))
        assert list(named_tasks()) == ["robots"]


class TestOptions:
    def test_a_dataset_is_required_once_it_is_needed(self):
        task = LoggedTask.DATASET.get_from_yaml()
        with pytest.raises(LoggedTaskError, match=r"task\.dataset=FOLDER"):
            task.get_env_fun(1, True, 0, "cpu")

    def test_a_wrong_folder_is_said(self, tmp_path):
        for name, text in (
            (tmp_path / "nowhere", "expected a dataset's folder"),
            (tmp_path, "metadata"),
        ):
            task = LoggedTask.DATASET.get_with({"dataset": str(name)})
            with pytest.raises(LoggedTaskError, match=text):
                task.supports_continuous_actions()

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("fqe_steps", 0),
            ("fqe_steps_in_training", -1),
            ("fqe_members", 1),
            ("fqe_num_cells", [0]),
            ("fqe_batch_size", 0),
            ("fqe_lr", 0.0),
            ("fqe_gamma", 1.5),
            ("fqe_confidence", 1.0),
        ],
    )
    def test_out_of_range(self, option, value):
        with pytest.raises(TaskOptionError, match=option):
            LoggedTask.DATASET.get_with({option: value})

    def test_relative_folder_survives_a_pickle_read_elsewhere(self, tmp_path, monkeypatch):
        write_example(tmp_path / "data")
        monkeypatch.chdir(tmp_path)
        pickled = pickle.dumps(LoggedTask.DATASET.get_with({"dataset": "data"}))
        monkeypatch.chdir("/")
        assert pickle.loads(pickled).dataset == (tmp_path / "data").resolve()

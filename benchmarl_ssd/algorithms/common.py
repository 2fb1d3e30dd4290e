"""What every offline algorithm of this package is wired from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import ReplayBuffer
from torchrl.envs import Compose
from torchrl.objectives import LossModule

from benchmarl_ssd.algorithms.callback import OfflineCallback
from benchmarl_ssd.algorithms.clock_env import ClockEnv
from benchmarl_ssd.algorithms.compatibility import check_dataset_fits
from benchmarl_ssd.algorithms.networks import NetworkBuilder
from benchmarl_ssd.algorithms.off_policy import OffPolicyCallback
from benchmarl_ssd.data import OfflineDataset, OfflineReplayBuffer
from benchmarl_ssd.data.centring import centred_rewards
from benchmarl_ssd.data.following import add_next_action
from benchmarl_ssd.data.recipes import recipes, resolve
from benchmarl_ssd.data.statistics import sample_rows, team_reward, varies
from benchmarl_ssd.environments import LoggedClass, changed_options

# Rewards that are looked at for their scale, drawn at random from a dataset with more.
_N_REWARDS = 1_000_000
# Mean over deviation of rewards from which on critics would learn little but a constant.
_MOST_OFFSET = 10.0


class OfflineAlgorithm(NetworkBuilder):
    """Base of the offline algorithms: dataset, actors, and a loop that leaves the simulator alone.

    Args:
        dataset (str, optional): folder of a dataset, or the id of a recipe. ``None`` trains on
            what the run itself collects, like any off-policy algorithm; on a task of ``logged/``,
            on the task's own dataset.
        lr_schedule (str): ``cosine`` lets each part's learning rate fall to zero over its stage,
            ``constant`` leaves it.
        final_evaluation_episodes (int, optional): episodes on which the last and the best
            parameters are evaluated at the end; ``None``: 320 with a dataset, else as many as in
            the evaluations of the experiment.
        cuda_graphs (bool): record optimiser steps as CUDA graphs, see :class:`GraphedSteps`.
        **kwargs: passed on to BenchMARL's ``Algorithm``.
    """

    def __init__(
        self,
        dataset: str | None,
        lr_schedule: str,
        final_evaluation_episodes: int | None,
        centre_rewards: bool | None = False,
        cuda_graphs: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if lr_schedule not in ("cosine", "constant"):
            raise ValueError(
                f"expected lr_schedule to be one of cosine, constant; found {lr_schedule!r}"
            )
        if final_evaluation_episodes is not None and final_evaluation_episodes < 1:
            raise ValueError(
                "expected final_evaluation_episodes of at least 1 or null, found "
                f"{final_evaluation_episodes}"
            )
        self.lr_schedule = lr_schedule
        self.dataset = self._open_dataset(dataset)
        self.explores = self.dataset is None
        if centre_rewards and self.dataset is None:
            raise ValueError(
                "expected algorithm.dataset with centre_rewards=true, found none; only of logged "
                "rewards the mean is known beforehand"
            )
        self.centre_rewards = centre_rewards
        if cuda_graphs:
            self._check_graphs()
        self.cuda_graphs = cuda_graphs
        self._rewards: dict[str, Tensor] = {}
        if final_evaluation_episodes is None:
            online = self.experiment_config.evaluation_episodes
            final_evaluation_episodes = 320 if self.dataset is not None else online
        self.final_evaluation_episodes = final_evaluation_episodes
        for group in self.group_map:  # so that a wrong option is found before anything runs
            self.get_loss_and_updater(group)
        callback = OfflineCallback(self) if self.plays_episodes else OffPolicyCallback(self)
        callback.experiment = self.experiment
        self.experiment.callbacks = [*self.experiment.callbacks, callback]

    def _check_graphs(self) -> None:
        config = self.experiment_config
        if config.off_policy_use_prioritized_replay_buffer or not config.soft_target_update:
            raise ValueError(
                "expected soft target updates and no priorities with cuda_graphs=true; set "
                "experiment.soft_target_update=true and "
                "experiment.off_policy_use_prioritized_replay_buffer=false"
            )
        if self.stochastic_actors:
            raise ValueError(
                "expected stochastic_actors=false with cuda_graphs=true: the checks of their "
                "distribution wait for the GPU"
            )
        if torch.device(config.train_device).type != "cuda":
            raise ValueError(
                "expected experiment.train_device=cuda with cuda_graphs=true, found "
                f"{config.train_device}"
            )

    @property
    def needs_next_action(self) -> bool:
        """Whether the loss reads the action that was logged next; see the buffer's option."""
        return False

    @property
    def plays_episodes(self) -> bool:
        """Whether the task has a simulator; a logged task has none."""
        return not isinstance(self.experiment.task, LoggedClass)

    # -- data ---------------------------------------------------------------------------------

    def _open_dataset(self, name: str | None) -> OfflineDataset | None:
        task = self.experiment.task
        if name is None and isinstance(task, LoggedClass):
            name = str(task.dataset)
        if name is None:
            print(
                f"{self.experiment.algorithm_name}: no algorithm.dataset given, training on the "
                "experience that this run collects"
            )
            return None
        # A recipe's dataset is built for the options of the task that is about to be trained.
        known = recipes().get(name)
        own = known is not None and (known.environment, known.name) == (
            task.env_name().lower(),
            task.name.lower(),
        )
        config = changed_options(task) if own else None
        dataset = OfflineDataset(resolve(self._restored_path(name), config=config))
        check_dataset_fits(dataset.metadata, self.experiment)
        return dataset

    def _restored_path(self, name: str) -> str:
        # A run that is resumed from another folder still finds a dataset given by a relative path.
        config = self.experiment_config
        if config.restore_file is None or Path(name).exists():
            return name
        note = Path(config.restore_file).resolve().parent.parent / "dataset_path.txt"
        return note.read_text(encoding="utf-8").strip() if note.is_file() else name

    def get_replay_buffer(self, group: str, transforms: list | None = None) -> ReplayBuffer:
        """Return the group's part of the dataset, or BenchMARL's own buffer without one."""
        if self.dataset is None:
            return super().get_replay_buffer(group, transforms)
        device = "cpu" if self.buffer_device == "disk" else self.buffer_device
        batch_size = self.experiment_config.train_minibatch_size(self.on_policy)
        length = self.window_length()
        return OfflineReplayBuffer(
            self.dataset,
            group,
            batch_size=batch_size if length is None else max(batch_size, length),
            device=device,
            sequence_length=length,
            transform=Compose(*transforms) if transforms else None,
            next_action=self.needs_next_action,
            entries=self.derived_entries(group),
        )

    def window_length(self) -> int | None:
        """Return the steps of the windows that are sampled, or ``None`` for single transitions."""
        return self._sequence_length() if self.has_rnn else None

    def derived_entries(self, group: str) -> dict[NestedKey, Tensor]:
        """Compute what the loss reads in place of or beside the dataset's own entries, by key.

        Tensors of all transitions, ``[T, ...]``.
        """
        return {("next", group, "reward"): self.rewards(group)}

    def rewards(self, group: str) -> Tensor:
        """Return the rewards that are trained on, of all transitions, ``[T, n, 1]``."""
        if group not in self._rewards:  # one pass over the data for the loss and the buffer
            assert self.dataset is not None
            following = self.dataset.data["next"]
            reward, terminated = following[group, "reward"], following["terminated"]
            if self._centres(reward, terminated):
                reward = centred_rewards(reward, terminated, self.experiment_config.gamma)
            self._rewards[group] = reward
        return self._rewards[group]

    def _centres(self, reward: Tensor, terminated: Tensor) -> bool:
        if self.centre_rewards is not None or self.experiment_config.gamma >= 1:
            return bool(self.centre_rewards)
        rewards = team_reward([self._some(reward)])
        # Of equal rewards nothing is left, unless ends that come early or late make a difference.
        alike = not varies(rewards) and bool(terminated.all() or not terminated.any())
        return not alike and bool(rewards.mean().abs() > _MOST_OFFSET * rewards.std(correction=0))

    def _sequence_length(self) -> int:
        # Most episodes in full: shorter ones are left out of the windows, with a warning.
        assert self.dataset is not None
        return max(1, int(self.dataset.metadata.episode_length["mean"]))

    def process_env_fun(self, env_fun):
        """Replace the training environment, and only that, when there is a dataset."""
        experiment = self.experiment
        if self.dataset is None or env_fun is not getattr(experiment, "env_func", None):
            return env_fun
        num_envs = self.experiment_config.n_envs_per_worker(self.on_policy)
        return lambda: ClockEnv(experiment.test_env, num_envs)

    def process_batch(self, group: str, batch: TensorDictBase) -> TensorDictBase:
        """Give every agent its reward where the environment has one for all.

        Where the algorithm needs it, also add the next action of what the run itself collected, as
        :class:`OfflineReplayBuffer` does of logged data.
        """
        key = ("next", group, "reward")
        if key not in batch.keys(True, True):
            shape = (*batch.get(group).shape, 1)
            batch.set(key, batch.get(("next", "reward")).unsqueeze(-1).expand(shape))
        if self.needs_next_action and self.dataset is None:
            add_next_action(batch, group)
        return batch

    def reward_scale(self, rewards: Tensor | None, option: float | None) -> float:
        """Return ``option``, or one over the deviation of :meth:`team_rewards`."""
        if option is not None:
            return option
        return 1.0 if rewards is None or not varies(rewards) else 1.0 / rewards.std().item()

    def team_rewards(self, group: str) -> Tensor | None:
        """Return the team rewards that are trained on, float64 ``[T]``, a million at most."""
        if self.dataset is None:
            return None
        return team_reward([self._some(self.rewards(group))])

    def _some(self, reward: Tensor) -> Tensor:
        large = len(reward) > _N_REWARDS
        return reward[sample_rows(len(reward), _N_REWARDS)] if large else reward

    # -- optimisation -------------------------------------------------------------------------

    @property
    def total_iterations(self) -> int:
        """Iterations of the whole run."""
        return self.experiment_config.get_max_n_iters(self.on_policy)

    @property
    def steps_per_iteration(self) -> int:
        """Optimiser steps between two looks at the clock."""
        return self.experiment_config.n_optimizer_steps(self.on_policy)

    def stage(self, loss_name: str) -> tuple[int, int]:
        """First and last (exclusive) optimiser step in which a loss is trained."""
        return 0, self.total_iterations * self.steps_per_iteration

    def held(self, loss_name: str) -> float:
        """Share of its stage, in [0, 1), before a loss's learning rate begins to fall."""
        return 0.0

    def lr_factor(self, group: str, loss_name: str, step: int) -> float:
        """Share of its full learning rate that a group's loss has after ``step`` steps."""
        if self.dataset is None or self.lr_schedule == "constant":
            return 1.0
        first, last = self.stage(loss_name)
        first += self.held(loss_name) * (last - first)
        done = min(max(0.0, (step - first) / max(1, last - first)), 1.0)
        return 0.5 * (1 + math.cos(math.pi * done))

    def diagnose(self, step: int) -> dict[str, float]:
        """Return what else to log at an evaluation, by name, after ``step`` optimiser steps."""
        return {}

    def learning_rate(self, network: str) -> float | None:
        """Return the rate of a network, such as ``actor``; ``None``: the experiment's."""
        return None

    def _get_parameters(self, group: str, loss: LossModule) -> dict[str, Iterable]:
        # By the names of this package, `loss_actor` trains `actor_network`, and so on.
        groups: dict[str, Iterable] = {}
        for name in loss.loss_names:
            network = name.removeprefix("loss_")
            params = getattr(loss, f"{network}_network_params").flatten_keys().values()
            trained = [p for p in params if isinstance(p, torch.nn.Parameter)]
            lr = self.learning_rate(network)
            groups[name] = [{"params": trained, **({} if lr is None else {"lr": lr})}]
        return groups

    def set_team_keys(self, group: str, loss: LossModule, independent: bool = False) -> None:
        """Point a loss at the group's entries."""
        loss.set_keys(action=(group, "action"), reward=(group, "reward"))
        if independent:
            names = ("state_action_value", "value")
            known = {name: getattr(loss.tensor_keys, name) for name in names}
            loss.set_keys(**{name: (group, key) for name, key in known.items()})

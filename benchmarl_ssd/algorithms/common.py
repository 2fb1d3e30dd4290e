"""What every offline algorithm of this package is wired from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from benchmarl.algorithms.common import Algorithm
from benchmarl.models import MlpConfig
from benchmarl.models.common import ModelConfig
from tensordict import TensorDictBase
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from tensordict.utils import NestedKey
from torchrl.data import Composite, ReplayBuffer, Unbounded
from torchrl.envs import Compose
from torchrl.modules import AdditiveGaussianModule, ProbabilisticActor, TanhDelta, TanhNormal
from torchrl.objectives import LossModule

from benchmarl_ssd.algorithms.callback import OfflineCallback
from benchmarl_ssd.algorithms.clock_env import ClockEnv
from benchmarl_ssd.algorithms.compatibility import check_dataset_fits
from benchmarl_ssd.algorithms.off_policy import OffPolicyCallback
from benchmarl_ssd.data import OfflineDataset, OfflineReplayBuffer
from benchmarl_ssd.data.following import add_next_action
from benchmarl_ssd.data.recipes import recipes, resolve
from benchmarl_ssd.environments import LoggedClass, changed_options
from benchmarl_ssd.modules import ActionScaler

# Rewards that are looked at for their scale.
_N_REWARDS = 100_000

# Standard deviation that stochastic actors keep at least, before squashing.
_LEAST_SCALE = 0.02


class OfflineAlgorithm(Algorithm):
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
        **kwargs: passed on to BenchMARL's ``Algorithm``.
    """

    def __init__(
        self,
        dataset: str | None,
        lr_schedule: str,
        final_evaluation_episodes: int | None,
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
        if final_evaluation_episodes is None:
            online = self.experiment_config.evaluation_episodes
            final_evaluation_episodes = 320 if self.dataset is not None else online
        self.final_evaluation_episodes = final_evaluation_episodes
        for group in self.group_map:  # so that a wrong option is found before anything runs
            self.get_loss_and_updater(group)
        callback = OfflineCallback(self) if self.plays_episodes else OffPolicyCallback(self)
        callback.experiment = self.experiment
        self.experiment.callbacks = [*self.experiment.callbacks, callback]

    @property
    def needs_next_action(self) -> bool:
        """Whether the loss reads the action that was logged next; see the buffer's option."""
        return False

    stochastic_actors = False
    """Whether actors sample from a squashed Gaussian; evaluations take its mode."""

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

    def derived_entries(self, group: str) -> dict[str, torch.Tensor]:
        """Compute what the loss reads beside the dataset's own entries, ``[T, ...]`` by key."""
        return {}

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

    # -- networks -----------------------------------------------------------------------------

    def action_scaler(self, group: str) -> ActionScaler:
        """Return the map from the task's action bounds to [-1, 1]."""
        space = self.action_spec[group, "action"].space
        return ActionScaler(space.low, space.high).to(self.device)

    def observed(self, group: str) -> tuple[list[NestedKey], int]:
        """Return what a group's agents observe: the keys, and the size of all agents' together."""
        spec = self.observation_spec[group]
        leaves = [key if isinstance(key, tuple) else (key,) for key in spec.keys(True, True)]
        size = sum(spec[leaf].shape.numel() for leaf in leaves)
        return [(group, *leaf) for leaf in leaves], size

    def actor_inputs(self, group: str) -> Composite:
        """Return the spec of what the group's actors read."""
        return self.observation_spec[group].clone()

    def _get_policy_for_loss(
        self, group: str, model_config: ModelConfig, continuous: bool
    ) -> TensorDictModule:
        n_agents = len(self.group_map[group])
        spec = self.action_spec[group, "action"]
        actor = model_config.get_model(
            input_spec=Composite({group: self.actor_inputs(group).to(self.device)}),
            output_spec=Composite(
                {group: Composite({"param": Unbounded(shape=spec.shape)}, shape=(n_agents,))}
            ),
            agent_group=group,
            input_has_agent_dim=True,
            n_agents=n_agents,
            centralised=False,
            share_params=self.experiment_config.share_policy_params,
            device=self.device,
            action_spec=self.action_spec,
        )
        keys: list[tuple[str, str]] = [(group, "param")]
        if self.stochastic_actors:
            keys = [(group, "loc"), (group, "scale")]
            split = NormalParamExtractor(scale_lb=_LEAST_SCALE)
            actor = TensorDictSequential(
                actor, TensorDictModule(split, in_keys=[(group, "param")], out_keys=keys)
            )
        return ProbabilisticActor(
            module=actor,
            spec=spec,
            in_keys=keys,
            out_keys=[(group, "action")],
            distribution_class=TanhNormal if self.stochastic_actors else TanhDelta,
            distribution_kwargs={"low": spec.space.low, "high": spec.space.high},
            return_log_prob=False,
            safe=False,
        )

    def _get_policy_for_collection(
        self, policy_for_loss: TensorDictModule, group: str, continuous: bool
    ) -> TensorDictModule:
        if self.dataset is not None:
            return policy_for_loss
        config = self.experiment_config
        noise = AdditiveGaussianModule(
            spec=self.action_spec,
            annealing_num_steps=config.get_exploration_anneal_frames(self.on_policy),
            action_key=(group, "action"),
            sigma_init=config.exploration_eps_init,
            sigma_end=config.exploration_eps_end,
            device=self.device,
        )
        return TensorDictSequential(*policy_for_loss, noise)

    def critic(
        self,
        group: str,
        out_key: str,
        with_action: bool,
        layer_norm: bool = False,
        independent: bool = False,
    ) -> TensorDictModule:
        """Build critics of the team from BenchMARL's critic model.

        Args:
            group (str): the group of agents.
            out_key (str): what the values are written under; of independent critics, in the group.
            with_action (bool): whether the critic is of actions, too, or of states alone.
            layer_norm (bool): give an MLP that asks for no norm layer norm and ReLU: critics of
                other actions than the logged ones diverge without, and none learns as fast.
            independent (bool): one critic per agent, of what that agent observes and does, writing
                ``[*B, n, 1]``; else one of all that is known, writing ``[*B, 1]``.
        """
        n_agents = len(self.group_map[group])
        modules = []
        output = Composite({out_key: Unbounded(shape=(1,))})
        state = None if independent else self.state_spec
        if independent:
            values = Composite({out_key: Unbounded(shape=(n_agents, 1))}, shape=(n_agents,))
            output = Composite({group: values})
        if state is None:
            inputs = self.observation_spec[group].clone()
            if with_action:
                inputs.update(self.action_spec[group])
            spec = Composite({group: inputs})
        else:
            spec = state.clone()
            if with_action:
                modules.append(
                    TensorDictModule(
                        _join_agents, in_keys=[(group, "action")], out_keys=["global_action"]
                    )
                )
                size = self.action_spec[group, "action"].shape.numel()
                spec.update({"global_action": Unbounded(shape=(size,))})
        config = self.critic_model_config
        if layer_norm and isinstance(config, MlpConfig) and config.norm_class is None:
            config = normalised_mlp(config)
        model = config.get_model(
            input_spec=spec,
            output_spec=output,
            n_agents=n_agents,
            centralised=not independent,
            input_has_agent_dim=state is None,
            agent_group=group,
            share_params=not independent,
            device=self.device,
            action_spec=self.action_spec,
        )
        return TensorDictSequential(*modules, model)

    def reward_scale(self, group: str, option: float | None) -> float:
        """Return ``option``, or one over the deviation of the dataset's team rewards."""
        if option is not None or self.dataset is None:
            return 1.0 if option is None else option
        reward = self.dataset.group_data(group)["next"].get((group, "reward"), None)
        if reward is None:  # one reward for all agents
            reward = self.dataset.data["next", "reward"].unsqueeze(-2)
        step = max(1, len(reward) // _N_REWARDS)  # evenly over the whole dataset
        deviation = reward[::step].double().mean(-2).std().item()
        return 1.0 / deviation if deviation > 1e-6 else 1.0

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

    def lr_factor(self, loss_name: str, step: int) -> float:
        """Share of its full learning rate that a loss has after ``step`` optimiser steps."""
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


def normalised_mlp(config: MlpConfig) -> MlpConfig:
    """Return the same MLP with layer norm before ReLU activations."""
    widths = config.num_cells
    widths = [widths] if isinstance(widths, int) else list(widths)
    return dataclasses.replace(
        config,
        activation_class=torch.nn.ReLU,
        activation_kwargs=None,
        norm_class=torch.nn.LayerNorm,
        norm_kwargs=[{"normalized_shape": width} for width in widths],
    )


def _join_agents(action: torch.Tensor) -> torch.Tensor:
    return action.flatten(-2)

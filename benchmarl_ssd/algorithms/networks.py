"""How actors and critics are built from BenchMARL's model configs."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from benchmarl.algorithms.common import Algorithm
from benchmarl.models import MlpConfig
from benchmarl.models.common import ModelConfig
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from tensordict.utils import NestedKey
from torchrl.data import Composite, Unbounded
from torchrl.modules import AdditiveGaussianModule, ProbabilisticActor, TanhDelta, TanhNormal

from benchmarl_ssd.modules import ActionScaler

# Standard deviation that stochastic actors keep at least, before squashing.
_LEAST_SCALE = 0.02


class CentredTanhDelta(TanhDelta):
    r"""A deterministic action :math:`m + r \tanh x` for bounds :math:`m \pm r`.

    TorchRL's ``TanhDelta`` gives :math:`m + r \tanh(x + m)`, which for bounds of 0 and 100 starts
    at 100 and has no gradient. For bounds around 0 the two are the same.

    Examples:
        >>> CentredTanhDelta(torch.zeros(1), low=torch.zeros(1), high=torch.full((1,), 100.0)).mode
        tensor([50.])
    """

    def __init__(
        self,
        param: torch.Tensor,
        low: torch.Tensor | float = -1.0,
        high: torch.Tensor | float = 1.0,
        **kwargs: Any,
    ) -> None:
        # TorchRL compares the bounds in every call, for which the host waits for a GPU's tensors.
        super().__init__(param, **kwargs)
        self.low, self.high = (
            torch.as_tensor(bound).to(param.device, non_blocking=True) for bound in (low, high)
        )
        affine = self.transforms[-1].parts[-1]
        affine.loc, affine.scale = (self.high + self.low) / 2, (self.high - self.low) / 2

    def update(self, net_output: torch.Tensor) -> torch.Tensor | None:
        """Take the network's output as it is."""
        if not hasattr(self, "base_dist"):
            return net_output
        self.base_dist.update(net_output)
        return None


class NetworkBuilder(Algorithm):
    """The part of an algorithm that builds the networks of a group."""

    stochastic_actors = False
    """Whether actors sample from a squashed Gaussian; evaluations take its mode."""

    explores = True
    """Whether the policy that collects adds noise: not where nothing is collected."""

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
        # A place and a scale for every action entry, or a place alone.
        size = spec.shape[-1] * (2 if self.stochastic_actors else 1)
        actor = model_config.get_model(
            input_spec=Composite({group: self.actor_inputs(group).to(self.device)}),
            output_spec=Composite(
                {
                    group: Composite(
                        {"param": Unbounded(shape=(*spec.shape[:-1], size))}, shape=(n_agents,)
                    )
                }
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
            distribution_class=TanhNormal if self.stochastic_actors else CentredTanhDelta,
            distribution_kwargs={
                "low": spec.space.low.to(self.device),
                "high": spec.space.high.to(self.device),
            },
            return_log_prob=False,
            safe=False,
        )

    def _get_policy_for_collection(
        self, policy_for_loss: TensorDictModule, group: str, continuous: bool
    ) -> TensorDictModule:
        if not self.explores:
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
        scaler = self.action_scaler(group) if with_action else None
        if scaler is not None and not scaler.trivial:
            # Networks want inputs of order 1, whatever the task's unit.
            keys = [(group, "action")]
            modules.append(TensorDictModule(scaler.scale, in_keys=keys, out_keys=keys))
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

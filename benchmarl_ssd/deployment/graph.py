"""A group's trained policy as one plain module, from observations to actions."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from benchmarl.experiment import Experiment
from benchmarl.models import Cnn, Gnn, Gru, Lstm, Mlp
from benchmarl.models.common import Model, SequenceModel
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import Tensor, nn
from torchrl.modules import (
    AdditiveGaussianModule,
    EGreedyModule,
    OrnsteinUhlenbeckProcessModule,
    QValueModule,
)

from benchmarl_ssd.deployment.errors import ExportError
from benchmarl_ssd.deployment.heads import Head, make_head
from benchmarl_ssd.deployment.networks import plain_network
from benchmarl_ssd.modules.plan_diffusion import PlanDiffusion

_EXPLORATION = (AdditiveGaussianModule, EGreedyModule, OrnsteinUhlenbeckProcessModule)
_PER_AGENT = (Mlp, Cnn, Gru, Lstm)


@dataclass(frozen=True)
class Port:
    """An input or output of an exported policy.

    Args:
        name: its name in the file.
        key: where the policy has it.
        shape: without the batch's dimension, which comes first.
        dtype: its dtype.
        role: ``observation``, ``action_mask``, ``state`` (of a recurrent policy) or ``action``.
    """

    name: str
    key: Any
    shape: tuple[int, ...]
    dtype: torch.dtype
    role: str


class PolicyGraph(nn.Module):
    """The decision of a group's policy, as it decides in evaluation, of plain PyTorch.

    Takes one tensor ``[batch, *shape]`` for each of ``inputs`` and returns one for each of
    ``outputs``, on the CPU. A recurrent policy takes its hidden states, zeros at an episode's
    start, and returns the next ones.

    Args:
        experiment (Experiment): holds the trained policy; it is not changed.
        group (str): the group of agents.
        agent (int, optional): keep one agent's policy only; its tensors have no agents' axis.

    Raises:
        ExportError: if the policy is of a kind that cannot be exported.
    """

    def __init__(self, experiment: Experiment, group: str, agent: int | None = None) -> None:
        super().__init__()
        self.group, self.agent = group, agent
        self.states: dict[str, str] = {}
        self.inputs = self._input_ports(experiment)
        self.outputs = self._output_ports(experiment)
        policy = copy.deepcopy(experiment.group_policies[group]).cpu()
        self.layers = nn.ModuleList(self._layer(module) for module in _flatten(policy))
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Decide."""
        data = TensorDict({}, batch_size=[])
        for port, value in zip(self.inputs, inputs, strict=True):
            own = self.agent is not None
            data.set(port.key, value.unsqueeze(1) if own else value)
        if self.states:  # not read: an episode's start is told by hidden states of zeros
            data.set("is_init", None)
        for layer in self.layers:
            data = layer(data)
        results = (data.get(port.key) for port in self.outputs)
        return tuple(value.squeeze(1) if self.agent is not None else value for value in results)

    # -- what goes in and out -----------------------------------------------------------------

    def _input_ports(self, experiment: Experiment) -> list[Port]:
        ports = []
        for key, (spec, role) in input_specs(experiment, self.group).items():
            name = "_".join(key[1:]).lstrip("_")
            if role == "state":
                self.states[name] = f"next_{name}"
            ports.append(Port(name, key, self._own(spec.shape), spec.dtype, role))
        return ports

    def _output_ports(self, experiment: Experiment) -> list[Port]:
        key = (self.group, "action")
        spec = experiment.action_spec[key]
        shape = self._own(spec.shape)
        ports = [Port("action", key, shape, spec.dtype, "action")]
        for port in self.inputs:
            if port.role == "state":
                name, after = self.states[port.name], ("next", *port.key)
                ports.append(Port(name, after, port.shape, port.dtype, "state"))
        return ports

    def _own(self, shape: Any) -> tuple[int, ...]:
        return tuple(shape) if self.agent is None else tuple(shape)[1:]

    # -- what happens in between --------------------------------------------------------------

    def _layer(self, module: Any) -> nn.Module:
        if isinstance(module, ProbabilisticTensorDictModule | QValueModule):
            return Head(*make_head(module, self.agent), (self.group, "action"))
        if isinstance(module, Model):
            return self._model(module)
        if isinstance(module, PlanDiffusion):
            raise ExportError(
                "expected a policy of one pass through its networks, found one that draws plans by "
                "diffusion; it cannot be exported: train another algorithm for export"
            )
        return module

    def _model(self, model: Model) -> nn.Module:
        if isinstance(model, Gnn):
            raise ExportError(
                "expected a policy of MLP, CNN, GRU or LSTM layers, found a GNN, whose "
                "message passing has no ONNX form; train one of the others for export"
            )
        if isinstance(model, SequenceModel):
            return TensorDictSequential(*(self._model(each) for each in _flatten(model.models)))
        decentralised = isinstance(model, _PER_AGENT) and not model.centralised
        if self.agent is not None and not decentralised:
            raise ExportError(
                "expected a policy in which each agent decides by itself for one file per agent, "
                f"found {type(model).__name__}; export the group as one file"
            )
        for name, child in list(model.named_modules()):
            plain = plain_network(child, self.agent)
            if plain is not None:
                owner, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(owner), attribute, plain)
        return model


def _flatten(module: Any) -> Iterator[TensorDictModuleBase]:
    """The modules of a policy in their order, without those that only explore."""
    if isinstance(module, TensorDictSequential):
        for part in module.module:
            yield from _flatten(part)
    elif not isinstance(module, _EXPLORATION):
        yield module


def input_specs(experiment: Experiment, group: str) -> dict[tuple[str, ...], tuple[Any, str]]:
    """List what a group's policy reads.

    Args:
        experiment: holds the policy.
        group: the group.

    Returns:
        Spec, without the batch's dimensions, and role (``observation``, ``action_mask`` or
        ``state``) by key.

    Raises:
        ExportError: if it reads something else than its agents' observations.
    """
    env = experiment.test_env
    places = (
        (experiment.observation_spec, "observation"),
        (experiment.action_mask_spec, "action_mask"),
        # Only the environment knows the hidden states of a recurrent policy.
        (env.full_observation_spec[(0,) * env.batch_dims], "state"),
    )
    found: dict[tuple[str, ...], tuple[Any, str]] = {}
    for key in experiment.group_policies[group].in_keys:
        if key == "is_init":  # told by hidden states of zeros
            continue
        specs = [
            (spec[key], role)
            for spec, role in places
            if spec is not None and key in spec.keys(True, True)
        ]
        if not specs or isinstance(key, str):
            raise ExportError(
                "expected a policy that reads its agents' observations, found one that reads "
                f"{key}; it cannot be exported"
            )
        found[key] = specs[0]
    return found

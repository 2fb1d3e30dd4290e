"""A policy's networks without TorchRL's parameter swapping, which no exporter can follow."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchrl.modules.models.multiagent import MultiAgentNetBase

from benchmarl_ssd.deployment.errors import ExportError
from benchmarl_ssd.modules.stacked import StackedLinear

# Act on each number by itself, so that they may act on all agents at once.
_POINTWISE = (
    nn.ELU,
    nn.GELU,
    nn.Identity,
    nn.LeakyReLU,
    nn.Mish,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
)


def plain_network(module: nn.Module, agent: int | None = None) -> nn.Module | None:
    """Give the plain form of a module that swaps the parameters of its agents' networks.

    Args:
        module: TorchRL's multi-agent networks and BenchMARL's recurrent ones have such a form.
        agent: keep this agent's network only; the agents' axis then has size 1.

    Returns:
        A module that takes and returns the same, or None for any other module.

    Raises:
        ExportError: if its networks read the observations of several agents.

    Examples:
        >>> from torchrl.modules import MultiAgentMLP
        >>> net = MultiAgentMLP(4, 2, n_agents=3, centralized=False, share_params=False, depth=1)
        >>> x = torch.randn(5, 3, 4)
        >>> bool((plain_network(net)(x) - net(x)).abs().max() < 1e-6)
        True
        >>> bool((plain_network(net, agent=1)(x[:, 1:2]) - net(x)[:, 1:2]).abs().max() < 1e-6)
        True
    """
    if isinstance(module, MultiAgentNetBase):
        _check_decentralised(module.centralized)
        networks = _networks(module, module._empty_net, agent)
        if module.share_params or agent is not None:
            return networks[0]
        if all(stackable(network) for network in networks):
            return StackedNetwork(networks)  # type: ignore[arg-type]
        # A convolution's output has fewer dimensions than its input.
        return AgentNetworks(networks, (module.agent_dim,), (-2,))
    # BenchMARL names the cells in private only.
    for name, layers, states in (("_empty_gru", "grus", 1), ("_empty_lstm", "lstms", 2)):
        if hasattr(module, name):
            _check_decentralised(module.centralised)
            networks = _networks(module, getattr(module, name), agent)
            if module.share_params and agent is None:
                networks = networks * int(module.n_agents)  # type: ignore[arg-type]
            steps = [RecurrentNetwork(getattr(net, layers), states) for net in networks]
            return RecurrentStep(steps)
    return None


def _networks(module: Any, network: nn.Module, agent: int | None) -> list[nn.Module]:
    """Each agent's network, or the one of all."""
    if module.share_params:
        return [filled(network, module.params)]
    agents = range(module.n_agents) if agent is None else [agent]
    return [filled(network, module.params.data[each]) for each in agents]


def _check_decentralised(centralised: Any) -> None:
    if centralised:
        raise ExportError(
            "expected a policy whose agents read their own observations only, found a "
            "centralised one; it cannot be exported"
        )


def filled(network: nn.Module, values: Any) -> nn.Module:
    """Give a copy of an architecture with parameters of its own.

    Args:
        network: the architecture; its parameters are never looked at.
        values: TensorDict of the parameters, nested as the modules are.

    Examples:
        >>> from tensordict import TensorDict
        >>> net = filled(nn.Linear(2, 1), TensorDict(weight=torch.ones(1, 2), bias=torch.ones(1)))
        >>> net(torch.ones(2)).item()
        3.0
    """
    network = copy.deepcopy(network)
    for key, value in values.items(True, True):
        *path, name = (key,) if isinstance(key, str) else key
        parameter = nn.Parameter(value.detach().cpu().clone(), requires_grad=False)
        setattr(network.get_submodule(".".join(path)), name, parameter)
    return network


class AgentNetworks(nn.Module):
    r"""One network for each agent, run apart: :math:`y_i = f_i(x_i)`.

    Args:
        networks (sequence of nn.Module): each agent's.
        axes (tuple of int): the agents' axis in each input, counted from the end.
        out_axes (tuple of int): the agents' axis in each output, counted from the end.

    Examples:
        >>> nets = [nn.Linear(4, 2), nn.Linear(4, 2)]
        >>> AgentNetworks(nets, (-2,), (-2,))(torch.zeros(5, 2, 4)).shape
        torch.Size([5, 2, 2])
    """

    def __init__(
        self, networks: Sequence[nn.Module], axes: tuple[int, ...], out_axes: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.axes, self.out_axes = axes, out_axes

    def forward(self, *inputs: Tensor) -> Any:
        """Run each agent's network on its part of the inputs."""
        results = [
            network(*(x.select(axis, agent) for x, axis in zip(inputs, self.axes, strict=True)))
            for agent, network in enumerate(self.networks)
        ]
        if len(self.out_axes) == 1:
            return torch.stack(results, self.out_axes[0])
        outputs = zip(*results, strict=True)
        return tuple(torch.stack(y, axis) for y, axis in zip(outputs, self.out_axes, strict=True))


class StackedNetwork(nn.Module):
    """Multi-layer perceptrons of several agents, each layer one batched product.

    Args:
        networks (sequence of nn.Sequential): each agent's, as :func:`stackable` wants them.

    Examples:
        >>> nets = [nn.Sequential(nn.Linear(4, 2), nn.Tanh()) for _ in range(3)]
        >>> x = torch.randn(5, 3, 4)
        >>> bool((StackedNetwork(nets)(x)[:, 1] - nets[1](x[:, 1])).abs().max() < 1e-6)
        True
    """

    def __init__(self, networks: Sequence[nn.Sequential]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_stack(same) for same in zip(*networks, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Run the networks on ``x`` ``[B, n, in]``."""
        x = x.transpose(0, 1)
        for layer in self.layers:
            x = layer(x)
        return x.transpose(0, 1)


def _stack(layers: Sequence[Any]) -> nn.Module:
    first = layers[0]
    if not isinstance(first, nn.Linear):
        return first
    stacked = StackedLinear(
        len(layers), first.in_features, first.out_features, first.bias is not None
    )
    stacked.weight.data = torch.stack([each.weight.data.T for each in layers])
    if stacked.bias is not None:
        stacked.bias.data = torch.stack([each.bias.data for each in layers]).unsqueeze(1)
    return stacked


def stackable(network: nn.Module) -> bool:
    """Tell whether :class:`StackedNetwork` can run networks of this architecture.

    Examples:
        >>> stackable(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
        True
        >>> stackable(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
        False
    """
    return isinstance(network, nn.Sequential) and all(
        type(layer) is nn.Linear or type(layer) in _POINTWISE for layer in network
    )


class RecurrentNetwork(nn.Module):
    r"""One step of an agent's recurrent layers, :math:`o, h' = f(x, h)`.

    Args:
        cells (sequence of nn.Module): its GRU or LSTM cells, one per layer.
        states (int): hidden states of a cell, 1 for GRU and 2 for LSTM.

    Examples:
        >>> network = RecurrentNetwork([nn.GRUCell(4, 8), nn.GRUCell(8, 8)], 1)
        >>> output, hidden = network(torch.zeros(5, 4), torch.zeros(5, 2, 8))
        >>> output.shape, hidden.shape
        (torch.Size([5, 8]), torch.Size([5, 2, 8]))
    """

    def __init__(self, cells: Sequence[nn.Module], states: int) -> None:
        super().__init__()
        self.cells, self.states = nn.ModuleList(cells), states

    def forward(self, x: Tensor, *hidden: Tensor) -> tuple[Tensor, ...]:
        """Step from ``x`` ``[B, F]`` and hidden states ``[B, layers, H]``."""
        after = []
        for layer, cell in enumerate(self.cells):
            before = tuple(each[..., layer, :] for each in hidden)
            now = cell(x, before) if self.states == 2 else (cell(x, before[0]),)
            x = now[0]
            after.append(now)
        return x, *(torch.stack(each, -2) for each in zip(*after, strict=True))


class RecurrentStep(nn.Module):
    """One step of a group's recurrent networks, in place of BenchMARL's ``MultiAgentGRU``/``LSTM``.

    It is not told of an episode's start: there the hidden states are given as zeros.

    Args:
        networks (sequence of RecurrentNetwork): each agent's.
    """

    def __init__(self, networks: Sequence[RecurrentNetwork]) -> None:
        super().__init__()
        hidden = (-3,) * networks[0].states
        self.agents = AgentNetworks(networks, (-2, *hidden), (-2, *hidden))

    def forward(self, x: Tensor, is_init: Tensor | None, *hidden: Tensor) -> tuple[Tensor, ...]:
        """Step from ``x`` ``[B, n, F]`` and hidden states ``[B, n, layers, H]``."""
        return self.agents(x, *hidden)

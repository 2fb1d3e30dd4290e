"""Optimiser steps that a GPU repeats from a recording, without Python in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from benchmarl_ssd.algorithms.errors import OfflineRunError
from benchmarl_ssd.objectives.common import OfflineLoss

if TYPE_CHECKING:
    from benchmarl.experiment import Experiment, ExperimentConfig

# Steps in which what is allocated or compiled once, is; they train like all others.
_WARM_UP = 5


class GraphedSteps:
    """Stands for the experiment's optimiser step: the same step, recorded once as a CUDA graph.

    The networks of this package are small, so that a GPU waits for Python most of the time. Here a
    step's operations are recorded, with the losses, their gradients, clipping, Adam and the
    targets, and a step copies a batch to where the recording reads it and replays that. What a step
    does may depend on numbers of the host only in the ways that
    :meth:`~benchmarl_ssd.objectives.common.OfflineLoss.call_key` and ``begin_call`` tell: there is
    a recording for every key.

    Args:
        experiment (Experiment): with its optimisers set up, training on a GPU.
    """

    def __init__(self, experiment: Experiment) -> None:
        for group, loss in experiment.losses.items():
            if not isinstance(loss, OfflineLoss):
                raise OfflineRunError(
                    f"expected a loss that is an OfflineLoss with cuda_graphs=true, found "
                    f"{type(loss).__name__} of {group}; set algorithm.cuda_graphs=false"
                )
        self.experiment = experiment
        self._stream = torch.cuda.Stream(experiment.config.train_device)
        self.forget()

    def forget(self) -> None:
        """Record anew, as after optimisers have been loaded."""
        self._taken: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, _Recording] = {}

    def __call__(self, group: str) -> TensorDictBase:
        """Take an optimiser step of a group.

        Returns:
            Losses, metrics and norms of gradients, as BenchMARL logs them.
        """
        experiment = self.experiment
        buffer, loss = experiment.replay_buffers[group], experiment.losses[group]
        batch = buffer.sample().to(experiment.config.train_device)
        made = loss.call_key()
        key = (group, batch.shape, made)
        if not self._taken:
            self._prepare()
        if made is not None and key not in self._graphs and self._taken[key] >= _WARM_UP:
            self._graphs[key] = self._record(group, batch)
        if key in self._graphs:
            loss.begin_call()
            found = self._graphs[key](batch)
            loss.end_call()
        else:
            found = self._warm_up(group, batch)
        self._taken[key] += 1
        buffer.update_tensordict_priority(batch)
        more = experiment._on_train_step(batch, group)
        return found if more is None else found.update(more)

    def _prepare(self) -> None:
        for optimizers in self.experiment.optimizers.values():
            for optimizer in optimizers.values():
                make_capturable(optimizer)

    def _warm_up(self, group: str, batch: TensorDictBase) -> TensorDictBase:
        # Not on the default stream, as the recording will not be.
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            found = optimiser_step(self.experiment, group, batch)
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        return found

    def _record(self, group: str, batch: TensorDictBase) -> _Recording:
        try:
            return _Recording(lambda inputs: optimiser_step(self.experiment, group, inputs), batch)
        except RuntimeError as error:
            name = self.experiment.algorithm_name
            raise OfflineRunError(
                f"expected a step of {name} that can be recorded as a CUDA graph, found one that "
                f"waits for the GPU or copies to it ({str(error).splitlines()[0]}); set "
                "algorithm.cuda_graphs=false"
            ) from error


def optimiser_step(experiment: Experiment, group: str, batch: TensorDictBase) -> TensorDictBase:
    """Take BenchMARL's optimiser step of a group on a batch, without waiting for a GPU.

    Args:
        experiment (Experiment): whose losses, optimisers and targets.
        group (str): a group of agents.
        batch (TensorDictBase): what to train on.

    Returns:
        Losses, metrics and norms of gradients.
    """
    losses = experiment.losses[group](batch)
    found = losses.detach()
    losses = experiment.algorithm.process_loss_vals(group, losses)
    for name, loss in losses.items():
        optimizer = experiment.optimizers[group].get(name)
        if optimizer is not None:
            loss.backward()
            found.set(f"grad_norm_{name}", _clip(experiment.config, optimizer))
            optimizer.step()
            optimizer.zero_grad()
    if experiment.target_updaters[group] is not None:
        experiment.target_updaters[group].step()
    return found


def _clip(config: ExperimentConfig, optimizer: torch.optim.Optimizer) -> Tensor:
    parameters = [each for part in optimizer.param_groups for each in part["params"]]
    if config.clip_grad_norm and config.clip_grad_val is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, config.clip_grad_val)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if config.clip_grad_val is not None:
        torch.nn.utils.clip_grad_value_(parameters, config.clip_grad_val)
    return norm


class _Recording:
    """Operations on a batch, recorded without being carried out, to be replayed on others."""

    def __init__(
        self, step: Callable[[TensorDictBase], TensorDictBase], batch: TensorDictBase
    ) -> None:
        self._batch = batch.clone()
        self._inputs = _leaves(self._batch)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            found = step(self._batch)
            self._names = sorted(found.keys())
            # One tensor, so that one copy keeps what the next replay writes over.
            self._found = torch.stack([found[name].float() for name in self._names])

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        torch._foreach_copy_(self._inputs, _leaves(batch))
        self._graph.replay()
        return TensorDict(dict(zip(self._names, self._found.clone().unbind(), strict=True)))


def _leaves(batch: TensorDictBase) -> list[Tensor]:
    return [batch.get(key) for key in sorted(batch.keys(True, True), key=str)]


def make_capturable(optimizer: torch.optim.Optimizer) -> None:
    """Let Adam keep its rates and counts on the GPU, where a recording reads them.

    Args:
        optimizer (Optimizer): of parameters on a GPU.
    """
    for part in optimizer.param_groups:
        part.update(capturable=True, fused=True)
        device = part["params"][0].device
        part["lr"] = torch.as_tensor(part["lr"], dtype=torch.float32).to(device)
        for each in part["params"]:
            state = optimizer.state[each]
            if "step" in state:
                state["step"] = state["step"].to(device, torch.float32)


def set_rate(part: dict[str, Any], rate: float) -> None:
    """Set the learning rate of an optimiser's group of parameters, where it is kept.

    Args:
        part (dict): one of its ``param_groups``.
        rate (float): the learning rate.
    """
    if isinstance(part["lr"], Tensor):
        part["lr"].fill_(rate)
    else:
        part["lr"] = rate


def portable(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimiser's state as one that never saw a graph would save it.

    Args:
        state (dict): its ``state_dict()``.
    """
    parts = [
        {**part, "lr": float(part["lr"]), "capturable": False, "fused": None}
        if isinstance(part["lr"], Tensor)
        else part
        for part in state["param_groups"]
    ]
    return {**state, "param_groups": parts}

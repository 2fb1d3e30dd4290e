"""The check that an exported file decides as the trained policy does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from benchmarl.experiment import Experiment
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from benchmarl_ssd.data.recording import preserved_random_state, seed_everything
from benchmarl_ssd.data.statistics import sample_rows
from benchmarl_ssd.deployment.errors import ExportError
from benchmarl_ssd.deployment.graph import PolicyGraph, input_specs

TOLERANCE = 1e-5
"""Largest difference that passes, in units of the action (relative to it above 1)."""

_ROWS = 1000
_STEPS = 25


@dataclass(frozen=True)
class Sample:
    """Observations from one source, and what the policy does on them.

    Args:
        inputs: TensorDict ``[B]`` of what the policy reads.
        outputs: TensorDict ``[B]`` of all that it writes.
    """

    inputs: TensorDictBase
    outputs: TensorDictBase


class Reference:
    """The trained policy of a group on observations that it may meet.

    The observations are drawn at random, met by the policy in its environment, and taken from
    the dataset that it was trained on (or the replay buffer of an online run), where there is one.

    Args:
        experiment (Experiment): holds the policy; its evaluation environment is stepped.
        group (str): the group.
        seed (int): of the random observations.

    Raises:
        ExportError: if the policy's decisions are random even in evaluation.
    """

    def __init__(self, experiment: Experiment, group: str, seed: int = 0) -> None:
        self.policy = experiment.group_policies[group]
        self.group = group
        self.specs = input_specs(experiment, group)
        self.samples: dict[str, Sample] = {}
        with preserved_random_state(), torch.no_grad():
            seed_everything(seed)
            self._add("random", None)
            self._add("environment", _met(experiment))
            self._add("dataset", _logged(experiment, group))
            first = self.samples["random"]
            again = self._decide(first.inputs)
        if not torch.equal(again[group, "action"], first.outputs[group, "action"]):
            raise ExportError(
                "expected a policy that decides the same on the same observations, found one that "
                "draws its actions at random; it cannot be exported"
            )

    def _add(self, source: str, data: TensorDictBase | None) -> None:
        if source != "random" and data is None:
            return
        rows: dict[Any, Tensor] = {}
        for key, (spec, role) in self.specs.items():
            if data is None or role == "state":
                continue
            if key not in data.keys(True, True):
                return
            values = data[key].reshape(-1, *spec.shape)
            chosen = sample_rows(len(values), _ROWS)
            rows[key] = values[chosen].cpu()
        count = len(next(iter(rows.values()))) if rows else _ROWS
        for key, (spec, role) in self.specs.items():
            if key not in rows:
                rows[key] = spec.expand(count, *spec.shape).rand().cpu()
                if role == "action_mask":
                    rows[key][..., 0] = True  # some action is always allowed
        inputs = TensorDict({}, batch_size=[count])
        for key, values in rows.items():
            inputs.set(key, values)
        self.samples[source] = Sample(inputs, self._decide(inputs))

    def _decide(self, inputs: TensorDictBase) -> TensorDictBase:
        data = inputs.clone()
        data.set("is_init", torch.zeros(*inputs.shape, 1, dtype=torch.bool))
        with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
            device = next(iter(self.policy.parameters())).device
            return self.policy(data.to(device)).cpu()

    def difference(
        self, source: str, graph: PolicyGraph, run: Callable[[list[Tensor]], list[Tensor]]
    ) -> float:
        """Measure the largest difference between a file and the policy.

        Continuous actions and hidden states differ by :math:`|a' - a| / \\max(1, |a|)`; a discrete
        action by how much its logit falls short of the chosen one's, in the same way.

        Args:
            source: ``random``, ``environment`` or ``dataset``.
            graph: what was exported.
            run: runs the file.
        """
        sample = self.samples[source]

        def own(data: TensorDictBase, key: Any) -> Tensor:
            values = data[key]
            return values if graph.agent is None else values[:, graph.agent]

        inputs = [own(sample.inputs, port.key).contiguous() for port in graph.inputs]
        expected = [own(sample.outputs, port.key) for port in graph.outputs]
        largest = 0.0
        for rows in (slice(None), slice(0, 1)):  # a batch, and the one decision of a robot
            found = run([value[rows] for value in inputs])
            for port, is_, should in zip(graph.outputs, found, expected, strict=True):
                wanted = should[rows]
                if is_.shape != wanted.shape:
                    return float("inf")
                if port.dtype.is_floating_point:
                    off = _relative(is_, wanted)
                else:
                    scores = own(sample.outputs, self._scores(sample.outputs))[rows]
                    off = _relative(_pick(scores, is_), _pick(scores, wanted))
                largest = max(largest, off)
        return largest

    def _scores(self, outputs: TensorDictBase) -> Any:
        keys = outputs.keys(True, True)
        return next((self.group, k) for k in ("logits", "action_value") if (self.group, k) in keys)


def _relative(found: Tensor, wanted: Tensor) -> float:
    off = ((found - wanted).abs() / wanted.abs().clamp(min=1)).max().item()
    return off if off == off else float("inf")  # NaN is as wrong as can be


def _pick(scores: Tensor, index: Tensor) -> Tensor:
    return scores.gather(-1, index.unsqueeze(-1))


def _met(experiment: Experiment) -> TensorDictBase:
    """What the policy meets in its environment."""
    env = experiment.test_env
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        return env.rollout(
            max_steps=min(_STEPS, experiment.max_steps),
            policy=experiment.policy,
            auto_cast_to_device=True,
            break_when_any_done=not env.batch_size,
        )


def _logged(experiment: Experiment, group: str) -> TensorDictBase | None:
    """What the policy was trained on."""
    dataset = getattr(experiment.algorithm, "dataset", None)
    if dataset is not None:
        return dataset.data
    buffer = experiment.replay_buffers[group]
    return buffer[:] if len(buffer) else None

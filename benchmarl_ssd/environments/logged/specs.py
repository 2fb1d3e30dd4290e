"""TorchRL specs of what a dataset holds."""

from __future__ import annotations

import torch
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    OneHot,
    TensorSpec,
    Unbounded,
    UnboundedDiscrete,
)

from benchmarl_ssd.data import DatasetMetadata
from benchmarl_ssd.data.layout import name_key

FLAGS = ("done", "terminated", "truncated")


def observed_names(metadata: DatasetMetadata) -> list[str]:
    """List the tensors that are seen before acting: observations, masks, and the state.

    Args:
        metadata: of the dataset.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> observed_names(DatasetMetadata.read(write_example()))
        ['agents/observation']
    """
    actions = {f"{group}/action" for group in metadata.groups}
    return sorted(
        name
        for name in metadata.tensors
        if f"next/{name}" in metadata.tensors and name not in actions
    )


def observation_spec(metadata: DatasetMetadata) -> Composite:
    """Build the spec of everything in :func:`observed_names`, without batch dimension.

    Args:
        metadata: of the dataset.
    """
    spec = _groups(metadata)
    for name in observed_names(metadata):
        info = metadata.tensors[name]
        spec[name_key(name)] = _leaf(info.torch_dtype, torch.Size(info.shape[1:]))
    return spec


def action_spec(metadata: DatasetMetadata) -> Composite:
    """Build the spec of the groups' actions, without batch dimension.

    Floating actions are bounded, ``[n, d]``; integers count choices, ``[n]``; two-dimensional
    integers or flags are one-hot, ``[n, k]``.

    Args:
        metadata: of the dataset.
    """
    spec = _groups(metadata)
    for group in metadata.groups:
        info = metadata.tensors[f"{group}/action"]
        dtype, shape = info.torch_dtype, torch.Size(info.shape[1:])
        low, high = metadata.bounds(group)
        leaf: TensorSpec
        if dtype.is_floating_point:
            leaf = Bounded(low, high, shape, dtype=dtype)
        elif len(shape) == 1:
            leaf = Categorical(int(high.max()) + 1, shape, dtype=dtype)
        else:
            leaf = OneHot(shape[-1], shape, dtype=dtype)
        spec[group, "action"] = leaf
    return spec


def reward_spec(metadata: DatasetMetadata) -> Composite:
    """Build the spec of the agents' rewards, without batch dimension.

    Args:
        metadata: of the dataset.
    """
    spec = _groups(metadata)
    for group, agents in metadata.groups.items():
        dtype = metadata.tensors[f"next/{group}/reward"].torch_dtype
        spec[group, "reward"] = Unbounded((len(agents), 1), dtype=dtype)
    return spec


def done_spec() -> Composite:
    """Build the spec of the team's flags, without batch dimension."""
    return Composite({flag: Categorical(2, (1,), dtype=torch.bool) for flag in FLAGS})


def is_continuous(metadata: DatasetMetadata) -> bool:
    """Tell whether all groups act with real numbers.

    Args:
        metadata: of the dataset.
    """
    dtypes = [metadata.tensors[f"{group}/action"].torch_dtype for group in metadata.groups]
    return all(dtype.is_floating_point for dtype in dtypes)


def _groups(metadata: DatasetMetadata) -> Composite:
    return Composite(
        {group: Composite(shape=(len(agents),)) for group, agents in metadata.groups.items()}
    )


def _leaf(dtype: torch.dtype, shape: torch.Size) -> TensorSpec:
    if dtype.is_floating_point:
        return Unbounded(shape, dtype=dtype)
    if dtype == torch.bool:
        return Binary(shape[-1] if shape else 1, shape, dtype=dtype)
    return UnboundedDiscrete(shape, dtype=dtype)

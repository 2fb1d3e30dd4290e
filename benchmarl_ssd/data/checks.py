"""What every dataset must satisfy, checked while it is written and when it is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from benchmarl_ssd.data.errors import DatasetError

BOUND_TOLERANCE = 1e-5
"""How far an action may lie outside of its bounds (rounding), in the action's unit."""

FLAGS = ("next/done", "next/terminated", "next/truncated")

Spec = tuple[torch.dtype, tuple[int, ...]]


def observation_names(names: Sequence[str] | Mapping[str, object], group: str) -> list[str]:
    """List what a group's agents see: every tensor under the group but its action.

    Args:
        names: names of all tensors.
        group: the group's name.

    Example:
        >>> observation_names(["agents/action", "agents/observation", "next/done"], "agents")
        ['agents/observation']
    """
    return sorted(n for n in names if n.startswith(f"{group}/") and n != f"{group}/action")


def check_layout(specs: Mapping[str, Spec], groups: Mapping[str, Sequence[str]]) -> None:
    """Check that the tensors are those of transitions of these groups.

    Args:
        specs: dtype and shape ``[T, ...]`` of each tensor, by name.
        groups: names of the agents, by group.

    Raises:
        DatasetError: naming the first tensor that is missing, not expected or of a wrong shape.
    """
    expected: dict[str, str] = {"episode": "[T]", **dict.fromkeys(FLAGS, "[T, 1]")}
    for name in ("state", "next/state"):
        if "state" in specs or "next/state" in specs:
            expected[name] = "[T, ...]"
    for group, agents in groups.items():
        seen = observation_names(specs, group)
        if not seen:
            raise DatasetError(
                f"expected {group}/observation, found {', '.join(sorted(specs))}; "
                f"store what the agents of group {group!r} observe"
            )
        flags = [n for n in specs if n.startswith(f"next/{group}/") and n.split("/")[2] in _DONE]
        names = [f"{group}/action", f"next/{group}/reward", *seen, *flags]
        for name in [*names, *(f"next/{name}" for name in seen)]:
            expected[name] = f"[T, {len(agents)}, ...]"
    for name in sorted(expected):
        if name not in specs:
            raise DatasetError(
                f"expected tensor {name} {expected[name]}, found only {', '.join(sorted(specs))}; "
                "a dataset holds whole transitions of every group"
            )
    for name in sorted(specs):
        if name not in expected:
            raise DatasetError(
                f"expected the tensors {', '.join(sorted(expected))}, found {name} as well; "
                "leave it out"
            )
        _check_spec(name, *specs[name], groups)
    _check_lengths(specs)


_DONE = ("done", "terminated", "truncated")


def _check_spec(
    name: str, dtype: torch.dtype, shape: tuple[int, ...], groups: Mapping[str, Sequence[str]]
) -> None:
    parts = name.removeprefix("next/").split("/")
    wanted: str | None = None
    if name == "episode" and (dtype != torch.int64 or len(shape) != 1):
        wanted = "int64 [T]"
    elif name in FLAGS and (dtype != torch.bool or shape[1:] != (1,)):
        wanted = "bool [T, 1]"
    elif parts[0] in groups:
        agents = len(groups[parts[0]])
        if len(shape) < 2 or shape[1] != agents:
            wanted = f"[T, {agents}, ...] for the {agents} agents of group {parts[0]!r}"
        elif parts[-1] == "reward" and (not dtype.is_floating_point or shape[2:] != (1,)):
            wanted = f"a float [T, {agents}, 1]"
    if wanted:
        raise DatasetError(
            f"expected {name} to be {wanted}, found {str(dtype).removeprefix('torch.')} "
            f"{list(shape)}; give each transition one row and each agent one column"
        )


def _check_lengths(specs: Mapping[str, Spec]) -> None:
    lengths = {name: shape[0] for name, (_, shape) in specs.items()}
    if len(set(lengths.values())) > 1:
        other = next(name for name in lengths if lengths[name] != lengths["episode"])
        raise DatasetError(
            f"expected the same number of transitions in every tensor, found "
            f"{lengths['episode']} in episode and {lengths[other]} in {other}; "
            "the dataset is damaged: record it again"
        )
    for name, (dtype, shape) in specs.items():
        if name.startswith("next/") and name[5:] in specs and specs[name[5:]] != (dtype, shape):
            raise DatasetError(
                f"expected {name} to be like {name[5:]}, {specs[name[5:]]}, "
                f"found {(dtype, shape)}; "
                "the two are one quantity at two times"
            )


def check_values(name: str, values: torch.Tensor, row: int = 0) -> None:
    """Check that a tensor's values are finite.

    Args:
        name: the tensor's name.
        values: ``[t, ...]`` of any dtype.
        row: the dataset's transition that ``values[0]`` is.

    Raises:
        DatasetError: naming the first transition with a NaN or an infinity.

    Example:
        >>> check_values("agents/observation", torch.tensor([[0.0], [float("nan")]]), row=10)
        Traceback (most recent call last):
        ...
        benchmarl_ssd.data.errors.DatasetError: expected finite values, found nan in \
agents/observation at transition 11; repair or drop that episode
    """
    if not values.dtype.is_floating_point:
        return
    finite = values.isfinite()
    if not finite.all():
        at = int((~finite).flatten(1).any(1).nonzero()[0]) if values.ndim > 1 else 0
        found = values[at][~finite[at]].flatten()[0].item()
        raise DatasetError(
            f"expected finite values, found {found} in {name} at transition {row + at}; "
            "repair or drop that episode"
        )


def check_actions(
    name: str, actions: torch.Tensor, low: torch.Tensor, high: torch.Tensor, row: int = 0
) -> None:
    """Check that actions lie inside of their bounds.

    Args:
        name: the tensor's name.
        actions: ``[t, n, action]``.
        low: lowest actions, ``[n, action]``.
        high: highest actions, ``[n, action]``.
        row: the dataset's transition that ``actions[0]`` is.

    Raises:
        DatasetError: naming the first transition with an action out of bounds.
    """
    inside = (actions >= low - BOUND_TOLERANCE) & (actions <= high + BOUND_TOLERANCE)
    if not inside.all():
        at = int((~inside).flatten(1).any(1).nonzero()[0])
        spot = tuple((~inside[at]).nonzero()[0].tolist())
        raise DatasetError(
            f"expected actions in [{low[spot].item():g}, {high[spot].item():g}], found "
            f"{actions[at][spot].item():g} in {name} at transition {row + at}, agent {spot[0]}; "
            "clamp the policy's actions or correct the bounds"
        )


def check_flags(
    done: torch.Tensor, terminated: torch.Tensor, truncated: torch.Tensor, row: int = 0
) -> None:
    """Check that an episode ends exactly where it was terminated or truncated.

    Args:
        done: bool ``[t, 1]``.
        terminated: bool ``[t, 1]``, the task's own end.
        truncated: bool ``[t, 1]``, a time limit.
        row: the dataset's transition that the first row is.

    Raises:
        DatasetError: naming the first transition where they disagree.
    """
    wrong = done != (terminated | truncated)
    if wrong.any():
        at = int(wrong.flatten().nonzero()[0])
        raise DatasetError(
            "expected done to be terminated or truncated, found "
            f"done={bool(done[at])}, terminated={bool(terminated[at])}, "
            f"truncated={bool(truncated[at])} at transition {row + at}; correct the flags"
        )


def check_bounds(bounds: Mapping[str, object], specs: Mapping[str, Spec]) -> None:
    """Check that every group's action bounds have the shape of one action, lowest first.

    Args:
        bounds: ``{"low": ..., "high": ...}`` by group.
        specs: dtype and shape ``[T, ...]`` of each tensor, by name.

    Raises:
        DatasetError: naming the group whose bounds do not fit.
    """
    for group, sides in bounds.items():
        if f"{group}/action" not in specs:
            raise DatasetError(
                f"expected action bounds for the dataset's groups, found some for {group!r}; "
                "leave them out"
            )
        shape = specs[f"{group}/action"][1][1:]
        low, high = (_as_tensor(sides, side, group) for side in ("low", "high"))
        if low.shape != shape or high.shape != shape or not (low <= high).all():
            raise DatasetError(
                f"expected action bounds low <= high of shape {list(shape)} for group {group!r}, "
                f"found shapes {list(low.shape)} and {list(high.shape)}; correct the bounds"
            )


def _as_tensor(sides: object, side: str, group: str) -> torch.Tensor:
    try:
        values = torch.as_tensor(sides[side], dtype=torch.float64)  # type: ignore[index]
    except (TypeError, ValueError, KeyError, RuntimeError):
        values = torch.tensor(float("nan"))
    if not values.isfinite().all():
        raise DatasetError(
            f"expected finite numbers [agent][action] as action bound {side!r} of group "
            f"{group!r}, found something else; give one low and one high per action"
        )
    return values

"""What every dataset must satisfy, checked while it is written and when it is opened.

Each rule is a generator of findings: a report asks for all of them, a writer raises the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from benchmarl_ssd.data.findings import Finding

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


def find_layout(
    specs: Mapping[str, Spec], groups: Mapping[str, Sequence[str]]
) -> Iterator[Finding]:
    """Find tensors that are not those of transitions of these groups.

    Args:
        specs: dtype and shape ``[T, ...]`` of each tensor, by name.
        groups: names of the agents, by group.

    Yields:
        Each tensor that is missing, not expected or of a wrong shape.
    """
    expected: dict[str, str] = {"episode": "[T]", **dict.fromkeys(FLAGS, "[T, 1]")}
    for name in ("state", "next/state"):
        if "state" in specs or "next/state" in specs:
            expected[name] = "[T, ...]"
    for group, agents in groups.items():
        seen = observation_names(specs, group)
        if not seen:
            yield Finding(
                "layout",
                f"{group}/observation",
                f"{', '.join(sorted(specs))}",
                f"store what the agents of group {group!r} observe",
                key=f"{group}/observation",
            )
        flags = [n for n in specs if n.startswith(f"next/{group}/") and n.split("/")[2] in _DONE]
        names = [f"{group}/action", f"next/{group}/reward", *seen, *flags]
        for name in [*names, *(f"next/{name}" for name in seen)]:
            expected[name] = f"[T, {len(agents)}, ...]"
    for name in sorted(expected):
        if name not in specs:
            yield Finding(
                "layout",
                f"tensor {name} {expected[name]}",
                f"only {', '.join(sorted(specs))}",
                "a dataset holds whole transitions of every group",
                key=name,
            )
    for name in sorted(specs):
        if name not in expected:
            yield Finding(
                "layout",
                f"the tensors {', '.join(sorted(expected))}",
                f"{name} as well",
                "leave it out",
                key=name,
            )
        yield from _find_spec(name, *specs[name], groups)
    yield from _find_lengths(specs)


_DONE = ("done", "terminated", "truncated")


def _find_spec(
    name: str, dtype: torch.dtype, shape: tuple[int, ...], groups: Mapping[str, Sequence[str]]
) -> Iterator[Finding]:
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
    if not wanted and 0 in shape[1:]:
        wanted = "of at least one entry"
    if wanted:
        yield Finding(
            "shape",
            f"{name} to be {wanted}",
            f"{str(dtype).removeprefix('torch.')} {list(shape)}",
            "give each transition one row and each agent one column",
            key=name,
        )


def _find_lengths(specs: Mapping[str, Spec]) -> Iterator[Finding]:
    lengths = {name: shape[0] for name, (_, shape) in specs.items()}
    for name in lengths:
        if lengths[name] != lengths.get("episode", lengths[name]):
            yield Finding(
                "shape",
                "the same number of transitions in every tensor",
                f"{lengths['episode']} in episode and {lengths[name]} in {name}",
                "the dataset is damaged: record it again",
                key=name,
            )
    for name, (dtype, shape) in specs.items():
        if name.startswith("next/") and name[5:] in specs and specs[name[5:]] != (dtype, shape):
            yield Finding(
                "shape",
                f"{name} to be like {name[5:]}, {specs[name[5:]]}",
                f"{(dtype, shape)}",
                "the two are one quantity at two times",
                key=name,
            )


def find_values(name: str, values: torch.Tensor, row: int = 0) -> Iterator[Finding]:
    """Find values that are not finite, and flags that are neither true nor false.

    Args:
        name: the tensor's name.
        values: ``[t, ...]`` of any dtype.
        row: the dataset's transition that ``values[0]`` is.

    Yields:
        At most one finding, about the first of these transitions.

    Example:
        >>> values = torch.tensor([[0.0], [float("nan")]])
        >>> [finding.row for finding in find_values("agents/observation", values, row=10)]
        [11]
    """
    right = _right_values(values)
    if not right.all():
        wrong = ~right.flatten(1).all(1)
        at = int(wrong.nonzero()[0])
        flag = values.dtype == torch.bool
        found = (values.view(torch.uint8) if flag else values)[at][~right[at]].flatten()[0].item()
        yield Finding(
            "values",
            "0 or 1" if flag else "finite values",
            f"{found} in {name} at transition {row + at}",
            "copy the dataset again" if flag else "repair or drop that episode",
            key=name,
            row=row + at,
            count=int(wrong.sum()),
        )


def wrong_values(values: torch.Tensor) -> torch.Tensor:
    """Tell which transitions have values that :func:`find_values` would find.

    Args:
        values: ``[t, ...]`` of any dtype.

    Returns:
        bool ``[t]``.
    """
    return ~_right_values(values).flatten(1).all(1)


def _right_values(values: torch.Tensor) -> torch.Tensor:
    if values.ndim == 1:
        values = values.unsqueeze(1)
    if values.dtype == torch.bool:  # a file can hold any byte
        return values.view(torch.uint8) <= 1
    return values.isfinite()


def find_actions(
    name: str, actions: torch.Tensor, low: torch.Tensor, high: torch.Tensor, row: int = 0
) -> Iterator[Finding]:
    """Find actions out of their bounds.

    Args:
        name: the tensor's name.
        actions: ``[t, n, action]``.
        low: lowest actions, ``[n, action]``.
        high: highest actions, ``[n, action]``.
        row: the dataset's transition that ``actions[0]`` is.

    Yields:
        At most one finding, about the first of these transitions. NaN is a matter of
        :func:`find_values`.
    """
    outside = _outside(actions, low, high)
    if outside.any():
        wrong = wrong_actions(actions, low, high)
        at = int(wrong.nonzero()[0])
        spot = tuple(outside[at].nonzero()[0].tolist())
        yield Finding(
            "bounds",
            f"actions in [{low[spot].item():g}, {high[spot].item():g}]",
            f"{actions[at][spot].item():g} in {name} at transition {row + at}, agent {spot[0]}",
            "clamp the policy's actions or correct the bounds",
            key=name,
            row=row + at,
            count=int(wrong.sum()),
        )


def wrong_actions(actions: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Tell which transitions have actions out of their bounds.

    Args:
        actions: ``[t, n, action]``.
        low: lowest actions, ``[n, action]``.
        high: highest actions, ``[n, action]``.

    Returns:
        bool ``[t]``.
    """
    return _outside(actions, low, high).flatten(1).any(1)


def _outside(actions: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    if actions.dtype == torch.bool:  # one-hot
        actions, low, high = actions.int(), low.int(), high.int()
    return (actions < low - BOUND_TOLERANCE) | (actions > high + BOUND_TOLERANCE)


def find_flags(
    done: torch.Tensor, terminated: torch.Tensor, truncated: torch.Tensor, row: int = 0
) -> Iterator[Finding]:
    """Find transitions where an end is neither terminated nor truncated, or the other way round.

    Args:
        done: bool ``[t, 1]``.
        terminated: bool ``[t, 1]``, the task's own end.
        truncated: bool ``[t, 1]``, a time limit.
        row: the dataset's transition that the first row is.

    Yields:
        At most one finding, about the first of these transitions.
    """
    wrong = (done != (terminated | truncated)).flatten()
    if wrong.any():
        at = int(wrong.nonzero()[0])
        yield Finding(
            "flags",
            "done to be terminated or truncated",
            f"done={bool(done[at])}, terminated={bool(terminated[at])}, "
            f"truncated={bool(truncated[at])} at transition {row + at}",
            "correct the flags",
            key="next/done",
            row=row + at,
            count=int(wrong.sum()),
        )


def find_bounds(bounds: Mapping[str, object], specs: Mapping[str, Spec]) -> Iterator[Finding]:
    """Find action bounds that do not have the shape of one action, lowest first.

    Args:
        bounds: ``{"low": ..., "high": ...}`` by group.
        specs: dtype and shape ``[T, ...]`` of each tensor, by name.

    Yields:
        Each group whose bounds do not fit.
    """
    for group, sides in bounds.items():
        if f"{group}/action" not in specs:
            yield Finding(
                "action bounds",
                "action bounds for the dataset's groups",
                f"some for {group!r}",
                "leave them out",
                key=f"{group}/action",
            )
            continue
        shape = specs[f"{group}/action"][1][1:]
        low, high = (_as_tensor(sides, side) for side in ("low", "high"))
        if low is None or high is None:
            yield Finding(
                "action bounds",
                f"finite numbers [agent][action] as action bound "
                f"{'low' if low is None else 'high'!r} of group {group!r}",
                "something else",
                "give one low and one high per action",
                key=f"{group}/action",
            )
        elif low.shape != shape or high.shape != shape or not (low <= high).all():
            yield Finding(
                "action bounds",
                f"action bounds low <= high of shape {list(shape)} for group {group!r}",
                f"shapes {list(low.shape)} and {list(high.shape)}",
                "correct the bounds",
                key=f"{group}/action",
            )


def _as_tensor(sides: object, side: str) -> torch.Tensor | None:
    try:
        values = torch.as_tensor(sides[side], dtype=torch.float64)  # type: ignore[index]
    except (TypeError, ValueError, KeyError, RuntimeError):
        return None
    return values if bool(values.isfinite().all()) else None

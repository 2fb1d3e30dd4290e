"""Writes the trained policies of a run as files that run without it."""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarl.experiment import Experiment

from benchmarl_ssd.data.recording import preserved_random_state
from benchmarl_ssd.data.writer import versions
from benchmarl_ssd.deployment import formats
from benchmarl_ssd.deployment.errors import ExportError
from benchmarl_ssd.deployment.graph import PolicyGraph, Port
from benchmarl_ssd.deployment.verification import TOLERANCE, Reference

FORMAT = "benchmarl-ssd policy"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ExportedPolicy:
    """A file that was written.

    Args:
        path: the file.
        metadata: what it says about itself.
        differences: the largest difference from the trained policy and the number of
            observations, by their source; empty if it could not be run here.
    """

    path: Path
    metadata: dict[str, Any]
    differences: dict[str, tuple[float, int]]


def export_policy(
    experiment: Experiment,
    out: str | os.PathLike[str],
    *,
    format: str = "onnx",
    group: str | None = None,
    per_agent: bool = False,
    source: Mapping[str, Any] | None = None,
) -> list[ExportedPolicy]:
    r"""Write the policies that a run has trained, from raw observations to actions.

    A file holds :math:`a = \pi(o)` as the policy decides in evaluation, with the action in the
    task's unit. It is run after writing, and takes its name only if it agrees with the policy.

    Args:
        experiment: the run, as ``Experiment.reload_from_file`` gives it.
        out: the file. Several groups or agents write beside it, with their name before the
            suffix: ``policy-agent_0.onnx``.
        format: ``onnx``, or ``torch`` for a program that ``torch.export.load`` reads.
        group: the only group to export; None: all of them, one file each.
        per_agent: one file for each agent, from its own observation to its own action.
        source: free entries for the metadata.

    Returns:
        The files, in the order of groups and agents.

    Raises:
        ExportError: if a file exists, the group is unknown, the policy is of a kind that cannot be
            exported, or a file does not agree with it; nothing is left then.
        ImportError: if what writes the format is not installed.
    """
    formats.check_format(format)
    groups = experiment.group_map
    if group is not None and group not in groups:
        raise ExportError(f"expected --group to be one of {', '.join(groups)}, found {group!r}")
    chosen = list(groups) if group is None else [group]
    parts: list[tuple[str, int | None, str]] = []
    for name in chosen:
        agents = groups[name]
        if per_agent:
            parts += [(name, index, agent) for index, agent in enumerate(agents)]
        else:
            parts.append((name, None, name))
    targets = _targets(Path(out), [name for *_, name in parts], format, single=not per_agent)
    with preserved_random_state(), _new_files(targets) as temporary:
        written, reference = [], None
        for (name, agent, _), path, target in zip(parts, temporary, targets, strict=True):
            graph = PolicyGraph(experiment, name, agent)
            if reference is None or reference.group != name:
                reference = Reference(experiment, name)
            metadata = _metadata(experiment, graph, format, source or {})
            formats.write(path, graph, metadata, format)
            differences = _verify(path, graph, reference, format)
            written.append(ExportedPolicy(target, metadata, differences))
    return written


def _verify(
    path: Path, graph: PolicyGraph, reference: Reference, format: str
) -> dict[str, tuple[float, int]]:
    run = formats.runner(path, format)
    if run is None:
        return {}
    differences = {}
    for source, sample in reference.samples.items():
        difference = reference.difference(source, graph, run)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"expected a file that agrees with the policy within {TOLERANCE:g}, found a "
                f"difference of {difference:.2g} on {source} observations; nothing was written"
            )
        differences[source] = (difference, len(sample.inputs))
    return differences


# -- what a file says about itself ---------------------------------------------------------------


def _metadata(
    experiment: Experiment, graph: PolicyGraph, format: str, source: Mapping[str, Any]
) -> dict[str, Any]:
    agents = experiment.group_map[graph.group]
    env = experiment.test_env
    transforms = [type(each).__name__ for each in getattr(env, "transform", ())]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "algorithm": experiment.algorithm_name,
        "model": experiment.model_name,
        "task": {
            "environment": experiment.environment_name,
            "name": experiment.task_name,
            "config": _plain(experiment.task.config),
        },
        "seed": experiment.seed,
        "trained_frames": experiment.total_frames,
        "group": graph.group,
        "agents": agents if graph.agent is None else [agents[graph.agent]],
        "inputs": [_describe(port) for port in graph.inputs],
        "outputs": [
            {**_describe(port), **(_bounds(experiment, graph) if port.role == "action" else {})}
            for port in graph.outputs
        ],
        "states": graph.states,
        # What the task does to the simulator's observations before any policy sees them.
        "environment_transforms": [t for t in transforms if t not in ("InitTracker", "Compose")],
        "source": _plain(source),
        "versions": versions(),
    }


def _describe(port: Port) -> dict[str, Any]:
    dtype = str(port.dtype).removeprefix("torch.")
    shape = ["batch", *port.shape]
    return {"name": port.name, "role": port.role, "shape": shape, "dtype": dtype}


def _bounds(experiment: Experiment, graph: PolicyGraph) -> dict[str, Any]:
    spec = experiment.action_spec[graph.group, "action"]
    if not spec.dtype.is_floating_point:
        return {"choices": int(spec.space.n)}
    found = {}
    for side in ("low", "high"):
        bound = getattr(spec.space, side, None)
        if bound is None:
            return {}
        bound = torch.as_tensor(bound).expand(spec.shape)
        found[side] = _plain((bound if graph.agent is None else bound[graph.agent]).tolist())
    return found


def _plain(value: Any) -> Any:
    """The same in the types that JSON has; infinite numbers become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


# -- files ---------------------------------------------------------------------------------------


def _targets(out: Path, names: list[str], format: str, single: bool) -> list[Path]:
    suffix = formats.FORMATS[format]
    if out.suffix != suffix:
        raise ExportError(
            f"expected --out to end with {suffix} for --format {format}, found {out.name!r}"
        )
    if single and len(names) == 1:
        targets = [out]
    else:
        clean = [re.sub(r"[^\w.-]+", "_", name) for name in names]
        targets = [out.with_name(f"{out.stem}-{name}{suffix}") for name in clean]
    if len(set(targets)) < len(targets):
        raise ExportError(
            f"expected names that tell the files apart, found {', '.join(names)}; export one "
            "--group at a time"
        )
    for target in targets:
        _check_free(target)
    return targets


def _check_free(target: Path) -> None:
    if os.path.lexists(target):
        raise ExportError(
            f"expected a path where nothing is yet, found {target}; files are never overwritten: "
            "choose another --out"
        )


@contextmanager
def _new_files(targets: list[Path]) -> Iterator[list[Path]]:
    """Files in a hidden folder, which get their names together when all are whole, or never."""
    home = targets[0].parent
    made = [folder for folder in (home, *home.parents) if not folder.exists()]
    folder = home / f".{targets[0].name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    named: list[Path] = []
    try:
        folder.mkdir(parents=True)
        temporary = [folder / target.name for target in targets]
        yield temporary
        for path, target in zip(temporary, targets, strict=True):
            _name(path, target)
            named.append(target)
    except BaseException:
        for target in named:
            target.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _name(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)  # fails where something has appeared meanwhile
    except FileExistsError:
        _check_free(target)
        raise
    except OSError:  # a file system without hard links
        _check_free(target)
        path.rename(target)

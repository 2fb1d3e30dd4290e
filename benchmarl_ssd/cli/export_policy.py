"""``benchmarl-ssd export-policy``: write a trained policy as a file that runs by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from benchmarl_ssd.deployment import ExportedPolicy


def export_policy(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A BenchMARL checkpoint (.pt) in its experiment's folder. BenchMARL keeps the "
            "experiment's configuration beside it as a pickle: load what you made yourself.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="File to write, policy.onnx or policy.pt2; it must not exist. Several files get "
            "the group's or agent's name, as policy-agent_0.onnx."
        ),
    ],
    format: Annotated[
        str, typer.Option(help="`onnx`, or `torch` for a program of torch.export.")
    ] = "onnx",
    per_agent: Annotated[
        bool, typer.Option("--per-agent", help="One file per agent instead of one per group.")
    ] = False,
    group: Annotated[
        str | None,
        typer.Option(help="Export this group of agents only. Default: all, a file each."),
    ] = None,
) -> None:
    """Export a trained policy, from raw observations to actions, for onnxruntime alone.

    The file is compared with the policy on random observations, on some that it meets in its
    environment, and on those it was trained on, and is written only if they agree within 1e-5.
    """
    from benchmarl_ssd.cli import sources
    from benchmarl_ssd.deployment import ExportError
    from benchmarl_ssd.deployment import export_policy as export
    from benchmarl_ssd.deployment.formats import FORMATS, check_format

    check_format(format)  # before the checkpoint's environment is built, which takes a while
    if out.suffix != FORMATS[format]:
        raise ExportError(f"expected --out to end with {FORMATS[format]}, found {out.name!r}")
    with sources.open_experiment(checkpoint, num_envs=8) as experiment:
        written = export(
            experiment,
            out,
            format=format,
            group=group,
            per_agent=per_agent,
            source={"checkpoint": checkpoint.name},
        )
    for policy in written:
        typer.echo(describe(policy))


def describe(policy: ExportedPolicy) -> str:
    """Tell what was written and how far it is from the policy.

    Args:
        policy: the file.
    """

    def list_(ports: list) -> str:
        return ", ".join(f"{port['name']} {port['shape']}".replace("'", "") for port in ports)

    about = policy.metadata
    lines = [
        f"{policy.path}: {', '.join(about['agents'])}",
        f"  {list_(about['inputs'])} -> {list_(about['outputs'])}",
    ]
    if policy.differences:
        parts = (
            f"{difference:.1e} on {count:,} {source}"
            for source, (difference, count) in policy.differences.items()
        )
        lines.append(f"  largest difference from the policy: {', '.join(parts)} observations")
    else:
        lines.append("  not compared with the policy: onnxruntime is not installed")
    return "\n".join(lines)

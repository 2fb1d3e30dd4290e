"""``benchmarl-ssd record``: record a dataset from a checkpoint or a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_HELP_POLICY = (
    "Who acts: `random`, or `module:name` or `file.py:name` of a policy that takes and returns "
    "TensorDicts. A class, or a function whose only argument is named `env`, is called with the "
    "environment and gives the policy. The code is run: use what you trust."
)
_HELP_CHECKPOINT = (
    "A BenchMARL checkpoint (.pt) in its experiment's folder. BenchMARL keeps the experiment's "
    "configuration beside it as a pickle: use what you trust."
)


def record(
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Options of the task, such as n_agents=4.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help=_HELP_CHECKPOINT)] = None,
    task: Annotated[
        str | None, typer.Option(metavar="ENV/NAME", help="A BenchMARL task, as vmas/balance.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help=_HELP_POLICY)] = None,
    transitions: Annotated[
        int | None, typer.Option(min=1, help="Record whole episodes, at least this many; or")
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="record exactly this many episodes.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the environment and the policy.")] = 0,
    num_envs: Annotated[
        int, typer.Option(min=1, help="Environments at once, where the simulator can.")
    ] = 32,
    exploration: Annotated[
        str, typer.Option(help="`deterministic`, or `random` to let the policy explore.")
    ] = "deterministic",
) -> None:
    """Record a dataset of whole episodes from a BenchMARL checkpoint or a policy."""
    from benchmarl_ssd.cli import sources
    from benchmarl_ssd.data.recording import record as record_dataset

    if (checkpoint is None) == (task is None):
        raise ValueError("expected either --checkpoint or --task; give one of them")
    if (transitions is None) == (episodes is None):
        raise ValueError("expected either --transitions or --episodes; give one of them")
    if exploration not in ("deterministic", "random"):
        raise ValueError(f"expected --exploration deterministic or random, found {exploration!r}")
    if out.exists() or out.is_symlink():
        raise ValueError(f"expected --out where nothing is yet, found {out}; choose another folder")
    opened: Any
    if checkpoint is not None:
        if policy is not None or overrides:
            raise ValueError("expected --policy and task options with --task only; leave them out")
        opened = sources.from_checkpoint(checkpoint, num_envs)
    else:
        if policy is None:
            raise ValueError("expected --policy with --task; give one, or --policy random")
        assert task is not None
        opened = sources.from_task(task, overrides or [], policy, num_envs, seed)
    with opened as setup:
        metadata = record_dataset(
            setup.env,
            setup.policy,
            out,
            groups=setup.groups,
            max_steps=setup.max_steps,
            transitions=transitions,
            episodes=episodes,
            seed=seed,
            exploration=exploration,  # type: ignore[arg-type]
            keys=setup.keys,
            task=setup.task,
            source=setup.source,
        )
    typer.echo(metadata)
    typer.echo(f"written to {out}")

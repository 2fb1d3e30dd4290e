"""``benchmarl-ssd import``: make a dataset of someone else's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from benchmarl_ssd.data.importers import ImportBounds, Table
    from benchmarl_ssd.data.metadata import DatasetMetadata

_HELP_FORMAT = (
    "omar: a folder of OMAR's or CFCQL's, seed_<k>_data. madiff: a folder of MADiff's. "
    "omiga: an HDF5 file of OMIGA's. vault: a folder <scenario>.vlt/<uid> of OG-MARL's. "
    "arrays: your own npz or HDF5 file. hdf5: a file that `benchmarl-ssd export` wrote."
)
_HELP_TASK = (
    "The BenchMARL task that the data is of, as mpe/cooperative_navigation; "
    "logged/NAME if there is no simulator."
)
_HELP_MAPPING = (
    "For arrays: a YAML file that names the source's arrays, one line each such as "
    "`observations: obs`, or a list of one array per agent; for observations, actions, rewards, "
    "terminations, truncations, episodes, state, action_masks, next_observations, next_state, "
    "next_action_masks. Default: arrays of these names."
)
_HELP_LAST = (
    "What to do with the last step of a truncated episode where the source does not hold what came "
    "after: `drop` it, or `repeat` what was observed last."
)
_HELP_BOUND = "action: a number, or one per entry as -1,-0.5. Default: the task's, else"


def import_(
    format: Annotated[str, typer.Argument(metavar="FORMAT", help=_HELP_FORMAT)],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder or file to read.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Options of the task, such as n_agents=4."),
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="ENV/NAME", help=_HELP_TASK)] = None,
    episode_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Time limit in steps; what reaches it is truncated. Default: the format's, such "
            "as 25 for OMAR's MPE.",
        ),
    ] = None,
    last_step: Annotated[str, typer.Option(help=_HELP_LAST)] = "drop",
    mapping: Annotated[Path | None, typer.Option(help=_HELP_MAPPING)] = None,
    group: Annotated[
        str | None, typer.Option(help="Name of the agents' group. Default: the task's, or agents.")
    ] = None,
    action_low: Annotated[
        str | None, typer.Option(help=f"Lowest {_HELP_BOUND} -1 if the data allows it.")
    ] = None,
    action_high: Annotated[
        str | None, typer.Option(help=f"Highest {_HELP_BOUND} 1 if the data allows it.")
    ] = None,
    reference_random: Annotated[
        float | None, typer.Option(help="Return of random play. Default: the literature's.")
    ] = None,
    reference_expert: Annotated[
        float | None, typer.Option(help="Return of expert play. Default: the literature's.")
    ] = None,
    strip_padding: Annotated[
        bool, typer.Option("--strip-padding", help="Strip -inf from observations.")
    ] = False,
    strip_agent_ids: Annotated[
        bool,
        typer.Option(
            "--strip-agent-ids",
            help="Strip the one-hot numbers of the agents that MADiff's observations begin with.",
        ),
    ] = False,
    state: Annotated[bool, typer.Option(help="Read the environment's state, if any.")] = True,
) -> None:
    """Import a dataset of OMAR, MADiff, OMIGA or OG-MARL, or your own arrays.

    The source is only read. Where its episodes end is derived as each format has it; what was
    derived is printed, and stored in the dataset's metadata.json under source.
    """
    from benchmarl_ssd.cli.import_tasks import find_references, resolve_task
    from benchmarl_ssd.data.importers import ImportOptions, import_exported, open_source
    from benchmarl_ssd.data.importers.arrays import read_mapping
    from benchmarl_ssd.data.importers.streaming import write_table

    if out.exists() or out.is_symlink():
        raise ValueError(f"expected --out where nothing is yet, found {out}; choose another folder")
    if out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"expected --out outside of {source}, which is left as it is; move it out")
    if format == "hdf5":
        others = {"--task": task, "--mapping": mapping, "--episode-length": episode_length,
                  "--group": group, "--action-low": action_low, "--action-high": action_high,
                  "--reference-random": reference_random, "--reference-expert": reference_expert,
                  "--strip-padding": strip_padding or None, "--no-state": None if state else True,
                  "--last-step": None if last_step == "drop" else last_step,
                  "--strip-agent-ids": strip_agent_ids or None,
                  "task options": overrides}  # fmt: skip
        for name, value in others.items():
            if value is not None:
                raise ValueError(
                    f"expected no {name} with hdf5, whose files say all that; leave it out"
                )
        _report(import_exported(source, out), out)
        return
    if mapping is not None and format != "arrays":
        raise ValueError("expected --mapping with arrays only; leave it out")
    if strip_agent_ids and format != "madiff":
        raise ValueError("expected --strip-agent-ids with madiff only; leave it out")
    if task is None:
        raise ValueError("expected --task ENV/NAME, or --task logged/NAME without a simulator")
    options = ImportOptions(
        task=task,
        episode_length=episode_length,
        mapping=read_mapping(mapping) if mapping is not None else None,
        strip_agent_ids=strip_agent_ids,
        state=state,
    )
    low, high = _numbers("--action-low", action_low), _numbers("--action-high", action_high)
    with open_source(format, source, options) as table:
        found = resolve_task(task, overrides or [], table, group)
        references, whose = find_references(
            format, found, {"random": reference_random, "expert": reference_expert}
        )
        metadata = write_table(
            table,
            out,
            task=found.description,
            group=found.group,
            agents=found.agents,
            bounds=_bounds(table, found.bounds, low, high),
            references=references,
            source={"format": format, "references": whose, "task": found.note},
            last_step=last_step,  # type: ignore[arg-type]
            strip_padding=strip_padding,
        )
    _report(metadata, out)


def _numbers(option: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"expected a number, or several such as -1,-0.5, as {option}, found {text!r}"
        ) from None
    return values if len(values) > 1 else values[0]


def _bounds(table: Table, task: ImportBounds | None, low: Any, high: Any) -> ImportBounds | None:
    from benchmarl_ssd.data.importers import ImportBounds

    if low is None and high is None:
        return task
    known = task or ImportBounds()
    return ImportBounds(
        known.low if low is None else low, known.high if high is None else high, "given"
    )


def _report(metadata: DatasetMetadata, out: Path) -> None:
    """Print what was made, and how what the source leaves open was derived."""
    typer.echo(metadata)
    source = metadata.source
    derived = source.get("derivation", {})
    for name in ("task", "action_bounds", "agent_ids", "observations"):
        if source.get(name):
            typer.echo(f"{name.replace('_', ' ')}: {source[name]}")
    if metadata.references:
        known = ", ".join(f"{name} {value}" for name, value in metadata.references.items())
        typer.echo(f"references: {known} ({source.get('references', 'as recorded')})")
    if derived:
        typer.echo(f"episodes: {_ends(derived)}")
    if derived.get("dropped_steps"):
        typer.echo(
            f"dropped: the last step of {derived['dropped_steps']} truncated episodes, as what "
            "came after it is not in the source; returns lack its reward (see --last-step)"
        )
    if derived.get("jumps"):
        typer.echo(
            f"warning: {derived['jumps']} steps do not lead to the next row's observation; the "
            "source may not be in time order, and its returns by episode mean little then"
        )
    for kind, note in derived.get("padding", {}).items():
        typer.echo(f"padding of {kind}: {note}")
    typer.echo(f"written to {out}")


def _ends(derived: dict[str, Any]) -> str:
    ends, limit = derived["ends"], derived["episode_length"]
    marks = " and ".join(sorted(set(derived["ends_from"].values())))
    parts = []
    if marks:
        parts.append(
            f"{ends['marked']:,} end where {marks} say so"
            if derived["marks"]
            else f"{marks} mark no end"
        )
    if limit:
        parts.append(f"{ends['time limit']:,} at the time limit of {limit} steps (truncated)")
    if ends["unfinished"]:
        parts.append(f"{ends['unfinished']:,} with the source (truncated)")
    return ", ".join(parts)

"""``benchmarl-ssd merge``, ``subset`` and ``split``: datasets made out of datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from benchmarl_ssd.data.metadata import DatasetMetadata

Folder = Annotated[Path, typer.Argument(help="The dataset's folder.")]
Out = Annotated[Path, typer.Option(help="Folder to write; it must not exist.")]


def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER FOLDER...", help="The datasets, in order.")
    ],
    out: Out,
    references_from: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Whose references of the score to keep where they differ.",
        ),
    ] = None,
) -> None:
    """Write one dataset with the episodes of several, such as medium-expert or mixed conventions.

    The datasets must be alike in task, groups, tensors and action bounds.
    """
    from benchmarl_ssd.data.editing import merge as merge_datasets

    _report(out, merge_datasets(folders, out, references_from))


def subset(
    folder: Folder,
    out: Out,
    episode_ids: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Keep these episodes, counted from 0, as 0,7,20-29."),
    ] = None,
    top: Annotated[
        float | None,
        typer.Option(help="Keep this share of the episodes with the highest returns, in (0, 1]."),
    ] = None,
    quantiles: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="FROM TO", help="Keep episodes between two quantiles of the return."),
    ] = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Keep this many episodes; or")] = None,
    transitions: Annotated[
        int | None, typer.Option(min=1, help="whole episodes up to this many transitions.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Draw these episodes at random. Default: keep the first ones.",
            show_default=False,
        ),
    ] = None,
    sound: Annotated[
        bool,
        typer.Option(
            "--sound",
            help="Leave out episodes with NaN or infinities, actions out of bounds, or "
            "observations that break off.",
        ),
    ] = False,
    time_limit: Annotated[
        int | None,
        typer.Option(min=2, help="Mark ends at this step as truncated instead of terminated."),
    ] = None,
) -> None:
    """Write a dataset with some of the episodes of another; options narrow the choice in order."""
    from benchmarl_ssd.data.editing import Selection
    from benchmarl_ssd.data.editing import subset as write_subset

    selection = Selection(
        ids=_read_ids(episode_ids) if episode_ids is not None else None,
        quantiles=quantiles,
        top=top,
        episodes=episodes,
        transitions=transitions,
        seed=seed,
    )
    _report(out, write_subset(folder, out, selection, sound=sound, time_limit=time_limit))


def split(
    folder: Folder,
    out: Annotated[
        list[Path],
        typer.Option(help="Folder to write; it must not exist. Give one --out per part."),
    ],
    fractions: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Share of the episodes of each part, as 0.9,0.1. Default: equal shares.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="`random`, `order` (first ones first) or `return` (lowest returns first)."
        ),
    ] = "random",
    seed: Annotated[int, typer.Option(min=0, help="Seed of `--by random`.")] = 0,
) -> None:
    """Write the episodes of a dataset as several datasets; each episode goes into exactly one."""
    from benchmarl_ssd.data.editing import split as split_dataset

    shares = _read_numbers(fractions) if fractions is not None else None
    for path, metadata in zip(
        out, split_dataset(folder, out, shares, by=by, seed=seed), strict=True
    ):
        _report(path, metadata)


def _report(path: Path, metadata: DatasetMetadata) -> None:
    returns = metadata.episode_return
    typer.echo(
        f"{path}: {metadata.transitions:,} transitions, {metadata.episodes:,} episodes, "
        f"return {returns['mean']:.2f} (best {returns['max']:.2f})"
    )


def _read_ids(text: str) -> list[int]:
    ids: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"expected numbers of episodes as 0,7,20-29, found {text!r}")
        ids += range(int(first), int(last if dash else first) + 1)
    return ids


def _read_numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"expected fractions as 0.9,0.1, found {text!r}") from None

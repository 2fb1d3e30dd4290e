"""``benchmarl-ssd validate``: everything that is wrong with a dataset."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from benchmarl_ssd.data.auditing import Audit
    from benchmarl_ssd.data.findings import Finding


def validate(
    folder: Annotated[Path, typer.Argument(help="The dataset's folder.")],
    fast: Annotated[
        bool, typer.Option("--fast", help="Look at metadata and sizes alone, not at the values.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look a dataset through and report all errors and warnings; exit with 1 if there is an error.

    Shapes, types, finite values, padding, action bounds, flags, episode numbers and checksums;
    constant or doubled columns; observations that break off within an episode; time limits marked
    as termination; odd lengths; counts and returns that the values do not bear out. Values are read
    once, in pieces: datasets may be larger than memory.
    """
    from benchmarl_ssd.data.auditing import audit

    result = audit(folder, contents=not fast)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
    else:
        typer.echo(_text(result, fast))
    if result.errors:
        raise typer.Exit(1)


def _text(result: Audit, fast: bool) -> str:
    lines = [_lines(finding) for finding in result.findings]
    found = ", ".join(
        f"{count} {what}{'s' if count > 1 else ''}"
        for count, what in ((result.errors, "error"), (result.warnings, "warning"))
        if count
    )
    about = ""
    if result.metadata is not None:
        counts = result.metadata.counts
        about = f", {counts['transitions']:,} transitions, {counts['episodes']:,} episodes"
    looked = "; the values were not looked at" if fast else ""
    verdict = f"{result.path}{about}: {found or 'nothing wrong'}{looked}"
    return "\n\n".join([*lines, verdict])


def _lines(finding: Finding) -> str:
    where = [finding.key] if finding.key else []
    where += [f"transition {finding.row}"] if finding.row is not None else []
    where += [f"{finding.count:,} in all"] if finding.count > 1 else []
    title = f"{finding.level}: {finding.check}" + (f" ({', '.join(where)})" if where else "")
    parts = [f"expected {finding.expected}", f"found {finding.found}", f"mend: {finding.mend}"]
    # Commands and paths stay in one piece, to be copied.
    wrap = textwrap.TextWrapper(96, initial_indent="  ", subsequent_indent="    ")
    wrap.break_long_words = wrap.break_on_hyphens = False
    return "\n".join([title, *(wrap.fill(part) for part in parts)])

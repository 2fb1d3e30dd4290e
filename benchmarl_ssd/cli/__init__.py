"""The command ``benchmarl-ssd``."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from types import FrameType
from typing import Annotated, NoReturn

import typer

from benchmarl_ssd.cli.build import build
from benchmarl_ssd.cli.compare import compare
from benchmarl_ssd.cli.datasets import datasets
from benchmarl_ssd.cli.describe import describe
from benchmarl_ssd.cli.edit import merge, split, subset
from benchmarl_ssd.cli.export import export
from benchmarl_ssd.cli.export_policy import export_policy
from benchmarl_ssd.cli.import_ import import_
from benchmarl_ssd.cli.record import record
from benchmarl_ssd.cli.report import report
from benchmarl_ssd.cli.validate import validate

app = typer.Typer(
    name="benchmarl-ssd",
    help="Datasets of logged multi-agent experience for BenchMARL and TorchRL.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command(no_args_is_help=True)(record)
app.command(no_args_is_help=True)(build)
app.command()(datasets)
app.command(no_args_is_help=True)(describe)
app.command("import", no_args_is_help=True)(import_)
app.command(no_args_is_help=True)(export)
app.command(no_args_is_help=True)(export_policy)
app.command(no_args_is_help=True)(merge)
app.command(no_args_is_help=True)(subset)
app.command(no_args_is_help=True)(split)
app.command(no_args_is_help=True)(validate)
app.command(no_args_is_help=True)(compare)
app.command(no_args_is_help=True)(report)


# What typer returns in place of a KeyboardInterrupt.
_INTERRUPTED = 130


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(installed_version("benchmarl-ssd"))
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command; whatever the user can mend ends in one line on stderr and exit code 1.

    Args:
        arguments: the command line without the program's name; None takes the process's.

    Raises:
        SystemExit: always, with the exit code.
    """
    if not sys.warnoptions:  # what the libraries below plan to change is none of the user's worry
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
    # A termination cleans up as an interrupt does.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(list(arguments) if arguments is not None else None, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except (ValueError, OSError, ImportError) as error:
        _fail(str(error) or type(error).__name__)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of the command line's own errors
            raise
        message = error.format_message()
        if not message:  # no arguments at all: the help has been printed
            sys.exit(1)
        _fail(message)
    if code == _INTERRUPTED:
        _fail("interrupted; nothing was written")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(1)


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt

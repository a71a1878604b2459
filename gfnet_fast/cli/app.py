"""`gfnet-fast`: results on stdout or in files, everything else on stderr.

Exit status: 0 all well, 1 failed, 2 usage, 3 some inputs failed, 130 interrupted.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from gfnet_fast.cli.process import INTERRUPTED, USAGE, hush
from gfnet_fast.embedded import names
from gfnet_fast.text import say

app = typer.Typer(
    name="gfnet-fast",
    help="Classify images with a Glance and Focus Network: easy images leave early.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# typer's usage errors, which it gives no name of its own.
_UsageError: Any = typer.BadParameter.__mro__[1]


def _hush(quiet: bool) -> bool:
    if quiet:
        hush()
    return quiet


def finite(value: float | None) -> float | None:
    """A callback: usage error where an option is NaN or infinite."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"expected a finite number, got {value}")
    return value


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.", callback=_hush)]
LARGEST_SEED, LARGEST_BATCH = 2**31 - 1, 2**16
MODEL_HELP = f"Checkpoint file or folder, or a model that comes along: {', '.join(names())}."


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        from gfnet_fast import __version__

        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(USAGE)


def run() -> int:
    """The exit status of the command that the process was started with."""
    from gfnet_fast.cli import (  # noqa: F401  (each adds its commands)
        bench,
        calibrate,
        checkpoint,
        demo,
        evaluate,
        predict,
        report,
        train,
    )

    try:
        return app(prog_name="gfnet-fast", standalone_mode=False) or 0
    except typer.Abort:
        return INTERRUPTED
    except _UsageError as error:
        context = error.ctx
        where = "gfnet-fast" if context is None else context.command_path
        say(f"error: {error.format_message()} (`{where} --help` says what it takes)")
        return USAGE

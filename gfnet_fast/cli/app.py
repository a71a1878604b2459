"""`gfnet-fast`: results on stdout or in files, everything else on stderr.

Exit status: 0 all well, 1 failed, 2 usage, 3 some inputs failed, 130 interrupted.
"""

from __future__ import annotations

import glob
import math
import sys
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from gfnet_fast.cli.console import download_bar
from gfnet_fast.cli.examples import EXAMPLES, epilog
from gfnet_fast.cli.process import INTERRUPTED, USAGE, hush
from gfnet_fast.hub import known_names, shown_by
from gfnet_fast.text import say

app = typer.Typer(
    name="gfnet-fast",
    help="Classify images with a Glance and Focus Network: easy images leave early.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# typer's usage errors, which it gives no name of its own.
_UsageError: Any = typer.BadParameter.__mro__[1]


def _hush(quiet: bool) -> bool:
    if quiet:
        hush()
        shown_by.set(None)
    return quiet


def finite(value: float | None) -> float | None:
    """A callback: usage error where an option is NaN or infinite."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"expected a finite number, got {value}")
    return value


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.", callback=_hush)]
DTYPE_HELP = "auto, float32, bfloat16, float16 (on a GPU) or int8 (a quantised model)."
RUNTIME_HELP = "What computes the networks: auto, torch, inductor or openvino."
LARGEST_SEED, LARGEST_BATCH = 2**31 - 1, 2**16
MODEL_HELP = "Checkpoint file or folder, a name that `gfnet-fast models` lists, or an address."


def complete_model(incomplete: str) -> list[str]:
    """What a shell offers where a model is asked for: names, and paths that begin alike.

    Nothing where no name does: the shell then completes a path in its own way.
    """
    found = [name for name in known_names() if name.startswith(incomplete)]
    return [*found, *sorted(set(glob.glob(f"{glob.escape(incomplete)}*")) - set(found))] if found else []


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        from gfnet_fast import __version__

        print(f"gfnet-fast {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        with redirect_stdout(sys.stderr):  # nobody asked for it
            print(context.get_help())
        raise typer.Exit(USAGE)


def _arrange() -> None:
    """The commands in the order of their examples, each with its own."""
    order = list(EXAMPLES)
    for command in app.registered_commands:
        name = str(command.name or getattr(command.callback, "__name__", ""))
        command.name = name
        command.epilog = epilog(name)
        if name not in order:
            order.append(name)
    app.registered_commands.sort(key=lambda command: order.index(command.name or ""))


def run() -> int:
    """The exit status of the command that the process was started with."""
    from gfnet_fast.cli import (  # noqa: F401  (each adds its commands)
        bench,
        calibrate,
        checkpoint,
        demo,
        evaluate,
        models,
        predict,
        quantize,
        report,
        train,
    )

    _arrange()
    before = shown_by.set(download_bar)
    try:
        return app(prog_name="gfnet-fast", standalone_mode=False) or 0
    except typer.Abort:
        return INTERRUPTED
    except _UsageError as error:
        context = error.ctx
        where = "gfnet-fast" if context is None else context.command_path
        say(f"error: {error.format_message()} (`{where} --help` says what it takes)")
        return USAGE
    finally:
        shown_by.reset(before)

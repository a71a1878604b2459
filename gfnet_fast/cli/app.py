"""`gfnet-fast`: results on stdout or in files, everything else on stderr.

Exit status: 0 all well, 1 failed, 2 usage, 3 some inputs failed, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import typer

from gfnet_fast.errors import GFNetError

FAILED, USAGE, SOME_FAILED, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="gfnet-fast",
    help="Classify images with a Glance and Focus Network: easy images leave early.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        from gfnet_fast import __version__

        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; an error that a user can mend is one line on stderr."""
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
        app(prog_name="gfnet-fast")
    except GFNetError as error:
        stop(f"error: {error}", FAILED)
    except KeyboardInterrupt:  # where typer does not turn it into 130 itself
        stop("interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except OSError as error:
        stop(f"error: {error}", FAILED)


def stop(message: str, status: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(status)


def model_path(name: str) -> str:
    """The path behind ``--model``: ``digits`` is the model that comes with the package."""
    if name == "digits" and not os.path.exists(name):
        return os.path.join(os.path.dirname(os.path.dirname(__file__)), "assets", "digits")
    return name

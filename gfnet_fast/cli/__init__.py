"""The command line. Heavy packages are imported by the commands that need them."""

from gfnet_fast.cli.process import main

__all__ = ["main"]

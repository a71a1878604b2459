"""The errors that callers are meant to catch: each says what was expected and what came."""

from __future__ import annotations

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong = 40
_SHORT.maxlevel = 2
_LONGEST = 200  # characters


class GFNetError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(GFNetError, ValueError):
    """An image, an array or a source of images is not what was asked for."""


class CheckpointError(GFNetError, ValueError):
    """A checkpoint is not readable, not complete, or not of the model it claims to be."""


class BudgetError(GFNetError, ValueError):
    """A budget or a table of thresholds cannot be met by, or does not fit, the model."""


class DeviceError(GFNetError, RuntimeError):
    """A device or a precision that was asked for is not there."""


class TrainingError(GFNetError, RuntimeError):
    """Training cannot go on, for instance because a loss is not a number."""


def shown(value: object) -> str:
    """A short text for a value of somebody else's, however long, deep or odd it is."""
    try:
        text = _SHORT.repr(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    except Exception:  # its own __repr__ raises, or it is a whole number of thousands of digits
        return f"a value of type {type(value).__name__}"


def reason(error: BaseException) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__

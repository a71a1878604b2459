"""The errors that callers are meant to catch: each says what was expected and what came."""


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

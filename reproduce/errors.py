"""Exit codes, and the errors of `reproduce` that carry them."""

from enum import IntEnum

from data_prep.errors import DataError, HubError, ResumeError, StorageError, UserError

__all__ = [
    "DataError",
    "ExitCode",
    "HubError",
    "NonFiniteError",
    "RecipeError",
    "ResumeError",
    "StorageError",
    "UserError",
]


class ExitCode(IntEnum):
    """What the process exit code says. Launchers flatten it, so status.json repeats it."""

    DONE = 0
    BUG = 1
    USAGE = 2
    DATA = 3
    HUB = 4
    RESUME_REFUSED = 5
    NON_FINITE = 6
    STORAGE = 7
    OUT_OF_TOLERANCE = 8
    RANKS_DISAGREE = 9
    PREEMPTED = 75
    INTERRUPTED = 130


class RecipeError(UserError):
    """A recipe, or a combination of settings, that cannot be run."""

    exit_code = ExitCode.USAGE


class NonFiniteError(UserError):
    """A loss, gradient or weight is NaN or infinite."""

    exit_code = ExitCode.NON_FINITE

"""Exit codes, the errors of `reproduce` that carry them, and text made fit for an error line."""

from collections.abc import Sequence
from enum import IntEnum

from data_prep.errors import DataError, HubError, ResumeError, StorageError, UserError

__all__ = [
    "DataError",
    "ExitCode",
    "HubError",
    "NonFiniteError",
    "PeerFailedError",
    "RankError",
    "RecipeError",
    "ResumeError",
    "StorageError",
    "UserError",
    "one_line",
]

LINE_LIMIT = 1000


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


def one_line(text: str, limit: int = LINE_LIMIT) -> str:
    """The text as one printable line: names and values in it may be anybody's.

    Line ends, control codes and text direction marks come out as escapes; of a longer text the middle is
    left out, since the remedy stands at the end.
    """
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return safe if len(safe) <= limit else f"{safe[: limit - 303]} … {safe[-300:]}"


class RecipeError(UserError):
    """A recipe, or a combination of settings, that cannot be run: one line, and one for each problem."""

    exit_code = ExitCode.USAGE

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        """`problems` are printed below the message, indented."""
        self.lines = (one_line(message), *(f"  {one_line(each.strip())}" for each in problems))
        super().__init__("\n".join(self.lines))

    def __reduce__(self) -> tuple[type["RecipeError"], tuple[str, tuple[str, ...]]]:
        """Carry every line from a worker process."""
        return (type(self), (self.lines[0], self.lines[1:]))


class RankError(UserError):
    """Ranks disagree about what must be the same on all, or one of them was lost."""

    exit_code = ExitCode.RANKS_DISAGREE


class PeerFailedError(UserError):
    """Another rank failed, and said why; this one stops with it."""

    def __init__(self, message: str, exit_code: int) -> None:
        """`exit_code` is the other rank's."""
        self.exit_code = exit_code
        super().__init__(message)


class NonFiniteError(UserError):
    """A loss, gradient or weight is NaN or infinite."""

    exit_code = ExitCode.NON_FINITE

"""Which checkpoint a run continues from. None usable where there were some is a refusal, not a new start."""

from collections.abc import Callable
from pathlib import Path

from reproduce.errors import ResumeError
from reproduce.training import checkpoint


def newest_checkpoint(
    folder: Path, ranks: checkpoint.Ranks, warn: Callable[[str], None], *, strict: bool
) -> checkpoint.Checkpoint | None:
    """The newest checkpoint that verifies, the same on all ranks; None where none was ever written.

    What a killed process left is cleared away. A collective: all ranks call it.

    Args:
        folder: of all checkpoints of the run.
        ranks: who trains together.
        warn: told of each damaged one, in a line.
        strict: refuse to use an older one than the newest.

    Raises:
        ResumeError: damaged checkpoints, and none that can be used, or with `strict` any damaged one.
        StorageError: one rank does not see what rank 0 sees.
    """
    damaged: list[str] = []
    checkpoint.check_shared(folder, ranks)
    checkpoint.discard_temporaries(folder, ranks)
    found = checkpoint.latest(folder, damaged.append, ranks)
    for line in damaged:
        warn(line)
    if damaged and strict:
        raise ResumeError(f"{damaged[0]}; restore it, or leave --strict-resume out to use an older one")
    if damaged and found is None:
        raise ResumeError(
            f"no checkpoint in {folder} can be used ({damaged[0]}); restore one, or delete the folder to "
            "begin again at step 0"
        )
    return found

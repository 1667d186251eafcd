"""The run folder as the ranks see it that do not lead."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from reproduce.errors import ExitCode
from reproduce.recipe import Recipe
from reproduce.training.run_dir import RunDir


class PeerRunDir(RunDir):
    """They write nothing but their own failure."""

    def __init__(self, path: Path, rank: int) -> None:
        """`rank` is named in a failure."""
        super().__init__(path)
        self._rank = rank

    def __enter__(self) -> "PeerRunDir":
        """Rank 0 makes the folder and holds its lock."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held."""

    def claim(
        self, recipe: Recipe, provenance: Mapping[str, Any], allowed: Sequence[str] | None = ()
    ) -> Mapping[str, Any]:
        """Rank 0 does."""
        return provenance

    def rewind_metrics(self, step: int) -> None:
        """Rank 0 does."""

    def log(self, **fields: Any) -> None:
        """Rank 0 does."""

    def set_status(self, state: str, exit_code: int, step: int, reason: str = "") -> None:
        """Rank 0 does."""

    def record_crash(self, step: int, facts: Mapping[str, Any]) -> Path:
        """Rank 0 does; every rank knows every loss."""
        return self.path / "crash" / f"step-{step:07d}.json"

    def _record_failure(self, code: int, reason: str) -> None:
        if self.path.is_dir() and code not in (ExitCode.INTERRUPTED, ExitCode.PREEMPTED):
            named = reason.startswith(f"rank {self._rank} ")
            super()._record_failure(code, reason if named else f"rank {self._rank}: {reason}")

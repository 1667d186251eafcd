"""The run folder: what is in it before step 1, the lock, metrics, status. No torch.

recipe.yaml  provenance.json  metrics.jsonl  status.json  checkpoints/  model/  results.json
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from data_prep.files import atomic_file
from reproduce.errors import ExitCode, ResumeError, StorageError
from reproduce.recipe import Recipe, load_recipe, recipe_as_yaml
from reproduce.recipe.loader import recipe_as_dict

COMPLETE = "complete"


class RunDir:
    """One run's folder, locked while open. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """`path` is created when the run is opened."""
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.results = path / "results.json"
        self._lock = FileLock(path / ".lock", timeout=0)
        self._metrics: Any = None

    @property
    def status(self) -> Mapping[str, Any]:
        """status.json, or an empty mapping where there is none that can be read."""
        try:
            status = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    @property
    def complete(self) -> bool:
        """Whether the run reached its last step and exported its model."""
        return self.status.get("state") == COMPLETE

    def __enter__(self) -> "RunDir":
        """Make the folder and take its lock.

        Raises:
            StorageError: another process trains in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        holder = self.path / ".lock.holder"
        try:
            self._lock.acquire()
        except Timeout:
            who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
            raise StorageError(
                f"{self.path} is in use by {who}; wait for it or choose another --out"
            ) from None
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the metrics and give the lock back."""
        if self._metrics is not None:
            self._metrics.close()
        (self.path / ".lock.holder").unlink(missing_ok=True)
        self._lock.release()

    def claim(self, recipe: Recipe, provenance: Mapping[str, Any]) -> None:
        """Make the folder this recipe's before step 1, or check that it already is.

        Args:
            recipe: what is about to run.
            provenance: facts of this start; its `identity` holds those that decide the result besides the
                recipe, such as the store's fingerprint.

        Raises:
            ResumeError: the folder belongs to another recipe or to other data; names the differences.
        """
        own, origin = self.path / "recipe.yaml", self.path / "provenance.json"
        if not own.exists():
            if self.results.exists() or self.checkpoints.exists():
                raise ResumeError(f"{self.path} holds a run without recipe.yaml; choose another --out")
            write_json(origin, provenance)
            with atomic_file(own) as file:  # last: it is what makes the folder this recipe's
                file.write(recipe_as_yaml(recipe).encode())
            return
        try:
            first = json.loads(origin.read_text(encoding="utf-8"))
            identity = dict(first["identity"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ResumeError(f"{origin} cannot be read; restore it or choose another --out") from None
        self.check_recipe(recipe)
        self._refuse(_differences(identity, provenance["identity"]))
        write_json(origin, {**first, "restarts": [*first.get("restarts", []), dict(provenance)]})

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse a folder whose recipe.yaml is not this recipe (ResumeError)."""
        before = load_recipe(str(self.path / "recipe.yaml"))
        self._refuse(_differences(recipe_as_dict(before), recipe_as_dict(recipe)))

    def _refuse(self, differences: Iterator[tuple[str, Any, Any]]) -> None:
        changed = [f"{path} {_short(old)} there, {_short(new)} now" for path, old, new in differences]
        if changed:
            raise ResumeError(
                f"{self.path} holds another run ({'; '.join(changed)}). "
                "Give this one its own folder with --out, or undo the change to continue that one"
            )

    def rewind_metrics(self, step: int) -> None:
        """Forget lines after a step, which will be written again, and a last line cut short by a crash."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        try:
            kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= step]
        except (ValueError, KeyError, TypeError):
            raise ResumeError(f"{path} has a damaged line; restore it or choose another --out") from None
        with atomic_file(path) as file:
            file.write("".join(line + "\n" for line in kept).encode())

    def log(self, **fields: Any) -> None:
        """Append one line to metrics.jsonl. NaN is refused: it would not be JSON."""
        if self._metrics is None:
            self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
        self._metrics.write(json.dumps(fields, allow_nan=False) + "\n")
        self._metrics.flush()

    def set_status(self, state: str, exit_code: int, step: int, reason: str = "") -> None:
        """Write status.json: what launchers and schedulers read, since they flatten exit codes."""
        status = {"state": state, "exit_code": int(exit_code), "step": step, "reason": reason}
        write_json(self.path / "status.json", status)

    @contextmanager
    def failures_recorded(self) -> Iterator[None]:
        """Write status.json `failed` with the exit code when the block raises."""
        try:
            yield
        except Exception as error:
            code = getattr(
                error, "exit_code", ExitCode.STORAGE if isinstance(error, OSError) else ExitCode.BUG
            )
            self._record_failure(int(code), str(error))
            raise

    def _record_failure(self, code: int, reason: str) -> None:
        step = int(self.status.get("step", 0))
        try:
            self.set_status("failed", code, step, reason.splitlines()[0] if reason else "")
        except OSError:
            # The disk that failed the run may refuse this as well; the error itself is still on its way.
            return


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_file(path) as file:
        file.write(json.dumps(document, indent=2).encode())


def _whole_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield line.rstrip("\n")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:16] + "..."


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b

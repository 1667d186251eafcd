"""The run folder: what is in it before step 1, the lock, metrics, status. No torch.

recipe.yaml  provenance.json  metrics.jsonl  status.json  checkpoints/  model/  results.json
sample_losses.npz
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from data_prep.files import TEMPORARY, atomic_file, read_ordinary_file, sha256_text, write_text_atomically
from eval.sample_losses import FILE_NAME as SAMPLE_LOSSES
from reproduce.errors import DataError, ExitCode, PeerFailedError, RankError, ResumeError, StorageError
from reproduce.recipe import Recipe, recipe_as_yaml
from reproduce.recipe.loader import recipe_as_dict
from reproduce.recipe.neutral import is_neutral
from reproduce.training.recorded import RECIPE_DIGEST, recorded_recipe

COMPLETE = "complete"


class RunDir:
    """One run's folder, locked while open. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """`path` is created when the run is opened."""
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.results = path / "results.json"
        self.sample_losses = path / SAMPLE_LOSSES
        self._lock = FileLock(path / ".lock", timeout=0)
        self._metrics: Any = None

    @property
    def status(self) -> Mapping[str, Any]:
        """status.json, or an empty mapping where there is none that can be read."""
        try:
            status = json.loads(read_ordinary_file(self.path / "status.json"))
        except (OSError, ValueError, RecursionError):
            return {}
        return status if isinstance(status, dict) else {}

    @property
    def complete(self) -> bool:
        """Whether the run reached its last step and exported its model."""
        made = self.results.is_file() and (self.model / "config.json").is_file()
        return made and self.status.get("state") == COMPLETE

    @property
    def stripped(self) -> bool:
        """Whether the run ended, and neither its model nor a checkpoint is left to continue from."""
        ended = self.status.get("state") == COMPLETE and self.results.is_file()
        return ended and not self.complete and not self.saved_steps

    @property
    def saved_steps(self) -> list[int]:
        """Steps of the checkpoints that are there, by their folders' names; none is opened."""
        names = (path.name.removeprefix("step-") for path in self.checkpoints.glob("step-*"))
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal())

    def __enter__(self) -> "RunDir":
        """Make the folder and take its lock.

        Raises:
            StorageError: it is no folder, or another process trains in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise StorageError(f"{self.path} is not a folder; choose another --out") from None
        holder = self.path / ".lock.holder"
        try:
            self._lock.acquire()
        except Timeout:
            raise StorageError(
                f"{self.path} is in use by {_text_of(holder) or 'another process'}; "
                "wait for it or choose another --out"
            ) from None
        with suppress(OSError):  # only says who; a full disk will be said by what matters
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        for pattern in (
            f"*{TEMPORARY}",
            ".results.json.*",
            f".{SAMPLE_LOSSES}.*",
        ):  # of a process that was killed
            for path in self.path.glob(pattern):
                path.unlink()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the metrics and give the lock back."""
        if self._metrics is not None:
            # What a full disk refused to take was reported by `log`; closing tries it once more.
            with suppress(OSError):
                self._metrics.close()
        (self.path / ".lock.holder").unlink(missing_ok=True)
        self._lock.release()

    def claim(
        self, recipe: Recipe, provenance: Mapping[str, Any], allowed: Sequence[str] | None = ()
    ) -> Mapping[str, Any]:
        """Make the folder this recipe's before step 1, or check that it already is.

        Returns the facts of the folder's first start, which may be this one.

        Args:
            recipe: what is about to run.
            provenance: facts of this start; its `identity` holds those that decide the result besides the
                recipe, such as the store's fingerprint.
            allowed: fields that may have changed since; each change is put on record. None: none, and the
                command has no option to name any.

        Raises:
            ResumeError: the folder belongs to another recipe or to other data, with the differences; or to a
                finished run that training would begin anew.
        """
        own, origin = self.path / "recipe.yaml", self.path / "provenance.json"
        if not own.exists():
            if self.results.exists() or self.checkpoints.exists():
                raise ResumeError(f"{self.path} holds a run without recipe.yaml; choose another --out")
            text = recipe_as_yaml(recipe)
            write_json(origin, {**provenance, RECIPE_DIGEST: sha256_text(text)})
            write_text_atomically(own, text)  # last: it is what makes the folder this recipe's
            return provenance
        try:
            first: dict[str, Any] = json.loads(read_ordinary_file(origin))
            identity = dict(first["identity"])
            restarts = list(first.get("restarts", []))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise ResumeError(f"{origin} cannot be read; restore it or choose another --out") from None
        if self.stripped:
            raise ResumeError(
                f"{self.path} holds a finished run without its model and checkpoints; training would begin "
                "at step 0, over its metrics and scores. Restore model/, or choose another --out"
            )
        drift = self.check_recipe(recipe, allowed)
        drift += self._refuse(_differences(identity, provenance["identity"]), allowed)
        document = {
            **first,
            "identity": dict(provenance["identity"]),
            "restarts": [*restarts, dict(provenance)],
        }
        if drift:
            text = recipe_as_yaml(recipe)
            changes = [{"field": path, "old": old, "new": new} for path, old, new in drift]
            document |= {"drift": [*first.get("drift", []), *changes], RECIPE_DIGEST: sha256_text(text)}
            write_json(origin, document)
            write_text_atomically(own, text)
        else:
            write_json(origin, document)
        return first

    def check_recipe(self, recipe: Recipe, allowed: Sequence[str] | None = ()) -> list[tuple[str, Any, Any]]:
        """Refuse a folder whose recipe.yaml is not this recipe, or is damaged (ResumeError).

        Returns the allowed differences: field, value there, value now.
        """
        try:
            before = recorded_recipe(self.path)
        except DataError as error:
            raise ResumeError(f"{error} or choose another --out") from None
        relevant = (
            difference
            for difference in _differences(recipe_as_dict(before), recipe_as_dict(recipe))
            if not is_neutral(difference[0], recipe.reweighting.scope)
        )
        return self._refuse(relevant, allowed)

    def _refuse(
        self, differences: Iterator[tuple[str, Any, Any]], allowed: Sequence[str] | None
    ) -> list[tuple[str, Any, Any]]:
        found = list(differences)
        changed = [
            f"{path} {_short(old)} there, {_short(new)} now"
            for path, old, new in found
            if path not in (allowed or ())
        ]
        if changed:
            remedies = "Give this one its own folder with --out, " + (
                "or undo the change"
                if allowed is None
                else "undo the change, or continue with it on record by --allow-drift FIELD"
            )
            raise ResumeError(f"{self.path} holds another run ({'; '.join(changed)}). {remedies}")
        return found

    def rewind_metrics(self, step: int) -> None:
        """Forget lines after a step, which will be written again, and a last line cut short by a crash."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        try:
            kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= step]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise ResumeError(f"{path} has a damaged line; restore it or choose another --out") from None
        with atomic_file(path) as file:
            file.write("".join(line + "\n" for line in kept).encode())

    def log(self, **fields: Any) -> None:
        """Append one line to metrics.jsonl. NaN is refused: it would not be JSON."""
        path = self.path / "metrics.jsonl"
        if self._metrics is None:
            self._metrics = path.open("a", encoding="utf-8")
        try:
            self._metrics.write(json.dumps(fields, allow_nan=False) + "\n")
            self._metrics.flush()
        except OSError as error:
            error.filename = str(path)
            raise

    def set_status(self, state: str, exit_code: int, step: int, reason: str = "") -> None:
        """Write status.json: what launchers and schedulers read, since they flatten exit codes."""
        write_json(self.path / "status.json", _status(state, exit_code, step, reason))

    def record_crash(self, step: int, facts: Mapping[str, Any]) -> Path:
        """Write crash/step-N.json; returns where."""
        path = self.path / "crash" / f"step-{step:07d}.json"
        path.parent.mkdir(exist_ok=True)
        write_json(path, facts)
        return path

    @contextmanager
    def failures_recorded(self) -> Iterator[None]:
        """Write status.json `failed` with the exit code when the block raises."""
        try:
            yield
        except (SystemExit, KeyboardInterrupt) as stop:  # the second signal, or no handler in this process
            code = stop.code if isinstance(stop, SystemExit) else ExitCode.INTERRUPTED
            self._record_failure(int(code or 0), "stopped at once; run the same command again")
            raise
        except Exception as error:
            storage = isinstance(error, (OSError, MemoryError))
            code = getattr(error, "exit_code", ExitCode.STORAGE if storage else ExitCode.BUG)
            # Whoever failed first has said why; what follows from it is no news.
            second_hand = isinstance(error, (PeerFailedError, RankError))
            if not (second_hand and self.status.get("state") == "failed"):
                self._record_failure(int(code), str(error))
            raise

    def _record_failure(self, code: int, reason: str) -> None:
        before = self.status.get("step")
        step = before if isinstance(before, int) else 0
        status = _status("failed", code, step, reason.splitlines()[0] if reason else "")
        path = self.path / "status.json"
        try:
            write_json(path, status)
        except (OSError, StorageError):
            # The full disk that failed the run refuses a new file too, but not the bytes it already holds.
            # If even that fails, the error itself is still on its way.
            with suppress(OSError), path.open("r+b") as file:
                file.write(json.dumps(status, indent=2).encode())
                file.truncate()


def _status(state: str, exit_code: int, step: int, reason: str) -> dict[str, Any]:
    return {"state": state, "exit_code": int(exit_code), "step": step, "reason": reason}


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_file(path) as file:
        file.write(json.dumps(document, indent=2).encode())


def _whole_lines(path: Path) -> Iterator[str]:
    *whole, _ = read_ordinary_file(path).decode("utf-8").split("\n")
    yield from whole


def _text_of(path: Path) -> str:
    """A small text, or nothing where it is gone or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200]
    except OSError:
        return ""


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

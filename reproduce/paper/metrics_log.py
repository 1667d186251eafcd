"""metrics.jsonl, read into arrays: one line a step or evaluation. Tolerates what a kill leaves behind."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reproduce.errors import DataError

Floats = NDArray[np.float64]
TRAIN_FIELDS = ("step", "loss", "max_weight", "ess", "entropy", "tokens_per_s")
TRAIN_PARTS = ("weight_share", "weight_by_loss", "seconds")
"""Fields that are mappings: domain, place of the loss or phase -> number."""

MAX_LINE = 1_000_000
"""Bytes; a line of ours has a few thousand."""

MAX_NAMES = 64
"""Of the domains, and of the phases, of one file; more are not kept."""

LARGEST_STEP = 2**53
"""Up to here every step is a float of its own."""

ROUNDING = 1e-6
"""Weights are float32: so much above a bound is the bound."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What one run recorded. S logged steps, E evaluations. NaN: the line lacks the value."""

    step: Floats
    """(S,) optimizer step, rising."""

    loss: Floats
    """(S,) unweighted training loss, nats a token."""

    max_weight: Floats
    """(S,) largest weight of the batch, times M: 1 is uniform, 2 the paper's bound. Infinite where the line
    has no finite number: such a step kept no bound."""

    ess: Floats
    """(S,) effective sample size, in samples."""

    entropy: Floats
    """(S,) entropy of the weights, nats; ln M is uniform."""

    tokens_per_s: Floats
    """(S,) tokens a second, all ranks together."""

    weight_share: Mapping[str, Floats]
    """Domain -> (S,) share of the step's weight that its samples had; NaN where a line lacks the domain."""

    weight_by_loss: Mapping[str, Floats]
    """Place of a sample's loss in the batch, 0 lowest to 1 highest -> (S,) mean weight times M; NaN where a
    line lacks it."""

    seconds: Mapping[str, Floats]
    """Phase of a step -> (S,) seconds; NaN where a line lacks the phase."""

    eval_step: Floats
    """(E,) optimizer step of each evaluation, rising."""

    log_perplexity: Mapping[str, Floats]
    """Domain, and `mean` -> (E,) nats; NaN where an evaluation lacks the domain."""

    not_finite: Mapping[str, int] = field(default_factory=dict)
    """Field -> lines that have NaN or infinity there; fields without one are left out."""


def read_metrics(path: Path, *, steps: int | None = None, global_batch: int | None = None) -> Metrics:
    """Read a metrics.jsonl.

    A run that was killed and went back to its checkpoint goes on from a step that it had written before:
    what followed there counts no more. A last line without its end is left out.

    Args:
        path: the file.
        steps: of the recipe; None: unknown, and any step is taken.
        global_batch: M, which no weight times M exceeds; None: unknown.

    Raises:
        DataError: the file cannot be read, or a line in its middle is broken or cannot be this run's.
    """
    log = _Log(steps=steps, global_batch=global_batch)
    for number, entry in _entries(path):
        try:
            log.add(entry)
        except _ImpossibleError as error:
            raise DataError(f"{path}:{number}: {error}; restore the file from the run") from error
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"{path}:{number}: no line of ours ({error!r:.80}); restore the file") from error
    return log.metrics()


class _ImpossibleError(ValueError):
    """A value that no line of this run has; the text says which."""


@dataclass(frozen=True)
class _Step:
    numbers: tuple[float, ...]
    """By TRAIN_FIELDS."""
    parts: Mapping[str, Mapping[str, float]]


class _Log:
    """The lines so far, each kind by rising step."""

    def __init__(self, *, steps: int | None, global_batch: int | None) -> None:
        self._steps, self._global_batch = steps, global_batch
        self._train: dict[int, _Step] = {}
        self._evaluations: dict[int, dict[str, float]] = {}

    def add(self, entry: Mapping[str, Any]) -> None:
        if entry["kind"] == "train":
            step = self._step(entry)
            self._check_weight(_number(entry.get("max_weight")))
            self._rewind(self._train, step)
            self._forget(self._evaluations, step)
            self._train[step] = _Step(
                tuple(_number(entry.get(name)) for name in TRAIN_FIELDS),
                {name: _numbers(entry.get(name) or {}) for name in TRAIN_PARTS},
            )
        elif entry["kind"] == "eval":
            step = self._step(entry)
            self._rewind(self._evaluations, step)
            self._forget(self._train, step + 1)  # an evaluation comes after its step
            self._evaluations[step] = _numbers(entry["log_perplexity"])

    def _step(self, entry: Mapping[str, Any]) -> int:
        step = entry["step"]
        if isinstance(step, bool) or not isinstance(step, int):
            raise _ImpossibleError(f"step is {step!r:.40}, expected an integer")
        if step < 0 or step > LARGEST_STEP:
            raise _ImpossibleError(f"step is {step!r:.40}, expected 0 to 2^53")
        if self._steps is not None and step > self._steps:
            raise _ImpossibleError(f"step is {step}, beyond the {self._steps} of the run's recipe")
        return step

    def _check_weight(self, weight: float) -> None:
        if weight < 0:
            raise _ImpossibleError(f"max_weight is {weight:.6g}, and no weight is below 0")
        if self._global_batch and self._global_batch * (1 + ROUNDING) < weight < math.inf:
            raise _ImpossibleError(
                f"max_weight is {weight:.6g}, and no weight times M exceeds M = {self._global_batch}"
            )

    def _rewind(self, lines: dict[int, Any], step: int) -> None:
        """Forget what the log has from this step on; a step that falls to one never written is an error."""
        last = next(reversed(lines), -1)
        if step <= last and step not in lines:
            raise _ImpossibleError(f"step {step} stands after step {last}, and steps rise")
        self._forget(lines, step)

    def _forget(self, lines: dict[int, Any], step: int) -> None:
        while lines and next(reversed(lines)) >= step:
            lines.popitem()

    def metrics(self) -> Metrics:
        steps, lines = list(self._train), list(self._train.values())
        columns = np.array([line.numbers for line in lines]).reshape(len(lines), len(TRAIN_FIELDS)).T
        column = dict(zip(TRAIN_FIELDS, columns, strict=True))
        counts = {name: int(np.isinf(values).sum()) for name, values in column.items()}
        evaluated = list(self._evaluations.values())
        counts["log_perplexity"] = sum(any(map(math.isinf, each.values())) for each in evaluated)
        parts = {name: _by_name([line.parts[name] for line in lines]) for name in TRAIN_PARTS}
        return Metrics(
            step=np.array(steps, dtype=np.float64),
            loss=_finite(column["loss"]),
            max_weight=column["max_weight"],
            ess=_finite(column["ess"]),
            entropy=_finite(column["entropy"]),
            tokens_per_s=_finite(column["tokens_per_s"]),
            weight_share=parts["weight_share"],
            weight_by_loss=parts["weight_by_loss"],
            seconds=parts["seconds"],
            eval_step=np.array(list(self._evaluations), dtype=np.float64),
            log_perplexity=_by_name(evaluated),
            not_finite={name: count for name, count in counts.items() if count},
        )


def _by_name(found: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    """Mappings of the lines as one array a name, the names in order of appearance."""
    names = list(dict.fromkeys(name for each in found for name in each))[:MAX_NAMES]
    return {name: _finite(np.array([each.get(name, math.nan) for each in found])) for name in names}


def _finite(values: Floats) -> Floats:
    """NaN in place of infinity."""
    kept: Floats = np.where(np.isfinite(values), values, np.nan)
    return kept


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of each whole line."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not an ordinary file; restore the file from the run")
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
                if len(line) > MAX_LINE:
                    raise DataError(
                        f"{path}:{number}: a line of over {MAX_LINE} bytes, not written by this project; "
                        "restore the file from the run"
                    )
                if not line.endswith(b"\n"):
                    return  # the last one, cut off by a kill
                yield number, _entry(path, number, line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _entry(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: not JSON ({str(error)[:80]}); restore the file") from error
    if not isinstance(entry, dict):
        raise DataError(f"{path}:{number}: not a JSON object; restore the file from the run")
    return entry


def _numbers(values: Mapping[object, object]) -> dict[str, float]:
    return {str(name): _number(value) for name, value in values.items()}


def _number(value: object) -> float:
    """NaN for null, infinity for what is no finite number: the two are told apart until the end."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r:.40} is no number")
    number = float(value)
    return number if math.isfinite(number) else math.inf

"""metrics.jsonl, read into arrays: one line a step or evaluation. Tolerates what a kill leaves behind."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
MAX_NAMES = 64
"""Of the domains, and of the phases, of one file; more are not kept."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What one run recorded. S logged steps, E evaluations."""

    step: Floats
    """(S,) optimizer step, rising."""

    loss: Floats
    """(S,) unweighted training loss, nats a token."""

    max_weight: Floats
    """(S,) largest weight of the batch, times M: 1 is uniform, 2 the paper's bound."""

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


def read_metrics(path: Path) -> Metrics:
    """Read a metrics.jsonl.

    A step written twice (a run that was killed and went back to its checkpoint) counts once, as written
    last. A last line without its end is left out.

    Raises:
        DataError: the file cannot be read, or a line in its middle is broken.
    """
    train: dict[int, tuple[float, ...]] = {}
    parts: dict[str, dict[int, dict[str, float]]] = {name: {} for name in TRAIN_PARTS}
    evaluations: dict[int, dict[str, float]] = {}
    for number, entry in _entries(path):
        try:
            if entry["kind"] == "train":
                step = int(entry["step"])
                train[step] = tuple(_number(entry.get(name)) for name in TRAIN_FIELDS)
                for name, by_step in parts.items():
                    by_step[step] = _numbers(entry.get(name) or {})
            elif entry["kind"] == "eval":
                evaluations[int(entry["step"])] = _numbers(entry["log_perplexity"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise DataError(f"{path}:{number}: no line of ours ({error!r:.80}); restore the file") from error
    steps = sorted(train)
    columns = np.array([train[s] for s in steps], dtype=np.float64).reshape(len(steps), len(TRAIN_FIELDS)).T
    eval_steps = sorted(evaluations)
    column = dict(zip(TRAIN_FIELDS, columns, strict=True))
    return Metrics(
        step=column["step"],
        loss=column["loss"],
        max_weight=column["max_weight"],
        ess=column["ess"],
        entropy=column["entropy"],
        tokens_per_s=column["tokens_per_s"],
        weight_share=_by_name(steps, parts["weight_share"]),
        weight_by_loss=_by_name(steps, parts["weight_by_loss"]),
        seconds=_by_name(steps, parts["seconds"]),
        eval_step=np.array(eval_steps, dtype=np.float64),
        log_perplexity=_by_name(eval_steps, evaluations),
    )


def _by_name(steps: Sequence[int], found: Mapping[int, Mapping[str, float]]) -> dict[str, Floats]:
    """Mappings of the steps as one array a name, the names in order of appearance."""
    names = list(dict.fromkeys(name for step in steps for name in found[step]))[:MAX_NAMES]
    return {name: np.array([found[step].get(name, math.nan) for step in steps]) for name in names}


def _entries(path: Path) -> list[tuple[int, dict[str, Any]]]:
    found: list[tuple[int, dict[str, Any]]] = []
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not an ordinary file; restore the file from the run")
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
                if not line.endswith(b"\n"):
                    break  # cut off by a kill
                found.append((number, _entry(path, number, line)))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    return found


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
    return math.nan if value is None else float(value)  # type: ignore[arg-type]

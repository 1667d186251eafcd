"""results.json: every score of one run at one step, read strictly and written atomically.

Knows nothing about models or harnesses; loads without torch. Merging new scores into old ones is the
caller's decision.
"""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

SCHEMA = 1
PERPLEXITY_SUITE = "perplexity"
LOG_PERPLEXITY = "log_perplexity"
"""Metric of suite `perplexity`: mean token cross entropy in nats; task = domain name or `mean`."""

MAX_BYTES = 16 * 1024 * 1024
"""A results.json is kilobytes; anything near this is not one."""


class ResultsError(Exception):
    """A results.json is missing, half-written, of another schema, or holds a value that is no score."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number about one model."""

    suite: str
    """Task list it belongs to: perplexity, gpt2_qa, llama_lur, llama_qa."""

    task: str
    """Task name; for suite perplexity a domain name or `mean`."""

    metric: str
    """log_perplexity (nats), acc, exact_match, ..."""

    value: float
    """Finite."""

    stderr: float | None
    """Standard error of `value` over the n samples; null where none was computed."""

    n: int
    """Samples scored, at least 1."""

    num_fewshot: int | None = None
    """Shots; null where the notion does not apply."""

    task_version: str | None = None
    """Version of the task's definition, or of the evaluation set."""

    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Results:
    """What results.json holds."""

    schema: int = SCHEMA
    recipe: str
    """Recipe name of the run."""

    seed: int
    step: int
    """Optimizer steps behind the scored weights."""

    scores: tuple[Score, ...]
    eval_set_sha256: str | None = None
    """Hash of the perplexity evaluation set; runs are comparable only where it is equal."""

    versions: Mapping[str, str] = field(default_factory=dict)
    """Library -> version that produced the scores."""

    def score(self, suite: str, task: str, metric: str) -> Score | None:
        """The score of that suite, task and metric, or None."""
        wanted = (suite, task, metric)
        return next((s for s in self.scores if (s.suite, s.task, s.metric) == wanted), None)

    def log_perplexity(self) -> dict[str, float]:
        """Domain (and `mean`) -> log-perplexity in nats."""
        return {
            s.task: s.value for s in self.scores if (s.suite, s.metric) == (PERPLEXITY_SUITE, LOG_PERPLEXITY)
        }


def log_perplexity_score(task: str, value: float, *, stderr: float | None, n: int, version: str) -> Score:
    """A log-perplexity in nats; `task` is a domain name or `mean`."""
    return Score(
        suite=PERPLEXITY_SUITE,
        task=task,
        metric=LOG_PERPLEXITY,
        value=value,
        stderr=stderr,
        n=n,
        task_version=version,
        higher_is_better=False,
    )


def read_results(path: Path) -> Results:
    """Read a results.json.

    Raises:
        ResultsError: missing, half-written, another schema, a wrong type, a NaN, a score given twice.
    """
    try:
        if path.exists() and not path.is_file():
            raise _broken(path, "is not an ordinary file")  # reading a pipe would wait for ever
        if path.stat().st_size > MAX_BYTES:
            raise ResultsError(f"{path}: larger than {MAX_BYTES} bytes, so not a results.json; move it away")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _broken(path, "is not UTF-8 text") from error
    except OSError as error:
        raise ResultsError(
            f"{path}: cannot be read ({error.strerror}); run `reweight eval RUN` first"
        ) from error
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"is not complete JSON ({error})") from error
    return _results(path, document)


def write_results(path: Path, results: Results) -> None:
    """Write a results.json: whole or not at all, even if the machine stops midway.

    Raises:
        ResultsError: a score that `read_results` would refuse.
    """
    document = asdict(results) | {"versions": dict(sorted(results.versions.items()))}
    document["scores"] = [asdict(score) for score in results.scores]
    try:
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise ResultsError(f"{path}: not written, a score is NaN or infinite; look at the model") from error
    _results(path, json.loads(text))
    _write_atomically(path, text)


def _write_atomically(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # a full disk's error names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number here")


def _broken(path: Path, what: str) -> ResultsError:
    return ResultsError(f"{path}: {what}; run `reweight eval` on its run folder again")


def _results(path: Path, document: object) -> Results:
    if not isinstance(document, dict):
        raise _broken(path, "is not a JSON object")
    if document.get("schema") != SCHEMA or isinstance(document.get("schema"), bool):
        raise _broken(path, f"has schema {document.get('schema')!r:.40}, this version reads {SCHEMA}")
    _known_keys(path, "the top level", document, Results)
    scores = document.get("scores")
    if not isinstance(scores, list):
        raise _broken(path, "'scores' is not a list")
    versions = document.get("versions", {})
    if not isinstance(versions, dict) or not all(isinstance(v, str) for v in versions.values()):
        raise _broken(path, "'versions' does not map names to strings")
    read = _Fields(path, "the top level", document)
    results = Results(
        recipe=read.text("recipe"),
        seed=read.integer("seed", minimum=0),
        step=read.integer("step", minimum=0),
        scores=tuple(_score(path, index, entry) for index, entry in enumerate(scores)),
        eval_set_sha256=read.optional_text("eval_set_sha256"),
        versions=versions,
    )
    _once_each(path, results.scores)
    return results


def _score(path: Path, index: int, entry: object) -> Score:
    where = f"scores[{index}]"
    if not isinstance(entry, dict):
        raise _broken(path, f"{where} is not an object")
    _known_keys(path, where, entry, Score)
    read = _Fields(path, where, entry)
    higher = entry.get("higher_is_better")
    if not isinstance(higher, bool):
        raise _broken(path, f"{where}.higher_is_better is {higher!r:.40}, expected true or false")
    return Score(
        suite=read.text("suite"),
        task=read.text("task"),
        metric=read.text("metric"),
        value=read.number("value"),
        stderr=None if entry.get("stderr") is None else read.number("stderr", minimum=0.0),
        n=read.integer("n", minimum=1),
        num_fewshot=None if entry.get("num_fewshot") is None else read.integer("num_fewshot", minimum=0),
        task_version=read.optional_text("task_version"),
        higher_is_better=higher,
    )


def _known_keys(path: Path, where: str, entry: Mapping[str, Any], owner: type) -> None:
    unknown = sorted(set(entry) - {f.name for f in fields(owner)})
    if unknown:
        raise _broken(path, f"{where} has the unknown key {unknown[0]!r:.60}")


def _once_each(path: Path, scores: tuple[Score, ...]) -> None:
    seen: set[tuple[str, str, str, int | None]] = set()
    for score in scores:
        key = (score.suite, score.task, score.metric, score.num_fewshot)
        if key in seen:
            raise _broken(path, f"gives {score.suite}/{score.task}/{score.metric} twice")
        seen.add(key)


@dataclass(frozen=True)
class _Fields:
    """Typed access to one JSON object: `true` is no integer, a number is finite."""

    path: Path
    where: str
    entry: Mapping[str, Any]

    def text(self, key: str) -> str:
        value = self.entry.get(key)
        if not isinstance(value, str) or not value:
            raise _broken(self.path, f"{self.where}.{key} is {value!r:.40}, expected a text")
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.entry.get(key) is None else self.text(key)

    def integer(self, key: str, *, minimum: int) -> int:
        value = self.entry.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise _broken(self.path, f"{self.where}.{key} is {value!r:.40}, expected an integer >= {minimum}")
        return value

    def number(self, key: str, *, minimum: float = -math.inf) -> float:
        value = self.entry.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number) and number >= minimum:
                return number
        raise _broken(self.path, f"{self.where}.{key} is {value!r:.40}, expected a finite number")

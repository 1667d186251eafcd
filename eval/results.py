"""results.json: every score of one run at one step, read strictly and written atomically.

Knows nothing about models or harnesses; loads without torch.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.json_files import Fields, read_json_object, write_text_atomically

SCHEMA = 1
PERPLEXITY_SUITE = "perplexity"
LOG_PERPLEXITY = "log_perplexity"
"""Metric of suite `perplexity`: mean token cross entropy in nats; task = domain name or `mean`."""

MEAN = "mean"

LARGEST = 1e150
"""A number larger in size is no score: its square, which a variance takes, would be no float."""

SHARE = (0.0, 1.0)
RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("acc", "acc_norm", "exact_match", "gp_irt"), SHARE),
    "perplexity": (1.0, LARGEST),
    LOG_PERPLEXITY: (0.0, LARGEST),
}
"""Metric -> what it can be at all; any other: LARGEST in size at most."""

NOISE = 1e-5
"""What sums of floats may leave beyond a range's ends; one item of the largest task is 5.6e-5 of it."""

LARGEST_COUNT = 2**63 - 1

ROUNDING = 0.01
"""Nats that a mean may be off its domains where a hand has rounded all of them to two decimals."""

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
    """Finite; where RANGES names the metric, within its range."""

    stderr: float | None
    """Standard error of `value` over the n samples, at least 0; null where none was computed."""

    n: int
    """Samples scored, at least 1."""

    num_fewshot: int | None = None
    """Shots; null where the notion does not apply."""

    task_version: str | None = None
    """Version of the task's definition, or of the evaluation set."""

    higher_is_better: bool = True

    # What follows is of scores from prompts; a file does not name what is None.
    limit: int | None = None
    """Only the first items were scored; None: all of them."""

    requests: int | None = None
    """Prompts with a continuation that the model was asked for."""

    truncated: int | None = None
    """Requests longer than the context, cut from the left."""

    shots_kept: float | None = None
    """Mean over the requests of the shots that survived whole."""

    context: int | None = None
    """Tokens that the model takes."""

    prompt_sha256: str | None = None
    model_sha256: str | None = None
    """The scored weights."""

    dataset: str | None = None
    """repository@commit, or a local name."""

    batch_size: int | None = None
    seeds: Mapping[str, int] | None = None
    """random, numpy, torch, fewshot."""

    versions: Mapping[str, str] | None = None
    """Library -> version that produced this score."""


OPTIONAL = (
    *("limit", "requests", "truncated", "shots_kept", "context", "prompt_sha256", "model_sha256"),
    *("dataset", "batch_size", "seeds", "versions"),
)
"""Fields of a score that a file leaves out where they are None."""

SEEDS = ("random", "numpy", "torch", "fewshot")


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


def merged(results: Results, scores: Sequence[Score]) -> Results:
    """Put new scores in place of those of the same suite, task, metric and shots; others stay.

    A task that was scored whole is not replaced by a limited score of the same model. Where another model's
    scores come in, all of the task's old ones go: a metric that was not computed again would be of the wrong
    model. Suites keep the order in which they were first seen, new ones follow.

    Raises:
        ValueError: `scores` gives one score twice.
    """
    if len({_name(score) for score in scores}) != len(scores):
        raise ValueError("the new scores give one score twice")
    whole = {(_task(s), s.model_sha256) for s in results.scores if s.limit is None}
    new = [s for s in scores if s.limit is None or (_task(s), s.model_sha256) not in whole]
    models = {_task(score): score.model_sha256 for score in new}
    together = {_name(score): score for score in (*results.scores, *new)}
    kept = [s for s in together.values() if models.get(_task(s), s.model_sha256) == s.model_sha256]
    suites = list(dict.fromkeys(score.suite for score in (*results.scores, *kept)))
    return replace(results, scores=tuple(sorted(kept, key=lambda score: suites.index(score.suite))))


_Name = tuple[str, str, str, int | None]


def _name(score: Score) -> _Name:
    return (score.suite, score.task, score.metric, score.num_fewshot)


def _task(score: Score) -> tuple[str, str, int | None]:
    return (score.suite, score.task, score.num_fewshot)


def read_results(path: Path) -> Results:
    """Read a results.json.

    Raises:
        ResultsError: missing, half-written, another schema, a wrong type, a NaN, a score given twice, a value
            that its metric cannot have, a mean log-perplexity that is not its domains'.
    """
    try:
        document = read_json_object(path, MAX_BYTES, lambda what: _broken(path, what))
    except OSError as error:
        raise ResultsError(
            f"{path}: cannot be read ({error.strerror}); run `reweight eval RUN` first"
        ) from error
    return _results(path, document)


def write_results(path: Path, results: Results) -> None:
    """Write a results.json: whole or not at all, even if the machine stops midway.

    Raises:
        ResultsError: a score that `read_results` would refuse.
        OSError: naming the file.
    """
    document = asdict(results) | {"versions": dict(sorted(results.versions.items()))}
    document["scores"] = [_entry(score) for score in results.scores]
    try:
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise ResultsError(f"{path}: not written, a score is NaN or infinite; look at the model") from error
    _results(path, json.loads(text))
    write_text_atomically(path, text)


def _entry(score: Score) -> dict[str, Any]:
    return {k: v for k, v in asdict(score).items() if k not in OPTIONAL or v is not None}


def _broken(path: Path, what: str) -> ResultsError:
    return ResultsError(f"{path}: {what}; run `reweight eval` on its run folder again")


def _results(path: Path, document: Mapping[str, Any]) -> Results:
    def refuse(what: str) -> ResultsError:
        return _broken(path, what)

    if document.get("schema") != SCHEMA or isinstance(document.get("schema"), bool):
        raise refuse(f"has schema {document.get('schema')!r:.40}, this version reads {SCHEMA}")
    read = Fields.of("the top level", document, Results, refuse)
    scores = document.get("scores")
    if not isinstance(scores, list):
        raise refuse("'scores' is not a list")
    results = Results(
        recipe=read.text("recipe"),
        seed=_count(read, "seed", minimum=0),
        step=_count(read, "step", minimum=0),
        scores=tuple(
            _score(Fields.of(f"scores[{index}]", entry, Score, refuse)) for index, entry in enumerate(scores)
        ),
        eval_set_sha256=read.optional_text("eval_set_sha256"),
        versions=read.texts("versions") if "versions" in document else {},
    )
    seen: set[_Name] = set()
    for score in results.scores:
        if _name(score) in seen:
            raise refuse(f"gives {score.suite}/{score.task}/{score.metric} twice")
        seen.add(_name(score))
    _check_mean(results, refuse)
    return results


def _check_mean(results: Results, refuse: Callable[[str], ResultsError]) -> None:
    """Refuse a `mean` that is not the plain mean of the domains beside it (perplexity.log_perplexity)."""
    domains = {s.task: s for s in results.scores if (s.suite, s.metric) == (PERPLEXITY_SUITE, LOG_PERPLEXITY)}
    mean = domains.pop(MEAN, None)
    # Its windows are the domains' together; where they are not, not all of its domains are here.
    if mean is None or len(domains) < 2 or mean.n != sum(score.n for score in domains.values()):
        return
    formed = math.fsum(score.value for score in domains.values()) / len(domains)
    if abs(mean.value - formed) > ROUNDING + NOISE:
        raise refuse(
            f"{PERPLEXITY_SUITE}/{MEAN}/{LOG_PERPLEXITY} is {mean.value:g}, and its {len(domains)} domains "
            f"have the mean {formed:g}"
        )


def _score(read: Fields) -> Score:
    suite, task, metric = read.text("suite"), read.text("task"), read.text("metric")
    read = Fields(f"{read.where} ({suite:.60}/{task:.60}/{metric:.60})", read.entry, read.refuse)
    return Score(
        suite=suite,
        task=task,
        metric=metric,
        value=_value(read, metric),
        stderr=_error(read),
        n=_count(read, "n", minimum=1),
        num_fewshot=_optional_count(read, "num_fewshot", minimum=0),
        task_version=read.optional_text("task_version"),
        higher_is_better=read.flag("higher_is_better"),
        limit=_optional_count(read, "limit", minimum=1),
        requests=_optional_count(read, "requests", minimum=1),
        truncated=_optional_count(read, "truncated", minimum=0),
        shots_kept=read.optional_number("shots_kept", minimum=0.0),
        context=_optional_count(read, "context", minimum=1),
        prompt_sha256=read.optional_text("prompt_sha256"),
        model_sha256=read.optional_text("model_sha256"),
        dataset=read.optional_text("dataset"),
        batch_size=_optional_count(read, "batch_size", minimum=1),
        seeds=_seeds(read) if read.has("seeds") else None,
        versions=read.texts("versions") if read.has("versions") else None,
    )


def _value(read: Fields, metric: str) -> float:
    value = read.number("value")
    low, high = RANGES.get(metric, (-LARGEST, LARGEST))
    if not low - NOISE <= value <= high + NOISE:
        raise read.wrong("value", f"a number from {low:g} to {high:g}")
    return value


def _error(read: Fields) -> float | None:
    error = read.optional_number("stderr")
    if error is not None and not 0 <= error <= LARGEST:
        raise read.wrong("stderr", f"a number from 0 to {LARGEST:g}")
    return error


def _count(read: Fields, key: str, *, minimum: int) -> int:
    count = read.integer(key, minimum=minimum)
    if count > LARGEST_COUNT:
        raise read.wrong(key, f"an integer of at most {LARGEST_COUNT}")
    return count


def _optional_count(read: Fields, key: str, *, minimum: int) -> int | None:
    return _count(read, key, minimum=minimum) if read.has(key) else None


def _seeds(read: Fields) -> dict[str, int]:
    entry = read.entry["seeds"]
    if not isinstance(entry, dict) or set(entry) != set(SEEDS):
        raise read.wrong("seeds", f"the four seeds {', '.join(SEEDS)}")
    seeds = Fields(f"{read.where}.seeds", entry, read.refuse)
    return {name: seeds.integer(name, minimum=0) for name in SEEDS}

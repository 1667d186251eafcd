"""What our results say about one column of a table: a value for each seed, or why there is none.

A score counts only if it was made as the suite asks: its shots, every item, the published split's size.
Scores are held against each other only where the questions were the same:
  Different prompts, task versions, or (where the prompts are not on record) data sets: two questions. There
  is no difference to form, and two such seeds have no mean; the cell says so. The comparison as a whole is
  not refused: unlike other training data, this concerns one task, and scoring it again is the remedy.
  Another version of a task than the suite's, or prompts cut to fit: two such runs of ours answer the same
  questions, but no printed number is held against them: at the paper's scale the cell is shown, unjudged.
  Equal prompts from another revision of the data set, or another lm-eval: labels or scoring code may have
  changed. The difference is formed and the cell says what differed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from eval.results import PERPLEXITY_SUITE, Results, Score
from reproduce.paper.matching import Group
from reproduce.paper.tables import Column, ScoreKey
from reproduce.paper.text import clean

UNMEASURED = "not measured by these runs"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One column, read from the seeds of a recipe."""

    values: Mapping[int, float]
    """Seed -> value in the table's unit; seeds without a value are left out."""

    stderr: float | None
    """Standard error of one run's value over its items or windows, in the table's unit, the mean over seeds;
    of a mean over tasks as if these were independent. None where a score has none."""

    scores: Mapping[int, tuple[Score, ...]]
    """Seed -> the scores behind its value, in the order of the column's parts."""

    stand_in: bool
    """Whether another metric than the printed one is shown, to be judged by nothing."""

    unlike_printed: bool
    """Whether another version of a task was scored, or prompts were cut: no value to hold against a printed
    one, though two such runs may be held against each other."""

    note: str


def read_column(group: Group, column: Column, factor: float) -> Reading:
    """The column's value for every seed that has one; `factor`: from results.json to the table's unit."""
    found: dict[int, tuple[Score, ...]] = {}
    notes: list[str] = []
    for seed, run in sorted(group.by_seed.items()):
        scores, why = _column_scores(run.results, column)
        if scores:
            found[seed] = scores
        else:
            notes.append(why if len(group.by_seed) == 1 or why == UNMEASURED else f"seed {seed}: {why}")
    if found and UNMEASURED in notes:
        lacking = ", ".join(str(seed) for seed in sorted(group.by_seed) if seed not in found)
        notes = [note for note in notes if note != UNMEASURED]
        notes.append(f"seed {lacking} not measured on {column.name}, left out")
    if len({_stands_in(scores, column) for scores in found.values()}) > 1:
        found = {seed: scores for seed, scores in found.items() if not _stands_in(scores, column)}
        notes.append(f"{column.name}: seeds without gp-IRT are left out")
    for (first, one), (second, other) in pairwise(found.items()):
        if unlike := different_questions(one, other):
            note = f"{unlike}: seeds {first} and {second} have no mean; evaluate them again alike"
            return Reading(values={}, stderr=None, scores={}, stand_in=False, unlike_printed=False, note=note)
        notes += scoring_differences(one, other)
    versions = [why for scores in found.values() for why in _other_versions(scores, column)]
    cut = any(_maybe_cut(score) for scores in found.values() for score in scores)
    notes += [remark for scores in found.values() for remark in _remarks(scores, column)] + versions
    return Reading(
        values={seed: factor * sum(s.value for s in scores) / len(scores) for seed, scores in found.items()},
        stderr=_stderr(list(found.values()), factor),
        scores=found,
        stand_in=any(_stands_in(scores, column) for scores in found.values()),
        unlike_printed=cut or bool(versions),
        note=joined(notes),
    )


def _stderr(by_seed: Sequence[Sequence[Score]], factor: float) -> float | None:
    errors = [
        factor * math.hypot(*(s.stderr for s in scores if s.stderr is not None)) / len(scores)
        for scores in by_seed
        if all(score.stderr is not None for score in scores)
    ]
    return fmean(errors) if errors and len(errors) == len(by_seed) else None


def _maybe_cut(score: Score) -> bool:
    """Whether prompts were cut, or nobody knows; of log-perplexity there is nothing to cut."""
    return score.suite != PERPLEXITY_SUITE and score.truncated != 0


def different_questions(ours: Sequence[Score], theirs: Sequence[Score]) -> str:
    """Why scores of the same tasks may not be subtracted from each other; empty where they may."""
    for one, other in zip(ours, theirs, strict=True):
        if one.metric != other.metric:
            return f"{one.task}: {one.metric} here, {other.metric} there"
        if one.task_version != other.task_version:
            return f"{one.task}: task versions {_short(one.task_version)} and {_short(other.task_version)}"
        if one.prompt_sha256 and other.prompt_sha256:
            if one.prompt_sha256 != other.prompt_sha256:
                return f"{one.task}: different prompts{_from(one, other)}"
        elif one.dataset != other.dataset:
            return f"{one.task}: other data{_from(one, other)}"
    return ""


def scoring_differences(ours: Sequence[Score], theirs: Sequence[Score]) -> list[str]:
    """What else differed in how scores of the same tasks were made, each told once."""
    told = []
    for one, other in zip(ours, theirs, strict=True):
        harnesses = [(score.versions or {}).get("lm_eval") for score in (one, other)]
        if all(harnesses) and harnesses[0] != harnesses[1]:
            told.append(
                f"scored by lm-eval {_short(min(map(str, harnesses)))} and {_short(max(map(str, harnesses)))}"
            )
        if one.dataset != other.dataset and one.prompt_sha256 is not None:
            told.append(f"{one.task}: the same prompts{_from(one, other)}")
        if one.context != other.context:
            told.append(f"{one.task}: contexts of {one.context} and {other.context} tokens")
    return list(dict.fromkeys(told))


def joined(notes: Sequence[str]) -> str:
    """Notes as one, each once, empty ones dropped."""
    return "; ".join(dict.fromkeys(filter(None, notes)))


def _column_scores(results: Results, column: Column) -> tuple[tuple[Score, ...], str]:
    """The scores behind a column, or none and the reason."""
    read = [_part(results, key) for key in column.parts]
    scores = tuple(score for score, _ in read if score is not None)
    if len(column.parts) == 1:
        return scores, read[0][1]
    if len(scores) < len(read):
        missing = [key.task for key, (score, _) in zip(column.parts, read, strict=True) if score is None]
        if not scores and {why for _, why in read} == {UNMEASURED}:
            return (), UNMEASURED
        more = f" and {len(missing) - 6} more" if len(missing) > 6 else ""
        return (), f"{column.name}: not formed, no score that counts of {', '.join(missing[:6])}{more}"
    if len({score.model_sha256 for score in scores}) > 1:
        return (), f"{column.name}: not formed, the scores are of different weights; evaluate them all again"
    return scores, ""


def _part(results: Results, key: ScoreKey) -> tuple[Score | None, str]:
    """The score that counts for a key, or None and the reason."""
    of_task = [s for s in results.scores if (s.suite, s.task) == (key.suite, key.task)]
    if not of_task:
        return None, UNMEASURED
    rerun = f"run `reweight eval RUN --suite {key.suite}`"
    wanted = (key.metric,) if key.stand_in is None else (key.metric, key.stand_in)
    named = [s for metric in wanted for s in of_task if s.metric == metric]
    if not named:
        have = ", ".join(_short(name) for name in dict.fromkeys(s.metric for s in of_task))
        return None, f"{key.task}: scored by {have}, the table's metric is {wanted[-1]}; {rerun}"
    if key.num_fewshot is not None:
        shots = sorted({str(s.num_fewshot) for s in named})
        named = [s for s in named if s.num_fewshot == key.num_fewshot]
        if not named:
            asked = f"the suite asks for {key.num_fewshot}"
            return None, f"{key.task}: measured with {', '.join(shots)} shots, {asked}; {rerun}"
    score = named[0]
    if score.limit is not None:
        return None, f"{key.task}: measured on the first {score.limit} items only; {rerun} without --limit"
    if key.n is not None and score.n != key.n:
        return None, f"{key.task}: measured on {score.n} items, the published split has {key.n}: other data"
    return score, ""


def _stands_in(scores: Sequence[Score], column: Column) -> bool:
    return any(score.metric != key.metric for score, key in zip(scores, column.parts, strict=True))


def _other_versions(scores: Sequence[Score], column: Column) -> list[str]:
    return [
        f"{score.task}: task version {_short(score.task_version or 'not recorded')}, "
        f"the suite's is {key.version}"
        for score, key in zip(scores, column.parts, strict=True)
        if key.version is not None and score.task_version != key.version
    ]


def _remarks(scores: Sequence[Score], column: Column) -> list[str]:
    """What a reader of the number has to know: stand-ins, and prompts that did not fit."""
    plain = [s.task for s, key in zip(scores, column.parts, strict=True) if s.metric != key.metric]
    cut = [score for score in scores if _maybe_cut(score)]
    if len(column.parts) == 1:
        remarks = [f"{task}: plain mean; the paper's is gp-IRT" for task in plain]
        return remarks + [_truncation(score) for score in cut]
    remarks = [f"{column.name}: with the plain mean of {', '.join(plain)}; the paper's is gp-IRT"] * bool(
        plain
    )
    known = ", ".join(score.task for score in cut if score.truncated is not None)
    unknown = ", ".join(score.task for score in cut if score.truncated is None)
    remarks += [f"prompts truncated in {known}"] * bool(known)
    return remarks + [f"whether prompts were truncated is not recorded for {unknown}"] * bool(unknown)


def _truncation(score: Score) -> str:
    if score.truncated is None:
        return f"{score.task}: whether prompts were truncated is not recorded"
    share = 100 * score.truncated / score.requests if score.requests else None
    how_many = (
        "prompts" if share is None else f"{share:.0f}% of prompts" if share >= 1 else "under 1% of prompts"
    )
    kept = ""
    if score.num_fewshot and score.shots_kept is not None:
        kept = f", {score.shots_kept:.1f} of {score.num_fewshot} shots kept"
    return f"{score.task}: {how_many} truncated{kept}"


def _from(one: Score, other: Score) -> str:
    if one.dataset == other.dataset:
        return ""
    return f" (from {_short(one.dataset)} and {_short(other.dataset)})"


def _short(text: object) -> str:
    return clean(text, 60)

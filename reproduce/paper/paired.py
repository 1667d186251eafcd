"""Two groups of runs held together window by window and item by item: what results.json's means cannot say.

Only seeds that both have are paired, and only windows of one recorded text. A run without the losses or items
behind its scores is named, and its row is left out; the comparison of the means stands without.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from eval.records import Key, Seeds, TaskRecord, find_record
from eval.results import LOG_PERPLEXITY, PERPLEXITY_SUITE, Score
from eval.sample_losses import FILE_NAME
from reproduce.paper.matching import Group
from reproduce.paper.runs import Run
from reproduce.paper.sample_losses import has_sample_losses, sample_losses
from reproduce.sample_statistics import MEAN, PairedItems, PairedSamples, paired_items, paired_samples
from reproduce.statistics import Interval, mean_interval

RECORDS = "evaluations/model"
"""Where `reweight eval` keeps the records of a run's final model."""


@dataclass(frozen=True, kw_only=True)
class PairedRow:
    """One score of a group minus the reference's, in the unit of results.json."""

    recipe: str
    reference: str
    suite: str
    task: str
    metric: str
    diff: float
    """ours - theirs, the mean over windows or items and over shared seeds."""

    n: int
    """Windows or items."""

    n_seeds: int
    """Seeds that both sides have."""

    samples_low: float | None
    """95% over windows or items, for these very models."""

    samples_high: float | None
    seeds_low: float | None
    """95% over paired seeds, for the method; None with one seed."""

    seeds_high: float | None
    z: float | None
    """Log-perplexity: diff over its standard error over windows."""

    stderr_both: float | None
    """Log-perplexity: over new seeds and new windows at once."""

    neighbours: float | None
    """Log-perplexity: correlation of one window's difference with the next one's."""

    p: float | None
    """Tasks: two-sided, over items."""

    test: str
    """paired_windows, mcnemar or paired_t."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What of one group could be paired, and why the rest could not."""

    recipe: str
    rows: Sequence[PairedRow]
    notes: Sequence[str]


def paired(group: Group, reference: Group) -> Paired:
    """A group minus a reference, log-perplexities first, then the tasks that both keep items of.

    Args:
        group: may be trained and measured on anything; what does not fit the reference is left out, and said.
        reference: what is subtracted.

    Raises:
        DataError: losses that are damaged, or not those of the results.json beside them.
    """
    recipe = group.info.recipe
    seeds = sorted(set(group.by_seed) & set(reference.by_seed))
    if not seeds:
        why = f"{recipe} and {reference.info.recipe} share no seed"
        return Paired(recipe=recipe, rows=(), notes=[why])
    pairs = [(group.by_seed[seed], reference.by_seed[seed]) for seed in seeds]
    notes: list[str] = []
    rows = [*_windows(group, reference, pairs, notes), *_tasks(group, reference, pairs, notes)]
    return Paired(recipe=recipe, rows=rows, notes=list(dict.fromkeys(notes)))


_Pairs = Sequence[tuple[Run, Run]]


def _windows(group: Group, reference: Group, pairs: _Pairs, notes: list[str]) -> list[PairedRow]:
    if why := _no_windows([run for pair in pairs for run in pair]):
        notes.append(why)
        return []
    ours, theirs = ([sample_losses(run) for run in side] for side in zip(*pairs, strict=True))
    named = list(dict.fromkeys(domain for losses in (*ours, *theirs) for domain in losses))
    unlike = {domain: _unlike(domain, [*ours, *theirs]) for domain in named}
    notes += filter(None, unlike.values())
    domains = [domain for domain in named if not unlike[domain]]
    if not domains:
        return []
    found = paired_samples(
        {domain: [losses[domain] for losses in ours] for domain in domains},
        {domain: [losses[domain] for losses in theirs] for domain in domains},
    )
    if len(domains) < len(named):
        # Of the domains that are left it would be another mean than the one of results.json.
        del found[MEAN]
        notes.append("mean: not all of its domains are paired, so it is not either")
    names = (group.info.recipe, reference.info.recipe)
    return [_window_row(*names, domain, samples) for domain, samples in found.items()]


def _no_windows(runs: Sequence[Run]) -> str:
    """Why these runs' windows are not known to be the same ones, or are not there; empty where they are."""
    by_text: dict[str | None, Path] = {}
    for run in runs:
        by_text.setdefault(run.results.eval_set_sha256, run.path)
    unknown = by_text.pop(None, None)
    if len(by_text) > 1:
        one, other, *_ = by_text.values()
        return f"{one} and {other} were measured on different text: their windows are no pairs"
    without = next((run.path for run in runs if not has_sample_losses(run)), None)
    if without is not None:
        return f"{without} has no {FILE_NAME}: `reweight eval {without}` writes it"
    # Not even where no side has it: equal numbers of windows are no sign of equal text.
    if unknown is not None:
        return f"{unknown} does not record the text it was measured on: `reweight eval {unknown}` does"
    return ""


def _unlike(domain: str, found: Sequence[Mapping[str, NDArray[np.float32]]]) -> str:
    """Why one domain's windows are no pairs, though the text is said to be one; empty where they are."""
    if any(domain not in losses for losses in found):
        return f"{domain}: not measured by every run"
    counts = list(dict.fromkeys(len(losses[domain]) for losses in found))
    return f"{domain}: {counts[0]} and {counts[1]} windows, which are no pairs" if len(counts) > 1 else ""


def _window_row(recipe: str, reference: str, domain: str, found: PairedSamples) -> PairedRow:
    return PairedRow(
        recipe=recipe,
        reference=reference,
        suite=PERPLEXITY_SUITE,
        task=domain,
        metric=LOG_PERPLEXITY,
        diff=found.diff,
        n=found.over_samples.n,
        n_seeds=found.over_seeds.n,
        samples_low=found.over_samples.low,
        samples_high=found.over_samples.high,
        seeds_low=found.over_seeds.low,
        seeds_high=found.over_seeds.high,
        z=found.z,
        stderr_both=found.stderr_both,
        neighbours=found.neighbours,
        p=None,
        test="paired_windows",
    )


def _tasks(group: Group, reference: Group, pairs: _Pairs, notes: list[str]) -> list[PairedRow]:
    rows = []
    for score in pairs[0][0].results.scores:
        if score.suite == PERPLEXITY_SUITE:
            continue
        sides = [[_items(run, score, notes.append) for run in side] for side in zip(*pairs, strict=True)]
        known = [[record for record in side if record is not None] for side in sides]
        if any(len(side) < len(pairs) for side in known):
            continue  # another version of the task, a metric without items, or its record is gone
        if len({(record.prompt_sha256, record.n) for side in known for record in side}) > 1:
            notes.append(f"{score.task}: not the same questions, so items are not paired")
            continue
        ours, theirs = ([record.items[score.metric] for record in side] for side in known)
        # Over several seeds an item's score is its mean over them: the seeds answer one and the same item.
        found = paired_items([*map(fmean, zip(*ours, strict=True))], [*map(fmean, zip(*theirs, strict=True))])
        over_seeds = mean_interval([fmean(a) - fmean(b) for a, b in zip(ours, theirs, strict=True)])
        rows.append(_task_row(group.info.recipe, reference.info.recipe, score, found, over_seeds))
    return rows


def _items(run: Run, asked: Score, warn: Callable[[str], None]) -> TaskRecord | None:
    """The record behind a run's score of that name, if it is there and keeps the metric's items."""
    name = (asked.suite, asked.task, asked.metric, asked.num_fewshot, asked.task_version, asked.limit)
    for score in run.results.scores:
        same = name == (
            *(score.suite, score.task, score.metric),
            *(score.num_fewshot, score.task_version, score.limit),
        )
        key = _key(score) if same else None
        if key is not None:
            record = find_record(run.path / RECORDS, key, warn)
            # Of a perplexity the items are log-likelihoods: their mean is another quantity.
            items = None if record is None else record.items.get(score.metric)
            return record if items and isclose(fmean(items), score.value, rel_tol=1e-6) else None
    return None


def _key(score: Score) -> Key | None:
    if (
        score.model_sha256 is None
        or score.task_version is None
        or score.num_fewshot is None
        or score.seeds is None
    ):
        return None
    try:
        return Key(
            model_sha256=score.model_sha256,
            task=score.task,
            task_version=score.task_version,
            num_fewshot=score.num_fewshot,
            limit=score.limit,
            seeds=Seeds(**score.seeds),
        )
    except ValueError:  # a task whose name is none
        return None


def _task_row(
    recipe: str, reference: str, score: Score, found: PairedItems, over_seeds: Interval
) -> PairedRow:
    return PairedRow(
        recipe=recipe,
        reference=reference,
        suite=score.suite,
        task=score.task,
        metric=score.metric,
        diff=found.diff,
        n=found.interval.n,
        n_seeds=over_seeds.n,
        samples_low=found.interval.low,
        samples_high=found.interval.high,
        seeds_low=over_seeds.low,
        seeds_high=over_seeds.high,
        z=None,
        stderr_both=None,
        neighbours=None,
        p=found.p,
        test=found.test,
    )

"""metrics.jsonl of runs: which of a recipe's seeds its curves are of, and what a reader must know about each.

A mean over seeds is one over the same seeds from the first step to the last. So a seed whose log ends before
another's is left out, and named: it would leave the mean on the way, or cut it for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reproduce.paper.metrics_log import Floats, Metrics, read_metrics
from reproduce.paper.runs import Run
from reproduce.paper.text import clean

FILE = "metrics.jsonl"
NAMED = 3
"""Runs that a caption names."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """What the curves have of one run."""

    run: Run
    metrics: Metrics | None
    """None: nothing to draw."""
    words: tuple[str, ...] = ()
    """What is wrong with it; empty for a log as it should be."""
    kept: bool = True
    """Whether the curves of its recipe have it."""

    @property
    def note(self) -> str:
        """Its folder and what is wrong with it, on one line; empty where nothing is."""
        return f"{clean(self.run.path, 200)}: {'; '.join(self.words)}" if self.words else ""


def read_log(run: Run) -> Log:
    """Read a run's log.

    Raises:
        DataError: a broken metrics.jsonl, or one that cannot be this run's.
    """
    path = run.path / FILE
    if path.is_symlink() or not path.is_file():
        why = f"its {FILE} is a link, which is not followed" if path.is_symlink() else f"no {FILE}"
        return Log(run=run, metrics=None, words=(f"{why}, so no curves",), kept=False)
    metrics = read_metrics(path, steps=run.info.steps, global_batch=global_batch(run))
    if not metrics.step.size and not metrics.eval_step.size:
        return Log(run=run, metrics=None, words=(f"no whole line in its {FILE}, so no curves",), kept=False)
    return Log(run=run, metrics=metrics, words=tuple(_not_finite(metrics)))


def kept_logs(logs: Sequence[Log]) -> list[Log]:
    """The logs of one recipe's seeds with those left out that end before another."""
    last = max((_ends(log.metrics) for log in logs if log.metrics is not None), default=(-1, -1))
    judged = []
    for log in logs:
        if log.metrics is None:
            judged.append(log)
            continue
        ends = _ends(log.metrics)
        words = list(log.words)
        if ends != last:
            words.append(f"left out of the curves: {_shortfall(ends, last)}")
        elif -1 < max(ends) < log.run.results.step:
            words.append(f"its log ends at step {max(ends)}, it was scored at step {log.run.results.step}")
        judged.append(replace(log, words=tuple(words), kept=ends == last))
    return judged


def said_of(logs: Sequence[Log]) -> str:
    """The same for a caption, a sentence a run, beginning with a space; empty where nothing is wrong."""
    wrong = [log for log in logs if log.words]
    named = [f"{clean(log.run.info.recipe, 60)}, seed {log.run.seed}" for log in wrong]
    sentences = [f" {name}: {'; '.join(log.words)}." for name, log in zip(named, wrong, strict=True)]
    more = f" More runs whose logs lack something: {len(wrong) - NAMED}." if len(wrong) > NAMED else ""
    return "".join(sentences[:NAMED]) + more


def global_batch(run: Run) -> int | None:
    """M of its recipe, if that says it."""
    batch = run.info.settings.get("train.global_batch")
    return batch if isinstance(batch, int) and batch > 0 else None


def _ends(metrics: Metrics) -> tuple[int, int]:
    """The last step with a loss, and the last evaluation; -1 for none."""
    evaluated = np.zeros(metrics.eval_step.size, dtype=bool)
    for values in metrics.log_perplexity.values():
        evaluated |= np.isfinite(values)
    return _last(metrics.step[np.isfinite(metrics.loss)]), _last(metrics.eval_step[evaluated])


def _last(steps: Floats) -> int:
    return int(steps[-1]) if steps.size else -1


def _shortfall(ends: tuple[int, int], last: tuple[int, int]) -> str:
    """In what a log ends before that of another seed."""
    what, own, other = next(
        each for each in zip(("losses", "evaluations"), ends, last, strict=True) if each[1] != each[2]
    )
    ended = f"its {what} end at step {own}" if own >= 0 else f"it has no {what}"
    return f"{ended}, another seed's at step {other}"


def _not_finite(metrics: Metrics) -> list[str]:
    """Which values of a log are no finite numbers, and what becomes of them."""
    fates = {"max_weight": "counted as above the bound"}
    return [
        f"{name} is no finite number in {count} line{'s' * (count > 1)}, "
        f"{fates.get(name, 'left out of the curves for all seeds')}"
        for name, count in metrics.not_finite.items()
    ]

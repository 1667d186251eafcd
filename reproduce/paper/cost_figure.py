"""What a strategy costs beside uniform, as the runs' own logs tell it: a map of medians, as data."""

from collections.abc import Sequence

import numpy as np

from reproduce.paper.figures import Series
from reproduce.paper.metrics_log import Floats
from reproduce.study import Figure, Map

SKIPPED = 0.1
"""Share of a run's first logged steps that is left out: caches fill, kernels are chosen."""

RATE = "tokens/s"
MAX_PHASES = 8


def overhead(series: Sequence[Series]) -> Figure | None:
    """Median seconds of a step by phase, and tokens a second, beside uniform; None without a uniform run."""
    timed = [each for each in series if _rate(each) is not None]
    uniform = next((each for each in timed if each.strategy == "uniform"), None)
    others = [each for each in timed if each.strategy != "uniform"]
    if uniform is None or not others:
        return None
    shown = (uniform, *others)
    phases = list(dict.fromkeys(p for s in shown for m in s.seeds for p in m.seconds))[:MAX_PHASES]
    rows = [_row(each, uniform, phases) for each in shown]
    return Figure(
        id="overhead",
        title="Time of a step beside uniform",
        caption="Medians over the logged steps of all seeds, the first tenth left out. Below a phase's time "
        f"is its difference from {uniform.label}, in percent of {uniform.label}'s whole step: phases add up. "
        "Blue is quicker. These runs were not alternated on an idle machine: `reweight bench train` measures "
        "the cost.",
        panels=(
            Map(
                title="",
                x_label="time of a step by phase, and tokens a second",
                y_label="",
                x_names=(*phases, RATE),
                y_names=tuple(each.label for each in shown),
                values=tuple(values for values, _ in rows),
                texts=tuple(texts for _, texts in rows),
            ),
        ),
        columns=1,
    )


def _row(
    each: Series, uniform: Series, phases: Sequence[str]
) -> tuple[tuple[float | None, ...], tuple[str, ...]]:
    whole = sum(_seconds(uniform, phase) or 0.0 for phase in phases)
    values: list[float | None] = []
    texts = []
    for phase in phases:
        ours, theirs = _seconds(each, phase), _seconds(uniform, phase)
        change = None if ours is None or theirs is None or not whole else (ours - theirs) / whole
        values.append(change)
        texts.append(_text(None if ours is None else _duration(ours), None if each is uniform else change))
    rate, base = _rate(each), _rate(uniform)
    change = None if rate is None or not base else rate / base - 1
    values.append(None if change is None else -change)
    texts.append(_text(None if rate is None else f"{rate:.4g}", None if each is uniform else change))
    return tuple(values), tuple(texts)


def _text(value: str | None, change: float | None) -> str:
    if value is None:
        return "–"
    return value if change is None else f"{value}\n{100 * change:+.2f}%"


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _rate(series: Series) -> float | None:
    return _median([m.tokens_per_s for m in series.seeds])


def _seconds(series: Series, phase: str) -> float | None:
    return _median([m.seconds[phase] for m in series.seeds if phase in m.seconds])


def _median(runs: Sequence[Floats]) -> float | None:
    values = np.concatenate([run[int(SKIPPED * run.size) :] for run in runs] or [np.array([])])
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else None

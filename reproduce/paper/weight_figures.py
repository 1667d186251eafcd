"""Figures of a step's weights as data: how large the largest was (Figure 6), and who got what weight."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reproduce.paper.metrics_log import ROUNDING, Floats, Metrics
from reproduce.paper.seed_lines import MAX_LABEL, SPAN, Series, seed_line, there
from reproduce.paper.text import clean
from reproduce.study import Figure, Line, Mark, Panel

BOUND = 2.0
"""The theory's bound on a weight, as a multiple of the uniform weight (Theorem 1)."""

BINS_A_UNIT = (20, 10, 5, 2, 1)
"""Bins between one multiple of 1/M and the next: the first that needs no more than MAX_BINS. Each has an edge
on the bound, so what is drawn right of it lies above it."""

MAX_BINS = 200
LEAST_TOP = 3.0
"""The bins reach so far at least: some lie right of the bound."""

TAIL = 0.05
"""Share of a line's steps that may lie beyond the bins, together in one: a few giants must not squeeze the
rest into a corner."""


def max_weight_distribution(series: Sequence[Series]) -> Figure:
    """Figure 6: how often the largest weight of a step, times M, took which value; the bound 2 is marked.

    Uniform is 1 at every step and would flatten the rest, so it is not drawn.
    """
    pooled = [(each, _pooled(each)) for each in series if each.strategy != "uniform"]
    pooled = [(each, values) for each, values in pooled if values.size]
    bins = _Bins.of([values for _, values in pooled])
    beyond = any(bool((values > bins.top).any()) for _, values in pooled)
    marks = [Mark(axis="x", at=BOUND, label="bound 2/M")]
    if beyond:
        marks.append(Mark(axis="x", at=bins.top, label=f"beyond {bins.top:g}: one point"))
    above = ", ".join(_above(each, values) for each, values in pooled)
    return Figure(
        id="figure6",
        title="Largest weight of a step (the paper's Figure 6)",
        caption="How often the largest weight, times the batch size M, took which value, in bins of "
        f"{1 / bins.a_unit:g}. 1 is uniform (not drawn: it never moves; steps of a uniform warm-up sit there "
        f"too); the theory asks for at most 2. Steps above it: {above}."
        + (
            f" A point right of {bins.top:g} is the share of a line's steps beyond it, wherever they lie."
            if beyond
            else ""
        ),
        panels=(
            Panel(
                title="",
                x_label="largest weight of a step, times M",
                y_label=f"share of steps, in bins of {1 / bins.a_unit:g}",
                lines=tuple(_distribution(*line, bins, place) for place, line in enumerate(pooled)),
                marks=tuple(marks),
            ),
        ),
    )


@dataclass(frozen=True)
class _Bins:
    """Bins of one width, each with its upper edge: what is at most 2 lies left of the bound."""

    a_unit: int
    first: int
    """The lowest edge, in widths."""
    last: int

    @classmethod
    def of(cls, lines: Sequence[Floats]) -> "_Bins":
        finite = [values[np.isfinite(values)] for values in lines]
        finite = [values for values in finite if values.size]
        low = min([1.0, *(float(values.min()) for values in finite)])
        high = max([LEAST_TOP, *(float(np.quantile(v, 1 - TAIL, method="lower")) for v in finite)])

        def edges(a_unit: int) -> tuple[int, int]:
            return math.floor(low * (1 + ROUNDING) * a_unit), math.ceil(high * a_unit)

        fitting = (n for n in BINS_A_UNIT if edges(n)[1] - edges(n)[0] <= MAX_BINS)
        a_unit = next(fitting, BINS_A_UNIT[-1])
        first, last = edges(a_unit)
        return cls(a_unit, first, min(last, first + MAX_BINS))

    @property
    def top(self) -> float:
        return self.last / self.a_unit

    def counts(self, values: Floats) -> Floats:
        """Values in each bin, without those beyond the last."""
        inside = values[values <= self.top]
        # A largest weight of 1 belongs to the first bin, not to one below what is possible.
        at = np.ceil(inside / (1 + ROUNDING) * self.a_unit).astype(int) - 1 - self.first
        counted: Floats = np.bincount(np.maximum(at, 0), minlength=self.last - self.first).astype(np.float64)
        return counted

    def centres(self) -> Floats:
        middles: Floats = (np.arange(self.first, self.last) + 0.5) / self.a_unit
        return middles

    def beyond(self, place: int) -> float:
        """Where a line's point for all beyond the last bin stands: each line's beside that before it."""
        return self.top + (place + 1) * 0.03 * (self.last - self.first) / self.a_unit


def _distribution(series: Series, values: Floats, bins: _Bins, place: int) -> Line:
    """Shares of the bins from zero to zero, and behind a gap of the steps beyond them, if there are any."""
    counts = bins.counts(values)
    taken = np.flatnonzero(counts)
    shown = slice(max(0, int(taken[0]) - 1), int(taken[-1]) + 2) if taken.size else slice(0)
    x: list[float] = bins.centres()[shown].tolist()
    y: list[float | None] = (counts[shown] / values.size).tolist()
    beyond = float((values > bins.top).mean())
    if beyond:
        x += [bins.top, bins.beyond(place)]
        y += [None, beyond]
    return Line(label=clean(series.label, MAX_LABEL), strategy=series.strategy, x=tuple(x), y=tuple(y))


def _above(series: Series, values: Floats) -> str:
    """Label and share of steps above the bound; a weight that is no finite number kept no bound."""
    share = float((values > BOUND * (1 + ROUNDING)).mean())
    broken = int(np.isinf(values).sum())
    largest = values[np.isfinite(values)]
    said = [f"largest {float(largest.max()):.3g}"] if share and largest.size else []
    said += [f"{broken} of them no finite number"] * bool(broken)
    return f"{series.label} {100 * share:.3g}%" + (f" ({', '.join(said)})" if said else "")


def _pooled(series: Series) -> Floats:
    """Over the seeds, without steps whose line lacks it."""
    values = np.concatenate([m.max_weight for m in series.seeds] or [np.array([])])
    logged: Floats = values[~np.isnan(values)]
    return logged


def weights_by_quantile(series: Sequence[Series]) -> Figure:
    """What weight a sample had by the place of its loss in the batch: the strategy as training met it.

    Over all logged steps whose weights are not even, so after a uniform warm-up.
    """
    panel = Panel(
        title="",
        x_label="place of the loss in its batch (0 lowest, 1 highest)",
        y_label="mean weight, times M",
        lines=there([seed_line(each, [_by_place(m) for m in each.seeds]) for each in series]),
        marks=(Mark(axis="y", at=BOUND, label="bound 2/M"),),
    )
    return Figure(
        id="weights-by-quantile",
        title="Weight against the quantile of the loss",
        caption="Mean weight, times the batch size M, of the tenth of a batch whose losses lie there, over "
        f"all logged steps with uneven weights; 1 is uniform. {SPAN}",
        panels=(panel,),
    )


def _by_place(metrics: Metrics) -> tuple[Floats, Floats]:
    """Places, rising, and the mean weight at each."""
    named: Mapping[float, Floats] = {
        place: values for name, values in metrics.weight_by_loss.items() if (place := _place(name)) >= 0
    }
    places = sorted(named)
    uneven = metrics.max_weight > 1 + ROUNDING
    means = [
        float(kept.mean()) if (kept := named[p][uneven & np.isfinite(named[p])]).size else math.nan
        for p in places
    ]
    return np.array(places), np.array(means)


def _place(name: str) -> float:
    """A place in [0, 1] as metrics.jsonl writes it; -1 for a name that is none."""
    try:
        place = float(name)
    except ValueError:
        return -1.0
    return place if 0 <= place <= 1 else -1.0

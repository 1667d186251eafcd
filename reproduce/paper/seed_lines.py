"""The seeds of a recipe as one line with a band: means over the same seeds at every step, block means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from reproduce.paper.metrics_log import Floats, Metrics
from reproduce.paper.text import clean
from reproduce.study import Line, Panel

POINTS = 200
"""A longer series is drawn as this many block means: a page of figures stays small, and each is drawn."""

PANEL_POINTS = 80
"""The same where a figure has a panel a domain."""

SPAN = "Bands span the seeds, lowest to highest."
MAX_LABEL = 40


@dataclass(frozen=True, kw_only=True)
class Series:
    """The seeds of one recipe, to be drawn as one line with a band."""

    label: str
    strategy: str
    seeds: Sequence[Metrics]
    """Their logs end at the same step: no seed leaves a mean on the way."""

    global_batch: int | None
    """M, for the effective sample size as a share of the batch; None: unknown."""


Read = Callable[[Metrics], tuple[Floats, Floats] | None]
"""x and y of one run; None where it has none."""


def step_panel(title: str, y_label: str, series: Sequence[Series], read: Read, points: int = POINTS) -> Panel:
    """One panel against steps."""
    lines = []
    for each in series:
        found = [read(metrics) for metrics in each.seeds]
        lines.append(seed_line(each, [pair for pair in found if pair is not None], points))
    return Panel(title=clean(title, 40), x_label="step", y_label=y_label, lines=there(lines))


def seed_line(series: Series, data: Sequence[tuple[Floats, Floats]], points: int = POINTS) -> Line | None:
    """The mean over the seeds, with a band if there are several; None without a value."""
    finite = [(x[kept], y[kept]) for x, y in data if (kept := np.isfinite(y)).any()]
    if not finite:
        return None
    x, mean, low, high = band(finite)
    steps, middle = decimate(x, mean, points)
    lows, highs = (decimate(x, edge, points)[1] for edge in (low, high))
    several = len(finite) > 1
    return Line(
        label=clean(series.label, MAX_LABEL),
        strategy=series.strategy,
        x=tuple(steps.tolist()),
        y=tuple(middle.tolist()),
        low=tuple(lows.tolist()) if several else None,
        high=tuple(highs.tolist()) if several else None,
    )


def there(lines: Sequence[Line | None]) -> tuple[Line, ...]:
    """Those that have a value."""
    return tuple(line for line in lines if line is not None and line.x)


def decimate(x: Floats, y: Floats, points: int = POINTS) -> tuple[Floats, Floats]:
    """At most `points` block means of a series; NaN are left out of a block's mean, empty blocks dropped."""
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if x.size <= points:
        return x, y
    starts = np.linspace(0, x.size, points, endpoint=False).astype(int)
    counts = np.diff([*starts, x.size])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def band(series: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats, Floats, Floats]:
    """Steps that all seeds have, and over the seeds the mean, the lowest and the highest value.

    A step that one of them lacks is left out: else the mean would jump to other seeds there.
    """
    shared = series[0][0]
    for x, _ in series[1:]:
        shared = np.intersect1d(shared, x)
    stacked = np.stack([y[np.isin(x, shared)] for x, y in series])
    return shared, stacked.mean(axis=0), stacked.min(axis=0), stacked.max(axis=0)

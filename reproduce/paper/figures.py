"""Figures of runs as SVG text, from arrays. The same input gives the same bytes; no file and no state kept.

Looks and colours: drawing.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reproduce.paper.drawing import OTHER, STYLES, drawing
from reproduce.paper.metrics_log import Floats, Metrics
from reproduce.paper.text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 400
"""A longer series is drawn as this many block means, so that a page of figures stays small."""

BOUND = 2.0
"""The theory's bound on a weight, as a multiple of the uniform weight (Theorem 1)."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """The seeds of one recipe, to be drawn as one line with a band."""

    label: str
    strategy: str
    seeds: Sequence[Metrics]
    global_batch: int | None
    """M, for the effective sample size as a share of the batch; None: unknown."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Figure 1's data: strategy -> (normalised loss h, y)."""

    scores: Mapping[str, tuple[Floats, Floats]]
    """y = f(h)."""

    weights: Mapping[str, tuple[Floats, Floats]]
    """y = weight over the uniform weight, in a batch whose losses spread evenly."""

    r: float
    """Temperature of the weights."""


def strategy_curves(
    scores: Mapping[str, tuple[Floats, Floats]],
    weights: Mapping[str, tuple[Floats, Floats]] | None = None,
    r: float | None = None,
) -> str:
    """Figure 1: f(h) of each strategy, and beside it the weights that follow, if given.

    Args:
        scores: strategy -> (h, f(h)), h in [-1, 1].
        weights: strategy -> (h, weight over the uniform weight).
        r: temperature behind `weights`, for the label.
    """
    panels = [(scores, "score f(h)")]
    if weights:
        panels.append((weights, "weight / uniform" + ("" if r is None else f", r = {r:g}")))
    with drawing("strategies", 3.6 * len(panels), 2.9) as (figure, out):
        for index, (curves, label) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), index + 1)
            for name, (h, y) in curves.items():
                colour, dashes = STYLES.get(name, OTHER)
                axes.plot(h, y, color=colour, linestyle=dashes, label=clean(name, 24))
            _label(axes, "normalised loss h", label)
        _legend(figure, figure.axes[0])
    return out.svg


def loss_curves(lines: Sequence[Line]) -> str:
    """Unweighted training loss, and mean held-out log-perplexity, against steps; bands span the seeds."""
    with drawing("loss", 7.2, 3.0) as (figure, out):
        left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
        for line in lines:
            _band(left, line, [(m.step, m.loss) for m in line.seeds])
            _band(right, line, _evaluations(line, "mean"), marker="o")
        _label(left, "step", "training loss, unweighted (nats)")
        _label(right, "step", "held-out log-perplexity, mean (nats)")
        _legend(figure, left)
    return out.svg


def domain_curves(lines: Sequence[Line]) -> str:
    """Figures 2 to 4: held-out log-perplexity of each domain against steps; bands span the seeds."""
    domains = sorted({d for line in lines for m in line.seeds for d in m.log_perplexity} - {"mean"})
    columns = min(4, max(1, len(domains)))
    rows = -(-len(domains) // columns)
    with drawing("domains", 7.2, 2.1 * max(1, rows) + 0.3) as (figure, out):
        for index, domain in enumerate(domains):
            axes = figure.add_subplot(rows, columns, index + 1)
            for line in lines:
                _band(axes, line, _evaluations(line, domain), marker="o")
            axes.set_title(clean(domain, 24), fontsize=8)
            _label(axes, "step" if index >= len(domains) - columns else "", "nats" * (index % columns == 0))
            if index == 0:
                _legend(figure, axes)
    return out.svg


def max_weight_distribution(lines: Sequence[Line]) -> str:
    """Figure 6: how often the largest weight of a step, times M, took which value; the bound 2 is marked.

    Uniform is 1 at every step and would flatten the rest, so it is not drawn.
    """
    lines = [line for line in lines if line.strategy != "uniform"]
    pooled = {line.label: _pooled(line) for line in lines}
    everything = np.concatenate([v for v in pooled.values() if v.size] or [np.array([1.0])])
    edges = np.linspace(min(1.0, float(everything.min())), max(2.2, float(everything.max())), 61)
    with drawing("maxweight", 7.2, 2.9) as (figure, out):
        axes = figure.add_subplot(1, 1, 1)
        for line in lines:
            values = pooled[line.label]
            if values.size:
                colour, dashes = STYLES.get(line.strategy, OTHER)
                counts, _ = np.histogram(values, bins=edges)
                axes.stairs(
                    counts / values.size, edges, color=colour, linestyle=dashes, label=clean(line.label, 40)
                )
        axes.axvline(BOUND, color="#B00020", linewidth=1.2)
        axes.text(BOUND, axes.get_ylim()[1], " bound 2/M", color="#B00020", va="top", fontsize=8)
        _label(axes, "largest weight of a step, times M", "share of steps")
        _legend(figure, axes)
    return out.svg


def ess_curves(lines: Sequence[Line]) -> str:
    """Effective sample size over steps, as a share of the batch; bands span the seeds."""
    with drawing("ess", 7.2, 2.9) as (figure, out):
        axes = figure.add_subplot(1, 1, 1)
        for line in lines:
            share = 1.0 if line.global_batch is None else 1.0 / line.global_batch
            _band(axes, line, [(m.step, m.ess * share) for m in line.seeds], points=POINTS // 4)
        shares = all(line.global_batch is not None for line in lines)
        _label(axes, "step", "effective sample size" + (" / M" if shares else " (samples)"))
        _legend(figure, axes)
    return out.svg


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
    """Steps that all seeds have, and over the seeds the mean, the lowest and the highest value."""
    shared = series[0][0]
    for x, _ in series[1:]:
        shared = np.intersect1d(shared, x)
    stacked = np.stack([y[np.isin(x, shared)] for x, y in series])
    return shared, stacked.mean(axis=0), stacked.min(axis=0), stacked.max(axis=0)


def _band(
    axes: "Axes",
    line: Line,
    series: Sequence[tuple[Floats, Floats]],
    marker: str = "",
    points: int = POINTS,
) -> None:
    drawn = [(x, y) for x, y in series if x.size]
    if not drawn:
        return
    x, mean, low, high = band(drawn)
    colour, dashes = STYLES.get(line.strategy, OTHER)
    steps, middle = decimate(x, mean, points)
    axes.plot(
        steps,
        middle,
        color=colour,
        linestyle=dashes,
        marker=marker,
        markersize=2.5,
        label=clean(line.label, 40),
    )
    if len(drawn) > 1:
        lows, highs = decimate(x, low, points)[1], decimate(x, high, points)[1]
        axes.fill_between(steps, lows, highs, color=colour, alpha=0.2, linewidth=0)


def _evaluations(line: Line, domain: str) -> list[tuple[Floats, Floats]]:
    return [(m.eval_step, m.log_perplexity[domain]) for m in line.seeds if domain in m.log_perplexity]


def _pooled(line: Line) -> Floats:
    values = np.concatenate([m.max_weight for m in line.seeds] or [np.array([])])
    finite: Floats = values[np.isfinite(values)]
    return finite


def _label(axes: "Axes", x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _legend(figure: "Figure", axes: "Axes") -> None:
    """One legend above all panels, from the first panel's lines."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, handlelength=3)

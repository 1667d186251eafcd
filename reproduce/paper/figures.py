"""Figures of runs as data, from arrays: what is drawn, shown beside the pointer and written as CSV.

One way to draw them: study_figures.py. Nothing here judges, and no file is read.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reproduce.paper.metrics_log import Floats, Metrics
from reproduce.paper.text import clean
from reproduce.study import Figure, Line, Mark, Panel

POINTS = 200
"""A longer series is drawn as this many block means: a page of figures stays small, and each is drawn."""

PANEL_POINTS = 80
"""The same where a figure has a panel a domain."""

BINS = 60
MAX_DOMAINS = 24
"""Panels of one figure; the names come from files."""

BOUND = 2.0
"""The theory's bound on a weight, as a multiple of the uniform weight (Theorem 1)."""

EVEN = 1e-6
"""A largest weight times M this close to 1 is that of uniform weights."""

SPAN = "Bands span the seeds, lowest to highest."


@dataclass(frozen=True, kw_only=True)
class Series:
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


def strategy_curves(curves: Curves) -> Figure:
    """Figure 1: f(h) of each strategy, and beside it the weights that follow."""

    def panel(lines: Mapping[str, tuple[Floats, Floats]], label: str) -> Panel:
        drawn = tuple(
            Line(label=clean(name, 24), strategy=name, x=tuple(h.tolist()), y=tuple(y.tolist()))
            for name, (h, y) in lines.items()
        )
        return Panel(title="", x_label="normalised loss h", y_label=label, lines=drawn)

    return Figure(
        id="figure1",
        title="Strategies (the paper's Figure 1)",
        caption="The score f of a normalised loss h, and the weight that follows in a batch whose losses "
        f"spread evenly, at r = {curves.r:g}.",
        panels=(
            panel(curves.scores, "score f(h)"),
            panel(curves.weights, f"weight / uniform, r = {curves.r:g}"),
        ),
    )


def loss_curves(series: Sequence[Series]) -> Figure:
    """Unweighted training loss, and mean held-out log-perplexity, against steps."""
    return Figure(
        id="loss",
        title="Loss and log-perplexity",
        caption="Unweighted training loss (block means) and mean held-out log-perplexity against steps, in "
        f"nats. {SPAN}",
        panels=(
            _panel("training loss, unweighted", "nats", series, lambda m: (m.step, m.loss)),
            _panel("held-out log-perplexity, mean", "nats", series, _evaluations("mean")),
        ),
    )


def domain_curves(series: Sequence[Series]) -> Figure:
    """Figures 2 to 4: held-out log-perplexity of each domain against steps."""
    domains = sorted({d for each in series for m in each.seeds for d in m.log_perplexity} - {"mean"})
    return Figure(
        id="domains",
        title="Log-perplexity by domain",
        caption=f"Held-out log-perplexity of each domain in nats, against steps. {SPAN}{_not_all(domains)}",
        panels=tuple(_panel(d, "nats", series, _evaluations(d)) for d in domains[:MAX_DOMAINS]),
        columns=3,
    )


def max_weight_distribution(series: Sequence[Series]) -> Figure:
    """Figure 6: how often the largest weight of a step, times M, took which value; the bound 2 is marked.

    Uniform is 1 at every step and would flatten the rest, so it is not drawn.
    """
    pooled = {each.label: (each.strategy, _pooled(each)) for each in series if each.strategy != "uniform"}
    pooled = {label: found for label, found in pooled.items() if found[1].size}
    everything = np.concatenate([values for _, values in pooled.values()] or [np.array([1.0])])
    edges = np.linspace(min(1.0, float(everything.min())), max(2.2, float(everything.max())), BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    lines = []
    above = []
    for label, (strategy, values) in pooled.items():
        counts, _ = np.histogram(values, bins=edges)
        taken = np.flatnonzero(counts)
        shown = slice(max(0, int(taken[0]) - 1), int(taken[-1]) + 2)  # from zero to zero
        share = counts / values.size
        lines.append(
            Line(
                label=label,
                strategy=strategy,
                x=tuple(centres[shown].tolist()),
                y=tuple(share[shown].tolist()),
            )
        )
        above.append(f"{label} {100 * float((values > BOUND).mean()):.3g}%")
    return Figure(
        id="figure6",
        title="Largest weight of a step (the paper's Figure 6)",
        caption=f"How often the largest weight, times the batch size M, took which value, in {BINS} bins. "
        "1 is uniform (not drawn: it never moves; steps of a uniform warm-up sit there too); the theory asks "
        f"for at most 2. Steps above it: {', '.join(above)}.",
        panels=(
            Panel(
                title="",
                x_label="largest weight of a step, times M",
                y_label="share of steps",
                lines=tuple(lines),
                marks=(Mark(axis="x", at=BOUND, label="bound 2/M"),),
            ),
        ),
    )


def ess_curves(series: Sequence[Series]) -> Figure:
    """Effective sample size over steps, as a share of the batch where its size is known."""
    shares = all(each.global_batch is not None for each in series)
    lines = []
    for each in series:
        share = 1.0 / each.global_batch if shares and each.global_batch else 1.0
        lines.append(_line(each, [(m.step, m.ess * share) for m in each.seeds]))
    label = "effective sample size" + (" / M" if shares else " (samples)")
    return Figure(
        id="ess",
        title="Effective sample size",
        caption="1 over the sum of squared weights, against steps (block means): how many samples a step "
        f"really averages. {SPAN}",
        panels=(Panel(title="", x_label="step", y_label=label, lines=_there(lines)),),
    )


def entropy_curves(series: Sequence[Series]) -> Figure:
    """Entropy of a step's weights over steps; uniform weights have ln M."""
    batches = {each.global_batch for each in series if each.global_batch is not None}
    uniform = tuple(Mark(axis="y", at=math.log(m), label=f"uniform: ln {m}") for m in sorted(batches)[:3])
    panel = _panel("", "entropy (nats)", series, lambda m: (m.step, m.entropy))
    return Figure(
        id="entropy",
        title="Entropy of the weights",
        caption=f"Entropy of a step's weights against steps (block means); ln M is uniform. {SPAN}",
        panels=(Panel(title="", x_label="step", y_label=panel.y_label, lines=panel.lines, marks=uniform),),
    )


def weight_share_curves(series: Sequence[Series]) -> Figure:
    """How much of a step's weight each domain had, over steps."""
    domains = sorted({d for each in series for m in each.seeds for d in m.weight_share})
    return Figure(
        id="weight-share",
        title="Share of the weight by domain",
        caption="How much of a step's weight the samples of each domain had, against steps (block means). "
        f"With uniform weights it is the domain's share of the samples. {SPAN}{_not_all(domains)}",
        panels=tuple(
            _panel(d, "share of weight", series, _shares(d), points=PANEL_POINTS)
            for d in domains[:MAX_DOMAINS]
        ),
        columns=3,
    )


def weights_by_quantile(series: Sequence[Series]) -> Figure:
    """What weight a sample had by the place of its loss in the batch: the strategy as training met it.

    Over all logged steps whose weights are not even, so after a uniform warm-up.
    """
    panel = Panel(
        title="",
        x_label="place of the loss in its batch (0 lowest, 1 highest)",
        y_label="mean weight, times M",
        lines=_there([_line(each, [_by_place(m) for m in each.seeds]) for each in series]),
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
    named = {place: values for name, values in metrics.weight_by_loss.items() if (place := _place(name)) >= 0}
    places = sorted(named)
    uneven = metrics.max_weight > 1 + EVEN
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


def empty(figure: Figure) -> bool:
    """Whether there is no value to draw in any line of the figure's panels."""
    panels = [panel for panel in figure.panels if isinstance(panel, Panel)]
    return len(panels) == len(figure.panels) and not any(line.x for panel in panels for line in panel.lines)


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


Read = Callable[[Metrics], tuple[Floats, Floats] | None]
"""x and y of one run; None where it has none."""


def _panel(title: str, y_label: str, series: Sequence[Series], read: Read, points: int = POINTS) -> Panel:
    """One panel against steps."""
    lines = []
    for each in series:
        found = [read(metrics) for metrics in each.seeds]
        lines.append(_line(each, [pair for pair in found if pair is not None], points))
    return Panel(title=clean(title, 40), x_label="step", y_label=y_label, lines=_there(lines))


def _line(series: Series, data: Sequence[tuple[Floats, Floats]], points: int = POINTS) -> Line | None:
    """The mean over the seeds, with a band if there are several; None without a value."""
    there = [(x, y) for x, y in data if np.isfinite(y).any()]
    if not there:
        return None
    x, mean, low, high = band(there)
    steps, middle = decimate(x, mean, points)
    lows, highs = (decimate(x, np.where(np.isfinite(mean), edge, np.nan), points)[1] for edge in (low, high))
    several = len(there) > 1
    return Line(
        label=clean(series.label, 40),
        strategy=series.strategy,
        x=tuple(steps.tolist()),
        y=tuple(middle.tolist()),
        low=tuple(lows.tolist()) if several else None,
        high=tuple(highs.tolist()) if several else None,
    )


def _there(lines: Sequence[Line | None]) -> tuple[Line, ...]:
    return tuple(line for line in lines if line is not None and line.x)


def _evaluations(domain: str) -> Read:
    return lambda m: (m.eval_step, m.log_perplexity[domain]) if domain in m.log_perplexity else None


def _shares(domain: str) -> Read:
    return lambda m: (m.step, m.weight_share[domain]) if domain in m.weight_share else None


def _not_all(domains: Sequence[str]) -> str:
    return f" The first {MAX_DOMAINS} of {len(domains)} domains." if len(domains) > MAX_DOMAINS else ""


def _pooled(series: Series) -> Floats:
    values = np.concatenate([m.max_weight for m in series.seeds] or [np.array([])])
    finite: Floats = values[np.isfinite(values)]
    return finite

"""Figures of runs as data, from arrays: what is drawn, shown beside the pointer and written as CSV.

One way to draw them: study_figures.py. Nothing here judges, and no file is read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.paper.metrics_log import Floats
from reproduce.paper.seed_lines import PANEL_POINTS, SPAN, Read, Series, seed_line, step_panel, there
from reproduce.paper.text import clean
from reproduce.study import Figure, Line, Mark, Panel

MAX_DOMAINS = 24
"""Panels of one figure; the names come from files."""


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
            step_panel("training loss, unweighted", "nats", series, lambda m: (m.step, m.loss)),
            step_panel("held-out log-perplexity, mean", "nats", series, _evaluations("mean")),
        ),
    )


def domain_curves(series: Sequence[Series]) -> Figure:
    """Figures 2 to 4: held-out log-perplexity of each domain against steps."""
    domains = sorted({d for each in series for m in each.seeds for d in m.log_perplexity} - {"mean"})
    return Figure(
        id="domains",
        title="Log-perplexity by domain",
        caption=f"Held-out log-perplexity of each domain in nats, against steps. {SPAN}{_not_all(domains)}",
        panels=tuple(step_panel(d, "nats", series, _evaluations(d)) for d in domains[:MAX_DOMAINS]),
        columns=3,
    )


def ess_curves(series: Sequence[Series]) -> Figure:
    """Effective sample size over steps, as a share of the batch where its size is known."""
    shares = all(each.global_batch is not None for each in series)
    lines = []
    for each in series:
        share = 1.0 / each.global_batch if shares and each.global_batch else 1.0
        lines.append(seed_line(each, [(m.step, m.ess * share) for m in each.seeds]))
    label = "effective sample size" + (" / M" if shares else " (samples)")
    return Figure(
        id="ess",
        title="Effective sample size",
        caption="1 over the sum of squared weights, against steps (block means): how many samples a step "
        f"really averages. {SPAN}",
        panels=(Panel(title="", x_label="step", y_label=label, lines=there(lines)),),
    )


def entropy_curves(series: Sequence[Series]) -> Figure:
    """Entropy of a step's weights over steps; uniform weights have ln M."""
    batches = {each.global_batch for each in series if each.global_batch is not None}
    uniform = tuple(Mark(axis="y", at=math.log(m), label=f"uniform: ln {m}") for m in sorted(batches)[:3])
    panel = step_panel("", "entropy (nats)", series, lambda m: (m.step, m.entropy))
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
            step_panel(d, "share of weight", series, _shares(d), points=PANEL_POINTS)
            for d in domains[:MAX_DOMAINS]
        ),
        columns=3,
    )


def empty(figure: Figure) -> bool:
    """Whether there is no value to draw in any line of the figure's panels."""
    panels = [panel for panel in figure.panels if isinstance(panel, Panel)]
    return len(panels) == len(figure.panels) and not any(line.x for panel in panels for line in panel.lines)


def _evaluations(domain: str) -> Read:
    return lambda m: (m.eval_step, m.log_perplexity[domain]) if domain in m.log_perplexity else None


def _shares(domain: str) -> Read:
    return lambda m: (m.step, m.weight_share[domain]) if domain in m.weight_share else None


def _not_all(domains: Sequence[str]) -> str:
    return f" The first {MAX_DOMAINS} of {len(domains)} domains." if len(domains) > MAX_DOMAINS else ""

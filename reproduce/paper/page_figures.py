"""Figures as they stand in the report's page, with title and caption."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reproduce.paper import figures
from reproduce.paper.drawing import prefix_ids
from reproduce.paper.figures import Line

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True, kw_only=True)
class PageFigure:
    """One figure with its caption."""

    title: str
    caption: str
    svg: "Markup"


def run_figures(index: int, lines: Sequence[Line]) -> list[PageFigure]:
    """The figures of one family of runs; `index` keeps their ids apart from another family's."""
    drawn = [
        (
            "Loss and log-perplexity",
            "Unweighted training loss (block means) and mean held-out log-perplexity against steps. "
            "Bands span the seeds, lowest to highest.",
            figures.loss_curves(lines),
        ),
        (
            "Log-perplexity by domain",
            "Held-out log-perplexity of each domain in nats (the paper's Figures 2 to 4).",
            figures.domain_curves(lines),
        ),
        (
            "Largest weight of a step",
            "How often the largest weight, times the batch size M, took which value (the paper's Figure 6). "
            "1 is uniform (not drawn: it never moves); the theory asks for at most 2.",
            figures.max_weight_distribution(lines),
        ),
        (
            "Effective sample size",
            "1 over the sum of squared weights, against steps: how many samples a step really averages.",
            figures.ess_curves(lines),
        ),
    ]
    return [
        PageFigure(title=title, caption=caption, svg=embedded(prefix_ids(svg, f"f{index}")))
        for title, caption, svg in drawn
    ]


def embedded(svg: str) -> "Markup":
    """The figure as it stands in the page: the one text that is not escaped there."""
    from markupsafe import Markup

    # Hidden from assistive technology: the caption and the tables say what it shows.
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))

"""How domain weights moved while they were learned, as a figure: for each round weights, and their spread."""

import math

from reproduce.domains.learner import COLLAPSED, entropy
from reproduce.recipe.weight_set import Round, WeightSet
from reproduce.study import Figure, Line, Mark, Panel


def history_figure(weights: WeightSet) -> Figure:
    """Weights by domain against steps, and entropy over ln k beside the largest weight."""
    panels = [
        panel
        for number, each in enumerate(weights.rounds, 1)
        for panel in _panels(f"round {number}: " if len(weights.rounds) > 1 else "", each)
    ]
    return Figure(
        id="weights",
        title=f"Domain weights learned by {weights.algorithm}: {weights.name}",
        caption="Weights after each update; their mean over all steps is the result. Right: entropy as a "
        "share of that of uniform weights, and the largest weight.",
        panels=tuple(panels),
        columns=2,
    )


def _panels(prefix: str, found: Round) -> tuple[Panel, Panel]:
    steps = tuple(float(point.step) for point in found.history)
    names = list(found.weights)
    rows = [point.weights for point in found.history]
    playing = sum(any(row[index] > 0 for row in rows) for index in range(len(names)))
    by_domain = tuple(
        Line(label=name, strategy=str(index), x=steps, y=tuple(row[index] for row in rows))
        for index, name in enumerate(names)
    )
    spread = tuple(entropy(list(row)) / math.log(max(2, playing)) for row in rows)
    return (
        Panel(title=f"{prefix}weights", x_label="step", y_label="weight", lines=by_domain),
        Panel(
            title=f"{prefix}how concentrated",
            x_label="step",
            y_label="share",
            lines=(
                Line(label="entropy / ln k", strategy="entropy", x=steps, y=spread),
                Line(label="largest weight", strategy="largest", x=steps, y=tuple(max(row) for row in rows)),
            ),
            marks=(Mark(axis="y", at=COLLAPSED, label="collapsed"),),
        ),
    )

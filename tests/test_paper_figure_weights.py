"""Figure 6: an edge on the bound, one bin for what lies far off, nothing lost from the statistics."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from paper_runs import metrics_lines, mini

from reproduce.paper.metrics_log import read_metrics
from reproduce.paper.seed_lines import Series
from reproduce.paper.weight_figures import MAX_BINS, max_weight_distribution
from reproduce.study import Figure, Line, Panel


def logged(tmp_path: Path, values: Sequence[float], label: str = "a") -> Series:
    path = tmp_path / f"{label}.jsonl"
    path.write_text(
        "".join(
            json.dumps({"kind": "train", "step": step, "loss": 3, "max_weight": value}) + "\n"
            for step, value in enumerate(values, 1)
        )
    )
    return Series(label=label, strategy="extremes", seeds=[read_metrics(path)], global_batch=None)


def panel_of(figure: Figure) -> Panel:
    (panel,) = figure.panels
    assert isinstance(panel, Panel)
    return panel


def points(line: Line) -> dict[float, float]:
    return {round(x, 4): y for x, y in zip(line.x, line.y, strict=True) if y}


def test_the_bound_is_drawn_and_uniform_is_not(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(metrics_lines(mini("linupper"), 0)))
    seeds = [read_metrics(path)]
    figure = max_weight_distribution(
        [Series(label=s, strategy=s, seeds=seeds, global_batch=32) for s in ("uniform", "linupper")]
    )
    panel = panel_of(figure)
    assert [(mark.axis, mark.at, mark.label) for mark in panel.marks] == [("x", 2.0, "bound 2/M")]
    assert [line.label for line in panel.lines] == ["linupper"]
    # Shares of all steps, in bins of 0.05; metrics_lines has 1.5 + 0.1 sin(step): from 1.4 (to rounding, so
    # the bin below it) to 1.6, in the bins around 1.375 to 1.575, and an empty one at either end.
    (line,) = panel.lines
    assert sum(y for y in line.y if y is not None) == pytest.approx(1.0)
    assert (round(line.x[0], 3), round(line.x[-1], 3)) == (1.325, 1.625)
    assert (line.y[0], line.y[-1]) == (0.0, 0.0)
    assert "Steps above it: linupper 0%." in figure.caption


def test_how_often_the_bound_breaks_is_counted(tmp_path: Path) -> None:
    # 2.0 itself keeps the bound, and so does what float32 makes of it: one of five is above it.
    series = logged(tmp_path, (1.0, 2.0, 2.0000002, 2.5, 1.5))
    figure = max_weight_distribution([series])
    assert "Steps above it: a 20% (largest 2.5)." in figure.caption
    (line,) = panel_of(figure).lines
    # What is at most 2 lies left of the mark, in the bin from 1.95 to 2; 1 in the first one.
    assert points(line) == pytest.approx({1.025: 0.2, 1.475: 0.2, 1.975: 0.4, 2.475: 0.2})


def test_one_giant_leaves_the_shape(tmp_path: Path) -> None:
    values = [1.2005 + 0.001 * step for step in range(600)]  # to 1.7995
    usual = panel_of(max_weight_distribution([logged(tmp_path, values)]))
    figure = max_weight_distribution([logged(tmp_path, [*values[:-1], 31.5])])
    panel = panel_of(figure)
    near = {x: y for x, y in points(panel.lines[0]).items() if x < 3}
    # 12 bins of 0.05 with 50 of 600 steps each, but for the one that became the giant.
    assert len(near) == 12
    assert {x: y for x, y in points(usual.lines[0]).items() if x < 1.77} == pytest.approx(
        {x: y for x, y in near.items() if x < 1.77}
    )
    (beyond,) = (y for x, y in points(panel.lines[0]).items() if x > 3)
    assert beyond == pytest.approx(1 / 600)
    assert max(panel.lines[0].x) < 3.2
    assert [(mark.at, mark.label) for mark in panel.marks] == [
        (2.0, "bound 2/M"), (3.0, "beyond 3: one point"),
    ]  # fmt: skip
    assert "a 0.167% (largest 31.5)." in figure.caption
    assert "A point right of 3 is the share of a line's steps beyond it" in figure.caption
    # A gap before that point: nothing joins it to the bins.
    assert panel.lines[0].y[-2] is None


def test_bins_reach_as_far_as_nearly_all_steps_do(tmp_path: Path) -> None:
    spread = [1 + 0.1 * step for step in range(100)]  # to 10.9
    calm = [1.1, 1.2, 1.3] * 40
    panel = panel_of(max_weight_distribution([logged(tmp_path, spread), logged(tmp_path, calm, "b")]))
    top = panel.marks[1].at
    # 95 of 100 steps are at most 10.4.
    assert top == pytest.approx(10.4)
    assert sum(y or 0 for y in panel.lines[0].y) == pytest.approx(1.0)
    far = panel_of(max_weight_distribution([logged(tmp_path, [1.0, 400.0, 500.0] * 10)]))
    assert len(far.lines[0].x) <= MAX_BINS + 2
    assert sum(y or 0 for y in far.lines[0].y) == pytest.approx(1.0)
    assert max_weight_distribution([logged(tmp_path, [1e300, 1e299])]).panels


def test_a_weight_that_is_no_finite_number_is_above_the_bound(tmp_path: Path) -> None:
    figure = max_weight_distribution([logged(tmp_path, (1.5, 1.5, math.inf, math.nan))])
    assert "Steps above it: a 50% (largest 1.5, 2 of them no finite number)." in figure.caption
    (line,) = panel_of(figure).lines
    assert sorted(points(line).values()) == [0.5, 0.5]
    alone = max_weight_distribution([logged(tmp_path, (math.nan,))])
    assert "Steps above it: a 100% (1 of them no finite number)." in alone.caption
    assert list(points(panel_of(alone).lines[0]).values()) == [1.0]

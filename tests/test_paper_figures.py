"""Figures: same input, same bytes; small; safe labels; the arithmetic of bands and block means."""

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paper_runs import DOMAINS, metrics_lines, mini

from reproduce.paper.cost_figure import overhead
from reproduce.paper.drawing import INK, prefix_ids
from reproduce.paper.figures import (
    Curves,
    domain_curves,
    empty,
    entropy_curves,
    ess_curves,
    loss_curves,
    strategy_curves,
    weight_share_curves,
)
from reproduce.paper.metrics_log import Metrics, read_metrics
from reproduce.paper.seed_lines import Series, band, decimate
from reproduce.paper.study_figures import draw_figure
from reproduce.paper.weight_figures import max_weight_distribution, weights_by_quantile
from reproduce.study import Figure, Panel

GRID = np.linspace(-1.0, 1.0, 21)


def metrics(tmp_path: Path, seed: int = 0, steps: int = 600) -> Metrics:
    path = tmp_path / f"metrics-{seed}.jsonl"
    path.write_text("".join(metrics_lines(mini("uniform"), seed, steps)))
    return read_metrics(path)


def svg_of(figure: Figure) -> str:
    return draw_figure(figure, png=False, title=False, dots=True).svg


def panel_of(figure: Figure, index: int = 0) -> Panel:
    panel = figure.panels[index]
    assert isinstance(panel, Panel)
    return panel


def lines(tmp_path: Path, label: str = "linupper") -> list[Series]:
    seeds = [metrics(tmp_path, seed) for seed in range(2)]
    return [
        Series(label="uniform", strategy="uniform", seeds=seeds, global_batch=32),
        Series(label=label, strategy="linupper", seeds=seeds, global_batch=32),
    ]


def test_metrics_are_read_into_arrays(tmp_path: Path) -> None:
    read = metrics(tmp_path)
    assert read.step.tolist() == list(range(1, 601))
    assert read.loss[0] == pytest.approx(3.0 + 5.0 * math.exp(-0.01) + 0.01 * math.sin(1))
    assert read.eval_step.tolist() == [200, 400, 600]
    # metrics_lines adds 2 (1 - step/steps) nats: 4/3, 2/3, 0.
    assert read.log_perplexity["mean"].tolist() == pytest.approx([3.32 + 4 / 3, 3.32 + 2 / 3, 3.32])


def test_an_empty_log_gives_empty_arrays(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    read = read_metrics(path)
    assert (read.step.size, read.eval_step.size, dict(read.log_perplexity)) == (0, 0, {})
    series = [Series(label="x", strategy="linupper", seeds=[read], global_batch=None)]
    for make in (loss_curves, domain_curves, ess_curves, entropy_curves, weight_share_curves):
        assert empty(make(series)), make
    assert empty(max_weight_distribution(series))
    assert overhead(series, {}) is None


def test_decimate_takes_block_means() -> None:
    x, y = decimate(np.arange(10.0), np.arange(10.0) ** 2, points=5)
    # Pairs (0,1), (2,3), ...: x means 0.5, 2.5, ...; y means (0+1)/2, (4+9)/2, (16+25)/2, ...
    assert x.tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert y.tolist() == [0.5, 6.5, 20.5, 42.5, 72.5]
    assert decimate(np.arange(5.0), np.arange(5.0), points=5)[0].size == 5
    x, y = decimate(np.arange(3.0), np.array([1.0, np.nan, 3.0]))
    assert (x.tolist(), y.tolist()) == ([0.0, 2.0], [1.0, 3.0])


def test_band_uses_the_steps_that_all_seeds_have() -> None:
    one = (np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    two = (np.array([2.0, 3.0, 4.0]), np.array([4.0, 7.0, 9.0]))
    x, mean, low, high = band([one, two])
    assert x.tolist() == [2.0, 3.0]
    assert (mean.tolist(), low.tolist(), high.tolist()) == ([3.0, 5.0], [2.0, 3.0], [4.0, 7.0])


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for make in (loss_curves, max_weight_distribution, ess_curves):
        first, second = svg_of(make(lines(tmp_path))), svg_of(make(lines(tmp_path)))
        assert first == second
        assert len(first) < 250_000


def test_a_users_matplotlibrc_changes_nothing(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = svg_of(ess_curves(lines(tmp_path)))
    with mpl.rc_context({"lines.linewidth": 9.0, "font.size": 20.0, "svg.hashsalt": "other"}):
        assert svg_of(ess_curves(lines(tmp_path))) == before
        assert mpl.rcParams["lines.linewidth"] == 9.0  # and it is given back


def test_figures_are_xml_that_fetches_nothing(tmp_path: Path) -> None:
    figure = svg_of(loss_curves(lines(tmp_path)))
    ET.fromstring(figure)
    references = re.findall(r'(?:href=|url\()"?([^")]+)', figure)
    assert references
    assert all(reference.startswith("#") for reference in references)
    assert INK not in figure
    assert "currentColor" in figure
    assert "<!DOCTYPE" not in figure
    assert "<metadata" not in figure


def test_lines_differ_in_more_than_colour() -> None:
    lines = dict.fromkeys(("linupper", "quadratic", "extremes", "uniform"), (GRID, GRID))
    figure = svg_of(strategy_curves(Curves(scores=lines, weights=lines, r=0.4)))
    dashes = set(re.findall(r"stroke-dasharray: ([^;\"]+)", figure))
    assert len(dashes) >= 3  # and one solid line


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", r"$\frac{", "a&b", "\x1b[31m", "x" * 10_000])
def test_hostile_labels_stay_text(tmp_path: Path, name: str) -> None:
    figure = svg_of(loss_curves(lines(tmp_path, label=name)))
    ET.fromstring(figure)
    assert "<script" not in figure
    assert "\x1b" not in figure
    assert len(figure) < 250_000


def test_prefixed_ids_still_point_at_each_other(tmp_path: Path) -> None:
    figure = prefix_ids(svg_of(ess_curves(lines(tmp_path))), "f7")
    ids = set(re.findall(r'\bid="([^"]+)"', figure))
    targets = set(re.findall(r'href="#([^"]+)"', figure)) | set(re.findall(r"url\(#([^)]+)\)", figure))
    assert targets <= ids
    assert all(name.startswith("f7-ess-") for name in ids)


def test_lines_hold_the_mean_and_bands_the_seeds(tmp_path: Path) -> None:
    panel = panel_of(loss_curves(lines(tmp_path)), 1)
    (uniform, _) = panel.lines
    assert uniform.x == (200.0, 400.0, 600.0)
    # Both seeds have the same evaluations: 3.32 + 4/3, ...
    assert uniform.y[2] == pytest.approx(3.32)
    assert (uniform.low, uniform.high) == (uniform.y, uniform.y)
    alone = [Series(label="a", strategy="uniform", seeds=[metrics(tmp_path)], global_batch=32)]
    assert panel_of(loss_curves(alone)).lines[0].low is None


def test_domains_have_a_panel_each_and_no_more_than_can_be_read(tmp_path: Path) -> None:
    figure = domain_curves(lines(tmp_path))
    assert [panel.title for panel in figure.panels] == sorted(set(mini("uniform")) - {"mean"})
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"kind": "eval", "step": 1, "log_perplexity": {'
        + ", ".join(f'"d{i:03}": 3' for i in range(100))
        + "}}\n"
    )
    many = [Series(label="a", strategy="uniform", seeds=[read_metrics(path)], global_batch=32)]
    figure = domain_curves(many)
    assert len(figure.panels) == 24
    assert "The first 24 of 64 domains" in figure.caption  # 64: what is kept of a file


def test_entropy_is_marked_where_weights_are_uniform(tmp_path: Path) -> None:
    panel = panel_of(entropy_curves(lines(tmp_path)))
    assert [(mark.at, mark.label) for mark in panel.marks] == [
        (pytest.approx(math.log(32)), "uniform: ln 32")
    ]
    assert panel.lines[0].y[0] == pytest.approx(3.3)


def test_weight_shares_are_those_of_the_log(tmp_path: Path) -> None:
    figure = weight_share_curves(lines(tmp_path))
    assert [panel.title for panel in figure.panels] == sorted(DOMAINS)
    assert panel_of(figure).lines[0].y[0] == pytest.approx(1 / 7)


def test_weights_are_averaged_by_the_place_of_the_loss_over_steps_with_uneven_weights(tmp_path: Path) -> None:
    found = lines(tmp_path)
    metrics = found[0].seeds[0]
    uneven = metrics.max_weight > 1 + 1e-6
    drawn = panel_of(weights_by_quantile(found)).lines[0]
    assert drawn.x == (0.25, 0.75)
    wanted = [metrics.weight_by_loss[name][uneven].mean() for name in ("0.250", "0.750")]
    assert drawn.y[:1] == pytest.approx((0.6,))
    if len(found[0].seeds) == 1:
        assert drawn.y == pytest.approx(wanted)
    even = replace(metrics, max_weight=np.ones_like(metrics.max_weight))
    assert panel_of(weights_by_quantile([replace(found[0], seeds=[even])])).lines == ()
    hostile = replace(metrics, weight_by_loss={"x": metrics.step, "7": metrics.step, "nan": metrics.step})
    assert panel_of(weights_by_quantile([replace(found[0], seeds=[hostile])])).lines == ()

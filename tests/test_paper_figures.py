"""Figures: same input, same bytes; small; safe labels; the arithmetic of bands and block means."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from paper_runs import metrics_lines, mini

from reproduce.errors import DataError
from reproduce.paper.drawing import INK, prefix_ids
from reproduce.paper.figures import (
    Line,
    band,
    decimate,
    domain_curves,
    ess_curves,
    loss_curves,
    max_weight_distribution,
    strategy_curves,
)
from reproduce.paper.metrics_log import Metrics, read_metrics

GRID = np.linspace(-1.0, 1.0, 21)


def metrics(tmp_path: Path, seed: int = 0, steps: int = 600) -> Metrics:
    path = tmp_path / f"metrics-{seed}.jsonl"
    path.write_text("".join(metrics_lines(mini("uniform"), seed, steps)))
    return read_metrics(path)


def lines(tmp_path: Path, label: str = "linupper") -> list[Line]:
    seeds = [metrics(tmp_path, seed) for seed in range(2)]
    return [
        Line(label="uniform", strategy="uniform", seeds=seeds, global_batch=32),
        Line(label=label, strategy="linupper", seeds=seeds, global_batch=32),
    ]


def test_metrics_are_read_into_arrays(tmp_path: Path) -> None:
    read = metrics(tmp_path)
    assert read.step.tolist() == list(range(1, 601))
    assert read.loss[0] == pytest.approx(3.0 + 5.0 * math.exp(-0.01) + 0.01 * math.sin(1))
    assert read.eval_step.tolist() == [200, 400, 600]
    # metrics_lines adds 2 (1 - step/steps) nats: 4/3, 2/3, 0.
    assert read.log_perplexity["mean"].tolist() == pytest.approx([3.32 + 4 / 3, 3.32 + 2 / 3, 3.32])


def test_a_rewound_run_counts_each_step_once_as_written_last(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    steps = [(1, 5.0), (2, 4.0), (3, 3.0), (2, 4.5), (3, 3.5)]
    text = "".join(f'{{"kind": "train", "step": {s}, "loss": {x}}}\n' for s, x in steps)
    path.write_text(text + '{"kind": "train", "step": 4, "lo')
    read = read_metrics(path)
    assert read.step.tolist() == [1, 2, 3]
    assert read.loss.tolist() == [5.0, 4.5, 3.5]
    assert np.isnan(read.ess).all()


def test_an_empty_log_gives_empty_arrays(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    read = read_metrics(path)
    assert (read.step.size, read.eval_step.size, dict(read.log_perplexity)) == (0, 0, {})
    assert "<svg" in loss_curves([Line(label="x", strategy="linupper", seeds=[read], global_batch=None)])


@pytest.mark.parametrize(
    "line",
    ["nonsense", "[1]", '{"kind": "train"}', '{"kind": "train", "step": "x"}', '{"kind": "eval", "step": 1}'],
)
def test_a_broken_line_names_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1, "loss": 5}\n' + line + "\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:2:") as caught:
        read_metrics(path)
    assert caught.value.exit_code == 3


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
    for draw in (loss_curves, domain_curves, max_weight_distribution, ess_curves):
        first, second = draw(lines(tmp_path)), draw(lines(tmp_path))
        assert first == second
        assert len(first) < 250_000
    curves = {"uniform": (GRID, 0 * GRID), "linupper": (GRID, np.minimum(GRID + 1, 1))}
    assert strategy_curves(curves, curves, 0.4) == strategy_curves(curves, curves, 0.4)


def test_a_users_matplotlibrc_changes_nothing(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = ess_curves(lines(tmp_path))
    with mpl.rc_context({"lines.linewidth": 9.0, "font.size": 20.0, "svg.hashsalt": "other"}):
        assert ess_curves(lines(tmp_path)) == before
        assert mpl.rcParams["lines.linewidth"] == 9.0  # and it is given back


def test_figures_are_xml_that_fetches_nothing(tmp_path: Path) -> None:
    figure = loss_curves(lines(tmp_path))
    ET.fromstring(figure)
    references = re.findall(r'(?:href=|url\()"?([^")]+)', figure)
    assert references
    assert all(reference.startswith("#") for reference in references)
    assert INK not in figure
    assert "currentColor" in figure
    assert "<!DOCTYPE" not in figure
    assert "<metadata" not in figure


def test_lines_differ_in_more_than_colour(tmp_path: Path) -> None:
    curves = dict.fromkeys(("linupper", "quadratic", "extremes", "uniform"), (GRID, GRID))
    dashes = set(re.findall(r"stroke-dasharray: ([^;\"]+)", strategy_curves(curves)))
    assert len(dashes) >= 3  # and one solid line


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", r"$\frac{", "a&b", "\x1b[31m", "x" * 10_000])
def test_hostile_labels_stay_text(tmp_path: Path, name: str) -> None:
    figure = loss_curves(lines(tmp_path, label=name))
    ET.fromstring(figure)
    assert "<script" not in figure
    assert "\x1b" not in figure
    assert len(figure) < 250_000


def test_prefixed_ids_still_point_at_each_other(tmp_path: Path) -> None:
    figure = prefix_ids(ess_curves(lines(tmp_path)), "f7")
    ids = set(re.findall(r'\bid="([^"]+)"', figure))
    targets = set(re.findall(r'href="#([^"]+)"', figure)) | set(re.findall(r"url\(#([^)]+)\)", figure))
    assert targets <= ids
    assert all(name.startswith("f7-ess-") for name in ids)


def test_the_bound_is_drawn_and_uniform_is_not(tmp_path: Path) -> None:
    figure = max_weight_distribution(lines(tmp_path))
    assert "bound 2/M" in figure
    assert ">linupper<" in figure
    assert ">uniform<" not in figure

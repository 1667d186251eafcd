"""Time of a step: each row beside its own uniform twin, none dropped, none beside a stranger."""

import json
from pathlib import Path

import pytest
from paper_runs import make_run, mini

from reproduce.paper.cost_figure import overhead
from reproduce.paper.figure_list import find_figures
from reproduce.paper.metrics_log import read_metrics
from reproduce.paper.run_groups import group_by_settings
from reproduce.paper.runs import find_runs
from reproduce.paper.seed_lines import Series
from reproduce.study import Figure, Map


def log_text(forward: float, weights: float, rate: float) -> str:
    # The first of ten steps is left out: it took a hundred times as long.
    rows = ({"forward": forward * (100 if step == 1 else 1), "weights": weights} for step in range(1, 11))
    entries = (
        {"kind": "train", "step": step, "loss": 3, "tokens_per_s": rate, "seconds": seconds}
        for step, seconds in enumerate(rows, 1)
    )
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def timed(tmp_path: Path, name: str, forward: float, weights: float, rate: float) -> Series:
    path = tmp_path / f"{name}.jsonl"
    path.write_text(log_text(forward, weights, rate))
    return Series(label=name, strategy=name, seeds=[read_metrics(path)], global_batch=32)


def grid_of(figure: Figure | None) -> Map:
    assert figure is not None
    (grid,) = figure.panels
    assert isinstance(grid, Map)
    return grid


def test_overhead_is_in_percent_of_uniforms_whole_step(tmp_path: Path) -> None:
    slow = timed(tmp_path, "linupper", 0.1, 0.02, 950.0)
    uniform = timed(tmp_path, "uniform", 0.09, 0.01, 1000.0)
    figure = overhead([slow, uniform], {"linupper": "uniform"})
    grid = grid_of(figure)
    assert (grid.x_names, grid.y_names) == (("forward", "weights", "tokens/s"), ("uniform", "linupper"))
    # A uniform step takes 0.1 s; 0.01 s more of either phase is 10% of it; 950 of 1000 tokens are 5% fewer.
    assert grid.values[1] == pytest.approx((0.1, 0.1, 0.05))
    assert grid.texts == (("90 ms", "10 ms", "1000"), ("100 ms\n+10.00%", "20 ms\n+10.00%", "950\n-5.00%"))
    assert figure is not None
    assert "linupper in percent of uniform." in figure.caption
    assert overhead([slow], {}) is None
    assert overhead([slow, uniform], {}) is None


def recipes(root: Path) -> None:
    """Three sets of domain weights, each with its uniform; the third's alone, and a linupper without one."""
    for name, strategy, c4, forward in (
        ("plain", "uniform", 0.1, 0.1),
        ("doge", "uniform", 0.5, 0.2),
        ("doge_linupper", "linupper", 0.5, 0.22),
        ("doremi", "uniform", 0.7, 0.4),
        ("doremi_linupper", "linupper", 0.7, 0.36),
        ("other_linupper", "linupper", 0.9, 0.3),
    ):
        weights = {"c4": c4, "book": 1 - c4}
        folder = make_run(
            root, strategy, 0, mini("uniform"), name=name, data__domain_weights=weights, paper__table=None
        )
        (folder / "metrics.jsonl").write_text(log_text(forward, 0.0, 100 / forward))


def test_every_row_is_beside_its_own_uniform_twin(tmp_path: Path) -> None:
    recipes(tmp_path)
    groups, _ = group_by_settings(find_runs([tmp_path]))
    (found,) = find_figures(groups, [], None, ["overhead"]).found
    grid = grid_of(found.figure)
    shown = {name: texts[0] for name, texts in zip(grid.y_names, grid.texts, strict=True)}
    # 0.02 s more of 0.2, 0.04 s less of 0.4; each uniform stands above what is in percent of it.
    assert shown == {
        "doge [1]": "200 ms",
        "doge_linupper [% of 1]": "220 ms\n+10.00%",
        "doremi [2]": "400 ms",
        "doremi_linupper [% of 2]": "360 ms\n-10.00%",
        "other_linupper": "300 ms",
        "plain": "100 ms",
    }
    assert list(shown)[:4] == list(grid.y_names)[:4]
    caption = found.figure.caption
    assert "doge_linupper in percent of doge; doremi_linupper in percent of doremi." in caption
    assert "Without one such uniform run, so without percentages: other_linupper." in caption


def test_runs_without_times_are_named(tmp_path: Path) -> None:
    series = [timed(tmp_path, name, 0.1, 0.0, 100.0) for name in ("uniform", "linupper")]
    path = tmp_path / "old.jsonl"
    path.write_text('{"kind": "train", "step": 1, "loss": 3}\n')
    old = Series(label="old", strategy="extremes", seeds=[read_metrics(path)], global_batch=32)
    figure = overhead([*series, old], {"linupper": "uniform", "old": "uniform"})
    assert len(grid_of(figure).y_names) == 2
    assert figure is not None
    assert "Without times in its log: old." in figure.caption

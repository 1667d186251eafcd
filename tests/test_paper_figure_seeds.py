"""Which seeds a line is of: the same from the first step to the last, and whoever is left out is named."""

import json
from pathlib import Path

import pytest
from paper_runs import make_run, mini

from reproduce.errors import DataError
from reproduce.paper.figure_list import FigureList, family_figures, find_figures
from reproduce.paper.run_groups import families, group_by_settings
from reproduce.paper.runs import find_runs
from reproduce.study import Line, Panel


def figures(root: Path, *only: str) -> FigureList:
    return find_figures(group_by_settings(find_runs([root]))[0], [], None, only)


def lines(found: FigureList, index: int = 0) -> tuple[Line, ...]:
    panel = found.found[0].figure.panels[index]
    assert isinstance(panel, Panel)
    return panel.lines


def three(root: Path) -> list[Path]:
    return [make_run(root, "linupper", seed, mini("linupper", seed), metrics=True) for seed in range(3)]


def cut(folder: Path, step: int) -> None:
    """Drop what the log has after a step."""
    path = folder / "metrics.jsonl"
    kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
    path.write_text("".join(line + "\n" for line in kept))


def test_a_seed_whose_log_ends_early_cuts_no_curve(tmp_path: Path) -> None:
    short = three(tmp_path)[1]
    cut(short, 300)
    found = figures(tmp_path, "loss")
    assert lines(found)[0].x[-1] > 590
    # Held-out means of seeds 0 and 2, whose values are 2 nats apart: 3.30 + 1 at the end, a band of 2.
    (held_out,) = lines(found, 1)
    assert held_out.x == (200.0, 400.0, 600.0)
    assert held_out.y[-1] == pytest.approx(4.30)
    assert held_out.low is not None
    assert held_out.low[-1] == pytest.approx(3.30)
    why = "left out of the curves: its losses end at step 300, another seed's at step 600"
    assert found.notes == [f"{short}: {why}"]
    caption = found.found[0].figure.caption
    assert caption.startswith("gpt2, 4 layers, 600 steps, 2 seeds. ")
    assert f" nano_linupper, seed 1: {why}." in caption


def test_a_seed_without_its_last_evaluation_is_left_out_too(tmp_path: Path) -> None:
    folder = three(tmp_path)[2]
    path = folder / "metrics.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [entry for entry in entries if entry["kind"] == "train" or entry["step"] < 600]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    found = figures(tmp_path, "loss")
    assert lines(found, 1)[0].x == (200.0, 400.0, 600.0)
    assert found.notes == [
        f"{folder}: left out of the curves: its evaluations end at step 400, another seed's at step 600"
    ]


def test_logs_that_all_end_early_are_drawn_and_named(tmp_path: Path) -> None:
    folders = three(tmp_path)
    for folder in folders:
        cut(folder, 300)
    found = figures(tmp_path, "loss")
    assert lines(found, 1)[0].x == (200.0,)
    assert found.notes == [
        f"{folder}: its log ends at step 300, it was scored at step 600" for folder in folders
    ]


def test_a_step_without_a_loss_is_left_out_for_all_and_said(tmp_path: Path) -> None:
    folder = three(tmp_path)[0]
    path = folder / "metrics.jsonl"
    text = path.read_text().splitlines()
    text[9] = json.dumps(json.loads(text[9]) | {"loss": float("nan"), "max_weight": float("inf")})
    path.write_text("".join(line + "\n" for line in text))
    found = figures(tmp_path, "figure6", "loss")
    assert found.notes == [
        f"{folder}: loss is no finite number in 1 line, left out of the curves for all seeds; "
        "max_weight is no finite number in 1 line, counted as above the bound"
    ]
    # 1 of 3 x 600 steps.
    assert "linupper 0.0556% (largest 1.6, 1 of them no finite number)" in found.found[0].figure.caption
    assert "3 seeds." in found.found[1].figure.caption


def test_a_seed_that_diverged_ends_no_other(tmp_path: Path) -> None:
    folder = three(tmp_path)[0]
    path = folder / "metrics.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    broken = [
        e | ({"loss": float("nan")} if e["kind"] == "train" and e["step"] > 100 else {}) for e in entries
    ]
    path.write_text("".join(json.dumps(e) + "\n" for e in broken))
    found = figures(tmp_path, "loss")
    assert lines(found)[0].x[-1] > 590
    assert "2 seeds." in found.found[0].figure.caption
    assert "its losses end at step 100" in found.notes[0]


def test_runs_without_a_log_or_with_an_empty_one_are_named(tmp_path: Path) -> None:
    none, empty, torn = three(tmp_path)
    linked = make_run(tmp_path, "extremes", 0, mini("extremes"))
    (linked / "metrics.jsonl").symlink_to(none / "metrics.jsonl")
    make_run(tmp_path, "uniform", 0, mini("uniform"), metrics=True)
    (none / "metrics.jsonl").unlink()
    (empty / "metrics.jsonl").write_text("")
    (torn / "metrics.jsonl").write_text('{"kind": "tra')
    found = figures(tmp_path, "loss")
    assert found.notes == [
        f"{linked}: its metrics.jsonl is a link, which is not followed, so no curves",
        f"{none}: no metrics.jsonl, so no curves",
        f"{empty}: no whole line in its metrics.jsonl, so no curves",
        f"{torn}: no whole line in its metrics.jsonl, so no curves",
    ]
    (caption,) = (each.figure.caption for each in found.found)
    assert caption.count("so no curves") == 3
    assert caption.endswith(" More runs whose logs lack something: 1.")
    assert [line.label for line in lines(found)] == ["uniform"]
    (family,) = families(group_by_settings(find_runs([tmp_path]))[0])
    assert family.missing == tuple(map(str, (linked, none, empty, torn)))
    assert family_figures(family)[0].figure.caption.count("so no curves") == 3


def test_figures_that_need_no_log_read_none(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "linupper", 0, mini("linupper"))
    (folder / "metrics.jsonl").write_text("broken\n")
    assert figures(tmp_path, "figure5", "figure7").notes == []
    with pytest.raises(DataError, match=r"metrics\.jsonl:1"):
        figures(tmp_path, "figure5", "ess")


def test_a_log_beyond_its_recipe_is_refused(tmp_path: Path) -> None:
    make_run(tmp_path, "linupper", 0, mini("linupper"), metrics=True, train__steps=500)
    with pytest.raises(DataError, match="step is 501, beyond the 500 of the run's recipe"):
        figures(tmp_path, "loss")
    make_run(tmp_path / "b", "linupper", 0, mini("linupper"), metrics=True, train__global_batch=1)
    with pytest.raises(DataError, match="no weight times M exceeds M = 1"):
        figures(tmp_path / "b", "loss")

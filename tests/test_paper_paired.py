"""Groups of runs compared window by window and item by item, from files on disk to what is printed."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

from eval.records import Key, Metric, Seeds, TaskRecord, as_scores, write_record
from eval.results import log_perplexity_score, read_results, write_results
from eval.sample_losses import FILE_NAME, SampleLosses, write_sample_losses
from reproduce.cli.root import run
from reproduce.paper.matching import group_runs
from reproduce.paper.paired import Paired, paired
from reproduce.paper.runs import find_runs
from tests.paper_runs import make_run

EVAL_SET = "e" * 64
N = 40
HARD = {domain: np.random.default_rng(i).normal(4, 1, N) for i, domain in enumerate(("web", "book"))}


def losses_of(seed: int, shift: float, shape: int) -> dict[str, np.ndarray]:
    """Windows that are hard for every model; a model's own part is far smaller."""
    rng = np.random.default_rng([seed, shape])
    return {d: (hard + shift + rng.normal(0, 0.02, N)).astype(np.float32) for d, hard in HARD.items()}


def add_run(
    root: Path,
    strategy: str,
    seed: int,
    losses: Mapping[str, np.ndarray],
    eval_set: str = EVAL_SET,
    **changes: object,
) -> Path:
    means = {domain: float(each.astype(np.float64).mean()) for domain, each in losses.items()}
    folder = make_run(root, strategy, seed, {}, eval_set=eval_set, **changes)  # type: ignore[arg-type]
    n = {domain: len(each) for domain, each in losses.items()}
    scores = [log_perplexity_score(d, v, stderr=0.1, n=n[d], version="1") for d, v in means.items()]
    mean = log_perplexity_score("mean", fmean(means.values()), stderr=0.1, n=sum(n.values()), version="1")
    path = folder / "results.json"
    write_results(path, replace(read_results(path), scores=(*scores, mean)))
    write_sample_losses(folder / FILE_NAME, SampleLosses(step=600, eval_set_sha256=eval_set, losses=losses))
    return folder


def add_items(folder: Path, task: str, metric: str, items: tuple[float, ...], prompts: str = "a") -> None:
    key = Key(model_sha256="b" * 64, task=task, task_version="1", num_fewshot=5, limit=None, seeds=Seeds())
    record = TaskRecord(
        key=key,
        metrics=(Metric(name=metric, value=fmean(items), stderr=0.1, higher_is_better=True),),
        n=len(items),
        requests=4 * len(items),
        truncated=0,
        shots_kept=5.0,
        context=512,
        prompt_sha256=prompts * 64,
        dataset="x@y",
        dtype="float32",
        batch_size=8,
        device="cpu",
        ranks=1,
        seconds=1.0,
        versions={},
        items={metric: items},
        gp_irt=None,
        gp_irt_note=None,
    )
    write_record(folder / "evaluations" / "model", record)
    path = folder / "results.json"
    results = read_results(path)
    write_results(path, replace(results, scores=(*results.scores, *as_scores(record, "gpt2_qa"))))


def both(root: Path) -> Paired:
    ours, theirs = group_runs(find_runs([root]))
    return paired(ours, theirs)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2, 3):
        add_run(tmp_path / "runs", "linupper", seed, losses_of(seed, -0.01, 1))
        add_run(tmp_path / "runs", "uniform", seed, losses_of(seed, 0.0, 2))
    return tmp_path / "runs"


def test_pairs_see_what_means_cannot(runs: Path) -> None:
    found = both(runs)
    assert found.notes == []
    assert [row.task for row in found.rows] == ["web", "book", "mean"]
    web = found.rows[0]
    assert (web.recipe, web.reference, web.n, web.n_seeds) == ("nano_linupper", "nano_uniform", N, 3)
    ours = np.stack([losses_of(s, -0.01, 1)["web"].astype(float) for s in (1, 2, 3)])
    theirs = np.stack([losses_of(s, 0.0, 2)["web"].astype(float) for s in (1, 2, 3)])
    over_windows = ttest_rel(ours.mean(axis=0), theirs.mean(axis=0)).confidence_interval(0.95)
    over_seeds = ttest_rel(ours.mean(axis=1), theirs.mean(axis=1)).confidence_interval(0.95)
    assert web.diff == pytest.approx(ours.mean() - theirs.mean())
    assert (web.samples_low, web.samples_high) == pytest.approx(tuple(over_windows))
    assert (web.seeds_low, web.seeds_high) == pytest.approx(tuple(over_seeds))
    # A window's own hardness, a standard deviation of 1, has gone: 0.02 x sqrt(2/3/40) = 0.0026 is left.
    assert web.samples_high - web.samples_low == pytest.approx(2 * 2.02 * 0.0026, rel=0.3)
    assert (web.p, web.test) == (None, "paired_windows")


def test_only_shared_seeds_are_paired(runs: Path) -> None:
    add_run(runs, "linupper", 9, losses_of(9, 5.0, 1))
    assert both(runs).rows[0].n_seeds == 3
    for seed in (1, 2, 3):
        (runs / f"nano_uniform/seed-{seed}").rename(runs.parent / f"gone-{seed}")
    add_run(runs, "uniform", 4, losses_of(4, 0.0, 2))
    found = both(runs)
    assert (found.rows, list(found.notes)) == ((), ["nano_linupper and nano_uniform share no seed"])


def test_items_of_one_seed_and_of_several(runs: Path) -> None:
    right = {"linupper": [(1, 1, 1, 0, 1, 0), (1, 1, 0, 0, 1, 0), (1, 1, 1, 0, 0, 0)]}
    right["uniform"] = [(0, 0, 0, 1, 1, 0), (0, 1, 0, 1, 1, 0), (0, 0, 1, 1, 1, 0)]
    for strategy, by_seed in right.items():
        for seed, items in enumerate(by_seed, start=1):
            add_items(runs / f"nano_{strategy}/seed-{seed}", "sciq", "acc", tuple(map(float, items)))
    row = both(runs).rows[-1]
    ours, theirs = (np.array(right[s], dtype=float) for s in ("linupper", "uniform"))
    scipy = ttest_rel(ours.mean(axis=0), theirs.mean(axis=0))
    assert (row.suite, row.task, row.metric, row.n, row.n_seeds) == ("gpt2_qa", "sciq", "acc", 6, 3)
    assert (row.test, row.p, row.z) == ("paired_t", pytest.approx(scipy.pvalue), None)
    # Seeds: (4 - 2)/6, (3 - 3)/6, (3 - 3)/6.
    assert row.diff == pytest.approx(2 / 18)
    # One seed: three wins and a loss, exactly 0.625.
    one, other = runs / "nano_linupper/seed-1", runs / "nano_uniform/seed-1"
    found = paired(*group_runs(find_runs([one, other])))
    assert (found.rows[-1].test, found.rows[-1].p, found.rows[-1].seeds_low) == ("mcnemar", 0.625, None)


def test_what_cannot_be_paired_is_left_out_and_said(runs: Path) -> None:
    one, other = runs / "nano_linupper/seed-1", runs / "nano_uniform/seed-1"
    for folder, prompts in ((one, "a"), (other, "c")):
        add_items(folder, "sciq", "acc", (1.0, 0.0), prompts)
        add_items(folder, "piqa", "acc", (1.0, 0.0))
    next((one / "evaluations/model").glob("piqa*")).write_text("{")
    (other / FILE_NAME).unlink()
    found = paired(*group_runs(find_runs([one, other])))
    assert list(found.rows) == []
    assert "seed-1 has no sample_losses.npz: `reweight eval " in found.notes[0]
    assert "sciq: not the same questions" in found.notes[1]
    assert "piqa" in found.notes[2]


def test_compare_against_a_run_shows_both_intervals(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--against", "runs/nano_uniform", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in document["paired"]] == ["web", "book", "mean"]
    assert document["paired"][0]["diff"] == pytest.approx(document["cells"][0]["diff"])
    assert document["paired"][0]["seeds_low"] == pytest.approx(document["cells"][0]["ci_low"])
    assert run(["compare", "--against", "runs/nano_uniform"]) == 0
    out, err = capsys.readouterr()
    assert "nano_linupper minus nano_uniform, pair by pair, 3 seeds [95%]" in out
    assert "over samples" in out
    assert max(len(line) for line in out.splitlines()) <= 102
    rows = [line for line in out.splitlines() if line.startswith(("│ web", "│ book", "│ mean"))]
    assert [line.count("[") for line in rows] == [2, 2, 2]  # no interval is broken over two lines
    assert err == "note: nano_linupper has reweighting.strategy linupper, there uniform\n"
    (runs / "nano_linupper/seed-2" / FILE_NAME).rename(runs / "aside")
    assert run(["compare", "--against", "runs/nano_uniform", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["paired"] == []
    assert "not paired: runs/nano_linupper/seed-2 has no sample_losses.npz" in err
    (runs / "nano_linupper/seed-2" / FILE_NAME).write_bytes(b"PK")
    assert run(["compare", "--against", "runs/nano_uniform"]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "seed-2/sample_losses.npz: is not a complete archive" in err


AGAINST = ("compare", "--against", "runs/nano_uniform/seed-1", "runs/nano_linupper/seed-1")


def compared(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], str]:
    """One seed of each, as JSON, and what was said beside it."""
    assert run([*AGAINST, "--json", *words]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def replaced(runs: Path, losses: Mapping[str, np.ndarray], **changes: Any) -> None:
    """Another seed 1 of linupper."""
    (runs / "nano_linupper/seed-1").rename(runs.parent / f"gone-{len(list(runs.parent.iterdir()))}")
    add_run(runs, "linupper", 1, losses, **changes)


def unrecorded(folder: Path) -> None:
    path = folder / "results.json"
    write_results(path, replace(read_results(path), eval_set_sha256=None))


def more(losses: Mapping[str, np.ndarray], domain: str) -> dict[str, np.ndarray]:
    """Ten windows more of one domain."""
    return {**losses, domain: np.append(losses[domain], losses[domain][:10])}


def test_windows_of_different_text_are_no_pairs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replaced(runs, losses_of(1, -0.01, 1), eval_set="f" * 64)
    for folder in ("nano_linupper", "nano_uniform"):
        add_items(runs / folder / "seed-1", "sciq", "acc", (1.0, 0.0))
    document, err = compared(capsys, "--any-difference")
    assert [row["task"] for row in document["paired"]] == [
        "sciq"
    ]  # questions are the same, whatever the text
    why = (
        "runs/nano_linupper/seed-1 and runs/nano_uniform/seed-1 were measured on different text: "
        "their windows are no pairs"
    )
    assert document["unpaired"] == [{"recipe": "nano_linupper", "why": why}]
    assert f"note: not paired: {why}\n" in err
    # Equal counts or not, and declared or not.
    replaced(runs, more(losses_of(1, -0.01, 1), "web"), eval_set="f" * 64)
    for words in (["--any-difference"], ["--factor", "identity.eval_set_sha256", "--factor", "reweighting"]):
        document, err = compared(capsys, *words)
        assert (document["paired"], document["unpaired"]) == ([], [{"recipe": "nano_linupper", "why": why}])
        assert {cell["note"].partition(":")[0] for cell in document["cells"]} == {
            "measured on different text"
        }


@pytest.mark.parametrize("sides", [("linupper",), ("uniform",), ("linupper", "uniform")])
def test_windows_of_unknown_text_are_no_pairs(
    runs: Path, sides: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for side in sides:
        unrecorded(runs / f"nano_{side}/seed-1")
    document, err = compared(capsys)
    assert document["paired"] == []
    (remark,) = document["unpaired"]
    assert remark["recipe"] == "nano_linupper"
    assert f"runs/nano_{sides[0]}/seed-1 does not record the text it was measured on" in remark["why"]
    assert remark["why"] in err
    assert {cell["verdict"] for cell in document["cells"]} == {"unresolved"}


def test_other_numbers_of_windows_are_told_and_the_rest_goes_on(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced(runs, more(losses_of(1, -0.01, 1), "web"))
    assert run([*AGAINST]) == 2
    assert "web: over 50 and 40 windows; evaluate both alike" in capsys.readouterr().err
    document, err = compared(capsys, "--any-difference")
    assert [row["task"] for row in document["paired"]] == ["book"]
    assert [each["why"] for each in document["unpaired"]] == [
        "web: 50 and 40 windows, which are no pairs",
        "mean: not all of its domains are paired, so it is not either",
    ]
    assert "note: not paired: web: 50 and 40 windows" in err
    notes = {cell["task"]: cell["note"] for cell in document["cells"]}
    assert "web: over 50 and 40 windows: no verdict" in notes["web"]
    assert "mean: over 90 and 80 windows: no verdict" in notes["mean"]
    assert "windows" not in notes["book"]
    # Every domain, with nothing left; and where the text is unknown besides.
    replaced(runs, more(more(losses_of(1, -0.01, 1), "web"), "book"))
    assert compared(capsys, "--any-difference")[0]["paired"] == []
    unrecorded(runs / "nano_linupper/seed-1")
    document, _ = compared(capsys, "--any-difference")
    assert (len(document["cells"]), document["paired"]) == (3, [])


def test_a_domain_that_not_every_run_has_is_told(runs: Path) -> None:
    replaced(runs, {**losses_of(1, -0.01, 1), "code": losses_of(1, 0.0, 1)["web"]})
    found = both(runs)
    assert [row.task for row in found.rows] == ["web", "book"]
    assert found.notes[0] == "code: not measured by every run"


def test_csv_and_markdown_have_the_pairs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2, 3):
        for strategy, item in (("linupper", 1.0), ("uniform", 0.0)):
            add_items(runs / f"nano_{strategy}/seed-{seed}", "sciq", "acc", (1.0, item, 0.0))
    (runs / "nano_linupper/seed-2/evaluations/model").rename(runs / "aside")
    pairs = {row.task: row for row in both(runs).rows}
    assert list(pairs) == ["web", "book", "mean"]
    assert run(["compare", "--against", "runs/nano_uniform", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["task"] for row in rows] == ["web", "book", "mean", "sciq"]
    columns = list(rows[0])
    assert columns[:5] == ["recipe", "reference", "suite", "task", "metric"]
    assert columns[10:14] == ["paired", "n_seeds", "verdict", "note"]
    assert columns[14:17] == ["paired_diff", "paired_n", "paired_n_seeds"]
    assert len(set(columns)) == len(columns) == 14 + 12
    for row in rows[:3]:
        pair = pairs[row["task"]]
        assert float(row["paired_samples_low"]) == pair.samples_low
        assert (row["paired_n"], row["paired_test"]) == (str(pair.n), "paired_windows")
        assert (row["paired_p"], row["n_seeds"]) == ("", "3")
    assert {value for name, value in rows[3].items() if name in columns[14:]} == {""}
    (runs / "aside").rename(runs / "nano_linupper/seed-2/evaluations/model")
    assert run(["compare", "--against", "runs/nano_uniform", "--markdown"]) == 0
    out, err = capsys.readouterr()
    first, title, table, explained = out.split("\n\n")
    assert first.startswith("| recipe | score | metric | ours |")
    assert title == "Pair by pair, minus nano_uniform; intervals are 95%."
    lines = table.splitlines()
    assert len(lines) == 2 + 4
    assert lines[0].split(" | ")[5:] == ["difference", "over samples", "z or p", "over seeds |"]
    assert [line.split(" | ")[1].partition("/")[2] for line in lines[2:]] == ["web", "book", "mean", "sciq"]
    assert explained.startswith("over samples: these very models")
    assert "not paired" not in err


def test_pairs_that_no_one_score_has_keep_a_row_in_csv(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2, 3):
        for strategy in ("linupper", "uniform"):
            add_items(runs / f"nano_{strategy}/seed-{seed}", "sciq", "acc", (1.0, 0.0))
    add_run(runs, "linupper", 9, losses_of(9, -0.01, 1))  # a seed without the task: no mean over seeds of it
    assert run(["compare", "--against", "runs/nano_uniform", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["task"] for row in rows] == ["web", "book", "mean", "sciq"]
    last = rows[3]
    assert (last["recipe"], last["reference"], last["suite"]) == ("nano_linupper", "nano_uniform", "gpt2_qa")
    assert (last["diff"], last["verdict"], last["paired_n"], last["paired_n_seeds"]) == ("", "", "2", "3")

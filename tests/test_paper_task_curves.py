"""Curves of task scores: the numbers in all files, the same bytes again, and what a panel shows."""

import csv
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from paper_runs import task_scores

from eval.results import Score, log_perplexity_score
from reproduce.errors import DataError, StorageError, UserError
from reproduce.paper.task_curves import task_curves, write_curves

FIRST = task_scores("gpt2_qa", "25.0 26.0 40.0 54.0")
LAST = task_scores("gpt2_qa", "27.9 27.6 51.8 56.2")
BY_STEP: dict[int, list[Score]] = {
    4000: [*LAST, replace(LAST[0], metric="acc", value=0.2)],
    2000: [*FIRST, log_perplexity_score("mean", 3.0, stderr=None, n=1, version="1")],
}


def test_the_files_hold_every_number(tmp_path: Path) -> None:
    written = write_curves(tmp_path / "deep", "gpt2_qa", BY_STEP, "a run")
    assert [path.name for path in written] == ["gpt2_qa.json", "gpt2_qa.csv", "gpt2_qa.png", "gpt2_qa.svg"]
    document = json.loads(written[0].read_text())
    assert (document["schema"], document["suite"], document["title"]) == (1, "gpt2_qa", "a run")
    found = {(c["task"], c["metric"]): c for c in document["curves"]}
    assert list(found) == [
        *(
            ("logiqa", "acc_norm"),
            ("logiqa", "acc"),
            ("logiqa2", "acc_norm"),
            ("sciq", "acc"),
            ("piqa", "acc"),
        )
    ]
    assert [(p["step"], p["value"]) for p in found["sciq", "acc"]["points"]] == [(2000, 0.4), (4000, 0.518)]
    # 2604 requests for 651 items: four choices; PiQA has 3676 for 1838: two.
    assert found["logiqa", "acc_norm"]["chance"] == 0.25
    assert found["piqa", "acc"]["chance"] == 0.5
    assert [found[key]["drawn"] for key in found] == [True, False, True, True, True]
    rows = list(csv.DictReader(written[1].open()))
    assert len(rows) == 9  # four tasks at two steps, and acc of logiqa at one
    assert (rows[0]["task"], rows[0]["step"], float(rows[0]["value"]), rows[0]["stderr"]) == (
        "logiqa",
        "2000",
        0.25,
        "0.01",
    )


def test_the_same_scores_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_curves(tmp_path / "a", "gpt2_qa", BY_STEP, "a run")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    again = write_curves(tmp_path / "b", "gpt2_qa", dict(reversed(BY_STEP.items())), "a run")
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    other_values = write_curves(tmp_path / "c", "gpt2_qa", {2000: LAST}, "a run")
    assert first[2].read_bytes() != other_values[2].read_bytes()
    assert first[3].read_bytes() != other_values[3].read_bytes()


def test_a_panel_says_what_it_shows(tmp_path: Path) -> None:
    cut = [replace(score, limit=4, truncated=2) if score.task == "sciq" else score for score in LAST]
    svg = write_curves(tmp_path, "gpt2_qa", {2000: FIRST, 4000: cut}, r"<b>$\x$ & run</b>")[3].read_text()
    texts = [e.text or "" for e in ET.fromstring(svg).iter() if e.tag.endswith("text")]
    assert r"<b>$\x$ & run</b>" in texts
    for said in ("logiqa", "acc_norm, 5 shots", "acc, 5 shots", "first items only, prompts cut", "step", "%"):
        assert said in texts, said


def test_the_estimate_is_drawn_where_there_is_one() -> None:
    values = "30 60 77 49 45 26 31 32 51 66 40.46 56 56"
    scores = task_scores("llama_lur", values)
    plain = [replace(score, metric="acc_norm") for score in scores if score.metric == "gp_irt"]
    drawn = {c.task: c for c in task_curves("llama_lur", {1: [*scores, *plain]}) if c.drawn}
    assert len(drawn) == 13
    assert (drawn["tinyArc"].metric, drawn["tinyArc"].chance) == ("gp_irt", None)
    assert drawn["mnli"].chance == pytest.approx(1 / 3)
    assert drawn["arc_easy"].chance is None  # 9501 requests for 2376 items: not all have four choices
    assert drawn["lambada_openai"].chance is None  # one request an item: nothing to choose from
    alone = {c.task: c for c in task_curves("llama_lur", {1: plain})}
    assert (alone["tinyArc"].drawn, alone["tinyArc"].chance) == (True, 0.25)


def test_nothing_to_draw_and_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gpt2_qa, llama_lur, llama_qa"):
        write_curves(tmp_path, "glue", BY_STEP, "")
    with pytest.raises(DataError, match="--suite llama_qa"):
        write_curves(tmp_path, "llama_qa", BY_STEP, "")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_curves(tmp_path / "file", "gpt2_qa", BY_STEP, "")

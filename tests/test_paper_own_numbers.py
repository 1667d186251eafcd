"""The paper judged by its own numbers: errors, adjustments and families worked out by hand."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from reproduce.cli.root import run
from reproduce.paper.multiple_tests import benjamini_hochberg, holm, normal_p
from reproduce.paper.own_numbers import OwnCell, below_alpha, own_cells, own_claims, own_summaries
from reproduce.paper.own_words import HOW, ONCE, summary_row
from reproduce.paper.tables import load_tables

PAGE = Path(__file__).resolve().parent.parent / "docs" / "paper-judged.md"


@pytest.fixture(scope="module")
def judged() -> dict[tuple[str, str, str], OwnCell]:
    return {(cell.table, cell.row, cell.column): cell for cell in own_cells(load_tables())}


def test_normal_p() -> None:
    # From tables of the normal distribution.
    assert normal_p(0.0) == 1.0
    assert normal_p(1.959964) == pytest.approx(0.05, abs=1e-7)
    assert normal_p(-2.575829) == pytest.approx(0.01, abs=1e-7)


def test_holm_and_benjamini_hochberg_by_hand() -> None:
    # Rising: 0.005, 0.01, 0.03, 0.04. Holm: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04, which may not fall
    # below 0.06. Benjamini and Hochberg: 4/1 x 0.005, 4/2 x 0.01, 4/3 x 0.03, 4/4 x 0.04.
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert holm(p_values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p_values) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    # 3 x 0.02, 2 x 0.5, then 0.9 held up to 1; 3 x 0.02, then 0.75 held down to nothing: 3/2 x 0.5 < 0.9.
    assert holm([0.9, 0.02, 0.5]) == pytest.approx([1.0, 0.06, 1.0])
    assert benjamini_hochberg([0.9, 0.02, 0.5]) == pytest.approx([0.9, 0.06, 0.75])
    assert (holm([]), benjamini_hochberg([]), holm([0.2]), benjamini_hochberg([0.2])) == (
        [],
        [],
        [0.2],
        [0.2],
    )


def test_two_differences_by_hand(judged: dict[tuple[str, str, str], OwnCell]) -> None:
    # SciQ, 51.8 against 49.0 on 1000: (0.518 x 0.482 + 0.490 x 0.510) / 1000 = 4.99576e-4, root 0.0223512;
    # 0.028 / 0.0223512.
    sciq = judged["table2", "GPT2-medium/linupper", "sciq"]
    assert (sciq.n, sciq.better, sciq.diff) == (1000, True, pytest.approx(2.8))
    assert sciq.stderr == pytest.approx(2.23512, abs=1e-5)
    assert sciq.z == pytest.approx(1.25273, abs=1e-5)
    # Paired: (0.028 - 0.028^2) / 1000, root 0.00521690; at most 2 - 0.518 - 0.490 = 0.992 of items differ:
    # (0.992 - 0.000784) / 1000, root 0.0314836. 1.96 errors at 0.028^2 x (1000 / 1.959964^2 + 1) = 0.204873.
    assert sciq.stderr_paired_low == pytest.approx(0.521690, abs=1e-5)
    assert sciq.stderr_paired_high == pytest.approx(3.14836, abs=1e-5)
    assert sciq.disagree_at_most == pytest.approx(20.4873, abs=1e-3)
    # SST-2, 69.38 against 49.89 on 872: (0.21244156 + 0.24999879) / 872 = 5.30321e-4, root 0.0230287.
    sst2 = judged["llama7b_lur", "Llama 7B/linupper", "sst2"]
    assert sst2.z == pytest.approx(0.1949 / 0.0230287, abs=1e-3)
    assert sst2.verdict == "resolved"


def test_a_mean_has_the_error_of_its_tasks(judged: dict[tuple[str, str, str], OwnCell]) -> None:
    # Variances of the four differences: 6.02319e-4, 2.53943e-4, 4.99576e-4, 2.68298e-4; sum 1.624136e-3,
    # root 0.0403006, over 4. 0.015 / 0.01007514.
    mean = judged["table2", "GPT2-medium/linupper", "mean"]
    assert mean.stderr == pytest.approx(1.007514, abs=1e-4)
    assert mean.z == pytest.approx(1.48881, abs=1e-4)
    assert (mean.n, mean.disagree_at_most, mean.kind) == (None, None, "mean")
    # The mean of llama7b_lur is the first cell of llama7b_average.
    both = [
        judged[t, "Llama 7B/linupper", c] for t, c in (("llama7b_lur", "mean"), ("llama7b_average", "lur"))
    ]
    assert both[0].z == both[1].z
    assert both[0].repeats == "llama7b_average"
    assert both[1].repeats is None


def test_pairing_bounds_hold_the_unpaired_error_between_them(
    judged: dict[tuple[str, str, str], OwnCell],
) -> None:
    for cell in judged.values():
        if cell.stderr is not None:
            assert cell.stderr_paired_low is not None
            assert cell.stderr_paired_high is not None
            assert cell.stderr_paired_low <= cell.stderr <= cell.stderr_paired_high
    # LogiQA 2, +0.1 on 1572: even if only those 0.1% differ, 0.001 / root((0.001 - 1e-6) / 1572) = 1.254.
    small = judged["table2", "GPT2-medium/linupper", "logiqa2"]
    assert small.diff / (small.stderr_paired_low or math.nan) == pytest.approx(1.2544, abs=1e-3)
    assert small.disagree_at_most is None
    assert "no shares" not in small.note
    assert small.note == "too small for any pairing of these items to resolve"
    assert small.within_rounding


def test_the_families_are_those_declared(judged: dict[tuple[str, str, str], OwnCell]) -> None:
    once = [c for c in judged.values() if c.kind == "task" and c.p is not None and c.repeats is None]
    # 3 strategies x 4 tasks; 2 x 4; 13 + 6 for each Llama; 5 lambdas x 4.
    assert len(once) == 12 + 8 + 2 * 19 + 20
    smallest = min(once, key=lambda cell: cell.p or 0)
    assert (smallest.table, smallest.column) == ("llama7b_lur", "sst2")
    assert smallest.p is not None
    assert smallest.p_holm_all == pytest.approx(78 * smallest.p)
    assert smallest.p_holm_table == pytest.approx(13 * smallest.p)
    repeats = Counter((cell.table, cell.kind) for cell in judged.values() if cell.repeats)
    assert repeats[("table12", "task")] == 4
    assert repeats[("table12", "mean")] == 1
    twice = judged["table12", "GPT2-medium/linupper", "sciq"]
    assert twice.p_holm_all == judged["table2", "GPT2-medium/linupper", "sciq"].p_holm_all
    # Its own table has more comparisons: 24 with the four that repeat.
    assert twice.p_holm_table == 1.0


def test_log_perplexity_cannot_be_judged(judged: dict[tuple[str, str, str], OwnCell]) -> None:
    cells = [cell for cell in judged.values() if cell.table == "table1"]
    assert len(cells) == 9 * 8
    assert {cell.verdict for cell in cells} == {"cannot_be_judged"}
    assert {cell.stderr for cell in cells} == {None}
    # 0.06 nats between two draws of 20000 / 7: root(2 x 7 / 20000) = 0.0264575; 0.06 / (1.959964 x that).
    c4 = judged["table1", "GPT2-mini/linupper", "c4"]
    assert c4.spread_at_most == pytest.approx(1.15706, abs=1e-4)
    # The mean's error is root(2 / 20000) = 0.01 of the spread.
    assert judged["table1", "GPT2-mini/linupper", "mean"].spread_at_most == pytest.approx(1.02043, abs=1e-4)
    assert judged["table1", "GPT2-mini/linupper", "arxiv"].within_rounding
    assert judged["table1", "GPT2-small/linupper", "arxiv"].spread_at_most is None


def test_the_tiny_tasks_are_estimates(judged: dict[tuple[str, str, str], OwnCell]) -> None:
    tiny = judged["llama7b_lur", "Llama 7B/linupper", "tinyArc"]
    assert (tiny.n, tiny.disagree_at_most) == (100, None)
    assert "gp-IRT estimate from 100 items" in tiny.note
    assert "tinyArc, tinyWinogrande" in judged["llama7b_lur", "Llama 7B/linupper", "mean"].note


def test_what_the_paper_gains_by_its_own_errors(judged: dict[tuple[str, str, str], OwnCell]) -> None:
    five_shot = [
        cell
        for cell in judged.values()
        if cell.table in ("table2", "table3", "table12")
        and cell.row.endswith("/linupper")
        and cell.kind == "task"
    ]
    assert len(five_shot) == 4 + 8 + 4
    assert max(abs(cell.z or 0) for cell in five_shot) < 1.3
    resolved = {(c.row, c.column) for c in judged.values() if c.verdict == "resolved" and c.kind == "task"}
    assert resolved == {
        ("Llama 1.4B/linupper", "mnli"),
        ("Llama 1.4B/linupper", "mnli_mismatch"),
        ("Llama 7B/linupper", "sst2"),
        ("GPT2-medium/dro_kl-0.4", "sciq"),  # a loss
    }
    # 11 ahead, 7 behind, COPA even; 14 and 5: sign tests from the binomial, 2 x sum C(18, k <= 7) / 2^18
    # = 2 x 63004 / 262144 and 2 x sum C(19,k<=5)/2^19 = 2 x 16664 / 524288.
    claims = {(claim.id, claim.model): claim for claim in own_claims(load_tables())}
    small, large = (
        claims["linupper_ahead_llama1b", "Llama 1.4B"],
        claims["linupper_ahead_llama7b", "Llama 7B"],
    )
    assert small.sign_p == pytest.approx(2 * 63004 / 262144)
    assert large.sign_p == pytest.approx(2 * 16664 / 524288)
    assert (small.held, small.resolved, small.resolved_against) == (11, 3, 1)
    assert (large.held, large.resolved, large.resolved_against) == (14, 4, 0)
    assert claims["linupper_lowest_mean", "GPT2-mini"].judged == 0
    table3 = next(s for s in own_summaries(list(judged.values())) if (s.table, s.kind) == ("table3", "task"))
    assert (table3.differences, table3.alone, table3.bh_all) == (8, 0, 0)


def test_what_is_printed_twice_is_counted_once(judged: dict[tuple[str, str, str], OwnCell]) -> None:
    cells = list(judged.values())
    summaries = {(s.table, s.kind): s for s in own_summaries(cells)}
    # The six question tasks' mean stands in llama1b_average first.
    twice, first = summaries["llama1b_qa", "mean"], summaries["llama1b_average", "mean"]
    assert (twice.differences, twice.repeats, twice.judged, twice.alone) == (0, 1, 0, 0)
    assert (first.differences, first.repeats, first.alone) == (3, 0, 1)
    assert summary_row(twice) == ("llama1b_qa", "means", *["–"] * 7)
    # Table 12: five lambdas x 4 tasks, beside LinUpper's four of Table 2.
    assert (summaries["table12", "task"].differences, summaries["table12", "task"].repeats) == (20, 4)
    assert sum(s.differences for s in summaries.values() if s.kind == "task" and s.judged) == 78
    listed = below_alpha(cells)
    assert sum(s.alone for s in summaries.values()) == len(listed) == 13
    assert ("llama1b_qa", "mean") not in {(cell.table, cell.column) for cell in listed}


def test_the_upper_end_of_a_mean_may_be_above_its_error(
    judged: dict[tuple[str, str, str], OwnCell],
) -> None:
    # p1 + p2 or 2 - p1 - p2, whichever is less, less d^2, over n: (0.536 - 0.022^2) / 651 = 8.22605e-4,
    # (0.551 - 0.001^2) / 1572 = 3.50508e-4, (0.992 - 0.028^2) / 1000 = 9.91216e-4, (0.883 - 0.007^2) / 1838 =
    # 4.80387e-4; sum 2.644716e-3, root 0.0514268, over 4.
    mean = judged["table2", "GPT2-medium/linupper", "mean"]
    assert mean.stderr == pytest.approx(1.0075, abs=1e-3)
    assert mean.stderr_paired_high == pytest.approx(1.28567, abs=1e-4)
    for words in (HOW, " ".join(PAGE.read_text(encoding="utf-8").split())):
        assert "as long as they tend to be right on the same ones" in words
        assert "somewhat too small" in words
    assert "it is 1.29 points, against 1.01" in " ".join(PAGE.read_text(encoding="utf-8").split())


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(["compare", "--against", "paper", "--self", *words]) == 0
    return capsys.readouterr().out


def test_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    document: dict[str, Any] = json.loads(output(capsys, "--json"))
    assert (document["against"], document["self"], document["alpha"]) == ("paper", True, 0.05)
    assert len(document["cells"]) == 72 + 15 + 10 + 3 + 14 + 7 + 3 + 14 + 7 + 30
    assert {entry["table"] for entry in document["summary"]} == set(load_tables())
    one = json.loads(output(capsys, "--json", "--table", "table2"))
    assert {cell["table"] for cell in one["cells"]} == {"table2"}
    # Families are the paper's, whatever is shown of it.
    shown = next(c for c in document["cells"] if c["table"] == "table2")
    assert one["cells"][0] == shown
    lines = output(capsys, "--csv", "--table", "table2").splitlines()
    assert len(lines) == 1 + 15
    assert lines[0].startswith("table,row,reference,column,kind,paper")
    text = output(capsys, "--table", "table1") + output(capsys)
    assert max(map(len, text.splitlines())) <= 100
    assert "one seed, within rounding" in text


def test_each_row_of_the_list_names_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    text, narrow = output(capsys), output(capsys, "--table", "llama1b_qa")
    assert max(map(len, (text + narrow).splitlines())) <= 100
    rows = [
        line.strip("│ ").split() for line in text.splitlines() if " linupper " in line or " dro_kl" in line
    ]
    tables = Counter(row[0] for row in rows)
    assert tables == {
        "llama1b_average": 1,
        "llama1b_lur": 3,
        "llama1b_qa": 1,
        "llama7b_average": 1,
        "llama7b_lur": 4,
        "table12": 3,
    }
    assert text.count("+1.72") == 1
    # One table shows all of its differences, and says which of them are counted elsewhere.
    assert narrow.count("+1.72") == 1
    document = output(capsys, "--markdown")
    listed = document.split("## p below 0.05")[1].split("\n## ")[0]
    assert "| llama1b_average | Llama 1.4B/linupper | qa | +1.72 |" in listed
    assert listed.count("+1.72") == 1
    assert "| 0.0708 | – | alone, as in llama1b_average |" in document
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    for words in (document, page):
        assert "What an earlier table prints already is" in words


def test_a_table_says_what_an_earlier_one_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--against", "paper", "--self", "--table", "table12"]) == 0
    err = " ".join(capsys.readouterr().err.split())
    assert "linupper logiqa, logiqa2, sciq, piqa, mean: as in table2, and counted there" in err
    assert ONCE in err


@pytest.mark.parametrize(
    "words",
    [["--self", "runs"], ["--self", "--strict"], ["--against", "runs", "--self"], ["--json", "--csv"]],
)
def test_what_does_not_go_together_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err


def test_the_page_says_what_the_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- paper-self:(\w+) -->\n(.*?)\n<!-- /paper-self -->", page, flags=re.DOTALL)
    assert page.count("<!-- paper-self:") == len(blocks) >= 5
    document = output(capsys, "--markdown")
    sections = {part.split("\n", 1)[0].strip("# ").lower(): part for part in re.split(r"\n(?=## )", document)}
    sections["summary"] = document.split("\n## ", 1)[0]
    for name, block in blocks:
        table = re.search(r"^\|.*\|$(?:\n^\|.*\|$)*", sections.get(name, sections["summary"]), re.MULTILINE)
        assert name in sections
        assert table is not None
        assert block.strip() == table.group(0), f"paste this block again: {name}"


def test_the_sentences_of_the_page_are_the_numbers(judged: dict[tuple[str, str, str], OwnCell]) -> None:
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    five_shot = [
        cell
        for cell in judged.values()
        if cell.table in ("table2", "table3") and cell.row.endswith("/linupper") and cell.kind == "task"
    ]
    largest = max(five_shot, key=lambda cell: abs(cell.z or 0))
    large = {c.column: c for c in judged.values() if c.table.startswith("llama7b") and c.repeats is None}
    small = {c.column: c for c in judged.values() if c.table.startswith("llama1b") and c.repeats is None}
    alike, errors = _without_sst2(judged, "llama7b")
    alike_small, errors_small = _without_sst2(judged, "llama1b")
    qa = small["qa"]
    for said in (
        f"the largest is SciQ's {largest.diff:+.1f}, {largest.z:.2f} errors",
        f"disagree on at most {largest.disagree_at_most:.0f}% of the questions",
        f"its mean, {judged['table2', 'GPT2-medium/linupper', 'mean'].diff:+.1f}, is "
        f"{judged['table2', 'GPT2-medium/linupper', 'mean'].z:.2f} errors",
        f"{large['sst2'].diff:+.1f} points at 7B ({large['sst2'].z:.1f} errors)",
        f"{small['sst2'].diff:+.1f} points at 1.4B ({small['sst2'].z:.1f} errors)",
        f"{small['mnli'].diff:+.1f} points at 1.4B ({small['mnli'].z:.1f} errors)",
        f"Without SST-2, the other 18 tasks gain {alike:.2f} points, {errors:.2f} errors",
        f"the gain is {alike_small:.2f} points, {errors_small:.2f} errors",
        f"{large['all'].diff:+.2f} points over 19 tasks is {large['all'].z:.2f} errors",
        f"{qa.diff:+.2f} points on the six question tasks at 1.4B is {qa.z:.2f} errors, p = {qa.p:.3f} by "
        f"itself and {qa.p_holm_all:.2f} after Holm's correction over all averages ({qa.p_bh_all:.2f} after",
    ):
        assert said in page, said


def _without_sst2(judged: dict[tuple[str, str, str], OwnCell], model: str) -> tuple[float, float]:
    """The mean gain over the 18 other tasks of a Llama, in points and in standard errors."""
    rest = [
        cell
        for cell in judged.values()
        if cell.table in (f"{model}_lur", f"{model}_qa") and cell.kind == "task" and cell.column != "sst2"
    ]
    assert len(rest) == 18
    gain = sum(cell.diff for cell in rest) / 18
    return gain, gain / (math.hypot(*(cell.stderr or math.nan for cell in rest)) / 18)

"""A study's files: all of them, the study's own numbers, the same bytes again, nothing half-written."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from study_samples import LOSSES, WHO_WINS, sample_study

from reproduce.cli.study_print import print_found, print_study
from reproduce.errors import StorageError
from reproduce.paper.found_studies import FoundStudy, find_studies
from reproduce.paper.runs import MAX_DEPTH
from reproduce.paper.study_output import figure_csv, table_csv, write_outputs
from reproduce.paper.study_words import repeat_command, shown
from reproduce.study import Figure, Line, Panel, Study, Table
from reproduce.study_file import read_study, write_study

NAMES = [
    "final.csv",
    "rates.csv",
    "loss.svg",
    "loss.png",
    "loss.csv",
    "map.svg",
    "map.png",
    "map.csv",
    "study.json",
]

pytestmark = pytest.mark.usefixtures("no_sync")


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_every_file_is_written_and_again_the_same(tmp_path: Path) -> None:
    written = write_outputs(tmp_path / "deep" / "er", sample_study())
    assert written == [tmp_path / "deep" / "er" / name for name in NAMES]
    first = {path.name: path.read_bytes() for path in written}
    assert sorted(first) == sorted(
        path.name for path in written[0].parent.iterdir()
    )  # no temporary file is left
    assert read_study(written[-1]) == sample_study()
    write_outputs(written[0].parent, replace(sample_study(), figures=sample_study().figures[1:]))
    write_study(written[0].parent, sample_study())
    assert {path.name: path.read_bytes() for path in written} == first
    assert first["loss.svg"].startswith(b"<svg ")
    assert first["loss.png"].startswith(b"\x89PNG")
    assert first["final.csv"].decode() == table_csv(sample_study().table("final"))


def test_a_tables_csv_has_its_numbers_in_full() -> None:
    (uniform, linupper, dro) = rows(table_csv(sample_study().table("final")))
    assert uniform == {"strategy": "uniform", "loss": "0.5", "steps to 1": "20", "diverged": "0.0"}
    assert float(linupper["loss"]) == 0.612345678
    assert dro == {"strategy": "dro_kl", "loss": "", "steps to 1": "", "diverged": "1.0"}
    odd = Table(id="t", title="t", columns=('a"b', "c,d"), rows=(("x\ny", 0.1 + 0.2),))
    assert table_csv(odd) == '"a""b","c,d"\n"x\ny",0.30000000000000004\n'


def test_a_figures_csv_has_every_number_of_its_lines() -> None:
    text = figure_csv(Figure(id="f", title="t", caption="c", panels=(LOSSES,)))
    assert text.splitlines()[0] == "panel,title,line,strategy,x,y,low,high"
    found = rows(text)
    lines, marks = found[:-2], found[-2:]
    assert [(row["line"], float(row["x"]), row["y"] and float(row["y"])) for row in lines] == [
        (line.label, x, "" if y is None else y)
        for line in LOSSES.lines
        for x, y in zip(line.x, line.y, strict=True)
    ]
    assert [(row["low"], row["high"]) for row in lines[:5]] == [
        ("3.5", "4.5"),
        ("1.5", "2.5"),
        ("0.75", "1.25"),
        ("0.25", "0.75"),
        ("", ""),
    ]
    assert {row["panel"] for row in found} == {"1"}
    assert [(m["line"], m["strategy"], m["x"], m["y"]) for m in marks] == [
        ("noise", "", "", "0.25"),
        ("threshold", "", "10.0", ""),
    ]


def test_a_maps_csv_has_a_row_a_cell() -> None:
    text = figure_csv(Figure(id="f", title="t", caption="c", panels=(WHO_WINS,)))
    assert text.splitlines()[0] == "panel,title,x,y,value,text"
    cells = {(row["x"], row["y"]): (row["value"], row["text"]) for row in rows(text)}
    assert len(cells) == 6
    assert cells["0.25", "0.4"] == ("0.75", "+75%")
    assert cells["0.25", "2"] == ("", "diverges")
    both = rows(figure_csv(Figure(id="f", title="t", caption="c", panels=(WHO_WINS, LOSSES))))
    assert [row["panel"] for row in both] == ["1"] * 6 + ["2"] * 18
    assert (both[0]["line"], both[0]["value"]) == ("", "-0.5")
    assert (both[6]["line"], both[6]["value"]) == ("uniform", "")


def test_a_long_line_is_whole_in_the_csv() -> None:
    line = Line(
        label="a", strategy="uniform", x=tuple(range(5000)), y=tuple(1 / (1 + i) for i in range(5000))
    )
    text = figure_csv(
        Figure(id="f", title="t", caption="c", panels=(replace(LOSSES, lines=(line,), marks=()),))
    )
    assert tuple(float(row["y"]) for row in rows(text)) == line.y


def without_figures(study: Study) -> Study:
    return replace(study, figures=())


@pytest.mark.parametrize("other", ["final", "FINAL"])
def test_an_id_taken_twice_is_refused_before_anything_is_written(tmp_path: Path, other: str) -> None:
    study = sample_study()
    clash = replace(study, figures=(replace(study.figures[0], id=other),))
    with pytest.raises(ValueError, match="several tables or figures called final"):
        write_outputs(tmp_path, clash)
    twins = replace(without_figures(study), tables=(study.tables[0], study.tables[0]))
    with pytest.raises(ValueError, match="called final"):
        write_outputs(tmp_path, twins)
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_is_not_finite_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_outputs(tmp_path, replace(without_figures(sample_study()), numbers={"x": float("nan")}))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_one_line_and_study_json_stays(tmp_path: Path) -> None:
    study = without_figures(sample_study())
    write_outputs(tmp_path, study)
    before = (tmp_path / "study.json").read_bytes()
    (tmp_path / "rates.csv").unlink()
    (tmp_path / "rates.csv").mkdir()
    with pytest.raises(StorageError, match=r"rates\.csv") as caught:
        write_outputs(tmp_path, replace(study, title="another"))
    assert caught.value.exit_code == 7
    assert "\n" not in str(caught.value)
    assert (tmp_path / "study.json").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*/file/final\.csv: .*--out"):
        write_outputs(tmp_path / "file", study)


def test_studies_are_found_without_following_links(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    places = {
        "b": "regression",
        "a/deep/er": "regression",
        "c": "dro",
        ".hidden": "dro",
        "checkpoints": "dro",
    }
    for place, kind in places.items():
        write_study(root / place, sample_study(kind))  # type: ignore[arg-type]
    outside = write_study(tmp_path / "outside", sample_study("bounds"))
    (root / "linked").symlink_to(outside.parent, target_is_directory=True)
    (root / "linked-file").mkdir()
    (root / "linked-file" / "study.json").symlink_to(outside)
    (root / "folder" / "study.json").mkdir(parents=True)
    found = find_studies([root, root / "b", tmp_path / "nowhere"])
    assert [each.path.relative_to(root).as_posix() for each in found] == ["a/deep/er", "b", "c"]
    assert [each.study.study for each in found] == ["regression", "regression", "dro"]


def test_a_tree_made_to_exhaust_us_is_left(tmp_path: Path) -> None:
    near, far = (tmp_path.joinpath(*["d"] * depth) for depth in (MAX_DEPTH, MAX_DEPTH + 1))
    for folder in (near, far):
        write_study(folder, sample_study())
    assert [each.path for each in find_studies([tmp_path])] == [near]


def test_values_are_shown_to_four_digits() -> None:
    values = (0.612345678, 1e-05, 12345.678, 20, 12345678, None, "a\x1b", 0.0, True)
    assert [shown(v) for v in values] == [
        "0.6123",
        "1e-05",
        "1.235e+04",
        "20",
        "12345678",
        "–",
        "a\\x1b",
        "0",
        "True",
    ]
    assert shown((1, 0.25, "x", None)) == "1, 0.25, x, –"
    assert len(shown(tuple(range(100_000)))) == 400
    assert len(shown("x" * 10_000)) == 400


def command(text: str) -> str | None:
    return repeat_command(replace(sample_study(), command=text), Path("runs/my toy"))


def test_the_command_is_safe_to_paste() -> None:
    assert command("reweight toy dro --r 0.4,1") == "reweight toy dro --r 0.4,1 --out 'again/runs/my toy'"
    assert command("reweight toy dro; rm -rf $(x)\nls") == (
        "reweight toy 'dro;' rm -rf '$(x)' ls --out 'again/runs/my toy'"
    )
    assert "\x1b" not in (command("reweight toy \x1b[31m") or "")
    for hostile in ("rm -rf /", "reweight train", "reweight toy 'x", ""):
        assert command(hostile) is None
    assert repeat_command(sample_study()) == "reweight toy regression --seeds 8"


def test_a_study_is_printed_with_the_verdicts_last(capsys: pytest.CaptureFixture[str]) -> None:
    print_study(sample_study())
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "Test loss after the last step\n" in out
    assert "│ linupper │ 0.6123 │         10 │        0 │" in out
    assert out.index("Largest learning rate") < out.index("Verdicts: Toy regression")
    for words in ("✓ holds", "✗ does not hold", "~ only where", "? unresolved", "outlier share", "Figure 8"):
        assert words in out
    assert "again:" not in out
    print_found([FoundStudy(path=Path("runs/toy"), study=sample_study())])
    out = capsys.readouterr().out
    assert out.startswith("Toy studies\nVerdicts: Toy regression (runs/toy)")
    assert out.endswith("again: reweight toy regression --seeds 8 --out again/runs/toy\n")


def test_a_wide_table_is_continued_below(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("strategy", *(f"loss_at_{i:02}" for i in range(14)))
    table = Table(
        id="wide",
        title="Wide",
        columns=names,
        rows=(("linupper", *(1e-10 * (i + 1) / 3 for i in range(14))),),
    )
    print_study(replace(sample_study(), tables=(table,), findings=()))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "Wide\n" in out
    assert out.count("Wide, continued\n") == 2
    # 1 + 11 for the strategy and 13 for each of 14 columns: six of them fit 100, so 6 + 6 + 2.
    assert out.count("│ linupper │") == 3
    for i in range(14):
        assert out.count(f"loss_at_{i:02} ") == 1
        assert f" {1e-10 * (i + 1) / 3:.4g} " in out


def test_a_table_of_more_rows_than_a_terminal_holds_is_named_by_its_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables = [
        Table(id=f"t{rows}", title=f"Of {rows}", columns=("n",), rows=tuple((n,) for n in range(rows)))
        for rows in (100, 1101)
    ]
    print_study(replace(sample_study(), tables=tuple(tables), findings=()))
    out = capsys.readouterr().out
    assert "│ 99 │" in out
    assert "Of 1101: 1,101 rows, in t1101.csv\n" in out
    assert "1100" not in out


def test_long_heads_and_sentences_leave_numbers_whole(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("strategy and its r", *(f"a head of many words, number {i}" for i in range(6)), "why")
    row = ("readme_uniform r=0.4", *(1.234e-10 * (i + 1) for i in range(6)), "because " * 12)
    print_study(
        replace(sample_study(), tables=(Table(id="t", title="T", columns=names, rows=(row,)),), findings=())
    )
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "…" not in out
    for value in row[1:-1]:
        assert f" {value:.4g} " in out
    assert "│ readme_uniform r=0.4 │" in out
    assert out.count("because") == 12


def test_long_and_hostile_texts_are_printed_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\x1b[31m[bold]" + "word " * 60
    study = sample_study()
    findings = tuple(replace(f, claim=text, where=text, evidence=text) for f in study.findings)
    table = replace(study.tables[0], title=text, columns=(text,) * 4, rows=((text,) * 4,))
    print_study(replace(study, title=text, tables=(table,), findings=findings))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[bold]" in out
    grid = [line for line in out.splitlines() if line.startswith(("│", "┃", "├"))]
    assert max(map(len, grid)) <= 100
    assert isinstance(study.figures[0].panels[0], Panel)

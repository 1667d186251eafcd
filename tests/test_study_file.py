"""study.json: written and read back equal, the same study the same bytes, anything else refused in a line."""

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_samples import LOSSES, WHO_WINS, renamed, sample_study

from reproduce.errors import DataError, StorageError
from reproduce.study import STUDY_NAMES, Line, Panel, Study, finite_or_none
from reproduce.study_file import FILE_NAME, MAX_BYTES, read_study, study_text, write_study

Document = dict[str, Any]


@pytest.mark.parametrize("name", STUDY_NAMES)
def test_a_study_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    study = sample_study(name)  # type: ignore[arg-type]
    path = write_study(tmp_path / "deep" / "er", study)
    assert path == tmp_path / "deep" / "er" / "study.json"
    back = read_study(path)
    assert back == study
    assert study_text(back) == path.read_text(encoding="utf-8")
    # An equal float and int are equal to Python, not to a reader: 20 steps, a rate of 0.0.
    (row, *_) = back.table("final").rows
    assert [type(cell) for cell in row] == [str, float, int, float]
    assert back.table("final").rows[2][1] is None
    panel = back.figures[0].panels[0]
    assert isinstance(panel, Panel)
    assert type(panel.lines[0].x[1]) is int
    assert panel.lines[3].y[2:] == (None, None)
    assert panel.lines[1].low is None


def test_every_float_survives(tmp_path: Path) -> None:
    floats = (0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 2.0**53 + 2, 1e22)
    study = replace(sample_study(), numbers={str(i): each for i, each in enumerate(floats)})
    back = read_study(write_study(tmp_path, study)).numbers
    assert [float(each).hex() for each in back.values()] == [each.hex() for each in floats]


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_study(tmp_path / "a", sample_study()).read_bytes()
    again = write_study(tmp_path / "b", sample_study())
    write_study(tmp_path / "b", sample_study())
    assert again.read_bytes() == first
    assert [each.name for each in again.parent.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("text", ["</script><b>", r"$\x$", "\x1b[31m\x00", "a\nb", "é‮", "|`*_"])
def test_any_text_comes_back(tmp_path: Path, text: str) -> None:
    study = renamed(sample_study(), text)
    assert read_study(write_study(tmp_path, study)) == study


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_study(tmp_path, replace(sample_study(), numbers={"x": value}))
    assert list(tmp_path.iterdir()) == []
    assert finite_or_none(value) is None
    assert finite_or_none(1e300) == 1e300


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*study\.json: .*--out") as caught:
        write_study(tmp_path / "file", sample_study())
    assert caught.value.exit_code == 7
    assert "\n" not in str(caught.value)


def edited(change: Callable[[Document], object]) -> str:
    document = json.loads(study_text(sample_study()))
    change(document)
    return json.dumps(document)


def put(value: object, *keys: str | int) -> Callable[[Document], None]:
    """Change one value of the document."""

    def change(document: Document) -> None:
        inner: Any = document
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value

    return change


def drop(*keys: str | int) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        inner: Any = document
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]

    return change


PANEL = ("figures", 0, "panels", 0)
LINE = (*PANEL, "lines", 0)
MAP = ("figures", 1, "panels", 0)

WRONG = {
    "no schema": (drop("schema"), "has schema None"),
    "another schema": (put(2, "schema"), "has schema 2"),
    "unknown study": (put("cooking", "study"), "one of regression"),
    "study is a number": (put(1, "study"), r"the study\.study is 1, expected a text"),
    "unknown key": (put(1, "surprise"), "unknown key 'surprise'"),
    "no findings": (drop("findings"), r"findings is no list"),
    "findings is a text": (put("none", "findings"), "findings is no list"),
    "finding is a list": (put([], "findings", 0), r"findings\[0\] is not an object"),
    "unknown outcome": (put("maybe", "findings", 0, "outcome"), r"findings\[0\]\.outcome is 'maybe'"),
    "no seeds": (put(0, "findings", 0, "seeds"), "an integer >= 1"),
    "true seeds": (put(True, "findings", 0, "seeds"), "an integer >= 1"),
    "half a seed": (put(1.5, "findings", 0, "seeds"), "an integer >= 1"),
    "where is a number": (put(3, "findings", 0, "where"), r"where is 3"),
    "settings is a list": (put([], "settings"), r"settings is \[\], expected an object"),
    "setting is true": (put(True, "settings", "seeds"), r"settings\.seeds holds True"),
    "setting is nested": (put([[1]], "settings", "seeds"), r"settings\.seeds holds \[1\]"),
    "version is a number": (put(2, "versions", "torch"), "versions does not map names to strings"),
    "number is an object": (put({}, "numbers", "seeds"), r"numbers\.seeds holds \{\}"),
    "numbers is a list": (put([], "numbers"), "expected an object"),
    "table id leaves": (put("../x", "tables", 0, "id"), r"tables\[0\]\.id is '\.\./x'"),
    "table id hides": (put("..", "tables", 0, "id"), r"tables\[0\]\.id"),
    "table id is long": (put("x" * 97, "tables", 0, "id"), "1 to 96"),
    "figure id is absolute": (put("/etc/x", "figures", 0, "id"), r"figures\[0\]\.id is '/etc/x'"),
    "figure id ends a line": (put("x\n", "figures", 0, "id"), r"figures\[0\]\.id"),
    "short row": (put(["uniform"], "tables", 0, "rows", 0), "a row of another length"),
    "row is a text": (put("abcd", "tables", 0, "rows", 0), r"rows\[0\] is no list"),
    "cell is a list": (put([[], 1, 1, 1], "tables", 0, "rows", 0), r"rows\[0\] holds \[\]"),
    "column is a number": (put([1, 2, 3, 4], "tables", 0, "columns"), "columns holds something else"),
    "no columns of panels": (put(0, "figures", 0, "columns"), "an integer >= 1"),
    "panel is a text": (put("p", *PANEL), r"panels\[0\] is not an object"),
    "log is a text": (put("yes", *PANEL, "y_log"), "y_log is 'yes', expected true or false"),
    "x with a hole": (put([0, None, 20, 30], *LINE, "x"), "x has a place without a number"),
    "y too short": (put([1.0], *LINE, "y"), "series of different lengths"),
    "band too short": (put([1.0], *LINE, "low"), "series of different lengths"),
    "y holds true": (put([True, 1, 1, 1], *LINE, "y"), r"y holds something else than numbers"),
    "y holds a text": (put(["1", 1, 1, 1], *LINE, "y"), r"y holds something else than numbers"),
    "y is nothing": (drop(*LINE, "y"), "y is no list"),
    "mark on no axis": (put("z", *PANEL, "marks", 0, "axis"), "axis is 'z', expected x or y"),
    "mark nowhere": (put(None, *PANEL, "marks", 0, "at"), "at is None, expected a finite number"),
    "mark out of reach": (put(10**400, *PANEL, "marks", 0, "at"), "expected a finite number"),
    "ragged map": (put([[1.0]], *MAP, "values"), "cells that do not fit its names"),
    "ragged map texts": (put([["a"], ["b"], ["c"]], *MAP, "texts"), "cells that do not fit its names"),
    "map of texts": (put([["a", "b"]] * 3, *MAP, "values"), "something else than numbers"),
    "map text is a number": (put([[1, 2]] * 3, *MAP, "texts"), "something else than texts"),
    "an int that is no float, in y": (put([10**400, 1, 1, 1], *LINE, "y"), r"y holds"),
    "an int that is no float, in a map": (put([[10**400, 1]] * 3, *MAP, "values"), r"values\[0\] holds"),
    "an int that is no float, in a table": (
        put(["a", 10**400, 1, 1], "tables", 0, "rows", 0),
        r"rows\[0\] holds",
    ),
    "an int that is no float, as a number": (put(10**400, "numbers", "seeds"), r"numbers\.seeds holds"),
}


def refused(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        read_study(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "reweight toy" in said
    assert "\n" not in said
    assert len(said) < 1000
    assert caught.value.exit_code == 3
    return said


@pytest.mark.parametrize("case", WRONG)
def test_what_no_study_has_is_refused(tmp_path: Path, case: str) -> None:
    change, said = WRONG[case]
    message = refused(tmp_path / FILE_NAME, edited(change))
    assert re.search(said, message), message


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("key", ['"final_linupper": 0.612345678', "0.612345678"])
def test_what_is_no_number_is_refused(tmp_path: Path, literal: str, key: str) -> None:
    text = study_text(sample_study())
    assert key in text
    changed = text.replace(key, key.replace("0.612345678", literal), 1)
    refused(tmp_path / FILE_NAME, changed)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"schema": 1, "study": ' + b"[" * 100_000,
        b'{"schema": 1, "numbers": {"x": ' + b"9" * 5000 + b"}}",
        b" " * (MAX_BYTES + 1),
    ],
    ids=["empty", "list", "null", "cut", "no UTF-8", "deep", "deeper", "digits", "huge"],
)
def test_what_is_no_object_is_refused(tmp_path: Path, text: bytes) -> None:
    refused(tmp_path / FILE_NAME, text)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(DataError, match="not an ordinary file"):
        read_study(tmp_path / FILE_NAME)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_study(tmp_path / FILE_NAME)
    assert caught.value.exit_code == 3


def blank(study: Study) -> Study:
    """Without panels, lines, rows, numbers: a study that found nothing."""
    empty = Panel(title="t", x_label="x", y_label="y", lines=())
    no_points = replace(empty, lines=(Line(label="l", strategy="s", x=(), y=()),))
    figures = tuple(
        replace(each, panels=panels) for each, panels in zip(study.figures, ((), (no_points,)), strict=True)
    )
    tables = tuple(replace(each, rows=()) for each in study.tables)
    return replace(study, figures=figures, tables=tables, findings=(), numbers={}, settings={}, versions={})


def test_an_empty_study_is_one_too(tmp_path: Path) -> None:
    study = blank(sample_study())
    assert read_study(write_study(tmp_path, study)) == study


@pytest.mark.parametrize("place", ["title", "x_label", "label", "text", "name"])
def test_a_text_may_be_empty_where_a_figure_has_none(tmp_path: Path, place: str) -> None:
    study = sample_study()
    panel, grid = LOSSES, WHO_WINS
    if place in ("title", "x_label"):
        panel = replace(panel, **{place: ""})
    elif place == "label":
        panel = replace(panel, marks=(replace(panel.marks[0], label=""),))
    elif place == "text":
        grid = replace(grid, texts=(("", ""),) * 3)
    else:
        grid = replace(grid, y_names=("", "1", "2"))
    changed = replace(study, figures=(replace(study.figures[1], panels=(grid, panel)),))
    assert read_study(write_study(tmp_path, changed)) == changed

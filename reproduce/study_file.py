"""study.json: a study as a file. The same study gives the same bytes; reading is strict. No torch here."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.files import is_safe_name
from eval.json_files import Fields, finite, read_json_object, write_text_atomically
from reproduce.errors import DataError, StorageError
from reproduce.study import (
    OUTCOMES,
    STUDY_NAMES,
    Figure,
    Finding,
    Line,
    Map,
    Mark,
    Panel,
    Scalar,
    Study,
    Table,
)

SCHEMA = 1
FILE_NAME = "study.json"
MAX_BYTES = 16 * 1024 * 1024


def study_text(study: Study) -> str:
    """study.json's text; the same study gives the same text.

    Raises:
        ValueError: a number that is not finite.
    """
    document = {"schema": SCHEMA, **asdict(study), "versions": dict(sorted(study.versions.items()))}
    return _laid_out(document, "") + "\n"


def _laid_out(value: object, indent: str) -> str:
    """JSON with a line for each entry, but rows of plain values on one: a table reads as one."""
    deeper = indent + " "
    if isinstance(value, dict) and value:
        entries = [f"{_plain(str(key))}: {_laid_out(each, deeper)}" for key, each in value.items()]
        return "{\n" + ",\n".join(deeper + entry for entry in entries) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(each, dict | list | tuple) for each in value):
        return "[\n" + ",\n".join(deeper + _laid_out(each, deeper) for each in value) + f"\n{indent}]"
    return _plain(value)


def _plain(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def write_study(folder: Path, study: Study) -> Path:
    """Write FOLDER/study.json, whole or not at all; StorageError where that fails."""
    path = folder / FILE_NAME
    try:
        write_text_atomically(path, study_text(study))
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; free space, or choose another --out"
        ) from error
    return path


def read_study(path: Path) -> Study:
    """Read a study.json strictly.

    Raises:
        DataError: not readable, not complete, of another schema, or with a value of another type than the
            field's; the line names file, place and remedy.
    """

    def refuse(problem: str) -> DataError:
        return DataError(f"{path}: {problem}; run `reweight toy` again with --out {path.parent}")

    try:
        document = read_json_object(path, MAX_BYTES, refuse)
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror})") from error
    if document.get("schema") != SCHEMA:
        raise refuse(f"has schema {document.get('schema')!r:.40}, this version reads {SCHEMA}")
    return _Reader(refuse).study({key: value for key, value in document.items() if key != "schema"})


@dataclass(frozen=True)
class _Reader:
    """Builds a Study from what json.load gave, every type checked."""

    refuse: Callable[[str], DataError]

    def study(self, entry: Mapping[str, Any]) -> Study:
        fields = Fields.of("the study", dict(entry), Study, self.refuse)
        name = fields.text("study")
        if name not in STUDY_NAMES:
            raise fields.wrong("study", "one of " + ", ".join(STUDY_NAMES))
        return Study(
            study=name,  # type: ignore[arg-type]
            title=fields.text("title"),
            command=fields.text("command"),
            settings={k: self._setting(k, v) for k, v in self._object(fields, "settings").items()},
            versions=fields.texts("versions"),
            tables=tuple(self._table(f"tables[{i}]", e) for i, e in self._list(fields, "tables")),
            figures=tuple(self._figure(f"figures[{i}]", e) for i, e in self._list(fields, "figures")),
            findings=tuple(self._finding(f"findings[{i}]", e) for i, e in self._list(fields, "findings")),
            numbers={k: self._scalar(f"numbers.{k}", v) for k, v in self._object(fields, "numbers").items()},
        )

    def _table(self, where: str, entry: object) -> Table:
        fields = Fields.of(where, entry, Table, self.refuse)
        columns = self._texts(fields, "columns")
        rows = tuple(
            tuple(
                self._scalar(f"{where}.rows[{i}]", cell) for cell in self._a_list(f"{where}.rows[{i}]", row)
            )
            for i, row in self._list(fields, "rows")
        )
        if any(len(row) != len(columns) for row in rows):
            raise self.refuse(f"{where} has a row of another length than its columns")
        return Table(id=self._id(fields), title=fields.text("title"), columns=columns, rows=rows)

    def _figure(self, where: str, entry: object) -> Figure:
        fields = Fields.of(where, entry, Figure, self.refuse)
        return Figure(
            id=self._id(fields),
            title=fields.text("title"),
            caption=fields.text("caption"),
            panels=tuple(self._panel(f"{where}.panels[{i}]", e) for i, e in self._list(fields, "panels")),
            columns=fields.integer("columns", minimum=1),
        )

    def _panel(self, where: str, entry: object) -> Panel | Map:
        if isinstance(entry, dict) and "values" in entry:
            return self._map(where, entry)
        fields = Fields.of(where, entry, Panel, self.refuse)
        return Panel(
            title=self._words(fields, "title"),
            x_label=self._words(fields, "x_label"),
            y_label=self._words(fields, "y_label"),
            lines=tuple(self._line(f"{where}.lines[{i}]", e) for i, e in self._list(fields, "lines")),
            x_log=fields.flag("x_log"),
            y_log=fields.flag("y_log"),
            marks=tuple(self._mark(f"{where}.marks[{i}]", e) for i, e in self._list(fields, "marks")),
        )

    def _map(self, where: str, entry: object) -> Map:
        fields = Fields.of(where, entry, Map, self.refuse)
        x_names, y_names = self._texts(fields, "x_names"), self._texts(fields, "y_names")
        values = tuple(self._numbers(f"{where}.values[{i}]", row) for i, row in self._list(fields, "values"))
        texts = tuple(self._strings(f"{where}.texts[{i}]", row) for i, row in self._list(fields, "texts"))
        for rows in (values, texts):
            if len(rows) != len(y_names) or any(len(row) != len(x_names) for row in rows):
                raise self.refuse(f"{where} has cells that do not fit its names")
        return Map(
            title=self._words(fields, "title"),
            x_label=self._words(fields, "x_label"),
            y_label=self._words(fields, "y_label"),
            x_names=x_names,
            y_names=y_names,
            values=values,
            texts=texts,
        )

    def _line(self, where: str, entry: object) -> Line:
        fields = Fields.of(where, entry, Line, self.refuse)
        x = self._numbers(f"{where}.x", fields.entry.get("x"))
        y = self._numbers(f"{where}.y", fields.entry.get("y"))
        low, high = (
            self._numbers(f"{where}.{key}", fields.entry.get(key)) if fields.has(key) else None
            for key in ("low", "high")
        )
        if any(number is None for number in x):
            raise self.refuse(f"{where}.x has a place without a number")
        if any(series is not None and len(series) != len(x) for series in (y, low, high)):
            raise self.refuse(f"{where} has series of different lengths")
        return Line(
            label=self._words(fields, "label"),
            strategy=fields.text("strategy"),
            x=tuple(number for number in x if number is not None),
            y=y,
            low=low,
            high=high,
        )

    def _mark(self, where: str, entry: object) -> Mark:
        fields = Fields.of(where, entry, Mark, self.refuse)
        axis = fields.text("axis")
        if axis not in ("x", "y"):
            raise fields.wrong("axis", "x or y")
        return Mark(axis=axis, at=fields.number("at"), label=self._words(fields, "label"))  # type: ignore[arg-type]

    def _finding(self, where: str, entry: object) -> Finding:
        fields = Fields.of(where, entry, Finding, self.refuse)
        outcome = fields.text("outcome")
        if outcome not in OUTCOMES:
            raise fields.wrong("outcome", "one of " + ", ".join(OUTCOMES))
        return Finding(
            claim=fields.text("claim"),
            source=fields.text("source"),
            outcome=outcome,  # type: ignore[arg-type]
            where=self._words(fields, "where"),
            evidence=fields.text("evidence"),
            seeds=fields.integer("seeds", minimum=1),
        )

    def _words(self, fields: Fields, key: str) -> str:
        """A text that may be empty."""
        return "" if fields.entry.get(key) == "" else fields.text(key)

    def _id(self, fields: Fields) -> str:
        name = fields.text("id")
        if not is_safe_name(name):
            raise fields.wrong("id", "1 to 96 of A-Z a-z 0-9 . _ -")
        return name

    def _setting(self, key: str, value: object) -> Scalar | tuple[Scalar, ...]:
        if isinstance(value, list):
            return tuple(self._scalar(f"settings.{key}", each) for each in value)
        return self._scalar(f"settings.{key}", value)

    def _scalar(self, where: str, value: object) -> Scalar:
        if value is None or isinstance(value, str):
            return value
        if not isinstance(value, int | float) or finite(value) is None:
            raise self.refuse(f"{where} holds {value!r:.40}, expected a text, a finite number or null")
        return value

    def _numbers(self, where: str, value: object) -> tuple[float | None, ...]:
        found = self._a_list(where, value)
        if any(each is not None and finite(each) is None for each in found):
            raise self.refuse(f"{where} holds something else than numbers (finite) and null")
        return tuple(found)

    def _strings(self, where: str, value: object) -> tuple[str, ...]:
        found = self._a_list(where, value)
        if not all(isinstance(each, str) for each in found):
            raise self.refuse(f"{where} holds something else than texts")
        return tuple(found)

    def _texts(self, fields: Fields, key: str) -> tuple[str, ...]:
        return self._strings(f"{fields.where}.{key}", fields.entry.get(key))

    def _a_list(self, where: str, value: object) -> Sequence[Any]:
        if not isinstance(value, list):
            raise self.refuse(f"{where} is no list")
        return value

    def _list(self, fields: Fields, key: str) -> list[tuple[int, Any]]:
        return list(enumerate(self._a_list(f"{fields.where}.{key}", fields.entry.get(key))))

    def _object(self, fields: Fields, key: str) -> Mapping[str, Any]:
        value = fields.entry.get(key)
        if not isinstance(value, dict):
            raise fields.wrong(key, "an object")
        return value

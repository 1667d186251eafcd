"""Numbers of the docs, filled in from studies: what stands between two HTML comments is replaced.

A block names a study and what of it:

    <!-- study:regression:table:final --> ... <!-- /study -->      a table, by its id
    <!-- study:regression:table:final; method=uniform|linear r=1 --> ... <!-- /study -->   some of its rows
    <!-- study:regression:cell:final:diverged; method=uniform --> ... <!-- /study -->      one cell of one row
    <!-- study:regression:number:floor --> ... <!-- /study -->     one number, in a sentence
    <!-- study:regression:findings --> ... <!-- /study -->         the verdicts
    <!-- study:regression:settings --> ... <!-- /study -->
    <!-- study:regression:command --> ... <!-- /study -->

Rows are those whose cell of that column reads as one of the values; several conditions all hold, and a column
with one value left by its condition is not shown. Blocks inside a fenced block or a span of code are text.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.files import read_ordinary_file, write_text_atomically
from reproduce.errors import StorageError, UserError
from reproduce.paper.study_markdown import (
    command_markdown,
    findings_markdown,
    settings_markdown,
    table_markdown,
    value_text,
)
from reproduce.paper.study_words import shown
from reproduce.study import Study, Table

TOKEN = re.compile(
    r"^[ ]{0,3}(?P<fence>`{3,}|~{3,})[^\n]*\n(?:.*?^[ ]{0,3}(?P=fence)[`~]*[ ]*$|.*\Z)"
    r"|(?P<tick>(?<!`)`+(?!`))[^\n]*?(?<!`)(?P=tick)(?!`)"
    r"|\\[^\n]"  # an escaped backtick opens no code
    r"|<!--\s*(?P<close>/study)\s*-->"
    r"|<!--\s*study:(?P<name>[^\n]*?)\s*-->",
    flags=re.DOTALL | re.MULTILINE,
)

WHOLE: Mapping[str, Callable[[Study], str]] = {
    "findings": findings_markdown,
    "settings": settings_markdown,
    "command": command_markdown,
}
"""Blocks that need no name besides the study's."""

KINDS = (
    "table:ID",
    "table:ID; COLUMN=VALUE|VALUE; ...",
    "cell:ID:COLUMN; COLUMN=VALUE",
    "number:NAME",
    *WHOLE,
)


@dataclass(frozen=True)
class _Block:
    """Where a block's content stands in the page, and what it asks for."""

    start: int
    end: int
    name: str
    line: int


def fill(text: str, studies: Mapping[str, Study], page: Path | str = "the page") -> str:
    """The text with every block's content made anew; the same text where nothing has changed.

    Args:
        text: Markdown.
        studies: kind of study -> the study that its blocks are filled from.
        page: what error lines call the text.

    Raises:
        UserError: a block that is not closed, or inside another, or that names what is not there.
    """
    pieces, at = [], 0
    for block in _blocks(text, page):
        pieces += [text[at : block.start], _content(block, studies, page)]
        at = block.end
    return "".join([*pieces, text[at:]])


def count_blocks(text: str, page: Path | str = "the page") -> int:
    """How many blocks a text has; UserError where one is not closed, or inside another."""
    return sum(1 for _ in _blocks(text, page))


def fill_file(path: Path, studies: Mapping[str, Study]) -> bool:
    """Fill a page in place, whole or not at all; returns whether that changed it.

    Raises:
        UserError: as `fill`; or no text to be read.
        StorageError: the page cannot be written.
    """
    before = read_page(path)
    after = fill(before, studies, path)
    if after == before:
        return False
    try:
        write_text_atomically(path.resolve(), after)  # a link to the page stays a link
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; free space, or make the folder writable"
        ) from error
    return True


def read_page(path: Path) -> str:
    """A page's text with its line ends as they are; UserError where that fails."""
    try:
        return read_ordinary_file(path).decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name a Markdown page") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; name a Markdown page") from error


def _blocks(text: str, page: Path | str) -> Iterator[_Block]:
    opened: _Block | None = None
    for token in TOKEN.finditer(text):
        closes, opens = token["close"] is not None, token["name"] is not None
        line = text.count("\n", 0, token.start()) + 1
        if opens and opened is not None:
            raise UserError(
                f"{page}:{line}: block study:{token['name']:.60} begins inside study:{opened.name:.60} "
                f"of line {opened.line}; close that one first with <!-- /study -->"
            )
        if opens:
            opened = _Block(token.end(), token.end(), token["name"], line)
        elif closes and opened is None:
            raise UserError(
                f"{page}:{line}: <!-- /study --> closes nothing; delete it, or open a block before"
            )
        elif closes and opened is not None:
            yield _Block(opened.start, token.start(), opened.name, opened.line)
            opened = None
    if opened is not None:
        raise UserError(
            f"{page}:{opened.line}: block study:{opened.name:.60} is not closed; end it with <!-- /study -->"
        )


def _content(block: _Block, studies: Mapping[str, Study], page: Path | str) -> str:
    def unknown(what: str, known: object) -> UserError:
        return UserError(f"{page}:{block.line}: study:{block.name:.120} names no {what}; there is {known}")

    name, _, rest = block.name.partition(":")
    kind, _, item = rest.partition(":")
    if name not in studies:
        raise unknown("study given", _listed(studies))
    study = studies[name]
    if kind == "number" and item:
        if item not in study.numbers:
            raise unknown("number", _listed(study.numbers))
        return value_text(study.numbers[item])
    if kind in ("table", "cell") and item:
        wanted, *conditions = (part.strip() for part in item.split(";"))
        tables = {table.id: table for table in study.tables}
        table_id, _, column = wanted.partition(":") if kind == "cell" else (wanted, "", "")
        if table_id not in tables:
            raise unknown("table", _listed(tables))
        table = tables[table_id]
        for condition in conditions:
            table = _rows(table, condition, unknown)
        return f"\n\n{table_markdown(table)}\n\n" if kind == "table" else _cell(table, column, unknown)
    if rest not in WHOLE:
        raise unknown("kind of block", ", ".join(KINDS))
    return f"\n\n{WHOLE[rest](study)}\n\n"


def _rows(table: Table, condition: str, unknown: Callable[[str, object], UserError]) -> Table:
    """The rows that a condition such as `method=uniform|linear r=1` leaves."""
    column, _, text = condition.partition("=")
    if column not in table.columns:
        raise unknown("column to choose rows by", ", ".join(table.columns))
    at, values = table.columns.index(column), text.split("|")
    there = {shown(row[at]) for row in table.rows}
    if missing := [value for value in values if value not in there]:
        raise unknown(f"row with {column}={missing[0]:.60}", ", ".join(sorted(there)))
    rows = [row for row in table.rows if shown(row[at]) in values]
    if len(values) > 1:
        return replace(table, rows=tuple(rows))
    others = [j for j in range(len(table.columns)) if j != at]
    return replace(
        table,
        columns=tuple(table.columns[j] for j in others),
        rows=tuple(tuple(row[j] for j in others) for row in rows),
    )


def _cell(table: Table, column: str, unknown: Callable[[str, object], UserError]) -> str:
    if column not in table.columns:
        raise unknown("column", ", ".join(table.columns))
    if len(table.rows) != 1:
        raise unknown("single row", f"{len(table.rows)} that fit; choose by {', '.join(table.columns)}")
    return value_text(table.rows[0][table.columns.index(column)])


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(names) or "none"

"""A study's files: study.json, each table as CSV, each figure as SVG, PNG and CSV. Same study, same bytes."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from reproduce.paper.output_files import write_files
from reproduce.paper.study_figures import draw_figure
from reproduce.study import Figure, Line, Map, Panel, Scalar, Study, Table
from reproduce.study_file import study_text, write_study

Row = Mapping[str, Scalar]

COLUMNS = ("panel", "title", "line", "strategy", "x", "y", "low", "high", "value", "text")
"""Of a figure's CSV, in this order; those that the figure has no value for are left out."""


def write_outputs(folder: Path, study: Study) -> list[Path]:
    """Write every file of a study; each whole or not at all, study.json last.

    Args:
        folder: made where there is none.
        study: a finished study.

    Returns:
        The files, in the order they were written.

    Raises:
        UserError: a figure too large to draw.
        ValueError: two tables or figures of one id, or a number that is not finite; nothing is written.
        StorageError: a file cannot be written.
    """
    _check_ids(study)
    study_text(study)  # what cannot be kept is found before anything is replaced
    return [*write_files(folder, _contents(study)), write_study(folder, study)]


def write_figure(folder: Path, figure: Figure, *, dots: bool = False) -> list[Path]:
    """Write a figure as SVG, PNG and CSV; each whole or not at all.

    Args:
        folder: made where there is none.
        figure: its id names the files.
        dots: as draw_figure takes it.

    Raises:
        UserError: a figure too large to draw.
        StorageError: a file cannot be written.
    """
    return write_files(folder, figure_files(figure, dots=dots))


def table_csv(table: Table) -> str:
    """The table's rows under its columns; an empty cell where there is no value."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return out.getvalue()


def figure_csv(figure: Figure) -> str:
    """Every number of the figure: one row a point of a line, a mark, or a cell of a map.

    Panels count from 1. Numbers are written in full: read back they are the same floats.
    """
    rows = [
        {"panel": number, "title": panel.title, **row}
        for number, panel in enumerate(figure.panels, 1)
        for row in (_cells(panel) if isinstance(panel, Map) else _points(panel))
    ]
    used = {name for row in rows for name, value in row.items() if value is not None}
    out = io.StringIO()
    names = [name for name in COLUMNS if name in used]
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _check_ids(study: Study) -> None:
    # Without case: on some file systems a.csv and A.csv are one.
    ids = [*(table.id for table in study.tables), *(figure.id for figure in study.figures)]
    taken = Counter(each.casefold() for each in ids)
    twice = [name for name, count in taken.items() if count > 1]
    if twice:
        raise ValueError(f"study {study.study} has several tables or figures called {', '.join(twice)}")


def _contents(study: Study) -> Iterator[tuple[str, bytes]]:
    for table in study.tables:
        yield f"{table.id}.csv", table_csv(table).encode()
    for figure in study.figures:
        yield from figure_files(figure)


def figure_files(figure: Figure, *, dots: bool = False) -> Iterator[tuple[str, bytes]]:
    """Name and content of a figure's SVG, PNG and CSV; `dots` as draw_figure takes it."""
    drawn = draw_figure(figure, dots=dots)
    yield f"{figure.id}.svg", drawn.svg.encode()
    yield f"{figure.id}.png", drawn.png
    yield f"{figure.id}.csv", figure_csv(figure).encode()


def _points(panel: Panel) -> Iterator[Row]:
    for line in panel.lines:
        yield from _line(line)
    for mark in panel.marks:
        yield {"line": mark.label, mark.axis: mark.at}


def _line(line: Line) -> Iterator[Row]:
    nothing = (None,) * len(line.x)
    for x, y, low, high in zip(line.x, line.y, line.low or nothing, line.high or nothing, strict=True):
        yield {"line": line.label, "strategy": line.strategy, "x": x, "y": y, "low": low, "high": high}


def _cells(grid: Map) -> Iterator[Row]:
    for y, values, texts in zip(grid.y_names, grid.values, grid.texts, strict=True):
        for x, value, text in zip(grid.x_names, values, texts, strict=True):
            yield {"x": x, "y": y, "value": value, "text": text}

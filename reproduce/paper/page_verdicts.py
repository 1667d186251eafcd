"""The page's verdicts as text; and, where two recipes claim one row of the paper, why there are none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.paper.claim_verdicts import ClaimResult, claim_results
from reproduce.paper.compare import Cell, cells
from reproduce.paper.extras import Extra, Unjudged, extras, unjudged
from reproduce.paper.matching import AmbiguousRunsError, Group, Matches, group_runs, match_rows, scale_of
from reproduce.paper.run_groups import group_by_settings
from reproduce.paper.runs import Run
from reproduce.paper.tables import Row, Table, load_tables
from reproduce.paper.text import clean

VERDICT_TEXTS: Mapping[str, tuple[str, str]] = {
    "reproduced": ("✓", "reproduced"),
    "differs": ("✗", "differs"),
    "not_run": ("–", "not run at this scale"),
    "reduced_scale_same_sign": ("●", "same sign (reduced scale)"),
    "reduced_scale_opposite_sign": ("○", "opposite sign (reduced scale)"),
    "reduced_scale_unresolved": ("?", "unresolved (reduced scale)"),
}
"""Verdict -> mark, words."""

CLAIM_TEXTS = {verdict: words for verdict, (_, words) in VERDICT_TEXTS.items()} | {"unresolved": "unresolved"}

REFUSAL_LIMIT = 1000


@dataclass(frozen=True, kw_only=True)
class ShownCell:
    """One cell of a verdict table, as text."""

    verdict: str
    mark: str
    words: str
    ours: str
    spread: str
    paper: str
    note: str


@dataclass(frozen=True, kw_only=True)
class ShownTable:
    """One verdict table, as text."""

    id: str
    source: str
    caption: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[ShownCell, ...]], ...]
    """Name, the runs behind it, cells."""
    notes: tuple[str, ...]
    """Of the cells that have one: row, column, note."""


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What the runs say about the paper's numbers."""

    refusal: str = ""
    """Why nothing is judged here, as `compare` says it; the rest is empty then."""

    tables: tuple[ShownTable, ...] = ()
    untouched: tuple[tuple[str, int], ...] = ()
    """Tables of the paper without a run, and their number of cells."""

    claims: tuple[ClaimResult, ...] = ()
    extra: tuple[Extra, ...] = ()
    unjudged: tuple[Unjudged, ...] = ()
    """Those without a number in `extra`."""
    reduced: bool = False


def judge_runs(runs: Sequence[Run]) -> tuple[list[Group], Verdicts]:
    """The runs by recipe, and their verdicts; or, where it is open which run stands for what, the reason.

    One copied folder would else cost the whole page, and nothing but the verdicts depends on that choice.

    Raises:
        UserError: runs for rows of one model that differ in evaluation set, data or steps.
    """
    try:
        groups = group_runs(runs)
    except AmbiguousRunsError as error:
        # Seeds of a recipe that is there twice, or in two versions: apart, each is what it is.
        apart, left_out = group_by_settings(runs)
        told = [str(error), *(f"not on this page: {line}" for line in left_out)]
        return apart, Verdicts(refusal=clean(". ".join(told), REFUSAL_LIMIT))
    tables = load_tables()
    try:
        found = match_rows(groups, tables)
    except AmbiguousRunsError as error:
        return groups, Verdicts(refusal=clean(error, REFUSAL_LIMIT))
    return groups, _verdicts(groups, tables, found)


def _verdicts(groups: Sequence[Group], tables: Mapping[str, Table], found: Matches) -> Verdicts:
    judged = cells(tables, found)
    touched = {cell.table for cell in judged if cell.scale is not None}
    extra = extras(groups, tables, found)
    listed = {entry.recipe for entry in extra}
    return Verdicts(
        tables=tuple(_shown_table(table, judged, found) for table in tables.values() if table.id in touched),
        untouched=tuple(
            (table.id, sum(cell.table == table.id for cell in judged))
            for table in tables.values()
            if table.id not in touched
        ),
        claims=tuple(c for c in claim_results(tables, found) if c.verdict != "not_run"),
        extra=tuple(extra),
        unjudged=tuple(u for u in unjudged(groups, found) if u.recipe not in listed),
        reduced=any(cell.scale == "reduced" for cell in judged),
    )


def _shown_table(table: Table, judged: Sequence[Cell], found: Matches) -> ShownTable:
    own = [cell for cell in judged if cell.table == table.id]
    run = {cell.row.partition("/")[0] for cell in own if cell.scale is not None}
    rows = tuple(
        (
            row.name,
            _behind(table, row, found),
            tuple(_shown_cell(cell) for cell in own if cell.row == row.name),
        )
        for row in table.rows
        if row.model in run
    )
    shown = {name for name, _, _ in rows}
    return ShownTable(
        id=table.id,
        source=table.source,
        caption=table.caption,
        unit=table.unit,
        columns=tuple(column.name for column in table.columns),
        rows=rows,
        notes=tuple(
            f"{cell.row}, {cell.column}: {cell.note}" for cell in own if cell.note and cell.row in shown
        ),
    )


def _behind(table: Table, row: Row, found: Matches) -> str:
    """Which recipe and seeds a row's numbers are from; empty where it was not run."""
    scale = scale_of(table.id, row.name, found)
    if scale is None:
        return ""
    group = found[table.id, row.name, scale].group
    seeds = ", ".join(map(str, sorted(group.by_seed)))
    return clean(f"{clean(group.info.recipe, 60)}, seed{'s' * (len(group.by_seed) > 1)} {seeds}", 110)


def _shown_cell(cell: Cell) -> ShownCell:
    mark, words = VERDICT_TEXTS[cell.verdict]
    half = None if cell.ci_low is None or cell.ci_high is None else (cell.ci_high - cell.ci_low) / 2
    by_sign = cell.scale == "reduced" and cell.paper_difference is not None
    ours = "" if cell.ours is None else f"{cell.ours:.3f}"
    if by_sign and cell.ours is not None:
        ours = "no pair" if cell.our_difference is None else f"{cell.our_difference:+.3f}"
    return ShownCell(
        verdict=cell.verdict,
        mark=mark,
        words=words,
        ours=ours,
        spread="" if half is None else f"±{half:.3f}",
        paper=f"{cell.paper_difference:+.2f}" if by_sign else f"{cell.paper:.2f}",
        note=cell.note,
    )

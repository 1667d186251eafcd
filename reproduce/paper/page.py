"""What the report's page shows, as text and figures: built from runs and studies, before any HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.errors import UserError
from reproduce.paper.claim_verdicts import ClaimResult, claim_results
from reproduce.paper.compare import Cell, cells
from reproduce.paper.extras import Extra, Unjudged, extras, unjudged
from reproduce.paper.figure_list import family_figures
from reproduce.paper.figures import Curves, strategy_curves
from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.matching import Matches, group_runs, match_rows, scale_of
from reproduce.paper.page_figures import PageFigure, page_figure
from reproduce.paper.page_runs import ShownRun, commands, shown_run, shown_value
from reproduce.paper.page_self import SelfJudgement, self_judgement
from reproduce.paper.run_groups import Family, differences, families
from reproduce.paper.runs import Run
from reproduce.paper.sensitivity import sensitivity
from reproduce.paper.study_page import ShownStudy, shown_studies
from reproduce.paper.tables import Row, Table, load_tables
from reproduce.paper.task_scores import ShownScore, shown_scores
from reproduce.paper.text import clean

MAX_FIGURE_BYTES = 2 * 1024 * 1024
"""Further sets of runs are listed without figures once the figures drawn take this much."""

MAX_ALL_FIGURES_BYTES = 2560 * 1024
"""What the figures of the runs leave of it is for those of the studies; the rest of the page is text."""

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
class ShownFamily:
    """Groups that were trained and measured alike: their curves share axes."""

    title: str
    figures: tuple[PageFigure, ...]
    missing: tuple[str, ...]
    """Runs without a metrics.jsonl."""

    recipes: tuple[str, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    """Dotted path -> its value in each recipe."""

    left_out: tuple[str, ...]
    """Titles of the figures without room on the page."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that the template shows."""

    tables: tuple[ShownTable, ...]
    untouched: tuple[tuple[str, int], ...]
    """Tables of the paper without a run, and their number of cells."""

    claims: tuple[ClaimResult, ...]
    claim_texts: Mapping[str, str]
    extra: tuple[Extra, ...]
    unjudged: tuple[Unjudged, ...]
    """Those without a number in `extra`."""
    scores: tuple[ShownScore, ...]
    reduced: bool
    by_itself: SelfJudgement
    """The paper judged by its own numbers."""

    studies: tuple[ShownStudy, ...]
    families: tuple[ShownFamily, ...]
    sensitivity: PageFigure | None
    """Figure 5, where recipes differ in nothing but r."""
    strategies: PageFigure | None
    runs: tuple[ShownRun, ...]

    commands: tuple[tuple[str, str], ...]
    """What it makes again, the command."""
    verdict_texts: Mapping[str, tuple[str, str]]


def build_page(runs: Sequence[Run], curves: Curves | None, studies: Sequence[FoundStudy] = ()) -> Page:
    """Everything that the template shows about these runs and studies.

    Raises:
        UserError: runs that cannot be compared with each other.
        DataError: a broken metrics.jsonl.
    """
    tables = load_tables()
    groups = group_runs(runs)
    found = match_rows(groups, tables)
    judged = cells(tables, found)
    touched = {cell.table for cell in judged if cell.scale is not None}
    shown = tuple(_shown_families(families(groups)))
    swept = sensitivity(groups)
    extra = extras(groups, tables, found)
    return Page(
        tables=tuple(_shown_table(table, judged, found) for table in tables.values() if table.id in touched),
        untouched=tuple(
            (table.id, sum(cell.table == table.id for cell in judged))
            for table in tables.values()
            if table.id not in touched
        ),
        claims=tuple(c for c in claim_results(tables, found) if c.verdict != "not_run"),
        claim_texts=CLAIM_TEXTS,
        extra=tuple(extra),
        unjudged=tuple(u for u in unjudged(groups, found) if u.recipe not in {e.recipe for e in extra}),
        scores=shown_scores([run for group in groups for run in group.runs]),
        reduced=any(cell.scale == "reduced" for cell in judged),
        by_itself=self_judgement(),
        studies=shown_studies(studies, MAX_ALL_FIGURES_BYTES - _figure_bytes(shown)),
        families=shown,
        sensitivity=page_figure(swept, "five", dots=True) if swept else None,
        strategies=page_figure(strategy_curves(curves), "one") if curves else None,
        runs=tuple(shown_run(run) for group in groups for run in group.runs),
        commands=commands(groups, studies),
        verdict_texts=VERDICT_TEXTS,
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


def _shown_families(found: Sequence[Family]) -> list[ShownFamily]:
    shown: list[ShownFamily] = []
    for index, family in enumerate(found):
        shown.append(_family(index, family, room=MAX_FIGURE_BYTES - _figure_bytes(shown)))
    return shown


def _figure_bytes(shown: Sequence[ShownFamily]) -> int:
    return sum(figure.size for family in shown for figure in family.figures)


def _family(index: int, family: Family, *, room: int) -> ShownFamily:
    names = tuple(clean(group.info.recipe, 60) for group in family.groups)
    figures: list[PageFigure] = []
    left_out: list[str] = []
    for number, found in enumerate(family_figures(family)):
        drawn = None
        if not left_out:  # once one has found no room, the others are not even drawn
            try:
                drawn = page_figure(found.figure, f"f{index}-{number}", dots=found.measured)
            except UserError:  # more lines than are drawn at all
                drawn = None
        if drawn is None or drawn.size > room:
            left_out.append(clean(found.figure.title, 200))
            continue
        room -= drawn.size
        figures.append(drawn)
    return ShownFamily(
        title=", ".join(names),
        figures=tuple(figures),
        missing=family.missing,
        recipes=names,
        differences=tuple(
            (clean(key, 60), tuple(clean(shown_value(value), 40) for value in values))
            for key, values in differences(family.groups).items()
        ),
        left_out=tuple(left_out),
    )

"""What the report's page shows, as text and figures: built from runs and studies, before any HTML."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_prep.files import read_ordinary_file
from reproduce.paper.compare import Cell, ClaimResult, cells, claim_results
from reproduce.paper.extras import Extra, extras
from reproduce.paper.figures import Curves, Line, strategy_curves
from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.matching import Group, group_runs, match_rows, setting_differences
from reproduce.paper.metrics_log import Metrics, read_metrics
from reproduce.paper.page_figures import PageFigure, embedded, run_figures
from reproduce.paper.runs import Run, Scalar
from reproduce.paper.study_page import ShownStudy, shown_studies
from reproduce.paper.study_words import repeat_command
from reproduce.paper.tables import Table, load_tables
from reproduce.paper.task_scores import ShownScore, shown_scores
from reproduce.paper.text import clean

if TYPE_CHECKING:
    from markupsafe import Markup

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
    rows: tuple[tuple[str, tuple[ShownCell, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Groups that were trained and measured alike: their curves share axes."""

    title: str
    figures: tuple[PageFigure, ...]
    missing: tuple[str, ...]
    """Runs without a metrics.jsonl."""

    recipes: tuple[str, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    """Dotted path -> its value in each recipe."""

    left_out: bool
    """Whether the page had no room for its figures."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that the template shows."""

    tables: tuple[ShownTable, ...]
    untouched: tuple[tuple[str, int], ...]
    """Tables of the paper without a run, and their number of cells."""

    claims: tuple[ClaimResult, ...]
    extra: tuple[Extra, ...]
    scores: tuple[ShownScore, ...]
    reduced: bool
    studies: tuple[ShownStudy, ...]
    families: tuple[Family, ...]
    strategies: "Markup | None"
    runs: tuple[tuple[Run, str, tuple[tuple[str, str], ...]], ...]
    """Run, its state, its provenance."""

    commands: tuple[str, ...]
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
    families = tuple(_shown_families(_families(groups)))
    return Page(
        tables=tuple(_shown_table(table, judged) for table in tables.values() if table.id in touched),
        untouched=tuple(
            (table.id, sum(cell.table == table.id for cell in judged))
            for table in tables.values()
            if table.id not in touched
        ),
        claims=tuple(c for c in claim_results(tables, found) if c.verdict != "not_run"),
        extra=tuple(extras(groups, tables, found)),
        scores=shown_scores([run for group in groups for run in group.runs]),
        reduced=any(cell.scale == "reduced" for cell in judged),
        studies=shown_studies(studies, MAX_ALL_FIGURES_BYTES - _figure_bytes(families)),
        families=families,
        strategies=embedded(strategy_curves(curves.scores, curves.weights, curves.r)) if curves else None,
        runs=tuple((run, _state(run), _provenance(run)) for group in groups for run in group.runs),
        commands=tuple(_commands(groups, studies)),
        verdict_texts=VERDICT_TEXTS,
    )


def _shown_table(table: Table, judged: Sequence[Cell]) -> ShownTable:
    own = [cell for cell in judged if cell.table == table.id]
    run = {cell.row.partition("/")[0] for cell in own if cell.scale is not None}
    rows = tuple(
        (row.name, tuple(_shown_cell(cell) for cell in own if cell.row == row.name))
        for row in table.rows
        if row.model in run
    )
    return ShownTable(
        id=table.id,
        source=table.source,
        caption=table.caption,
        unit=table.unit,
        columns=tuple(column.name for column in table.columns),
        rows=rows,
    )


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


def _families(groups: Sequence[Group]) -> list[list[Group]]:
    by_key: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        run = group.runs[0]
        model = tuple((k, v) for k, v in group.info.settings.items() if k.startswith("model."))
        key = (run.results.eval_set_sha256, run.data_fingerprint, run.results.step, model)
        by_key.setdefault(key, []).append(group)
    return list(by_key.values())


def _shown_families(families: Sequence[Sequence[Group]]) -> list[Family]:
    shown: list[Family] = []
    for index, groups in enumerate(families):
        shown.append(_family(index, groups, room=_figure_bytes(shown) < MAX_FIGURE_BYTES))
    return shown


def _figure_bytes(families: Sequence[Family]) -> int:
    return sum(len(figure.svg) for family in families for figure in family.figures)


def _family(index: int, groups: Sequence[Group], *, room: bool) -> Family:
    logs = {id(run): _metrics(run) for group in groups for run in group.runs}
    lines = []
    for group in groups:
        seeds = [log for run in group.runs if (log := logs[id(run)]) is not None]
        if seeds:
            lines.append(_line(group, seeds, groups))
    names = tuple(clean(group.info.recipe, 60) for group in groups)
    return Family(
        title=", ".join(names),
        figures=tuple(run_figures(index, lines)) if lines and room else (),
        missing=tuple(
            clean(run.path, 200) for group in groups for run in group.runs if logs[id(run)] is None
        ),
        recipes=names,
        differences=tuple(_differences(groups)),
        left_out=bool(lines) and not room,
    )


def _metrics(run: Run) -> Metrics | None:
    path = run.path / "metrics.jsonl"
    return read_metrics(path) if path.is_file() and not path.is_symlink() else None


def _line(group: Group, seeds: Sequence[Metrics], groups: Sequence[Group]) -> Line:
    alone = sum(other.info.strategy == group.info.strategy for other in groups) == 1
    batch = group.info.settings.get("train.global_batch")
    return Line(
        label=clean(group.info.strategy if alone else group.info.recipe, 40),
        strategy=group.info.strategy,
        seeds=seeds,
        global_batch=batch if isinstance(batch, int) and batch > 0 else None,
    )


def _differences(groups: Sequence[Group]) -> list[tuple[str, tuple[str, ...]]]:
    first = groups[0].info
    keys = list(dict.fromkeys(k for g in groups[1:] for k in setting_differences(first, g.info)))
    return [
        (clean(key, 60), tuple(clean(_value(group.info.settings.get(key)), 40) for group in groups))
        for key in keys
    ]


def _value(value: Scalar) -> str:
    return "–" if value is None else str(value)


def _state(run: Run) -> str:
    path = run.path / "status.json"
    try:
        status = json.loads(read_ordinary_file(path)) if not path.is_symlink() else {}
    except (OSError, ValueError, RecursionError):
        return "unknown"
    return clean(status.get("state", "unknown"), 40) if isinstance(status, dict) else "unknown"


def _provenance(run: Run) -> tuple[tuple[str, str], ...]:
    return tuple((clean(key, 60), clean(_value(value), 200)) for key, value in run.provenance.items())


def _commands(groups: Sequence[Group], studies: Sequence[FoundStudy]) -> list[str]:
    runs = [run for group in groups for run in group.runs]
    if not runs and not studies:
        return []
    folders = " ".join(map(_quoted, [*(run.path for run in runs), *(each.path for each in studies)]))
    again = [f"reweight compare --against paper {folders}", f"reweight report {folders}"]
    repeats = [command for each in studies if (command := repeat_command(each.study, each.path)) is not None]
    return [*map(_train_command, runs), *repeats, *again]


def _train_command(run: Run) -> str:
    """Train the run once more: its own recipe.yaml is complete, overrides included."""
    own = run.path / "recipe.yaml"
    recipe = own if own.is_file() else run.info.recipe
    data = run.provenance.get("data")
    store = "" if data is None else f" --data {_quoted(data)}"
    return f"reweight train --recipe {_quoted(recipe)} --seed {run.seed}{store}"


def _quoted(text: object) -> str:
    return shlex.quote(clean(text, 300))

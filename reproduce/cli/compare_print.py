"""How `reweight compare` prints what it found: tables of at most 100 columns, marks explained below."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from reproduce.cli.console import note, print_rich, print_table
from reproduce.cli.study_print import print_found
from reproduce.paper.text import clean

if TYPE_CHECKING:
    from reproduce.cli.compare import Judgement
    from reproduce.paper.compare import Cell
    from reproduce.paper.extras import Extra
    from reproduce.paper.tables import Table
    from reproduce.paper.versus import Difference

MARKS = {
    "reproduced": "✓",
    "differs": "✗",
    "not_run": "–",
    "reduced_scale_same_sign": "●",
    "reduced_scale_opposite_sign": "○",
    "reduced_scale_unresolved": "?",
}
LEGEND = (
    "✓ reproduced · ✗ differs · – not run at this scale · (paper's number) · ± half of the 95% interval\n"
    "● same sign as the paper · ○ opposite sign · ? unresolved"
)
BY_SIGN = (
    "Reduced-scale runs are judged by sign only: the number shown is ours minus uniform, with the paper's\n"
    "difference in brackets, and counts when its 95% interval over seeds excludes zero. Uniform rows show\n"
    "our value. Each interval is 95% by itself: about one cell in twenty misses by chance."
)
SHORT_NAMES = {"stackexchange": "stack-\nexchange"}
WIDTH = 100
WIDEST = 9
"""Tables with more columns are printed on their side, to stay within 100 characters."""


def print_judgement(judgement: "Judgement", *, show_all: bool) -> None:
    """Print tables, claims, our extras, studies; `show_all` includes rows without a run."""
    tables, judged = judgement.tables, judgement.cells
    claims, extra = judgement.claims, judgement.extra
    touched = {cell.table for cell in judged if cell.scale is not None}
    for table in tables.values():
        if show_all or table.id in touched:
            _print_table(table, [cell for cell in judged if cell.table == table.id], all_models=show_all)
    idle = [table for table in tables.values() if not show_all and table.id not in touched]
    for table in idle:
        count = sum(cell.table == table.id for cell in judged)
        click.echo(
            textwrap.shorten(f"{table.id}: {count} cells not_run. {table.caption}", WIDTH, placeholder="…")
        )
    shown = [claim for claim in claims if claim.verdict != "not_run"]
    if shown:
        rows = [(c.text, c.model, f"{c.held}/{c.of}", c.verdict) for c in shown]
        print_table("Claims", ("claim", "model", "held", "verdict"), rows)
        for remark in dict.fromkeys(f"{c.text} ({c.model}): {c.note}" for c in shown if c.note):
            note(f"note: {remark}")
    figures = [each for each in judgement.figures if each.outcome != "not_run"]
    if figures:
        lines = [(each.text, each.source, each.outcome, clean(each.evidence, 200)) for each in figures]
        print_table("Claims about figures", ("claim", "figure", "outcome", "evidence"), lines)
    if extra:
        _print_extra(extra)
    if touched:
        click.echo(LEGEND)
    if any(cell.scale == "reduced" for cell in judged):
        click.echo(BY_SIGN)
    if judgement.studies:
        print_found(judgement.studies)
    for remark in dict.fromkeys(cell.note for cell in judged if cell.note):
        note(f"note: {remark}")


def _print_table(table: "Table", judged: "Sequence[Cell]", *, all_models: bool) -> None:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    by_place = {(cell.row, cell.column): _shown(cell) for cell in judged}
    columns = [column.name for column in table.columns]
    run = {cell.row.partition("/")[0] for cell in judged if cell.scale is not None}
    names = [row.name for row in table.rows if all_models or row.model in run]
    sideways = len(columns) > WIDEST
    heads, sides = (names, columns) if sideways else (columns, names)
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    grid.add_column("", no_wrap=True)
    for head in heads:
        grid.add_column(Text(SHORT_NAMES.get(head, head.replace("/", "\n"))), justify="right")
    for side in sides:
        texts = [by_place[(head, side) if sideways else (side, head)] for head in heads]
        grid.add_row(Text(side.replace("/", "\n")), *map(Text, texts), end_section=not sideways)
    click.echo(textwrap.fill(f"{table.id} ({table.unit}): {table.caption}", WIDTH))
    print_rich(grid)
    _print_errors(table, judged)
    left_out = [model for model in table.models if not all_models and model not in run]
    if left_out:
        click.echo(f"{', '.join(left_out)}: not_run (`--table {table.id}` shows the rows)\n")


def _print_errors(table: "Table", judged: "Sequence[Cell]") -> None:
    """What the test set alone leaves open of our values, and which intervals are of that."""
    errors = [cell.sample_stderr for cell in judged if cell.sample_stderr is not None]
    if errors:
        what = "held-out windows" if table.unit == "nats" else "test items"
        alone = any(cell.ci_of == "ours_over_samples" for cell in judged)
        besides = "; where there is one seed, ± is of that" if alone else ""
        span = (
            f"{min(errors):.2g} to {max(errors):.2g}" if min(errors) < max(errors) else f"{min(errors):.2g}"
        )
        click.echo(f"standard error of one run's value over {what}: {span} {table.unit}{besides}\n")


def _shown(cell: "Cell") -> str:
    mark = MARKS[cell.verdict]
    by_sign = cell.scale == "reduced" and cell.paper_difference is not None
    paper = f"({cell.paper_difference:+.2f})" if by_sign else f"({cell.paper:.2f})"
    if cell.ours is None:
        return f"{mark}\n{paper}"
    width = None if cell.ci_low is None or cell.ci_high is None else (cell.ci_high - cell.ci_low) / 2
    spread = "" if width is None else f"±{width:.3f}\n"
    ours = f"{cell.ours:.3f}"
    if by_sign:
        ours = "no pair" if cell.our_difference is None else f"{cell.our_difference:+.3f}"
    return f"{ours} {mark}\n{spread}{paper}"


def _print_extra(extra: "Sequence[Extra]") -> None:
    rows = [
        (
            clean(entry.recipe, 40),
            clean(entry.column, 24),
            f"{entry.ours:.3f}",
            _with_interval(entry.our_difference, entry.ci_low, entry.ci_high),
            str(entry.n_seeds),
        )
        for entry in extra
    ]
    print_table(
        "Ours only (log-perplexity in nats; the paper has no such cell, nothing is judged)",
        ("recipe", "domain", "ours", "minus uniform [95%]", "seeds"),
        rows,
    )
    for remark in dict.fromkeys(f"{clean(entry.recipe, 40)}: {clean(entry.note, 300)}" for entry in extra):
        note(f"note: {remark}")


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:+.3f}" if low is None or high is None else f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def print_versus(found: "Sequence[Difference]") -> None:
    """Print differences between two groups of runs, with their intervals."""
    rows = [
        (
            clean(entry.recipe, 30),
            clean(f"{entry.suite}/{entry.task}", 30),
            f"{entry.ours:.4f}",
            f"{entry.theirs:.4f}",
            _with_interval(entry.diff, entry.ci_low, entry.ci_high),
            entry.verdict,
        )
        for entry in found
    ]
    print_table(
        f"Against {clean(found[0].reference, 40)}: ours minus theirs",
        ("recipe", "score", "ours", "theirs", "difference [95%]", "verdict"),
        rows,
    )
    if not all(entry.paired for entry in found):
        note("note: fewer than two shared seeds, so the intervals are not paired (or there is none)")
    for remark in dict.fromkeys(entry.note for entry in found if entry.note):
        note(f"note: {remark}")

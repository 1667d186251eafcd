"""`reweight compare`: runs beside the paper's numbers, or beside another run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reproduce.cli.console import emit_json, json_option, note, print_table, stdout_console
from reproduce.errors import ExitCode, UserError

if TYPE_CHECKING:
    from reproduce.paper.compare import Cell, ClaimResult
    from reproduce.paper.extras import Extra
    from reproduce.paper.matching import Group, Matches
    from reproduce.paper.runs import Run, RunInfo
    from reproduce.paper.tables import Table
    from reproduce.paper.versus import Difference

DEFAULT_RUNS = Path("runs")
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
WIDEST = 9
"""Tables with more columns are printed on their side, to stay within 100 characters."""

EPILOG = """\b
Examples:
  reweight compare --against paper
  reweight compare --against paper runs/gpt2_nano_uniform runs/gpt2_nano_linupper --table table1
  reweight compare --against runs/gpt2_nano_uniform runs/gpt2_nano_linupper
  reweight compare --against paper --strict --json

A cell at the paper's scale is `reproduced` when the printed value lies in the 95% interval of our mean over
seeds, widened by half a printed unit (one seed: within a tolerance of ours). At reduced scale only the sign
of the difference from uniform is compared.
"""


@click.command(epilog=EPILOG)
@click.option(
    "--against", default="paper", show_default=True, metavar="paper|RUN", help="What to compare with."
)
@click.option("--table", "table_id", metavar="ID", help="Only this table of the paper, e.g. table1.")
@click.option("--strict", is_flag=True, help="Exit 8 if a cell differs or has the opposite sign.")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@json_option
def command(against: str, table_id: str | None, strict: bool, runs: tuple[Path, ...], as_json: bool) -> int:
    """Hold RUNS (run folders, or folders of runs; default ./runs) against the paper, or against RUN."""
    if against != "paper":
        if table_id is not None:
            raise click.UsageError("--table goes with --against paper")
        return _against_run(Path(against), runs, strict, as_json)
    return _against_paper(runs, table_id, strict, as_json)


def shipped_recipe(name: str) -> "RunInfo | None":
    """What the shipped recipe of that name says about its place in the paper; None if there is none."""
    from reproduce.paper.runs import recipe_info
    from reproduce.recipe.loader import load_recipe, recipe_as_dict, shipped_recipes

    if name not in shipped_recipes():
        return None
    return recipe_info(recipe_as_dict(load_recipe(name)), f"recipe {name}")


def load_runs(paths: Sequence[Path]) -> "list[Run]":
    """The runs at or below the given folders; below ./runs, if there is such a folder, when none is given."""
    from reproduce.paper.runs import find_runs

    roots = list(paths) or [DEFAULT_RUNS] * DEFAULT_RUNS.is_dir()
    found = find_runs(roots, shipped_recipe)
    if not found:
        where = ", ".join(str(root) for root in roots) or f"./{DEFAULT_RUNS}"
        note(f"no runs in {where}: nothing of ours to show; `reweight train` and `reweight eval` make them")
    return found


def _against_paper(paths: Sequence[Path], table_id: str | None, strict: bool, as_json: bool) -> int:
    from reproduce.paper.compare import cells, claim_results
    from reproduce.paper.extras import extras
    from reproduce.paper.matching import group_runs, match_rows
    from reproduce.paper.tables import load_tables
    from reproduce.paper.verdicts import OUTSIDE

    tables = _chosen(load_tables(), table_id)
    groups = group_runs(load_runs(paths))
    found = match_rows(groups, tables)
    judged = cells(tables, found)
    claims = claim_results(tables, found)
    extra = extras(groups, tables, found)
    if as_json:
        emit_json(
            {
                "against": "paper",
                "cells": [asdict(cell) for cell in judged],
                "claims": [asdict(claim) for claim in claims],
                "runs": [_run_entry(run, found) for group in groups for run in group.runs],
                "extra": [_cleaned(asdict(entry)) for entry in extra],
            }
        )
    else:
        _print_paper(tables, judged, claims, extra, show_all=table_id is not None)
    outside = [cell for cell in judged if cell.verdict in OUTSIDE]
    return ExitCode.OUT_OF_TOLERANCE if strict and outside else ExitCode.DONE


def _chosen(tables: "Mapping[str, Table]", table_id: str | None) -> "Mapping[str, Table]":
    if table_id is None:
        return tables
    if table_id not in tables:
        raise UserError(f"no table '{table_id[:60]}'; the paper's tables here: {', '.join(tables)}")
    return {table_id: tables[table_id]}


def _run_entry(run: "Run", found: "Matches") -> dict[str, Any]:
    from reproduce.paper.matching import paths

    rows = sorted({f"{key[0]}:{key[1]}" for key, m in found.items() if run.path in paths(m.group)})
    scales = {key[2] for key, m in found.items() if run.path in paths(m.group)}
    return _cleaned(
        {
            "path": str(run.path),
            "recipe": run.info.recipe,
            "strategy": run.info.strategy,
            "r": run.info.r,
            "seed": run.seed,
            "step": run.results.step,
            "model": run.info.model,
            "declared_scale": run.info.scale,
            "judged_scale": min(scales) if scales else None,
        }
    ) | {"rows": rows}


def _cleaned(entry: Mapping[str, Any]) -> dict[str, Any]:
    from reproduce.paper.text import clean

    return {key: clean(value, 400) if isinstance(value, str) else value for key, value in entry.items()}


def _print_paper(
    tables: "Mapping[str, Table]",
    judged: "Sequence[Cell]",
    claims: "Sequence[ClaimResult]",
    extra: "Sequence[Extra]",
    *,
    show_all: bool,
) -> None:
    touched = {cell.table for cell in judged if cell.scale is not None}
    for table in tables.values():
        if show_all or table.id in touched:
            _print_table(table, [cell for cell in judged if cell.table == table.id], all_models=show_all)
    idle = [table for table in tables.values() if not show_all and table.id not in touched]
    for table in idle:
        count = sum(cell.table == table.id for cell in judged)
        click.echo(f"{table.id}: {count} cells not_run ({table.caption})")
    shown = [claim for claim in claims if claim.verdict != "not_run"]
    if shown:
        rows = [(c.text, c.model, f"{c.held}/{c.of}", c.verdict) for c in shown]
        print_table("Claims", ("claim", "model", "held", "verdict"), rows)
    if extra:
        _print_extra(extra)
    if touched:
        click.echo(LEGEND)
    if any(cell.scale == "reduced" for cell in judged):
        click.echo(BY_SIGN)
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
    click.echo(f"{table.id} ({table.unit}): {table.caption}")
    stdout_console().print(grid)
    left_out = [model for model in table.models if not all_models and model not in run]
    if left_out:
        click.echo(f"{', '.join(left_out)}: not_run (`--table {table.id}` shows the rows)\n")


def _shown(cell: "Cell") -> str:
    mark = MARKS[cell.verdict]
    if cell.ours is None:
        return f"{mark}\n({cell.paper:.2f})"
    width = None if cell.ci_low is None or cell.ci_high is None else (cell.ci_high - cell.ci_low) / 2
    spread = "" if width is None else f"±{width:.3f}\n"
    if cell.scale == "reduced" and cell.paper_difference is not None:
        ours = "no pair" if cell.our_difference is None else f"{cell.our_difference:+.3f}"
        return f"{ours} {mark}\n{spread}({cell.paper_difference:+.2f})"
    return f"{cell.ours:.3f} {mark}\n{spread}({cell.paper:.2f})"


def _print_extra(extra: "Sequence[Extra]") -> None:
    from reproduce.paper.text import clean

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


def _against_run(reference: Path, paths: Sequence[Path], strict: bool, as_json: bool) -> int:
    from reproduce.paper.matching import group_runs
    from reproduce.paper.versus import against

    if strict:
        raise click.UsageError("--strict goes with --against paper: between runs there is no number to miss")
    base = group_runs(load_runs([reference]))
    if len(base) != 1:
        names = ", ".join(group.info.recipe[:60] for group in base) or "no run"
        raise UserError(f"--against {reference} holds {names}; it has to be the seeds of one recipe")
    groups = _others(load_runs(paths), base[0])
    found = against(groups, base[0])
    if as_json:
        emit_json({"against": str(reference), "cells": [_cleaned(asdict(entry)) for entry in found]})
    else:
        _print_versus(found)
    return ExitCode.DONE


def _others(runs: "Sequence[Run]", base: "Group") -> "list[Group]":
    from reproduce.paper.matching import group_runs

    taken = {run.path.resolve() for run in base.runs}
    groups = group_runs([run for run in runs if run.path.resolve() not in taken])
    if not groups:
        raise UserError("nothing to compare: name other runs than those of --against")
    return groups


def _print_versus(found: "Sequence[Difference]") -> None:
    from reproduce.paper.text import clean

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

"""`reweight compare`: runs beside the paper's numbers, or beside another run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reproduce.cli.compare_print import print_judgement, print_versus
from reproduce.cli.console import UserPath, emit_json, json_option, note
from reproduce.cli.paired_print import note_unpaired, print_paired
from reproduce.errors import ExitCode, UserError
from reproduce.paper.text import clean

if TYPE_CHECKING:
    from reproduce.paper.compare import Cell, ClaimResult
    from reproduce.paper.extras import Extra
    from reproduce.paper.found_studies import FoundStudy
    from reproduce.paper.matching import Group, Matches
    from reproduce.paper.runs import Run, RunInfo
    from reproduce.paper.tables import Table

DEFAULT_RUNS = Path("runs")
EPILOG = """\b
Examples:
  reweight compare --against paper
  reweight compare --against paper runs/gpt2_nano_uniform runs/gpt2_nano_linupper --table table1
  reweight compare --against runs/gpt2_nano_uniform runs/gpt2_nano_linupper
  reweight compare --against paper --strict --json

A cell at the paper's scale is `reproduced` when the printed value lies in the 95% interval of our mean over
seeds, widened by half a printed unit (one seed: within a tolerance of ours). At reduced scale only the sign
of the difference from uniform is compared. Toy studies (`reweight toy`) among RUNS are listed with their own
verdicts; --table leaves them out, and --strict does not ask for them.
"""


@click.command(epilog=EPILOG)
@click.option(
    "--against", default="paper", show_default=True, metavar="paper|RUN", help="What to compare with."
)
@click.option("--table", "table_id", metavar="ID", help="Only this table of the paper, e.g. table1.")
@click.option("--strict", is_flag=True, help="Exit 8 if a cell differs or has the opposite sign.")
@click.argument("runs", nargs=-1, type=UserPath())
@json_option
def command(against: str, table_id: str | None, strict: bool, runs: tuple[Path, ...], as_json: bool) -> int:
    """Hold RUNS (run folders, or folders of runs; default ./runs) against the paper, or against RUN."""
    if against != "paper":
        if table_id is not None:
            raise click.UsageError("--table goes with --against paper")
        return _against_run(UserPath().convert(against, None, None), runs, strict, as_json)
    return _against_paper(runs, table_id, strict, as_json)


def shipped_recipe(name: str) -> "RunInfo | None":
    """What the shipped recipe of that name says about its place in the paper; None if there is none."""
    from reproduce.paper.runs import recipe_info
    from reproduce.recipe.loader import load_recipe, recipe_as_dict, shipped_recipes

    if name not in shipped_recipes():
        return None
    return recipe_info(recipe_as_dict(load_recipe(name)), f"recipe {name}")


def load_runs(paths: Sequence[Path]) -> "list[Run]":
    """The runs at or below the given folders, or below ./runs when none is given; says what is left out."""
    roots = _roots(paths)
    found = _runs(roots)
    if not found:
        where = _named(roots)
        note(f"no runs in {where}: nothing of ours to show; `reweight train` and `reweight eval` make them")
    return found


def load_all(paths: Sequence[Path]) -> "tuple[list[Run], list[FoundStudy]]":
    """The runs, as `load_runs` finds them, and the toy studies."""
    from reproduce.paper.found_studies import find_studies

    studies = find_studies(_roots(paths))
    if not studies:
        return load_runs(paths), []
    runs = _runs(_roots(paths))
    if not runs:
        note(f"toy studies but no runs in {_named(_roots(paths))}: the paper's tables stay empty")
    return runs, studies


def _roots(paths: Sequence[Path]) -> list[Path]:
    return list(paths) or [DEFAULT_RUNS] * DEFAULT_RUNS.is_dir()


def _named(roots: Sequence[Path]) -> str:
    return ", ".join(str(root) for root in roots) or f"./{DEFAULT_RUNS}"


def _runs(roots: Sequence[Path]) -> "list[Run]":
    from reproduce.paper.runs import find_runs, unscored_runs

    found = find_runs(roots, shipped_recipe)
    left_out = unscored_runs(roots)
    if left_out:
        listed = ", ".join(clean(path, 200) for path in left_out[:3]) + (", …" if len(left_out) > 3 else "")
        note(
            f"left out, no results.json yet: {listed}; finish with `reweight train`, or `reweight eval` them"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Runs held against tables of the paper."""

    tables: "Mapping[str, Table]"
    groups: "Sequence[Group]"
    matches: "Matches"
    cells: "Sequence[Cell]"
    claims: "Sequence[ClaimResult]"
    extra: "Sequence[Extra]"
    studies: "Sequence[FoundStudy]" = ()
    """Toy studies found beside the runs: shown, but no part of what --strict asks for."""

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "against": "paper",
            "cells": [asdict(cell) for cell in self.cells],
            "claims": [asdict(claim) for claim in self.claims],
            "runs": [_run_entry(run, self.matches) for group in self.groups for run in group.runs],
            "extra": [_cleaned(asdict(entry)) for entry in self.extra],
            "studies": [_study_entry(each) for each in self.studies],
        }


def judge(
    runs: "Sequence[Run]", tables: "Mapping[str, Table]", studies: "Sequence[FoundStudy]" = ()
) -> Judgement:
    """Hold runs against tables of the paper, as `chosen_tables` gives them; studies bring their verdicts."""
    from reproduce.paper.compare import cells, claim_results
    from reproduce.paper.extras import extras
    from reproduce.paper.matching import group_runs, match_rows

    groups = group_runs(runs)
    matches = match_rows(groups, tables)
    return Judgement(
        tables=tables,
        groups=groups,
        matches=matches,
        cells=cells(tables, matches),
        claims=claim_results(tables, matches),
        extra=extras(groups, tables, matches),
        studies=studies,
    )


def _against_paper(paths: Sequence[Path], table_id: str | None, strict: bool, as_json: bool) -> int:
    from reproduce.paper.verdicts import OUTSIDE

    tables = chosen_tables(table_id)  # before the runs: a wrong name is said first, and alone
    # The studies belong to no table of the paper: who asks for one table is not shown them.
    runs, studies = load_all(paths) if table_id is None else (load_runs(paths), [])
    judgement = judge(runs, tables, studies)
    if as_json:
        emit_json(judgement.document())
    else:
        print_judgement(judgement, show_all=table_id is not None)
    outside = [cell for cell in judgement.cells if cell.verdict in OUTSIDE]
    return ExitCode.OUT_OF_TOLERANCE if strict and outside else ExitCode.DONE


def chosen_tables(table_id: str | None = None) -> "Mapping[str, Table]":
    """One table of the paper by its id (UserError where there is none), or all of them."""
    from reproduce.paper.tables import load_tables

    tables = load_tables()
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


def _study_entry(found: "FoundStudy") -> dict[str, Any]:
    study = found.study
    entry = {"study": study.study, "path": str(found.path), "command": study.command}
    return _cleaned(entry) | {"findings": [_cleaned(asdict(finding)) for finding in study.findings]}


def _cleaned(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: clean(value, 1000) if isinstance(value, str) else value for key, value in entry.items()}


def _against_run(reference: Path, paths: Sequence[Path], strict: bool, as_json: bool) -> int:
    from reproduce.paper.matching import group_runs
    from reproduce.paper.paired import paired
    from reproduce.paper.versus import against

    if strict:
        raise click.UsageError("--strict goes with --against paper: between runs there is no number to miss")
    base = group_runs(load_runs([reference]))
    if len(base) != 1:
        names = ", ".join(group.info.recipe[:60] for group in base) or "no run"
        raise UserError(f"--against {reference} holds {names}; it has to be the seeds of one recipe")
    groups = _others(load_runs(paths), base[0])
    found = against(groups, base[0])
    pairs = [paired(group, base[0]) for group in groups]
    if as_json:
        document = {"against": str(reference), "cells": [_cleaned(asdict(entry)) for entry in found]}
        emit_json(document | {"paired": [_cleaned(asdict(row)) for each in pairs for row in each.rows]})
    else:
        print_versus(found)
        print_paired(pairs)
    note_unpaired(pairs)
    return ExitCode.DONE


def _others(runs: "Sequence[Run]", base: "Group") -> "list[Group]":
    from reproduce.paper.matching import group_runs

    taken = {run.path.resolve() for run in base.runs}
    groups = group_runs([run for run in runs if run.path.resolve() not in taken])
    if not groups:
        raise UserError("nothing to compare: name other runs than those of --against")
    return groups

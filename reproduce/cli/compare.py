"""`reweight compare`: runs beside the paper's numbers, or beside another run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reproduce.cli.compare_documents import paper_document, paper_markdown, print_paper_csv
from reproduce.cli.compare_print import print_judgement
from reproduce.cli.compare_runs import compare_runs
from reproduce.cli.compare_self import judge_paper
from reproduce.cli.console import UserPath, emit_json, note
from reproduce.cli.formats import Format, chosen_format, format_options
from reproduce.errors import ExitCode, UserError
from reproduce.paper.text import clean

if TYPE_CHECKING:
    from reproduce.paper.claim_verdicts import ClaimResult
    from reproduce.paper.compare import Cell
    from reproduce.paper.extras import Extra, Unjudged
    from reproduce.paper.figure_claims import FigureResult
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
  reweight compare --against runs/gpt2_medium_uniform runs/gpt2_medium_doge --factor data.domain_weights
  reweight compare --against paper --strict --json
  reweight compare --against paper --self
  reweight compare --against paper --self --table table2 --markdown

A cell at the paper's scale is `reproduced` when our mean is within a tolerance of the printed value (ours:
0.02 nats, 1.96 errors of an accuracy), or, from three seeds on, within what one further run of ours may be.
At reduced scale only the sign of the difference from uniform is compared. Toy studies (`reweight toy`)
among RUNS are listed with their own verdicts; --table leaves them out, and --strict does not ask for them.

Against a run, others may differ in its reweighting only (and in what changes no result), or in what --factor
declares instead; else the differences are listed and nothing is compared.

--self takes no runs: it holds each published difference from uniform against the size of its own test set.
"""


@click.command(epilog=EPILOG)
@click.option(
    "--against", default="paper", show_default=True, metavar="paper|RUN", help="What to compare with."
)
@click.option("--table", "table_id", metavar="ID", help="Only this table of the paper, e.g. table1.")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit 8 if a cell or claim differs or has the opposite sign, or none was judged.",
)
@click.option(
    "--factor",
    "factors",
    multiple=True,
    metavar="PATH",
    help="Against a run: a setting that the runs may differ in, with all below it. [default: reweighting]",
)
@click.option(
    "--any-difference", is_flag=True, help="Against a run: go on whatever else they were trained with; told."
)
@click.option("--self", "by_itself", is_flag=True, help="Judge the paper by its own numbers, without RUNS.")
@click.argument("runs", nargs=-1, type=UserPath())
@format_options
def command(
    against: str,
    table_id: str | None,
    strict: bool,
    factors: tuple[str, ...],
    any_difference: bool,
    by_itself: bool,
    runs: tuple[Path, ...],
    as_json: bool,
    as_csv: bool,
    as_markdown: bool,
) -> int:
    """Hold RUNS (run folders, or folders of runs; default ./runs) against the paper, or against RUN."""
    form = chosen_format(as_json, as_csv, as_markdown)
    if by_itself:
        if against != "paper" or runs or strict or factors or any_difference:
            raise click.UsageError("--self judges the paper alone: no RUNS, and only --table beside it")
        return judge_paper(chosen_tables(table_id), form, one_table=table_id is not None)
    if against != "paper":
        if table_id is not None or strict:
            wrong = "--table" if table_id is not None else "--strict"
            raise click.UsageError(
                f"{wrong} goes with --against paper: between runs there is no number to miss"
            )
        return compare_runs(UserPath().convert(against, None, None), runs, factors, any_difference, form)
    if factors or any_difference:
        raise click.UsageError("--factor and --any-difference go with --against RUN")
    return _against_paper(runs, table_id, strict, form)


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
    unjudged: "Sequence[Unjudged]"
    studies: "Sequence[FoundStudy]" = ()
    """Toy studies found beside the runs: shown, but no part of what --strict asks for."""

    figures: "Sequence[FigureResult]" = ()
    """Claims about figures, which have no cells; --strict does not ask for them either."""

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        return paper_document(self)


def judge(
    runs: "Sequence[Run]", tables: "Mapping[str, Table]", studies: "Sequence[FoundStudy]" = ()
) -> Judgement:
    """Hold runs against tables of the paper, as `chosen_tables` gives them; studies bring their verdicts."""
    from reproduce.paper.claim_verdicts import claim_results
    from reproduce.paper.compare import cells
    from reproduce.paper.extras import extras, unjudged
    from reproduce.paper.figure_claims import figure_results
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
        unjudged=unjudged(groups, matches) if len(tables) > 1 else (),
        studies=studies,
        figures=figure_results(groups, studies) if len(tables) > 1 else (),
    )


def _against_paper(paths: Sequence[Path], table_id: str | None, strict: bool, form: Format) -> int:
    tables = chosen_tables(table_id)  # before the runs: a wrong name is said first, and alone
    # The studies belong to no table of the paper: who asks for one table is not shown them.
    runs, studies = load_all(paths) if table_id is None else (load_runs(paths), [])
    judgement = judge(runs, tables, studies)
    if form == "json":
        emit_json(judgement.document())
    elif form == "csv":
        print_paper_csv(judgement)
    elif form == "markdown":
        click.echo(paper_markdown(judgement, show_all=table_id is not None))
    else:
        print_judgement(judgement, show_all=table_id is not None)
    listed = {entry.recipe for entry in judgement.extra}  # with the reason, and their numbers
    for each in [one for one in judgement.unjudged if one.recipe not in listed]:
        note(f"note: {clean(each.recipe, 60)} is judged by nothing: {clean(each.why, 300)}")
    return _strictly(judgement) if strict else ExitCode.DONE


def _strictly(judgement: Judgement) -> int:
    """The exit code of --strict, which a check that judged nothing does not pass either."""
    from reproduce.paper.verdicts import OUTSIDE

    verdicts = {cell.verdict for cell in judgement.cells} | {claim.verdict for claim in judgement.claims}
    if verdicts <= {"not_run"}:
        note("--strict: no cell was judged, so nothing was shown to agree")
        return ExitCode.OUT_OF_TOLERANCE
    return ExitCode.OUT_OF_TOLERANCE if verdicts & set(OUTSIDE) else ExitCode.DONE


def chosen_tables(table_id: str | None = None) -> "Mapping[str, Table]":
    """One table of the paper by its id (UserError where there is none), or all of them."""
    from reproduce.paper.tables import load_tables

    tables = load_tables()
    if table_id is None:
        return tables
    if table_id not in tables:
        raise UserError(f"no table '{table_id[:60]}'; the paper's tables here: {', '.join(tables)}")
    return {table_id: tables[table_id]}

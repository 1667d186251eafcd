"""`reweight compare --against RUN`: runs, or the seeds of recipes, beside those of one recipe."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reproduce.cli.compare_documents import cleaned, interval
from reproduce.cli.compare_print import print_versus
from reproduce.cli.console import emit_json, note
from reproduce.cli.formats import Format, emit_csv, markdown_table
from reproduce.cli.paired_print import note_unpaired, print_paired
from reproduce.errors import ExitCode, UserError
from reproduce.paper.text import clean

if TYPE_CHECKING:
    from reproduce.paper.differences import Different
    from reproduce.paper.matching import Group
    from reproduce.paper.paired import Paired
    from reproduce.paper.runs import Run
    from reproduce.paper.versus import Difference

COLUMNS = ("recipe", "score", "metric", "ours", "theirs", "difference", "95%", "seeds", "verdict", "note")


def compare_runs(
    reference: Path, paths: Sequence[Path], factors: Sequence[str], any_difference: bool, form: Format
) -> int:
    """Print each group of runs beside the reference, score by score.

    Args:
        reference: run folder, or folder of one recipe's seeds.
        paths: the others; none: ./runs.
        factors: settings that they may differ in; none: the reweighting.
        any_difference: go on whatever differs.
        form: of what is printed.

    Raises:
        UserError: nothing to compare, runs that differ in more than the factors, different questions.
    """
    from reproduce.cli.compare import load_runs
    from reproduce.paper.differences import FACTOR, differences, refuse_undeclared
    from reproduce.paper.matching import group_runs
    from reproduce.paper.paired import paired
    from reproduce.paper.versus import against

    base = group_runs(load_runs([reference]))
    if len(base) != 1:
        names = ", ".join(group.info.recipe[:60] for group in base) or "no run"
        raise UserError(f"--against {reference} holds {names}; it has to be the seeds of one recipe")
    groups = _others(load_runs(paths), base[0])
    declared = tuple(factors) or (FACTOR,)
    unlike = [each for group in groups for each in differences(group, base[0], declared)]
    if not any_difference:
        refuse_undeclared(unlike, base[0])
    compared = _Compared(
        reference=reference,
        factors=declared,
        unlike=unlike,
        found=against(groups, base[0]),
        pairs=[paired(group, base[0]) for group in groups],
    )
    _print(compared, form)
    return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """What is printed."""

    reference: Path
    factors: Sequence[str]
    unlike: "Sequence[Different]"
    found: "Sequence[Difference]"
    """Over seeds."""
    pairs: "Sequence[Paired]"
    """Window by window, and item by item."""


def _print(compared: _Compared, form: Format) -> None:
    from reproduce.paper.differences import told
    from reproduce.paper.versus import Difference

    cells = [cleaned(asdict(entry)) for entry in compared.found]
    if form == "json":
        emit_json(
            {
                "against": clean(compared.reference, 1000),
                "factors": [clean(factor, 200) for factor in compared.factors],
                "differences": [cleaned(asdict(each)) for each in compared.unlike],
                "cells": cells,
                "paired": [cleaned(asdict(row)) for each in compared.pairs for row in each.rows],
            }
        )
    elif form == "csv":
        emit_csv([field.name for field in fields(Difference)], cells)
    elif form == "markdown":
        click.echo(markdown_table(COLUMNS, [_row(entry) for entry in compared.found]))
    else:
        print_versus(compared.found)
        print_paired(compared.pairs)
    note_unpaired(compared.pairs)
    for each in compared.unlike:
        mark = "" if each.declared else ", which is no declared factor"
        note(f"note: {clean(each.recipe, 60)} has {clean(told(each), 240)}{mark}")


def _row(entry: "Difference") -> Sequence[str]:
    return (
        clean(entry.recipe, 60),
        clean(f"{entry.suite}/{entry.task}", 80),
        clean(entry.metric, 40),
        f"{entry.ours:.4f}",
        f"{entry.theirs:.4f}",
        f"{entry.diff:+.4f}",
        interval(entry.ci_low, entry.ci_high),
        str(entry.n_seeds),
        entry.verdict,
        clean(entry.note, 300),
    )


def _others(runs: "Sequence[Run]", base: "Group") -> "list[Group]":
    from reproduce.paper.matching import group_runs

    taken = {run.path.resolve() for run in base.runs}
    groups = group_runs([run for run in runs if run.path.resolve() not in taken])
    if not groups:
        raise UserError("nothing to compare: name other runs than those of --against")
    return groups

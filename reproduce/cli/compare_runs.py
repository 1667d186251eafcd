"""`reweight compare --against RUN`: runs, or the seeds of recipes, beside those of one recipe."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reproduce.cli.compare_documents import cleaned, interval
from reproduce.cli.compare_print import print_versus
from reproduce.cli.console import emit_json, note
from reproduce.cli.formats import Format, emit_csv, markdown_table
from reproduce.cli.paired_print import note_unpaired, print_paired, print_paired_markdown
from reproduce.errors import ExitCode, UserError
from reproduce.paper.text import clean

if TYPE_CHECKING:
    from reproduce.paper.differences import Different
    from reproduce.paper.matching import Group
    from reproduce.paper.paired import Paired, PairedRow
    from reproduce.paper.runs import Run
    from reproduce.paper.versus import Difference

COLUMNS = ("recipe", "score", "metric", "ours", "theirs", "difference", "95%", "seeds", "verdict", "note")
SHARED = ("recipe", "reference", "suite", "task", "metric")
"""What names a score, and its pairs: one column each in CSV."""

PREFIX = "paired_"
"""Of the other columns of pairs, which would else be called as those of the score."""


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
        found=against(groups, base[0], any_text=any_difference),
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

    if form == "json":
        emit_json(
            {
                "against": clean(compared.reference, 1000),
                "factors": [clean(factor, 200) for factor in compared.factors],
                "differences": [cleaned(asdict(each)) for each in compared.unlike],
                "cells": [cleaned(asdict(entry)) for entry in compared.found],
                "paired": [cleaned(asdict(row)) for each in compared.pairs for row in each.rows],
                "unpaired": [
                    cleaned({"recipe": each.recipe, "why": why})
                    for each in compared.pairs
                    for why in each.notes
                ],
            }
        )
    elif form == "csv":
        _print_csv(compared.found, [row for each in compared.pairs for row in each.rows])
    elif form == "markdown":
        click.echo(markdown_table(COLUMNS, [_row(entry) for entry in compared.found]))
        print_paired_markdown(compared.pairs)
    else:
        print_versus(compared.found)
        print_paired(compared.pairs)
    note_unpaired(compared.pairs)
    for each in compared.unlike:
        mark = "" if each.declared else ", which is no declared factor"
        note(f"note: {clean(each.recipe, 60)} has {clean(told(each), 240)}{mark}")


def _print_csv(found: "Sequence[Difference]", pairs: "Sequence[PairedRow]") -> None:
    """A row a score, what its pairs say behind it; pairs that are of no one score get a row of their own."""
    from reproduce.paper.paired import PairedRow
    from reproduce.paper.versus import Difference

    columns = [field.name for field in fields(Difference)]
    columns += [f"{PREFIX}{field.name}" for field in fields(PairedRow) if field.name not in SHARED]
    # A task scored with two numbers of shots has two rows of one name: of which of them pairs are, none says.
    times = [Counter(map(_place, entries)) for entries in (found, pairs)]
    behind = {_place(pair): pair for pair in pairs if all(counts[_place(pair)] == 1 for counts in times)}
    rows = [cleaned(asdict(entry)) | _pair_cells(behind.get(_place(entry))) for entry in found]
    for pair in pairs:
        if _place(pair) not in behind:
            rows.append(cleaned({name: getattr(pair, name) for name in SHARED}) | _pair_cells(pair))
    emit_csv(columns, [dict.fromkeys(columns) | row for row in rows])


def _place(entry: "Difference | PairedRow") -> tuple[str, ...]:
    return (entry.recipe, entry.suite, entry.task, entry.metric)


def _pair_cells(pair: "PairedRow | None") -> dict[str, Any]:
    values = {} if pair is None else cleaned(asdict(pair))
    return {f"{PREFIX}{name}": value for name, value in values.items() if name not in SHARED}


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

"""Our runs beside the paper's numbers: every cell and claim with a verdict, by the rules of verdicts.py."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from reproduce.paper.claims import Claim, Comparison, comparisons, holds_on_paper, load_claims
from reproduce.paper.matching import Group, Match, Matches, scale_of
from reproduce.paper.readings import (
    UNMEASURED,
    Reading,
    different_questions,
    joined,
    read_column,
    scoring_differences,
)
from reproduce.paper.runs import Scale
from reproduce.paper.tables import MEAN, Column, Printed, Row, Table
from reproduce.paper.verdicts import EQUAL, Verdict, paper_verdict, sign_verdict, tolerance_of
from reproduce.statistics import Interval, mean_interval, paired_interval


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the paper and ours."""

    table: str
    row: str
    column: str
    paper: float
    ours: float | None
    """Mean over seeds, in the table's unit."""

    diff: float | None
    """ours - paper; at reduced scale it decides nothing."""

    ci_low: float | None
    ci_high: float | None
    ci_of: Literal["ours", "our_difference"] | None
    """What the interval is of: our mean, or at reduced scale our difference from uniform."""

    verdict: Verdict
    scale: Scale | None
    n_seeds: int
    reference: str | None
    """Row that the differences are from."""

    paper_difference: float | None
    our_difference: float | None
    recipe: str | None
    note: str


def cells(tables: Mapping[str, Table], found: Matches) -> list[Cell]:
    """Every cell of the given tables, judged."""
    return [
        _cell(table, row, column, printed, found)
        for table in tables.values()
        for row in table.rows
        for column, printed in zip(table.columns, row.values, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Our row - our reference in one column."""

    interval: Interval | None
    """Paired by seed, in the table's unit; None where there is no such difference."""

    judged: bool
    """False: a stand-in for the printed metric, whose sign says nothing about the paper's; at the paper's
    scale also scores of another task version, or of cut prompts."""

    note: str


NO_SHIFT = Shift(interval=None, judged=False, note="")


def difference(table: Table, row: str, reference: str, column: Column, scale: Scale, found: Matches) -> Shift:
    """Our row - our reference, over the seeds that both have, if they answered the same questions."""
    ours, theirs = found.get((table.id, row, scale)), found.get((table.id, reference, scale))
    if ours is None or theirs is None:
        return NO_SHIFT
    one, other = (read_column(match.group, column, table.factor) for match in (ours, theirs))
    remarks: list[str] = []
    for seed in sorted(set(one.scores) & set(other.scores)):
        if unlike := different_questions(one.scores[seed], other.scores[seed]):
            return Shift(interval=None, judged=False, note=f"no difference from {reference}: {unlike}")
        remarks += scoring_differences(one.scores[seed], other.scores[seed])
    unjudged = one.stand_in or (scale == "paper" and (one.unlike_printed or other.unlike_printed))
    return Shift(
        interval=paired_interval(one.values, other.values), judged=not unjudged, note=joined(remarks)
    )


def _cell(table: Table, row: Row, column: Column, printed: Printed, found: Matches) -> Cell:
    baseline = table.baseline(row)
    index = table.column_index(column.name)
    empty = Cell(
        table=table.id,
        row=row.name,
        column=column.name,
        paper=printed.value,
        ours=None,
        diff=None,
        ci_low=None,
        ci_high=None,
        ci_of=None,
        verdict="not_run",
        scale=None,
        n_seeds=0,
        reference=baseline.name if baseline else None,
        paper_difference=float(printed.exact - baseline.values[index].exact) if baseline else None,
        our_difference=None,
        recipe=None,
        note="",
    )
    scale = scale_of(table.id, row.name, found)
    if scale is None:
        return empty
    match = found[table.id, row.name, scale]
    reading = read_column(match.group, column, table.factor)
    if not reading.values:
        note = reading.note or UNMEASURED
        return replace(empty, scale=scale, recipe=match.group.info.recipe, note=note)
    ours = mean_interval([reading.values[seed] for seed in sorted(reading.values)])
    shift = difference(table, row.name, baseline.name, column, scale, found) if baseline else NO_SHIFT
    filled = replace(
        empty,
        ours=ours.mean,
        diff=ours.mean - printed.value,
        scale=scale,
        n_seeds=ours.n,
        recipe=match.group.info.recipe,
        our_difference=shift.interval.mean if shift.interval else None,
    )
    if scale == "reduced":
        return _reduced(filled, shift, match, reading, _domain_note(table, column, match.group))
    if reading.stand_in or reading.unlike_printed:
        why = "" if reading.stand_in else "not measured as the printed number is taken to be: not judged"
        return _judged(filled, "not_run", ours, "ours", joined([why, reading.note, shift.note]))
    verdict, note = paper_verdict(ours, printed, tolerance_of(table, column, printed))
    return _judged(filled, verdict, ours, "ours", joined([note, reading.note, shift.note]))


def _reduced(cell: Cell, shift: Shift, match: Match, reading: Reading, domains: str) -> Cell:
    known = [shift.note, match.note, domains, reading.note]
    if cell.paper_difference is None:
        note = "reduced scale: the baseline that the other rows are judged against"
        return replace(cell, note=joined([note, *known]))
    if reading.stand_in:
        return replace(cell, note=joined(known))
    why = ""
    if shift.interval is None:
        why = "" if shift.note else "no uniform run of the same seed to compare with"
    elif shift.interval.low is None:
        why = "one seed: no interval"
    verdict = sign_verdict(shift.interval, cell.paper_difference)
    return _judged(cell, verdict, shift.interval, "our_difference", joined([why, *known]))


def _judged(
    cell: Cell, verdict: Verdict, interval: Interval | None, of: Literal["ours", "our_difference"], note: str
) -> Cell:
    if interval is None or interval.low is None:
        return replace(cell, verdict=verdict, note=note)
    return replace(cell, verdict=verdict, ci_low=interval.low, ci_high=interval.high, ci_of=of, note=note)


def _domain_note(table: Table, column: Column, group: Group) -> str:
    if column.name != MEAN or table.unit != "nats":
        return ""
    paper = set(column.mean_of)
    ours = group.tasks
    return "" if ours == paper else f"mean over other domains than the paper's ({len(ours)} domains)"


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """One claim about one model, on the paper's numbers and on ours."""

    id: str
    text: str
    model: str
    verdict: Verdict
    held: int
    """Comparisons that our runs establish."""

    of: int
    needed: int
    paper_held: int
    """Comparisons that the paper's printed numbers satisfy."""

    note: str


def claim_results(tables: Mapping[str, Table], found: Matches) -> list[ClaimResult]:
    """Every claim whose tables are all given, once a model."""
    return [
        _claim(claim, model, pairs, tables, found)
        for claim in load_claims()
        if set(claim.tables) <= set(tables)
        for model, pairs in comparisons(claim, tables).items()
    ]


def _claim(
    claim: Claim, model: str, pairs: list[Comparison], tables: Mapping[str, Table], found: Matches
) -> ClaimResult:
    needed = claim.at_least or len(pairs)
    scales = {scale_of(pair.table, pair.row, found) for pair in pairs}
    outcomes = [_outcome(pair, tables, found) for pair in pairs]
    held = outcomes.count("holds")
    verdict, note = _claim_verdict(outcomes, needed, "reduced" if "reduced" in scales else "paper")
    return ClaimResult(
        id=claim.id,
        text=claim.text,
        model=model,
        verdict=verdict,
        held=held,
        of=len(pairs),
        needed=needed,
        paper_held=sum(holds_on_paper(pair, tables) for pair in pairs),
        note=note,
    )


Outcome = Literal["holds", "fails", "unresolved", "missing"]


def _claim_verdict(outcomes: list[Outcome], needed: int, scale: Scale) -> tuple[Verdict, str]:
    held, failed, missing = (outcomes.count(o) for o in ("holds", "fails", "missing"))
    if missing == len(outcomes) or (missing and held < needed and len(outcomes) - failed >= needed):
        return (
            "not_run",
            f"{missing} of {len(outcomes)} comparisons lack a run or a score" if held or failed else "",
        )
    if held >= needed:
        return ("reproduced" if scale == "paper" else "reduced_scale_same_sign"), ""
    if len(outcomes) - failed < needed:
        return ("differs" if scale == "paper" else "reduced_scale_opposite_sign"), ""
    note = f"{outcomes.count('unresolved')} of {len(outcomes)} comparisons unresolved"
    return ("differs" if scale == "paper" else "reduced_scale_unresolved"), note


def _outcome(pair: Comparison, tables: Mapping[str, Table], found: Matches) -> Outcome:
    table = tables[pair.table]
    column = table.columns[table.column_index(pair.column)]
    scale = scale_of(pair.table, pair.row, found)
    if scale is None:
        return "missing"
    shift = difference(table, pair.row, pair.reference, column, scale, found)
    interval = shift.interval
    if interval is None or not shift.judged:
        return "missing"
    if scale == "paper" and interval.low is None:
        return "holds" if _holds(pair, interval.mean, table) else "fails"
    wanted = {"below": -1.0, "above": 1.0, "equal_within": 0.0}[pair.relation]
    verdict = sign_verdict(interval, wanted, pair.tolerance or EQUAL)
    if verdict == "reduced_scale_unresolved":
        return "unresolved"
    return "holds" if verdict == "reduced_scale_same_sign" else "fails"


def _holds(pair: Comparison, value: float, table: Table) -> bool:
    """The claim on one seed's difference, with the paper's own rounding for equality."""
    if pair.tolerance is not None:
        return abs(value) <= pair.tolerance + table.rows[0].values[0].unit / 2
    return value < 0 if pair.relation == "below" else value > 0

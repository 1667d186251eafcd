"""Our runs beside the paper's numbers: every cell with a verdict, by the rules of verdicts.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reproduce.paper.matching import Group, Match, Matches, scale_of
from reproduce.paper.readings import (
    UNMEASURED,
    Reading,
    different_questions,
    joined,
    read_column,
    scoring_differences,
)
from reproduce.paper.runs import RunInfo, Scale
from reproduce.paper.setting_differences import METHOD, consequential, listed
from reproduce.paper.tables import MEAN, Column, Printed, Row, Table
from reproduce.paper.verdicts import (
    NORMAL_975,
    Verdict,
    equal_within,
    paper_verdict,
    sign_verdict,
    tolerance_of,
)
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
    ci_of: Literal["ours", "ours_over_samples", "our_difference"] | None
    """What the interval is of: our mean over seeds; one seed's value, over the samples it was measured on; or
    at reduced scale our difference from uniform, over seeds."""

    sample_stderr: float | None
    """Standard error of our value over the test set's items or held-out windows, in the table's unit: of one
    run, the mean over seeds. Another seed's error comes on top."""

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
    if unlike := _unlike(ours.group.info, theirs.group.info):
        return Shift(interval=None, judged=False, note=f"no difference from {reference}: {unlike}")
    remarks = _unrecorded_text(table, (ours.group, theirs.group))
    for seed in sorted(set(one.scores) & set(other.scores)):
        if unlike := different_questions(one.scores[seed], other.scores[seed]):
            return Shift(interval=None, judged=False, note=f"no difference from {reference}: {unlike}")
        remarks += scoring_differences(one.scores[seed], other.scores[seed])
    unjudged = one.stand_in or (scale == "paper" and (one.unlike_printed or other.unlike_printed))
    return Shift(
        interval=paired_interval(one.values, other.values), judged=not unjudged, note=joined(remarks)
    )


def _unlike(ours: RunInfo, theirs: RunInfo) -> str:
    """In what two recipes differ besides the method; empty where that is all."""
    # The weights over domains are those of the two rows, which are equal, however they are written.
    paths = consequential(ours, theirs, (*METHOD, "data.domain_weights"))
    return f"other settings there, {listed(paths, ours, theirs, 'there')}" if paths else ""


def _unrecorded_text(table: Table, groups: Sequence[Group]) -> list[str]:
    runs = [run for group in groups for run in group.runs]
    unknown = [run.path for run in runs if run.results.eval_set_sha256 is None]
    if table.unit != "nats" or not unknown:
        return []
    return [f"which text {unknown[0]} was measured on is not recorded"]


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
        sample_stderr=None,
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
        sample_stderr=reading.stderr,
    )
    if scale == "reduced":
        equal = equal_within(table, column, printed)
        return _reduced(filled, shift, match, reading, equal, _domain_note(table, column, match.group))
    known = [match.note, reading.note, shift.note]
    if reading.stand_in or reading.unlike_printed:
        why = "" if reading.stand_in else "not measured as the printed number is taken to be: not judged"
        return _with_own_interval(replace(filled, note=joined([why, *known])), ours)
    verdict, note = paper_verdict(
        list(reading.values.values()), printed, tolerance_of(table, column, printed)
    )
    return _with_own_interval(replace(filled, verdict=verdict, note=joined([note, *known])), ours)


def _with_own_interval(cell: Cell, ours: Interval) -> Cell:
    """The cell with our mean's interval over seeds; one seed's is over its samples."""
    if ours.low is not None:
        return replace(cell, ci_low=ours.low, ci_high=ours.high, ci_of="ours")
    if cell.sample_stderr is None:
        return cell
    half = NORMAL_975 * cell.sample_stderr
    return replace(cell, ci_low=ours.mean - half, ci_high=ours.mean + half, ci_of="ours_over_samples")


def _reduced(cell: Cell, shift: Shift, match: Match, reading: Reading, equal: float, domains: str) -> Cell:
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
    verdict = sign_verdict(shift.interval, cell.paper_difference, equal)
    judged = replace(cell, verdict=verdict, note=joined([why, *known]))
    if shift.interval is None or shift.interval.low is None:
        return judged
    low, high = shift.interval.low, shift.interval.high
    return replace(judged, ci_low=low, ci_high=high, ci_of="our_difference")


def _domain_note(table: Table, column: Column, group: Group) -> str:
    if column.name != MEAN or table.unit != "nats":
        return ""
    paper = set(column.mean_of)
    ours = group.tasks
    return "" if ours == paper else f"mean over other domains than the paper's ({len(ours)} domains)"

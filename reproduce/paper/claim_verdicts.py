"""The paper's claims about its tables, judged over our runs.

A comparison holds where the whole 95% interval of our difference, paired by seed, lies where the claim has
it; it fails where the whole interval lies elsewhere; else it is unresolved. One seed at the paper's scale
has no interval: the tolerance of verdicts.py stands in. Bounds with digits (`within`) are widened by half a
printed unit, and are asked of runs at the paper's scale only: a size at reduced scale says nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from reproduce.paper.claims import Claim, Comparison, comparisons, holds_on_paper, load_claims
from reproduce.paper.compare import difference
from reproduce.paper.matching import Matches, scale_of
from reproduce.paper.runs import Scale
from reproduce.paper.tables import Table
from reproduce.paper.verdicts import Verdict, tolerance_of
from reproduce.statistics import Interval

ClaimVerdict = Verdict | Literal["unresolved"]
"""As a cell's; and unresolved: at the paper's scale, neither the claim nor its contrary is established."""

ROUNDING = 1e-9
"""Differences of decimal numbers are off by this much at most."""

Outcome = Literal["holds", "fails", "unresolved", "missing"]


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """One claim about one model, on the paper's numbers and on ours."""

    id: str
    text: str
    model: str
    verdict: ClaimVerdict
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
    verdict, note = _verdict(outcomes, needed, "reduced" if "reduced" in scales else "paper")
    return ClaimResult(
        id=claim.id,
        text=claim.text,
        model=model,
        verdict=verdict,
        held=outcomes.count("holds"),
        of=len(pairs),
        needed=needed,
        paper_held=sum(holds_on_paper(pair, tables) for pair in pairs),
        note=note,
    )


def _verdict(outcomes: Sequence[Outcome], needed: int, scale: Scale) -> tuple[ClaimVerdict, str]:
    held, failed, missing = (outcomes.count(o) for o in ("holds", "fails", "missing"))
    if missing == len(outcomes) or (missing and held < needed and len(outcomes) - failed >= needed):
        lacking = f"{missing} of {len(outcomes)} comparisons lack a run or a score" if held or failed else ""
        return "not_run", lacking
    if held >= needed:
        return ("reproduced" if scale == "paper" else "reduced_scale_same_sign"), ""
    if len(outcomes) - failed < needed:
        return ("differs" if scale == "paper" else "reduced_scale_opposite_sign"), ""
    note = f"{outcomes.count('unresolved')} of {len(outcomes)} comparisons unresolved"
    return ("unresolved" if scale == "paper" else "reduced_scale_unresolved"), note


def _outcome(pair: Comparison, tables: Mapping[str, Table], found: Matches) -> Outcome:
    table = tables[pair.table]
    index = table.column_index(pair.column)
    scale = scale_of(pair.table, pair.row, found)
    if scale is None or (scale == "reduced" and pair.relation == "within"):
        return "missing"
    shift = difference(table, pair.row, pair.reference, table.columns[index], scale, found)
    if shift.interval is None or not shift.judged:
        return "missing"
    printed = table.row(pair.row).values[index]
    tolerance = tolerance_of(table, table.columns[index], printed) if scale == "paper" else None
    ends = _ends(shift.interval, tolerance)
    return "unresolved" if ends is None else outcome(pair, *ends, half=printed.unit / 2)


def _ends(interval: Interval, tolerance: float | None) -> tuple[float, float] | None:
    """Between what our difference lies; None where nothing says."""
    if interval.low is not None and interval.high is not None:
        return interval.low, interval.high
    return None if tolerance is None else (interval.mean - tolerance, interval.mean + tolerance)


def outcome(pair: Comparison, low: float, high: float, half: float) -> Outcome:
    """The comparison on a difference that lies between low and high; `half`: half a printed unit."""
    if pair.bounds is not None:
        least, most = (float(pair.bounds[0]) - half - ROUNDING, float(pair.bounds[1]) + half + ROUNDING)
        if least <= low and high <= most:
            return "holds"
        return "fails" if high < least or low > most else "unresolved"
    if pair.relation == "below":
        low, high = -high, -low
    return "holds" if low > ROUNDING else "fails" if high < -ROUNDING else "unresolved"

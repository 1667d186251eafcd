"""Verdicts on Proposition 1, on LinUpper as its stand-in, and on how often w <= 2/M is kept."""

import math
from collections.abc import Sequence

from reproduce.studies.bounds_result import BoundsResult
from reproduce.studies.cap import CapCell, safe_temperature
from reproduce.studies.proposition import AGREEMENT, KKT_TOLERANCE, Agreement, StandIn
from reproduce.study import Finding, Outcome

GOOD_SHARE = 0.9
"""Of the optimum's improvement over uniform weights, what we ask of a stand-in."""


def cap_findings(result: BoundsResult) -> tuple[Finding, ...]:
    """All of them."""
    linupper = [cell for cell in result.cells if cell.strategy == "linupper"]
    return (
        _optimum(result.agreements),
        _same(result.stand_ins),
        _good(result.stand_ins),
        _kept(linupper),
        _paper_settings(result.cells),
    )


def _optimum(agreements: Sequence[Agreement]) -> Finding:
    distance = max(each.distance for each in agreements)
    kkt = max(each.kkt for each in agreements)
    count = sum(each.problems for each in agreements)
    early = sum(each.stopped_early for each in agreements)
    # The conditions of optimality decide; the solver may itself be short of the tolerance.
    outcome: Outcome = (
        "does_not" if not kkt <= KKT_TOLERANCE else "holds" if distance <= AGREEMENT else "unresolved"
    )
    return Finding(
        claim="Proposition 1: the capped softmax is the minimiser",
        source="Proposition 1",
        outcome=outcome,
        where="",
        evidence=f"on {count} random problems the largest difference of a weight to scipy's SLSQP is "
        f"{distance:.1e} ({early} times its line search ended in rounding), the largest residual of the "
        f"conditions of optimality {kkt:.1e}",
        seeds=count,
    )


def _same(stand_ins: Sequence[StandIn]) -> Finding:
    low, high = (f(each.distance for each in stand_ins) for f in (min, max))
    equal = [each for each in stand_ins if each.distance <= AGREEMENT]
    outcome: Outcome = "holds" if len(equal) == len(stand_ins) else "only_where" if equal else "does_not"
    return Finding(
        claim="LinUpper is Proposition 1's optimum",
        source="Section 4.2",
        outcome=outcome,
        where=_cells(equal) if outcome == "only_where" else "",
        evidence=f"mean total variation distance to the optimum at the matching temperature: {low:.2g} to "
        f"{high:.2g}, by shape of the losses, M and r",
        seeds=stand_ins[0].batches,
    )


def _good(stand_ins: Sequence[StandIn]) -> Finding:
    """Among batches in which LinUpper keeps the cap; where it never does, it is no feasible stand-in."""
    good = [each for each in stand_ins if each.improvement is not None and each.improvement >= GOOD_SHARE]
    shares = [each.improvement for each in stand_ins if each.improvement is not None]
    never = sum(each.improvement is None for each in stand_ins)
    whole = [each for each in good if each.within_cap == 1.0]
    outcome: Outcome = "holds" if len(whole) == len(stand_ins) else "only_where" if whole else "does_not"
    spread = f"{min(shares):.2g} to {max(shares):.2g}" if shares else "none"
    return Finding(
        claim="LinUpper is a good stand-in for Proposition 1's optimum",
        source="Section 4.2",
        outcome=outcome,
        where=_cells(whole) if outcome == "only_where" else "",
        evidence=f"share of the optimum's improvement over uniform weights that it attains within 2/M: "
        f"{spread}; at least {GOOD_SHARE:g} of it, with 2/M kept in every batch, as we ask, in "
        f"{len(whole)} of {len(stand_ins)} shapes, sizes and temperatures; in {never} it never keeps 2/M",
        seeds=stand_ins[0].batches,
    )


def _cells(stand_ins: Sequence[StandIn]) -> str:
    return "; ".join(f"{each.shape}, M={each.samples}, r={each.r:g}" for each in stand_ins)


def _kept(cells: Sequence[CapCell]) -> Finding:
    """By temperature, over every shape of losses and batch size."""
    temperatures = list(dict.fromkeys(cell.r for cell in cells))
    kept = [r for r in temperatures if not any(cell.over for cell in cells if cell.r == r)]
    outcome: Outcome = "holds" if kept == temperatures else "only_where" if kept else "does_not"
    parts = []
    for r in temperatures:
        shares = [cell.share for cell in cells if cell.r == r]
        largest = max(cell.largest for cell in cells if cell.r == r)
        parts.append(f"r={r:g}: {_range(shares)}, M w up to {largest:.3g}")
    sure = max(safe_temperature(cell.samples) for cell in cells)
    return Finding(
        claim="LinUpper keeps w <= 2/M in practice",
        source="Section A.5, Figure 6",
        outcome=outcome,
        where="r = " + ", ".join(f"{r:g}" for r in kept) if outcome == "only_where" else "",
        evidence="share of batches that break it, over shapes of losses and sizes: "
        + "; ".join(parts)
        + f". From r = {sure:.4g} on no losses can break it at these sizes (1/log 2 = {1 / math.log(2):.4g} "
        "for any size)",
        seeds=cells[0].batches,
    )


PAPER_SETTINGS = ((32, 0.4), (48, 0.4), (128, 1.0), (128, 2.0))
"""Batch size and r of the paper's GPT-2 mini, the larger GPT-2, Llama 1.4B and 7B."""


def _paper_settings(cells: Sequence[CapCell]) -> Finding:
    """The paper's batch sizes and temperatures, one by one."""
    parts, kept, studied = [], [], []
    for samples, r in PAPER_SETTINGS:
        here = [cell for cell in cells if (cell.strategy, cell.samples, cell.r) == ("linupper", samples, r)]
        if not here:
            continue
        name = f"M={samples}, r={r:g}"
        studied.append(name)
        if not any(cell.over for cell in here):
            kept.append(name)
        worst = here[0].worst
        parts.append(
            f"{name}: "
            + ", ".join(f"{cell.shape} {_percent(cell.share)}" for cell in here)
            + f", M w at most {worst:.3g} for any losses"
        )
    outcome: Outcome = (
        "unresolved" if not studied else "holds" if kept == studied else "only_where" if kept else "does_not"
    )
    return Finding(
        claim="LinUpper keeps w <= 2/M at the paper's batch sizes and temperatures",
        source="Section A.5, Figure 6",
        outcome=outcome,
        where="; ".join(kept) if outcome == "only_where" else "",
        evidence="share of batches that break it: " + "; ".join(parts)
        if parts
        else "none of them was asked for",
        seeds=cells[0].batches,
    )


def _range(shares: Sequence[float]) -> str:
    low, high = _percent(min(shares)), _percent(max(shares))
    return low if low == high else f"{low} to {high}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"

"""Verdicts of `reweight toy dro`: the sentences of B.3 about Figure 8, and what the cap has to do with it.

The paper's learning rates are lost, so its sentences are held against every rate that was run.
"""

from collections.abc import Sequence
from dataclasses import replace

from reproduce.statistics import sign_test
from reproduce.studies.dro_races import Races
from reproduce.studies.settings import Method
from reproduce.studies.stability import Stability
from reproduce.studies.summary import ALPHA
from reproduce.studies.verdicts import fastest, loss, lowest, verdict
from reproduce.study import Finding, Scalar

FIGURE_8 = "Figure 8, B.3"
OURS = "ours, on B.3"


def dro_findings(races: Races, stability: Stability, outlier_share: float) -> tuple[Finding, ...]:
    """The paper's claims for every lambda and r, then ours: the cap, and LinUpper against uniform."""
    dro, linuppers = (
        [k for k, method in enumerate(races.methods) if method.strategy == name]
        for name in ("dro_kl", "linupper")
    )
    others = [0, *linuppers]
    return (
        *(diverges(races, k, others) for k in dro),
        *(needs_smaller(stability, k, others) for k in dro),
        *(found for k in linuppers for found in at_own_best(races, k, dro)),
        *(cap_helps(stability, k) for k in dro),
        *(as_stable(stability, k) for k in linuppers),
        *(ends_below(races, k, outlier_share) for k in linuppers),
    )


def diverges(races: Races, k: int, others: Sequence[int]) -> Finding:
    """At the learning rates where no run of the others diverges: does method k, in most seeds?"""
    shared = [j for j, contest in enumerate(races.at) if not any(contest.diverged(other) for other in others)]
    counts = {j: races.at[j].diverged(k) for j in shared}
    signs = {j: _majority(count, races.seeds - count, len(shared)) for j, count in counts.items()}
    holds, fails = ([races.lrs[j] for j in shared if signs[j] == sign] for sign in (1, -1))
    outcome = verdict(len(holds), len(fails), len(shared)) if shared else "unresolved"
    said = ", ".join(f"{count} at {races.lrs[j]:g}" for j, count in counts.items())
    above = sum(races.above_start(j, k) for j in shared)
    evidence = f"where none of theirs diverges, of {races.seeds} seeds diverge {said}"
    if above:
        evidence += f"; {above} without diverging end above the start"
    return Finding(
        claim=f"{_dro(races.methods[k])} diverges at the learning rates that uniform and LinUpper use",
        source=FIGURE_8,
        outcome=outcome,
        where=_at_rates(holds) if outcome == "only_where" else "",
        evidence=evidence if shared else "uniform or LinUpper diverges at every learning rate that was run",
        seeds=races.seeds,
    )


def _dro(method: Method) -> str:
    return f"DRO-KL on raw losses (λ = {method.r:g})"


def _majority(ayes: int, noes: int, comparisons: int) -> int:
    """1: most seeds do, -1: most do not, 0: unresolved, at ALPHA shared by so many comparisons."""
    if sign_test(ayes, noes) > ALPHA / comparisons:
        return 0
    return 1 if ayes > noes else -1


def needs_smaller(stability: Stability, k: int, others: Sequence[int]) -> Finding:
    """Whether method k's largest stable learning rate is below each of the others', seed by seed."""
    signs = {other: stability.against(k, other).outcome(len(others)) for other in others}
    below, above = ([other for other in others if signs[other] == sign] for sign in (-1, 1))
    outcome = verdict(len(below), len(above), len(others))
    return Finding(
        claim=f"{_dro(stability.methods[k])} needs a smaller learning rate than uniform and LinUpper",
        source=FIGURE_8,
        outcome=outcome,
        where="against " + ", ".join(stability.methods[each].name for each in below)
        if outcome == "only_where"
        else "",
        evidence=_rates_found(stability, k, others),
        seeds=stability.seeds,
    )


def cap_helps(stability: Stability, k: int) -> Finding:
    """Whether the cap alone lets DRO-KL's weights bear a larger learning rate."""
    r = stability.methods[k].r
    claim = f"DRO-KL's weights on raw losses (λ = {r:g}) bear a larger learning rate under the cap 2/M"
    return bears_larger(stability, stability.place("capped_softmax", r), k, claim, OURS)


def as_stable(stability: Stability, k: int) -> Finding:
    """Whether LinUpper bears a larger learning rate than uniform."""
    claim = f"LinUpper (r = {stability.methods[k].r:g}) bears at least uniform's learning rate"
    return bears_larger(stability, k, 0, claim, "ours")


def bears_larger(stability: Stability, ours: int, theirs: int, claim: str, source: str) -> Finding:
    """Whether method `ours` stays stable at larger learning rates than method `theirs`, seed by seed."""
    sign = stability.against(ours, theirs).outcome()
    return Finding(
        claim=claim,
        source=source,
        outcome="holds" if sign > 0 else "does_not" if sign < 0 else "unresolved",
        where="",
        evidence=_rates_found(stability, ours, [theirs]),
        seeds=stability.seeds,
    )


def _rates_found(stability: Stability, k: int, others: Sequence[int]) -> str:
    parts = []
    for other in others:
        found = stability.against(k, other)
        times = "" if found.ratio is None else f"{found.ratio.mean:.3g} times it, "
        parts.append(
            f"{_rate_range(stability, other)} of {stability.methods[other].name}: {times}lower in "
            f"{found.wins} and higher in {found.losses} of {stability.seeds} seeds"
        )
    return f"largest stable learning rate {_rate_range(stability, k)}, against " + "; ".join(parts)


def _rate_range(stability: Stability, k: int) -> str:
    """Median and range over seeds."""
    middle, low, high = (_rate(stability.said(stability.ranked(k, share))) for share in (0.5, 0.0, 1.0))
    return f"{middle} ({low} to {high})"


def _rate(cell: Scalar) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def at_own_best(races: Races, k: int, dro: Sequence[int]) -> tuple[Finding, ...]:
    """Method k against DRO-KL at every lambda: where each ends at its best rate, and who is quicker."""
    r = races.methods[k].r
    rates = "; learning rates " + ", ".join(
        f"{races.at_best.methods[each].lr:g} {races.methods[each].name}" for each in (k, *dro)
    )
    best = "each method at the learning rate that ends lowest"
    quickest = "each at its quickest learning rate to each threshold"
    claim = f"LinUpper (r = {r:g}) converges faster than DRO-KL on raw losses at every λ"
    faster = fastest(f"{claim}, {best}", FIGURE_8, races.at_best, k, dro)
    return (
        replace(faster, evidence=faster.evidence + rates),
        fastest(f"{claim}, {quickest}", OURS, races.at_quickest, k, dro),
        lowest(f"LinUpper (r = {r:g}) ends below DRO-KL on raw losses, {best}", OURS, races.at_best, k, dro),
    )


def ends_below(races: Races, k: int, share: float) -> Finding:
    """Whether method k ends below uniform, at which learning rates. Where both diverge nobody is lower."""
    duels = [contest.final(k, 0) for contest in races.at]
    signs = [duel.outcome(len(duels)) for duel in duels]
    holds, fails = ([lr for lr, sign in zip(races.lrs, signs, strict=True) if sign == way] for way in (-1, 1))
    outcome = verdict(len(holds), len(fails), len(duels))
    parts = [
        f"{loss(contest.median_final(k))} against {loss(contest.median_final(0))} at {lr:g}"
        for lr, contest in zip(races.lrs, races.at, strict=True)
    ]
    return Finding(
        claim=f"With {100 * share:g}% outliers LinUpper (r = {races.methods[k].r:g}) ends below uniform",
        source=OURS,
        outcome=outcome,
        where=_at_rates(holds) if outcome == "only_where" else "",
        evidence="median final loss by learning rate: " + ", ".join(parts),
        seeds=races.seeds,
    )


def _at_rates(lrs: Sequence[float]) -> str:
    return "at learning rate " + ", ".join(f"{lr:g}" for lr in lrs)

"""Verdicts of `reweight toy dro`: the sentences of B.3 about Figure 8, and what the cap has to do with it.

The paper's learning rates are lost, so its sentences are held against every rate that was run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

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
    """The paper's claims over all lambdas, for every r against them; ours: the cap, LinUpper and uniform."""
    dro, linuppers = (
        [k for k, method in enumerate(races.methods) if method.strategy == name]
        for name in ("dro_kl", "linupper")
    )
    others = [0, *linuppers]
    return (
        diverges(races, dro, others),
        needs_smaller(stability, dro, others),
        *(found for k in linuppers for found in at_own_best(races, k, dro)),
        cap_helps(stability, dro),
        *(as_stable(stability, k) for k in linuppers),
        *(ends_below(races, k, outlier_share) for k in linuppers),
    )


Signs = Mapping[tuple[float, str], int]
"""(lambda, what it is compared at or against) -> 1 for the claim, -1 against it, 0 unresolved."""


def diverges(races: Races, dro: Sequence[int], others: Sequence[int]) -> Finding:
    """At the learning rates where no run of the others diverges: does DRO-KL, in most seeds of a lambda?"""
    shared = [j for j, contest in enumerate(races.at) if not any(contest.diverged(other) for other in others)]
    counts = {(k, j): races.at[j].diverged(k) for k in dro for j in shared}
    signs = {
        (races.methods[k].r, f"{races.lrs[j]:g}"): _majority(count, races.seeds - count, len(counts))
        for (k, j), count in counts.items()
    }
    by_count: dict[str, list[str]] = {}
    for j in shared:
        said = _range([counts[k, j] for k in dro])
        by_count.setdefault(said, []).append(f"{races.lrs[j]:g}")
    of = "" if len(dro) == 1 else " of each λ"
    said = "; ".join(f"{count} at {', '.join(rates)}" for count, rates in by_count.items())
    above = sum(races.above_start(j, k) for j, k in product(shared, dro))
    evidence = f"where none of theirs diverges, of {races.seeds} seeds{of} diverge {said}"
    if above:
        evidence += f"; {above} of {races.seeds * len(counts)} runs end above the start without diverging"
    return _over_lambdas(
        f"{_dro(races.methods, dro)} diverges at the learning rates that uniform and LinUpper use",
        FIGURE_8,
        signs,
        "at learning rate",
        evidence if shared else "uniform or LinUpper diverges at every learning rate that was run",
        races.seeds,
    )


def needs_smaller(stability: Stability, dro: Sequence[int], others: Sequence[int]) -> Finding:
    """Whether DRO-KL's largest stable learning rate is below each of the others', by lambda, seed by seed."""
    methods, comparisons = stability.methods, len(dro) * len(others)
    signs = {
        (methods[k].r, methods[other].name): -stability.against(k, other).outcome(comparisons)
        for k in dro
        for other in others
    }
    rivals = [
        f"{_rate_range(stability, other)} of {methods[other].name}: "
        + _duels(stability, [(k, other) for k in dro])
        for other in others
    ]
    return _over_lambdas(
        f"{_dro(methods, dro)} needs a smaller learning rate than uniform and LinUpper",
        FIGURE_8,
        signs,
        "against",
        f"largest stable learning rate {_rate_ranges(stability, dro)}, against " + "; ".join(rivals),
        stability.seeds,
    )


def cap_helps(stability: Stability, dro: Sequence[int]) -> Finding:
    """Whether the cap alone lets DRO-KL's weights bear a larger learning rate, by lambda."""
    pairs = [(stability.place("capped_softmax", stability.methods[k].r), k) for k in dro]
    signs = {
        (stability.methods[k].r, ""): stability.against(capped, k).outcome(len(dro)) for capped, k in pairs
    }
    return _over_lambdas(
        f"DRO-KL's weights on raw losses ({_lambdas(stability.methods, dro)}) bear a larger learning rate "
        "under the cap 2/M",
        OURS,
        signs,
        "",
        f"largest stable learning rate {_rate_ranges(stability, [capped for capped, _ in pairs])}, against "
        f"{_rate_ranges(stability, dro)} without the cap: {_duels(stability, pairs)}",
        stability.seeds,
    )


def _over_lambdas(claim: str, source: str, signs: Signs, lead: str, evidence: str, seeds: int) -> Finding:
    """One verdict on all comparisons; where it holds only in some, their labels, after a leading word."""
    lambdas = list(dict.fromkeys(lam for lam, _ in signs))
    parts = []
    for label in dict.fromkeys(label for _, label in signs):
        these = [lam for lam in lambdas if signs[lam, label] == 1]
        if not these:
            continue
        at = "λ = " + ", ".join(f"{lam:g}" for lam in these)
        parts.append(label if len(these) == len(lambdas) else f"{label} ({at})" if label else at)
    holds, fails = (sum(sign == way for sign in signs.values()) for way in (1, -1))
    outcome = verdict(holds, fails, len(signs)) if signs else "unresolved"
    return Finding(
        claim=claim,
        source=source,
        outcome=outcome,
        where=f"{lead} {', '.join(parts)}".strip() if outcome == "only_where" else "",
        evidence=evidence,
        seeds=seeds,
    )


def _dro(methods: Sequence[Method], dro: Sequence[int]) -> str:
    return f"DRO-KL on raw losses ({_lambdas(methods, dro)})"


def _lambdas(methods: Sequence[Method], dro: Sequence[int]) -> str:
    return "λ = " + ", ".join(f"{methods[k].r:g}" for k in dro)


def _majority(ayes: int, noes: int, comparisons: int) -> int:
    """1: most seeds do, -1: most do not, 0: unresolved, at ALPHA shared by so many comparisons."""
    if sign_test(ayes, noes) > ALPHA / comparisons:
        return 0
    return 1 if ayes > noes else -1


def _duels(stability: Stability, pairs: Sequence[tuple[int, int]]) -> str:
    """Ratios of largest stable rates and who is lower, over several pairs of methods."""
    duels = [stability.against(ours, theirs) for ours, theirs in pairs]
    ratios = [duel.ratio.mean for duel in duels if duel.ratio is not None]
    times = f"{_range(ratios)} times it, " if ratios else ""
    return (
        f"{times}lower in {_range([duel.wins for duel in duels])} and higher in "
        f"{_range([duel.losses for duel in duels])} of {stability.seeds} seeds"
    )


def _rate_ranges(stability: Stability, methods: Sequence[int]) -> str:
    """Medians over several methods, and the range over their seeds."""
    medians, low, high = ([stability.ranked(k, share) for k in methods] for share in (0.5, 0.0, 1.0))
    ends = [_rate(stability.said(each)) for each in (min(medians), max(medians), min(low), max(high))]
    middle = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
    return f"{middle} ({ends[2]} to {ends[3]})"


def _range(values: Sequence[float]) -> str:
    """The values' range; one number where they agree as printed."""
    low, high = (f"{end:.3g}" for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


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
        evidence=f"largest stable learning rate {_rate_range(stability, ours)}, against "
        f"{_rate_range(stability, theirs)} of {stability.methods[theirs].name}: "
        + _duels(stability, [(ours, theirs)]),
        seeds=stability.seeds,
    )


def _rate_range(stability: Stability, k: int) -> str:
    """Median and range over seeds."""
    return _rate_ranges(stability, [k])


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

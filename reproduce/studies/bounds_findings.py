"""Verdicts on Lemma 1 and Theorems 1, 2 and 4, computed from what was measured."""

from collections.abc import Collection, Mapping, Sequence

import torch

from reproduce.studies.bounds_races import Race, ranking
from reproduce.studies.bounds_result import BoundsResult
from reproduce.studies.bounds_run import FULL, FULL_CAPPED, FULL_MEAN
from reproduce.studies.cap_findings import cap_findings
from reproduce.studies.summary import ALPHA, Duel, duel
from reproduce.studies.verdicts import verdict
from reproduce.study import Finding, Outcome

SIGN_AGREEMENT = 0.95
"""Share of steps with the same sign of delta from which on we call the two weightings interchangeable."""


def bounds_findings(result: BoundsResult) -> tuple[Finding, ...]:
    """All verdicts, in the paper's order."""
    full = [race for race in result.races if race.algorithm in (FULL, FULL_CAPPED)]
    sgd = [race for race in result.races if race.algorithm.minibatch and not race.algorithm.heavy_ball]
    heavy = [race for race in result.races if race.algorithm.heavy_ball]
    return (
        _lemma(result),
        _theorem_1(full),
        _theorem_2("Theorem 2 (minibatch SGD): the bound holds", sgd),
        _theorem_2("Theorem 2 (heavy ball, iterate averaging): the bound holds", heavy),
        _cap_needed(result),
        _faster(result),
        _longer_step(result),
        _against_longer_step(result),
        _order(result),
        _theorem_4(result),
        _norms_by_loss(result),
        *cap_findings(result),
    )


def _lemma(result: BoundsResult) -> Finding:
    # A run with the step 1/(4 L_F) may overflow: both sides of the lemma are infinite then.
    races = [race for race in result.races if not race.algorithm.by_mean]
    broken = sum(race.held.lemma_violations for race in races)
    steps = sum(_steps(race) for race in races)
    largest = max(race.lemma_ratio for race in races)
    return Finding(
        claim="Lemma 1: ||grad f_i||^2 <= 2L (f_i - f_i(theta*))",
        source="Lemma 1",
        outcome="does_not" if broken else "holds",
        where="",
        evidence=f"broken at {broken} of {steps:,} steps, on whose every sample it was checked; the left "
        f"side is at most {largest:.6g} of the right",
        seeds=result.settings.seeds,
    )


def _theorem_1(races: Sequence[Race]) -> Finding:
    failed = sum(_failed(race) for race in races)
    paper = [race for race in races if race.algorithm == FULL_CAPPED]
    covered = sum(race.failed_within_cap for race in paper)
    return Finding(
        claim="Theorem 1: the gap of the mean iterate is at most the classic term plus the mean delta",
        source="Theorem 1",
        outcome="does_not" if failed else "holds",
        where="",
        evidence=f"{failed} failures in {sum(_steps(race) for race in races):,} steps and as many bounds; "
        f"with step 1/(4L) and w <= 2/M, as the paper's proof asks, {covered}; the gap is at most "
        f"{_closest(races):.3g} of its bound",
        seeds=races[0].seeds,
    )


def _theorem_2(claim: str, races: Sequence[Race]) -> Finding:
    """Step by step on every path; in the mean over seeds where the batches are random."""
    failed = sum(_failed(race) for race in races)
    random = [race for race in races if race.algorithm.minibatch]
    excess = [race.excess(k) for race in random for k in range(len(race.methods))]
    above = any(each is None or (each.low is not None and each.low > 0) for each in excess)
    below = all(each is not None and each.high is not None and each.high <= 0 for each in excess)
    outcome: Outcome = "does_not" if failed or above else "holds" if below else "unresolved"
    return Finding(
        claim=claim,
        source="Theorem 2",
        outcome=outcome,
        where="",
        evidence=f"{failed} failures in {sum(_steps(race) for race in races):,} steps, checked path by path; "
        f"the mean over seeds lies below the bound in {sum(_is_below(each) for each in excess)} of "
        f"{len(excess)} problems and methods (95% intervals); "
        f"the gap is at most {_closest(races):.3g} of its bound",
        seeds=races[0].seeds,
    )


def _is_below(interval: object) -> bool:
    high = getattr(interval, "high", None)
    return high is not None and high <= 0


def _cap_needed(result: BoundsResult) -> Finding:
    """Weights above 2/M with the step 1/(2L), which the proof by Jensen's inequality allows."""
    races = _by_theory(result)
    over = sum(int(race.steps_over_cap.sum()) for race in races)
    failed = sum(_failed(race) for race in races)
    top = max(float(race.top_weight.max()) for race in races)
    weaker = max(float((race.capped_road_classic / race.held.classic).max()) for race in races)
    return Finding(
        claim="The bounds need w <= 2/M",
        source="Theorem 1, Section 4.2",
        outcome="unresolved" if not over else "holds" if failed else "does_not",
        where="",
        evidence=f"{over:,} of {sum(_steps(race) for race in races):,} steps break it, with M w up to "
        f"{top:.3g}; {failed} steps or bounds fail; the proof that needs it "
        f"would give these runs a classic term up to {weaker:.3g} times as large",
        seeds=races[0].seeds,
    )


def _faster(result: BoundsResult) -> Finding:
    """LinUpper against uniform at the theory's step: the gap that the theorem bounds."""
    races = _by_theory(result)
    places = [k for k, method in enumerate(result.settings.methods) if method.strategy == "linupper"]
    duels = {
        f"{race.name}, {race.methods[k].name}": duel(race.held.gap[:, k], race.held.gap[:, 0])
        for race in races
        for k in places
    }
    won, lost, outcome = _tally(duels)
    return Finding(
        claim="Down-weighting low losses (LinUpper) converges faster, at the step of the theory",
        source="Section 4.2, observation (iii)",
        outcome=outcome,
        where=_where(duels, won) if outcome == "only_where" else "",
        evidence=f"LinUpper ends below uniform in {len(won)} and above it in {len(lost)} of {len(duels)} "
        f"problems, algorithms and temperatures (sign tests), its gap {_ratios(duels)} times uniform's; "
        "without noise and outliers",
        seeds=result.settings.seeds,
    )


def _longer_step(result: BoundsResult) -> Finding:
    """Ours: sum_i w_i f_i is at most M max w times as curved as the mean loss: the cap buys a longer step."""
    races = [race for race in result.races if race.algorithm.by_mean]
    within = sum(race.failed_within_cap for race in races)
    failed = sum(_failed(race) for race in races)
    kept = [_steps(race) - int(race.steps_over_cap.sum()) for race in races]
    lost = {
        f"{race.methods[k].name} ({race.problem})"
        for race in races
        for k in range(len(race.methods))
        if not bool(torch.isfinite(race.held.gap[:, k]).all())
    }
    return Finding(
        claim="With w <= 2/M the step may follow the smoothness of the mean loss: 1/(4 L_F)",
        source="ours",
        outcome="does_not" if within else "holds" if sum(kept) else "unresolved",
        where="",
        evidence=f"{within} failures in {sum(kept):,} steps that keep 2/M; {failed} failures of steps or "
        f"bounds with those beyond it; runs that diverge: {_listed(lost)}; "
        f"the step is {_mean_factor(races)} times the theory's 1/(2L)",
        seeds=result.settings.seeds,
    )


def _against_longer_step(result: BoundsResult) -> Finding:
    """The step 1/(2L) suits the worst weights; uniform may use that the mean loss is smoother."""
    full = {race.problem: race for race in result.races if race.algorithm == FULL}
    longer = [race for race in result.races if race.algorithm.by_mean]
    places = [k for k, method in enumerate(result.settings.methods) if method.strategy == "linupper"]
    apart, alike = (
        {
            f"{race.problem}, {race.methods[k].name}": duel(ours(race).held.gap[:, k], race.held.gap[:, 0])
            for race in longer
            for k in places
        }
        for ours in (lambda race: full[race.problem], lambda race: race)
    )
    won, lost, outcome = _tally(apart)
    return Finding(
        claim="LinUpper with the step 1/(2L), which any weights allow, is faster than uniform with its own",
        source="ours",
        outcome=outcome,
        where=_where(apart, won) if outcome == "only_where" else "",
        evidence=f"full gradient; uniform may take 1/(4 L_F), {_mean_factor(longer)} times as long; "
        f"LinUpper's gap is then {_ratios(apart)} times uniform's: below in {len(won)}, above in {len(lost)} "
        f"of {len(apart)} problems and temperatures. With that step for both, which w <= 2/M would allow, "
        f"it is {_ratios(alike)} times uniform's",
        seeds=result.settings.seeds,
    )


def _mean_factor(races: Sequence[Race]) -> str:
    """How much longer 1/(4 L_F) is than 1/(2L), mean over seeds, by problem."""
    return " and ".join(dict.fromkeys(f"{float(race.step_factor.mean()) / 2:.3g}" for race in races))


def _ratios(duels: Mapping[str, Duel]) -> str:
    means = [each.ratio.mean for each in duels.values() if each.ratio is not None]
    return f"{min(means):.3g} to {max(means):.3g}" if means else "no finite number of"


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) if names else "none"


def _tally(duels: Mapping[str, Duel]) -> tuple[list[str], list[str], Outcome]:
    """Where ours is lower, where higher, and one word for it."""
    won = [key for key, each in duels.items() if each.outcome(len(duels)) < 0]
    lost = [key for key, each in duels.items() if each.outcome(len(duels)) > 0]
    return won, lost, verdict(len(won), len(lost), len(duels))


def _order(result: BoundsResult) -> Finding:
    races = _by_theory(result)
    found = {race.name: ranking(race) for race in races}
    decided = {name: each for name, each in found.items() if each.pairs}
    whole = [name for name, each in decided.items() if each.agree == each.pairs]
    outcome: Outcome = (
        "unresolved"
        if not decided
        else "holds"
        if len(whole) == len(found)
        else "only_where"
        if whole
        else "does_not"
    )
    parts = [f"{name}: {each.agree} of {each.pairs}" for name, each in found.items()]
    return Finding(
        claim="A lower bound means a faster method",
        source="Theorem 1, observation (iii)",
        outcome=outcome,
        where=_where(found, whole) if outcome == "only_where" else "",
        evidence="pairs of methods in the same order by bound and by measured gap, among those that differ "
        f"in both (level {ALPHA:g} shared by all pairs): " + "; ".join(parts) + f". {_same_weighted(races)}",
        seeds=result.settings.seeds,
    )


def _same_weighted(races: Sequence[Race]) -> str:
    """What the proof bounds: one and the same number for every method."""
    means = [race.weighted.mean(dim=0) / race.held.classic.mean() for race in races]
    low, high = float(torch.cat(means).min()), float(torch.cat(means).max())
    return (
        "What the proof bounds, the mean weighted gap, has the same bound for all methods and is "
        f"{low:.2g} to {high:.2g} of it"
    )


def _theorem_4(result: BoundsResult) -> Finding:
    every = list(result.nonconvex.values())
    failed = sum(int(held.violations.sum() + held.step_violations.sum()) for held in every)
    steps = len(every) * result.settings.steps * result.settings.seeds * len(result.settings.methods)
    ratio = max(float((held.gradient.mean(dim=0) / held.bound.mean(dim=0)).max()) for held in every)
    sigma = min(float((held.sigma / held.bound).min()) for held in every)
    start = max(float((held.first / held.bound).max()) for held in every)
    moved = max(float((held.delta.abs() / held.bound).max()) for held in every)
    return Finding(
        claim="Theorem 4 (non-convex): the mean squared gradient is at most its bound",
        source="Theorem 4",
        outcome="does_not" if failed else "holds",
        where="",
        evidence=f"{failed} failures in {steps:,} steps and as many bounds; the mean is at most "
        f"{ratio:.2g} of the bound; sigma^2 alone is at least {sigma:.2g} times the bound, the delta term at "
        f"most {moved:.2g}; even the squared gradient at the start is at most {start:.2g} of it",
        seeds=result.settings.seeds,
    )


def _norms_by_loss(result: BoundsResult) -> Finding:
    """Section C.4 takes losses in place of gradient norms because they are at hand."""
    methods, held = result.settings.methods, result.nonconvex["loss"]
    shares = {methods[k].name: float(held.agreement[k]) for k in range(1, len(methods))}
    close = [name for name, share in shares.items() if share >= SIGN_AGREEMENT]
    outcome: Outcome = "holds" if len(close) == len(shares) else "only_where" if close else "does_not"
    return Finding(
        claim="Weights by loss act as Theorem 4's weights by gradient norm: delta has the same sign",
        source="Section C.4",
        outcome=outcome,
        where=", ".join(close) if outcome == "only_where" else "",
        evidence=f"share of steps with the same sign (we ask for {SIGN_AGREEMENT:g}): "
        + ", ".join(f"{name} {share:.3g}" for name, share in shares.items()),
        seeds=result.settings.seeds,
    )


def _where(every: Collection[str], held: Collection[str]) -> str:
    """Where it holds, by what there is less of: the places, or the exceptions."""
    rest = [each for each in every if each not in held]
    return "; ".join(held) if len(held) <= len(rest) else "everywhere but " + "; ".join(rest)


def _by_theory(result: BoundsResult) -> list[Race]:
    """Those with the step 1/(2L)."""
    return [race for race in result.races if race.algorithm not in (FULL_CAPPED, FULL_MEAN)]


def _failed(race: Race) -> int:
    """Failed steps, and on paths where the theorem speaks of the path, failed bounds."""
    bounds = 0 if race.algorithm.minibatch else int(race.held.path_violations.sum())
    return int(race.held.step_violations.sum()) + bounds


def _steps(race: Race) -> int:
    return race.steps * race.seeds * len(race.methods)


def _closest(races: Sequence[Race]) -> float:
    """Largest ratio of mean gap to mean bound."""
    return max(float((race.held.gap.mean(dim=0) / race.held.bound.mean(dim=0)).max()) for race in races)

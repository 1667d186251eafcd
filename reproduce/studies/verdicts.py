"""Verdicts of the toy regression: the paper's sentences about Figure 7, held against the seeds."""

import math
from collections.abc import Sequence

from reproduce.studies.contest import Contest
from reproduce.study import Finding, Outcome

PAPER_STRATEGIES = ("uniform", "linupper", "quadratic", "extremes")
"""What Figure 7 compares."""

FIGURE_7 = "Figure 7, B.2"


def regression_findings(contest: Contest) -> tuple[Finding, ...]:
    """The paper's claims at every temperature that was run; without the strategies they speak of, none."""
    found: list[Finding] = []
    for r in dict.fromkeys(method.r for method in contest.methods if method.strategy != "uniform"):
        present = {name: contest.place(name, None if name == "uniform" else r) for name in PAPER_STRATEGIES}
        rivals = [k for name, k in present.items() if k is not None and name != "linupper"]
        linupper, quadratic, uniform = (present[name] for name in ("linupper", "quadratic", "uniform"))
        if linupper is not None and rivals:
            found.append(
                fastest(f"LinUpper converges fastest (r = {r:g})", FIGURE_7, contest, linupper, rivals)
            )
            found.append(
                lowest(f"LinUpper ends below the others (r = {r:g})", FIGURE_7, contest, linupper, rivals)
            )
        if quadratic is not None and uniform is not None:
            claim = f"Quadratic converges faster than uniform (r = {r:g})"
            found.append(fastest(claim, FIGURE_7, contest, quadratic, [uniform]))
    return (*found, *_robust(contest))


def fastest(claim: str, source: str, contest: Contest, k: int, rivals: Sequence[int]) -> Finding:
    """Whether method k reaches the thresholds before every rival, and down to which."""
    duels = len(rivals) * len(contest.thresholds)
    holds, fails, parts = [], [], []
    for h, threshold in enumerate(contest.thresholds):
        outcomes = [contest.steps(k, rival, h).outcome(duels) for rival in rivals]
        if all(outcome < 0 for outcome in outcomes):
            holds.append(threshold)
        elif any(outcome > 0 for outcome in outcomes):
            fails.append(threshold)
        best = min(contest.median_steps(rival, h) for rival in rivals)
        parts.append(f"{threshold:g}: {steps(contest.median_steps(k, h))} against {steps(best)}")
    outcome = verdict(len(holds), len(fails), len(contest.thresholds))
    return Finding(
        claim=claim,
        source=source,
        outcome=outcome,
        where=_down_to(holds, contest.thresholds) if outcome == "only_where" else "",
        evidence="median steps to a share of the start, ours against the best rival's: " + "; ".join(parts),
        seeds=contest.seeds,
    )


def lowest(claim: str, source: str, contest: Contest, k: int, rivals: Sequence[int]) -> Finding:
    """Whether method k ends below every rival."""
    duels = {rival: contest.final(k, rival) for rival in rivals}
    outcomes = {rival: each.outcome(len(rivals)) for rival, each in duels.items()}
    below, above = (sum(o == sign for o in outcomes.values()) for sign in (-1, 1))
    parts = [
        f"{loss(contest.median_final(rival))} {contest.methods[rival].name} "
        f"(lower in {duels[rival].wins} of {contest.seeds} seeds)"
        for rival in rivals
    ]
    return Finding(
        claim=claim,
        source=source,
        outcome="holds" if below == len(rivals) else "does_not" if above else "unresolved",
        where="",
        evidence=f"median final loss {loss(contest.median_final(k))} against " + "; ".join(parts),
        seeds=contest.seeds,
    )


def _robust(contest: Contest) -> list[Finding]:
    """Appendix B.1: the strategies should down-weight noisy samples; their late weight on outliers."""
    found = []
    for k, method in enumerate(contest.methods):
        factor = contest.outlier_factor(k)
        if method.strategy not in PAPER_STRATEGIES[1:] or factor is None:
            continue
        share = float(contest.outcome.outlier_share.mean())
        apart = contest.outlier_weights_differ(k)
        found.append(
            Finding(
                claim=f"{method.name} down-weights outliers",
                source="B.1",
                outcome="unresolved" if not apart else "holds" if factor < 1 else "does_not",
                where="",
                evidence=f"late in training they are {100 * share:.3g}% of the batch and get "
                f"{100 * share * factor:.3g}% of the weight, {factor:.3g} times the uniform",
                seeds=contest.seeds,
            )
        )
    return found


def verdict(holds: int, fails: int, of: int) -> Outcome:
    """One word for so many comparisons that hold, and so many that go the other way."""
    if holds == of:
        return "holds"
    if holds:
        return "only_where"
    return "does_not" if fails else "unresolved"


def _down_to(holds: Sequence[float], thresholds: Sequence[float]) -> str:
    # Not where an unresolved threshold lies between those that hold.
    if all(each in holds for each in thresholds if each >= min(holds)):
        return f"down to {min(holds):g} of the loss at the start"
    return "at " + ", ".join(f"{each:g}" for each in holds) + " of the loss at the start"


def steps(value: float) -> str:
    """Steps as text."""
    return f"{value:.0f}" if math.isfinite(value) else "never"


def loss(value: float) -> str:
    """A loss as text."""
    return f"{value:.3g}" if math.isfinite(value) else "diverged"

"""The paper's claims about figures, which have no cells: judged by toy studies or over runs at several r."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import yaml

from reproduce.paper.claims import CLAIMS
from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.matching import Group
from reproduce.paper.temperatures import RULES, judged_rule
from reproduce.study import STUDY_NAMES, Finding, Outcome

FigureOutcome = Outcome | Literal["not_run"]


@dataclass(frozen=True, kw_only=True)
class FigureClaim:
    """One sentence about a figure; claims.yaml explains the fields."""

    id: str
    source: str
    text: str
    study: str | None
    rule: str | None


@dataclass(frozen=True, kw_only=True)
class FigureResult:
    """What our studies or runs say about it."""

    id: str
    source: str
    text: str
    judged_by: str
    """study:regression, or rule:large_r_near_uniform."""

    outcome: FigureOutcome
    evidence: str


@cache
def load_figure_claims() -> tuple[FigureClaim, ...]:
    """Every claim about a figure, in the order of claims.yaml."""
    entries = yaml.safe_load(CLAIMS.read_text(encoding="utf-8"))
    return tuple(_claim(entry) for entry in entries if "tables" not in entry)


def figure_results(groups: Sequence[Group], studies: Sequence[FoundStudy]) -> list[FigureResult]:
    """Every claim about a figure, judged by what was found."""
    return [_result(claim, groups, studies) for claim in load_figure_claims()]


def _result(claim: FigureClaim, groups: Sequence[Group], studies: Sequence[FoundStudy]) -> FigureResult:
    if claim.rule is not None:
        outcome, evidence = judged_rule(claim.rule, groups)
        judged_by = f"rule:{claim.rule}"
    else:
        mine = [each.study for each in studies if each.study.study == claim.study]
        outcome, evidence = _together([f for s in mine for f in s.findings if f.source == claim.source])
        judged_by = f"study:{claim.study}"
    return FigureResult(
        id=claim.id,
        source=claim.source,
        text=claim.text,
        judged_by=judged_by,
        outcome=outcome,
        evidence=evidence,
    )


def _together(findings: Sequence[Finding]) -> tuple[FigureOutcome, str]:
    """One outcome for several findings: `only_where` as soon as some hold and others do not."""
    if not findings:
        return "not_run", ""
    counts = {name: sum(f.outcome == name for f in findings) for name in ("holds", "only_where", "does_not")}
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    evidence = f"of {len(findings)} findings: {said or 'all unresolved'}"
    if counts["holds"] == len(findings):
        return "holds", evidence
    if counts["does_not"] and not counts["holds"] and not counts["only_where"]:
        return "does_not", evidence
    return ("only_where" if counts["holds"] or counts["only_where"] else "unresolved"), evidence


def _claim(entry: Mapping[str, Any]) -> FigureClaim:
    claim = FigureClaim(
        id=entry["id"],
        source=entry["source"],
        text=entry["text"],
        study=entry.get("study"),
        rule=entry.get("rule"),
    )
    assert (claim.study is None) != (claim.rule is None), claim.id
    assert claim.study is None or claim.study in STUDY_NAMES, claim.id
    assert claim.rule is None or claim.rule in RULES, claim.id
    return claim

"""What the report's page shows of a study: verdicts, figures, settings, the command that repeats it."""

from collections.abc import Sequence
from dataclasses import dataclass

from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.page_figures import PageFigure
from reproduce.paper.page_room import Room
from reproduce.paper.study_words import repeat_command, shown, verdict
from reproduce.paper.text import clean
from reproduce.study import Finding, Outcome, Study

MAX_BYTES = 768 * 1024
"""Of one study's figures."""

SENTENCE_LIMIT = 1000


@dataclass(frozen=True, kw_only=True)
class ShownFinding:
    """One row of the verdicts, as text."""

    outcome: Outcome
    verdict: str
    claim: str
    source: str
    where: str
    evidence: str
    seeds: int


@dataclass(frozen=True, kw_only=True)
class ShownStudy:
    """A study, as text and figures."""

    title: str
    path: str
    findings: tuple[ShownFinding, ...]
    figures: tuple[PageFigure, ...]
    left_out: tuple[str, ...]
    """Titles of the figures without room on the page."""

    settings: tuple[tuple[str, str], ...]
    versions: tuple[tuple[str, str], ...]
    command: str | None


def shown_studies(found: Sequence[FoundStudy], room: int) -> tuple[ShownStudy, ...]:
    """Studies for the page, in their order.

    Args:
        found: as `find_studies` gives them.
        room: bytes that all their figures together may take.
    """
    shown_ones = []
    for index, each in enumerate(found):
        figures, left_out = _figures(each.study, f"s{index}", min(room, MAX_BYTES))
        room -= sum(figure.size for figure in figures)
        shown_ones.append(
            ShownStudy(
                title=clean(each.study.title, 200),
                path=clean(each.path, 200),
                findings=tuple(map(_finding, each.study.findings)),
                figures=tuple(figures),
                left_out=tuple(left_out),
                settings=tuple((clean(k, 60), shown(v)) for k, v in each.study.settings.items()),
                versions=tuple((clean(k, 60), clean(v, 60)) for k, v in each.study.versions.items()),
                command=repeat_command(each.study, each.path),
            )
        )
    return tuple(shown_ones)


def _figures(study: Study, prefix: str, room: int) -> tuple[list[PageFigure], list[str]]:
    """The figures that there is room for, and the titles of the others."""
    left = Room(room)
    drawn = [left.draw(figure, f"{prefix}f{index}") for index, figure in enumerate(study.figures)]
    titles = [clean(figure.title, 200) for figure in study.figures]
    left_out = [title for title, figure in zip(titles, drawn, strict=True) if figure is None]
    return [figure for figure in drawn if figure is not None], left_out


def _finding(finding: Finding) -> ShownFinding:
    return ShownFinding(
        outcome=finding.outcome,
        verdict=verdict(finding.outcome),
        claim=clean(finding.claim, SENTENCE_LIMIT),
        source=clean(finding.source, 200),
        where=clean(finding.where, SENTENCE_LIMIT),
        evidence=clean(finding.evidence, SENTENCE_LIMIT),
        seeds=finding.seeds,
    )

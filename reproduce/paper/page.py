"""What the report's page shows, as text and figures: built from runs and studies, before any HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.paper.figure_list import family_figures
from reproduce.paper.figures import Curves, strategy_curves
from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.page_figures import PageFigure, page_figure
from reproduce.paper.page_room import Room
from reproduce.paper.page_runs import ShownRun, commands, shown_run, shown_value
from reproduce.paper.page_self import SelfJudgement, self_judgement
from reproduce.paper.page_verdicts import CLAIM_TEXTS, VERDICT_TEXTS, Verdicts, judge_runs
from reproduce.paper.run_groups import Family, differences, families
from reproduce.paper.runs import Run
from reproduce.paper.sensitivity import sensitivity
from reproduce.paper.study_page import ShownStudy, shown_studies
from reproduce.paper.task_scores import ShownScore, shown_scores
from reproduce.paper.text import clean

MAX_FIGURE_BYTES = 2 * 1024 * 1024
"""Of the runs' figures; those that do not fit are named."""

MAX_ALL_FIGURES_BYTES = 2560 * 1024
"""What the figures of the runs leave of it is for those of the studies; the rest of the page is text."""


@dataclass(frozen=True, kw_only=True)
class ShownFamily:
    """Groups that were trained and measured alike: their curves share axes."""

    title: str
    figures: tuple[PageFigure, ...]
    missing: tuple[str, ...]
    """Runs without a metrics.jsonl."""

    recipes: tuple[str, ...]
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    """Dotted path -> its value in each recipe."""

    left_out: tuple[str, ...]
    """Titles of the figures without room on the page."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that the template shows."""

    verdicts: Verdicts
    claim_texts: Mapping[str, str]
    scores: tuple[ShownScore, ...]
    by_itself: SelfJudgement
    """The paper judged by its own numbers."""

    studies: tuple[ShownStudy, ...]
    families: tuple[ShownFamily, ...]
    sensitivity: PageFigure | None
    """Figure 5, where recipes differ in nothing but r."""
    strategies: PageFigure | None
    runs: tuple[ShownRun, ...]

    commands: tuple[tuple[str, str], ...]
    """What it makes again, the command."""
    verdict_texts: Mapping[str, tuple[str, str]]


def build_page(runs: Sequence[Run], curves: Curves | None, studies: Sequence[FoundStudy] = ()) -> Page:
    """Everything that the template shows about these runs and studies.

    Raises:
        UserError: runs that cannot be compared with each other.
        DataError: a broken metrics.jsonl.
    """
    groups, verdicts = judge_runs(runs)
    room = Room(MAX_FIGURE_BYTES)
    shown = tuple(_family(index, family, room) for index, family in enumerate(families(groups)))
    # Of two runs that claim one place, Figure 5 would take both for seeds.
    swept = None if verdicts.refusal else sensitivity(groups)
    return Page(
        verdicts=verdicts,
        claim_texts=CLAIM_TEXTS,
        scores=shown_scores([run for group in groups for run in group.runs]),
        by_itself=self_judgement(),
        studies=shown_studies(studies, MAX_ALL_FIGURES_BYTES - room.taken),
        families=shown,
        sensitivity=page_figure(swept, "five", dots=True) if swept else None,
        strategies=page_figure(strategy_curves(curves), "one") if curves else None,
        runs=tuple(shown_run(run) for group in groups for run in group.runs),
        commands=commands(groups, studies),
        verdict_texts=VERDICT_TEXTS,
    )


def _family(index: int, family: Family, room: Room) -> ShownFamily:
    names = tuple(clean(group.info.recipe, 60) for group in family.groups)
    figures: list[PageFigure] = []
    left_out: list[str] = []
    for number, found in enumerate(family_figures(family)):
        drawn = room.draw(found.figure, f"f{index}-{number}", dots=found.measured)
        if drawn is None:
            left_out.append(clean(found.figure.title, 200))
        else:
            figures.append(drawn)
    return ShownFamily(
        title=", ".join(names),
        figures=tuple(figures),
        missing=family.missing,
        recipes=names,
        differences=tuple(
            (clean(key, 60), tuple(clean(shown_value(value), 40) for value in values))
            for key, values in differences(family.groups).items()
        ),
        left_out=tuple(left_out),
    )

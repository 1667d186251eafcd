"""The report's table of task scores: what results.json holds beside perplexity, as text."""

from collections.abc import Sequence
from dataclasses import dataclass

from eval.results import PERPLEXITY_SUITE, Score
from reproduce.paper.runs import Run
from reproduce.paper.text import clean


@dataclass(frozen=True, kw_only=True)
class ShownScore:
    """One score of one run, as text."""

    run: str
    suite: str
    task: str
    metric: str
    value: str
    """With its standard error; in the unit of results.json."""

    n: str
    """Items scored, and whether that is all of them."""

    shots: str
    """Asked for; and how many survived, where prompts were cut."""

    truncated: str
    """Requests longer than the context."""


def shown_scores(runs: Sequence[Run]) -> tuple[ShownScore, ...]:
    """Every score of the runs but the perplexities, in the order of the files."""
    return tuple(
        _shown(f"{run.info.recipe}, seed {run.seed}", score)
        for run in runs
        for score in run.results.scores
        if score.suite != PERPLEXITY_SUITE
    )


def _shown(run: str, score: Score) -> ShownScore:
    cut = "–" if score.truncated is None else str(score.truncated)
    kept = "" if score.shots_kept is None or not score.truncated else f" ({score.shots_kept:.1f} kept)"
    return ShownScore(
        run=clean(run, 60),
        suite=clean(score.suite, 40),
        task=clean(score.task, 40),
        metric=clean(score.metric, 40),
        value=f"{score.value:.4f}" + ("" if score.stderr is None else f" ± {score.stderr:.4f}"),
        n=str(score.n) + ("" if score.limit is None else " (first items only)"),
        shots="–" if score.num_fewshot is None else f"{score.num_fewshot}{kept}",
        truncated=cut if score.requests is None else f"{cut} of {score.requests}",
    )

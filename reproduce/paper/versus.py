"""One group of seeds against another: every score that both have, with the interval of the difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.results import PERPLEXITY_SUITE, Score
from reproduce.errors import UserError
from reproduce.paper.matching import Group
from reproduce.paper.readings import different_questions, joined, scoring_differences
from reproduce.statistics import Interval, mean_interval, paired_interval, welch_interval

Outcome = Literal["better", "worse", "unresolved"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score of a group beside the reference's; in the unit of results.json."""

    recipe: str
    reference: str
    suite: str
    task: str
    metric: str
    ours: float
    theirs: float
    diff: float
    """ours - theirs: the mean over shared seeds where the pairs decide, else of the two means."""

    ci_low: float | None
    ci_high: float | None
    paired: bool
    """Whether the interval is over pairs of the same seed (two at least), or over independent seeds."""

    n_seeds: int
    verdict: Outcome
    note: str


ScoreName = tuple[str, str, str, int | None]
"""Suite, task, metric, shots."""


def against(groups: Sequence[Group], reference: Group, *, any_text: bool = False) -> list[Difference]:
    """Each group against the reference, score by score, in the order of the reference's results.

    What the groups were trained and measured on is differences.py's to compare, before. Log-perplexities of
    other text, or of text that is not recorded, are shown with a note and without a verdict.

    Args:
        groups: each is held against the reference by itself.
        reference: what is subtracted.
        any_text: show log-perplexities over other numbers of windows too, as where the text is known to
            differ; else they are refused.

    Raises:
        UserError: groups that answered different questions, or share no score.
    """
    found = []
    for group in groups:
        _same_questions(group, reference, any_text=any_text or len(_texts(group, reference)) > 1)
        names = [name for name in _scores(reference) if name in _scores(group)]
        if not names:
            raise UserError(
                f"{group.info.recipe:.100} and {reference.info.recipe:.100} share no score; "
                "evaluate both with the same --suite"
            )
        found += [_difference(group, reference, name) for name in names]
    return found


def _difference(group: Group, reference: Group, name: ScoreName) -> Difference:
    ours, theirs = _values(group, name), _values(reference, name)
    other_text = _other_text(group, reference, name) if name[0] == PERPLEXITY_SUITE else ""
    pairs = paired_interval(ours, theirs)
    paired = pairs is not None and pairs.n >= 2
    interval = (
        pairs if pairs is not None and paired else welch_interval(list(ours.values()), list(theirs.values()))
    )
    return Difference(
        recipe=group.info.recipe,
        reference=reference.info.recipe,
        suite=name[0],
        task=name[1],
        metric=name[2],
        ours=mean_interval(list(ours.values())).mean,
        theirs=mean_interval(list(theirs.values())).mean,
        diff=interval.mean,
        ci_low=interval.low,
        ci_high=interval.high,
        paired=paired,
        n_seeds=interval.n,
        verdict="unresolved" if other_text else _outcome(interval, _higher_is_better(group, name)),
        note=joined(
            [
                f"{other_text}: no verdict" if other_text else "",
                "" if interval.low is not None else "one seed on a side: no interval",
                *_remarks(group, reference, name),
            ]
        ),
    )


def _other_text(group: Group, reference: Group, name: ScoreName) -> str:
    """Why log-perplexities say nothing about the models: other text, or none that is known; else empty."""
    if len(_texts(group, reference)) > 1:
        return "measured on different text"
    runs = [*reference.runs, *group.runs]
    first, *others = (score for run in runs for score in run.results.scores if _name(score) == name)
    unlike = next(filter(None, (_unlike(score, first) for score in others)), "")
    if unlike:
        return unlike
    unknown = next((run.path for run in runs if run.results.eval_set_sha256 is None), None)
    if unknown is None:
        return ""
    return f"{unknown} does not record the text it was measured on, which `reweight eval` does"


def _texts(group: Group, reference: Group) -> set[str]:
    """Hashes of the evaluation sets, as far as they are recorded."""
    known = (run.results.eval_set_sha256 for each in (group, reference) for run in each.runs)
    return {text for text in known if text is not None}


def _outcome(interval: Interval, higher_is_better: bool) -> Outcome:
    if not interval.excludes(0.0):
        return "unresolved"
    return "better" if (interval.mean > 0) == higher_is_better else "worse"


def _scores(group: Group) -> dict[ScoreName, bool]:
    """Scores that every seed has -> higher is better, in file order."""
    runs = group.runs
    found = {_name(score): score.higher_is_better for score in runs[0].results.scores}
    in_all = set.intersection(*({_name(score) for score in run.results.scores} for run in runs))
    return {name: better for name, better in found.items() if name in in_all}


def _higher_is_better(group: Group, name: ScoreName) -> bool:
    return _scores(group)[name]


def _values(group: Group, name: ScoreName) -> dict[int, float]:
    return {
        seed: score.value
        for seed, run in group.by_seed.items()
        for score in run.results.scores
        if _name(score) == name
    }


def _same_questions(group: Group, reference: Group, *, any_text: bool) -> None:
    """Refuse scores of one task over different items, prompts, shots, or by different versions of it.

    With `any_text` log-perplexities pass: they get no verdict instead.
    """
    first = reference.runs[0]
    known = {_name(score): score for score in first.results.scores}
    shots = {name[:3]: name[3] for name in known}
    for run in [*reference.runs, *group.runs]:
        for score in run.results.scores:
            if any_text and score.suite == PERPLEXITY_SUITE:
                continue
            other = known.get(_name(score))
            task = f"{run.path} and {first.path} scored {score.task:.60}"
            if other is None and _name(score)[:3] in shots:
                raise UserError(f"{task} with different shots; evaluate both alike")
            if other is None:
                continue
            if unlike := _unlike(score, other):
                raise UserError(f"{run.path} and {first.path}, {unlike}; evaluate both alike")


def _unlike(score: Score, other: Score) -> str:
    """Why two scores of one name are not of the same questions, or windows; empty where they are."""
    if (score.limit, score.n) != (other.limit, other.n):
        what = "windows" if score.suite == PERPLEXITY_SUITE else "items"
        return f"{score.task:.60}: over {score.n} and {other.n} {what}"
    return different_questions([score], [other])


def _remarks(group: Group, reference: Group, name: ScoreName) -> list[str]:
    """What else differed in how the two were scored."""
    first = reference.runs[0].results.scores
    theirs = next(score for score in first if _name(score) == name)
    found = [s for run in [*reference.runs, *group.runs] for s in run.results.scores if _name(s) == name]
    return [remark for score in found for remark in scoring_differences([score], [theirs])]


def _name(score: Score) -> ScoreName:
    return (score.suite, score.task, score.metric, score.num_fewshot)

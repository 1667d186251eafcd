"""Numbers of ours that no cell of the paper holds: shown, judged by nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.paper.matching import Group, Matches, unfinished
from reproduce.paper.setting_differences import setting_differences
from reproduce.paper.tables import MEAN, Table
from reproduce.statistics import mean_interval, paired_interval


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A number of ours that the paper has no cell for; judged by nothing."""

    recipe: str
    column: str
    ours: float
    our_difference: float | None
    ci_low: float | None
    ci_high: float | None
    n_seeds: int
    note: str


@dataclass(frozen=True, kw_only=True)
class Unjudged:
    """Runs of ours that stand for no row of the paper."""

    recipe: str
    why: str


def unjudged(groups: Sequence[Group], found: Matches) -> list[Unjudged]:
    """Groups that no cell is judged by, each with the reason."""
    standing = {match.group.info.recipe for match in found.values()}
    return [
        Unjudged(recipe=group.info.recipe, why=_why_unjudged(group))
        for group in groups
        if group.info.recipe not in standing
    ]


def extras(groups: Sequence[Group], tables: Mapping[str, Table], found: Matches) -> list[Extra]:
    """Log-perplexities that no cell of the paper holds: other domains, and recipes that the paper lacks."""
    matched = {match.group.info.recipe for key, match in found.items() if key[0] == "table1"}
    standing = {match.group.info.recipe for match in found.values()}
    known = {column.name for column in tables["table1"].columns} if "table1" in tables else set()
    listed: list[Extra] = []
    for group in groups:
        names = [*sorted(group.tasks), MEAN]
        inside = group.info.recipe in matched
        why = _why_extra(group, inside, group.info.recipe in standing)
        baseline = uniform_beside(group, groups)
        listed += [
            entry
            for name in names
            if not (inside and name in known)
            if (entry := _extra(group, baseline, name, why)) is not None
        ]
    return listed


def _extra(group: Group, baseline: Group | None, task: str, note: str) -> Extra | None:
    ours = task_values(group, task)
    if not ours:
        return None
    shift = paired_interval(ours, task_values(baseline, task)) if baseline else None
    return Extra(
        recipe=group.info.recipe,
        column=task,
        ours=mean_interval(list(ours.values())).mean,
        our_difference=shift.mean if shift else None,
        ci_low=shift.low if shift else None,
        ci_high=shift.high if shift else None,
        n_seeds=len(ours),
        note=note,
    )


def task_values(group: Group, task: str) -> dict[int, float]:
    """Seed -> log-perplexity in nats; seeds that were not measured on it are left out."""
    found = {seed: run.results.log_perplexity() for seed, run in group.by_seed.items()}
    return {seed: values[task] for seed, values in found.items() if task in values}


def _why_extra(group: Group, inside: bool, elsewhere: bool) -> str:
    if inside:
        return "the paper has no such domain"
    if elsewhere:
        return "the paper prints no log-perplexity of this run"
    return _why_unjudged(group)


def _why_unjudged(group: Group) -> str:
    late = unfinished(group)
    if late:
        return f"not judged: {late}"
    return "the paper has no such run: another model, strategy, r or domain weights"


def uniform_beside(group: Group, groups: Sequence[Group]) -> Group | None:
    """The uniform group trained and evaluated alike in all but the reweighting, if there is exactly one."""
    if group.info.strategy == "uniform":
        return None

    def alike(other: Group) -> bool:
        skipped = ("reweighting", "paper")
        evaluated = {run.results.eval_set_sha256 for g in (group, other) for run in g.runs}
        unlike = setting_differences(group.info, other.info)
        same = all(k.partition(".")[0] in skipped for k in unlike)
        return same and len(evaluated) == 1 and group.tasks == other.tasks

    beside = [g for g in groups if g.info.strategy == "uniform" and alike(g)]
    return beside[0] if len(beside) == 1 else None

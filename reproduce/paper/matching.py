"""Which runs stand for which row of the paper, and whether they may be compared with each other at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose
from pathlib import Path

from reproduce.errors import UserError
from reproduce.paper.runs import Run, RunInfo, Scale
from reproduce.paper.setting_differences import METHOD, consequential, covered, listed, setting_differences
from reproduce.paper.standing import standing_recipes
from reproduce.paper.tables import MEAN, Row, Table, load_tables
from reproduce.recipe.neutral import is_neutral

MAY_DIFFER = ("train.precision",)
"""Settings that a run at the paper's scale may have of its own; told beside its numbers."""


class AmbiguousRunsError(UserError):
    """It is open which of several runs stands for what; nothing is wrong with any of them."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The seeds of one recipe."""

    info: RunInfo
    by_seed: Mapping[int, Run]

    @property
    def runs(self) -> list[Run]:
        """The runs, by rising seed."""
        return [self.by_seed[seed] for seed in sorted(self.by_seed)]

    @property
    def tasks(self) -> set[str]:
        """Domains whose log-perplexity every seed has, without the mean."""
        sets = [set(run.results.log_perplexity()) for run in self.runs]
        return set.intersection(*sets) - {"mean"}


@dataclass(frozen=True)
class Match:
    """A group that stands for a row, at the scale it is judged at."""

    group: Group
    scale: Scale
    note: str


Matches = Mapping[tuple[str, str, Scale], Match]
"""(table id, row name, scale) -> the group."""


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs by recipe, in the order of the recipes' names; a recipe run at several r is several groups.

    Raises:
        AmbiguousRunsError: one seed of a recipe twice, or seeds whose recipes differ in more than the seed.
    """
    by_recipe: dict[tuple[str, float], dict[int, Run]] = {}
    for run in runs:
        seeds = by_recipe.setdefault((run.info.recipe, run.info.r or 0.0), {})
        if run.seed in seeds:
            raise AmbiguousRunsError(
                f"two runs of {run.info.recipe:.100} with seed {run.seed}: {seeds[run.seed].path} and "
                f"{run.path}; name the folders to compare"
            )
        seeds[run.seed] = run
    groups = []
    names = [name for name, _ in by_recipe]
    for (name, r), seeds in sorted(by_recipe.items()):
        first = seeds[min(seeds)]
        for run in seeds.values():
            _same_recipe(first, run)
        info = first.info if names.count(name) == 1 else replace(first.info, recipe=f"{name} (r = {r:g})")
        groups.append(Group(info=info, by_seed=seeds))
    return groups


def unfinished(group: Group) -> str | None:
    """Why a group cannot be judged yet: a run that was scored before its last step."""
    for run in group.runs:
        steps = run.info.steps
        if steps is not None and run.results.step != steps:
            return f"scored at step {run.results.step} of {steps} ({run.path})"
    return None


def matches(group: Group, table: Table, row: Row) -> bool:
    """Whether the group trains what a row of the table trained: model, strategy, r, domain weights."""
    return _stands_for(group.info, table, row)


def _stands_for(info: RunInfo, table: Table, row: Row) -> bool:
    if info.table is None or info.model != row.model:
        return False
    same_r = row.r is None or (info.r is not None and isclose(info.r, row.r, rel_tol=1e-9))
    same_weights = _same_weights(info.domain_weights, row.domain_weights, table)
    return same_r and info.strategy == row.strategy and same_weights


def judged_scale(group: Group, table: Table, row: Row) -> tuple[Scale, str]:
    """At which scale a matching group is judged, and what a reader has to know about that.

    A recipe may say `paper` and have been changed by hand; what it trained and was measured on decides.
    """
    if group.info.scale == "reduced":
        return "reduced", ""
    asked = table.models[row.model]
    settings = group.info.settings
    off = [
        f"{key} {settings.get(key)!s:.40} (paper: {value})"
        for key, value in asked.settings.items()
        if settings.get(key) != value
    ]
    steps = {run.results.step for run in group.runs}
    if steps != {asked.steps}:
        off.insert(0, f"steps {', '.join(map(str, sorted(steps)))} (paper: {asked.steps})")
    if table.unit == "nats":
        off += _other_evaluation(group, table)
    unlike, told = _unlike_recipe(group.info, table, row, besides=tuple(asked.settings))
    if off + unlike:
        return "reduced", "not the paper's scale or setting: " + "; ".join(off + unlike)
    return "paper", told


def _other_evaluation(group: Group, table: Table) -> list[str]:
    """In what the log-perplexities of a group are not those of the table; empty where it was not measured."""
    domains = set(next((c.mean_of for c in table.columns if c.name == MEAN), ()))
    if not group.tasks:
        return []
    if group.tasks != domains:
        return ["other domains than the paper's"]
    if table.samples is None:
        return []
    share = table.samples // len(domains)  # as the evaluation draws them
    fewest = min(
        s.n for run in group.runs for s in run.results.scores if s.suite == "perplexity" and s.task in domains
    )
    return [f"{fewest} held-out samples in a domain (paper: {share})"] if fewest < share else []


def _unlike_recipe(
    info: RunInfo, table: Table, row: Row, *, besides: tuple[str, ...]
) -> tuple[list[str], str]:
    """In what a run was trained unlike the recipe that stands for the row; and what it may differ in."""
    ours = next(each for each in standing_recipes(table.id) if _stands_for(each, table, row))
    # The weights over domains are what the row was matched by, whether named or written out; and where
    # samples weigh alike, nothing else about their weights matters.
    method = METHOD if row.strategy == "uniform" else ()
    unlike = consequential(info, ours, (*besides, "data.domain_weights", "train.steps", *method))
    free = [path for path in unlike if covered(path, MAY_DIFFER)]
    bound = [path for path in unlike if path not in free]
    there = ours.recipe
    told = f"trained with {listed(free, info, ours, there)}" if free else ""
    return [listed(bound, info, ours, there)] if bound else [], told


def check_comparable(groups: Sequence[Group], what: str) -> None:
    """Refuse groups measured on different text, trained on different data, or for a different time.

    Raises:
        UserError: with every difference, and the runs that differ.
    """
    runs = [run for group in groups for run in group.runs]
    problems = []
    for name, values in (
        ("evaluation set", [run.results.eval_set_sha256 for run in runs]),
        ("training data", [run.data_fingerprint for run in runs]),
        ("steps", [run.results.step for run in runs]),
    ):
        # A value that was never recorded cannot be held against a run.
        known = {value: run.path for value, run in zip(values, runs, strict=True) if value is not None}
        if len(known) > 1:
            listed = ", ".join(f"{_short(value)} in {path}" for value, path in list(known.items())[:3])
            problems.append(f"{name}: {listed}")
    if problems:
        raise UserError(
            f"runs of {what} cannot be compared with each other: {'; '.join(problems)}; "
            "name only runs that agree in these"
        )


def match_rows(groups: Sequence[Group], tables: Mapping[str, Table]) -> Matches:
    """Find the row of each group, and refuse what cannot stand side by side.

    Raises:
        AmbiguousRunsError: two recipes for one row.
        UserError: runs of one model that differ in evaluation set, data or steps.
    """
    found: dict[tuple[str, str, Scale], Match] = {}
    together: dict[tuple[Scale, str], dict[str, Group]] = {}
    ambiguous: list[AmbiguousRunsError] = []
    for table in tables.values():
        for row in table.rows:
            for group in groups:
                if matches(group, table, row) and not unfinished(group):
                    scale, note = judged_scale(group, table, row)
                    key = (table.id, row.name, scale)
                    if key in found:
                        check_comparable([found[key].group, group], row.name)
                        ambiguous.append(_two_recipes(row.name, found[key].group, group))
                    found.setdefault(key, Match(group, scale, note))
                    together.setdefault((scale, row.model), {})[group.info.recipe] = group
    for (_, model), by_recipe in together.items():
        check_comparable(list(by_recipe.values()), model)
    if ambiguous:  # only now: that runs may not stand side by side is the graver of the two
        raise ambiguous[0]
    return found


def scale_of(table: str, row: str, found: Matches) -> Scale | None:
    """The scale that a row is judged at: the paper's where there is such a run."""
    scales: tuple[Scale, ...] = ("paper", "reduced")
    return next((scale for scale in scales if (table, row, scale) in found), None)


def paths(group: Group) -> list[Path]:
    """Folders of the group's runs, by rising seed."""
    return [run.path for run in group.runs]


def _same_weights(ours: str | Mapping[str, float], name: str, table: Table) -> bool:
    if isinstance(ours, str):
        return ours == name
    if name == "uniform":
        return set(ours) == _slimpajama() and len(set(ours.values())) == 1 and min(ours.values()) > 0
    theirs = table.domain_weights[name]
    if set(ours) != set(theirs):
        return False
    total, all_theirs = sum(ours.values()), sum(theirs.values())
    return all(isclose(ours[d] * all_theirs, theirs[d] * total, rel_tol=1e-6) for d in theirs)


def _slimpajama() -> set[str]:
    """The domains that the paper weighs alike."""
    return set(next(c.mean_of for c in load_tables()["table1"].columns if c.name == MEAN))


def _same_recipe(first: Run, run: Run) -> None:
    scope = first.info.settings.get("reweighting.scope")
    different = [k for k in setting_differences(first.info, run.info) if not is_neutral(k, scope)]
    if different:
        raise AmbiguousRunsError(
            f"seeds {first.seed} and {run.seed} of {first.info.recipe:.100} were trained with different "
            f"settings ({', '.join(different[:8])}): {first.path}, {run.path}; compare them apart"
        )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "…"


def _two_recipes(row: str, one: Group, other: Group) -> AmbiguousRunsError:
    return AmbiguousRunsError(
        f"two recipes stand for {row}: {one.info.recipe:.100} ({one.runs[0].path}) and "
        f"{other.info.recipe:.100} ({other.runs[0].path}); name the runs to compare"
    )

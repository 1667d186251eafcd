"""Runs as the lines of figures: seeds of equal settings together, and which of them share axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.paper.matching import Group
from reproduce.paper.metrics_log import Metrics
from reproduce.paper.run_logs import Log, global_batch, kept_logs, read_log
from reproduce.paper.runs import Run, Scalar
from reproduce.paper.seed_lines import Series
from reproduce.paper.setting_differences import setting_differences
from reproduce.paper.text import clean

Settings = tuple[tuple[str, Scalar], ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Groups of one model, trained on the same data for as many steps and measured alike."""

    groups: tuple[Group, ...]
    lines: tuple[tuple[Group, Series], ...]
    """Those with a metrics.jsonl, over the seeds whose logs reach the last step that any of them has."""
    missing: tuple[str, ...]
    """Folders of runs without one, or with an empty one."""
    logs: tuple[Log, ...]
    """Of all runs, with what is to be said about each."""

    @property
    def series(self) -> list[Series]:
        """One line a group."""
        return [series for _, series in self.lines]


def group_by_settings(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """Runs that differ in nothing but their seed, by recipe and settings; and what was left out, a line each.

    Other than for verdicts (`group_runs`), one recipe may come with several settings: that is what a figure
    of a setting is made of.
    """
    found: dict[Settings, dict[int, Run]] = {}
    left_out = []
    for run in runs:
        seeds = found.setdefault((*settings_without(run, ("seed",)), *_measured(run)), {})
        if run.seed in seeds:
            left_out.append(
                f"{clean(run.path, 200)}: the same recipe and seed as {clean(seeds[run.seed].path, 200)}"
            )
            continue
        seeds[run.seed] = run
    groups = [Group(info=next(iter(seeds.values())).info, by_seed=seeds) for seeds in found.values()]
    return sorted(groups, key=lambda g: (g.info.recipe, g.info.r or 0.0, str(g.runs[0].path))), left_out


def settings_without(run: Run, skipped: Sequence[str]) -> Settings:
    """The recipe's settings but for some, each named whole or as a section with a dot at its end."""
    return tuple(
        (key, value)
        for key, value in sorted(run.info.settings.items())
        if not any(key == name or (name.endswith(".") and key.startswith(name)) for name in skipped)
    )


def families(groups: Sequence[Group]) -> list[Family]:
    """Groups that may share axes, in order of appearance; reads their metrics.jsonl.

    Raises:
        DataError: a broken metrics.jsonl.
    """
    by_key: dict[Settings, list[Group]] = {}
    for group in groups:
        run = group.runs[0]
        model = tuple((k, v) for k, v in sorted(run.info.settings.items()) if k.startswith("model."))
        by_key.setdefault((*model, *_measured(run)), []).append(group)
    return [_family(members) for members in by_key.values()]


def _family(groups: Sequence[Group]) -> Family:
    names = labels(groups)
    lines = []
    logs: list[Log] = []
    for group, label in zip(groups, names, strict=True):
        found = kept_logs([read_log(run) for run in group.runs])
        logs += found
        seeds = [log.metrics for log in found if log.kept and log.metrics is not None]
        if seeds:
            lines.append((group, _series(group, label, seeds)))
    missing = tuple(clean(log.run.path, 200) for log in logs if log.metrics is None)
    return Family(groups=tuple(groups), lines=tuple(lines), missing=missing, logs=tuple(logs))


def labels(groups: Sequence[Group]) -> list[str]:
    """A name a line: the strategy where it is alone, with r where only that differs, else the recipe."""
    names = [_label(group, groups) for group in groups]
    counts: dict[str, int] = {}
    for index, name in enumerate(names):
        counts[name] = counts.get(name, 0) + 1
        if counts[name] > 1:
            names[index] = f"{clean(name, 34)} ({counts[name]})"
    return names


def _label(group: Group, groups: Sequence[Group]) -> str:
    others = [g for g in groups if g.info.strategy == group.info.strategy and g is not group]
    if not others:
        return clean(group.info.strategy, 40)
    differing = {key for other in others for key in setting_differences(group.info, other.info)}
    if differing <= {"reweighting.r"} and group.info.r is not None:
        return clean(f"{group.info.strategy}, r = {group.info.r:g}", 40)
    return clean(group.info.recipe, 40)


def _series(group: Group, label: str, seeds: Sequence[Metrics]) -> Series:
    batch = global_batch(group.runs[0])
    return Series(label=label, strategy=group.info.strategy, seeds=seeds, global_batch=batch)


def _measured(run: Run) -> Settings:
    return (
        ("evaluation set", run.results.eval_set_sha256),
        ("training data", run.data_fingerprint),
        ("step", run.results.step),
    )


def differences(groups: Sequence[Group]) -> Mapping[str, tuple[Scalar, ...]]:
    """Dotted path -> its value in each group, for every setting in which any two differ."""
    first = groups[0].info
    keys = dict.fromkeys(k for g in groups[1:] for k in setting_differences(first, g.info))
    return {key: tuple(group.info.settings.get(key) for group in groups) for key in keys}

"""What a strategy costs beside uniform, as the runs' own logs tell it: a map of medians, as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reproduce.paper.metrics_log import Floats
from reproduce.paper.seed_lines import MAX_LABEL, Series
from reproduce.paper.text import clean
from reproduce.study import Figure, Map

SKIPPED = 0.1
"""Share of a run's first logged steps that is left out: caches fill, kernels are chosen."""

RATE = "tokens/s"
MAX_PHASES = 8


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One line of the map."""

    series: Series
    base: Series | None
    """Its uniform twin, in percent of whose step it is shown; None: times alone."""
    name: str


def overhead(series: Sequence[Series], twins: Mapping[str, str]) -> Figure | None:
    """Median seconds of a step by phase, and tokens a second, each beside its own uniform twin.

    Args:
        series: of one family.
        twins: label of a series -> label of the uniform one that is alike in all but the reweighting.

    Returns:
        Every series that was timed, with or without a twin; None where no two of them are twins.
    """
    timed = {each.label: each for each in series if _is_timed(each)}
    bases = {label: timed[twin] for label, twin in twins.items() if label in timed and twin in timed}
    if not bases:
        return None
    rows = _rows(list(timed.values()), bases)
    phases = list(dict.fromkeys(p for row in rows for m in row.series.seeds for p in m.seconds))
    cells = [_cells(row, phases[:MAX_PHASES]) for row in rows]
    return Figure(
        id="overhead",
        title="Time of a step beside uniform",
        caption="Medians over the logged steps of all seeds, the first tenth left out. Below a phase's time "
        "is its difference from the uniform run alike in all but the reweighting, in percent of that run's "
        f"whole step: phases add up. {_pairs(rows)}{_besides(series, rows, phases)} Blue is quicker. These "
        "runs were not alternated on an idle machine: `reweight bench train` measures the cost.",
        panels=(
            Map(
                title="",
                x_label="time of a step by phase, and tokens a second",
                y_label="",
                x_names=(*phases[:MAX_PHASES], RATE),
                y_names=tuple(row.name for row in rows),
                values=tuple(values for values, _ in cells),
                texts=tuple(texts for _, texts in cells),
            ),
        ),
        columns=1,
    )


def _rows(timed: Sequence[Series], bases: Mapping[str, Series]) -> list[_Row]:
    """Each uniform before those that are shown in percent of it, then those without a twin."""
    labels = list(dict.fromkeys(base.label for base in bases.values()))
    rows: list[_Row] = []
    for number, label in enumerate(labels, 1):
        beside = [each for each in timed if each.label in bases and bases[each.label].label == label]
        mark, of_it = (f" [{number}]", f" [% of {number}]") if len(labels) > 1 else ("", "")
        base = bases[beside[0].label]
        rows.append(_Row(series=base, base=None, name=_named(base, mark)))
        rows += [_Row(series=each, base=base, name=_named(each, of_it)) for each in beside]
    shown = {row.series.label for row in rows}
    return rows + [_Row(series=e, base=None, name=_named(e, "")) for e in timed if e.label not in shown]


def _named(series: Series, suffix: str) -> str:
    return clean(series.label, MAX_LABEL - len(suffix)) + suffix


def _pairs(rows: Sequence[_Row]) -> str:
    """Which percentages are of which run."""
    of: dict[str, list[str]] = {}
    for row in rows:
        if row.base is not None:
            of.setdefault(row.base.label, []).append(row.series.label)
    return "; ".join(f"{', '.join(labels)} in percent of {base}" for base, labels in of.items()) + "."


def _besides(series: Sequence[Series], rows: Sequence[_Row], phases: Sequence[str]) -> str:
    """What stands without percentages, or not at all; empty if all is there."""
    alone = [row.series.label for row in rows if row.base is None and row.series.strategy != "uniform"]
    shown = {row.series.label for row in rows}
    untimed = [each.label for each in series if each.label not in shown]
    cut = len(phases) - MAX_PHASES
    return (
        (f" Without one such uniform run, so without percentages: {', '.join(alone)}." if alone else "")
        + (f" Without times in its log: {', '.join(untimed)}." if untimed else "")
        + (f" {cut} phases more are not shown." if cut > 0 else "")
    )


def _cells(row: _Row, phases: Sequence[str]) -> tuple[tuple[float | None, ...], tuple[str, ...]]:
    """Values and texts of a row; a base is 0 in its own colours."""
    base = row.base if row.base is not None else row.series if row.series.strategy == "uniform" else None
    whole = _whole_step(base)
    values: list[float | None] = []
    texts = []
    for phase in phases:
        ours, theirs = _seconds(row.series, phase), None if base is None else _seconds(base, phase)
        change = None if ours is None or theirs is None or not whole else (ours - theirs) / whole
        values.append(change)
        texts.append(_text(None if ours is None else _duration(ours), change if row.base else None))
    rate, theirs = _rate(row.series), None if base is None else _rate(base)
    change = None if rate is None or not theirs else rate / theirs - 1
    values.append(None if change is None else -change)
    texts.append(_text(None if rate is None else f"{rate:.4g}", change if row.base else None))
    return tuple(values), tuple(texts)


def _whole_step(base: Series | None) -> float:
    if base is None:
        return 0.0
    phases = dict.fromkeys(phase for metrics in base.seeds for phase in metrics.seconds)
    return sum(_seconds(base, phase) or 0.0 for phase in phases)


def _text(value: str | None, change: float | None) -> str:
    if value is None:
        return "–"
    return value if change is None else f"{value}\n{100 * change:+.2f}%"


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _is_timed(series: Series) -> bool:
    phases = [phase for metrics in series.seeds for phase in metrics.seconds]
    return _rate(series) is not None or any(_seconds(series, phase) is not None for phase in phases)


def _rate(series: Series) -> float | None:
    return _median([m.tokens_per_s for m in series.seeds])


def _seconds(series: Series, phase: str) -> float | None:
    return _median([m.seconds[phase] for m in series.seeds if phase in m.seconds])


def _median(runs: Sequence[Floats]) -> float | None:
    values = np.concatenate([run[int(SKIPPED * run.size) :] for run in runs] or [np.array([])])
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else None

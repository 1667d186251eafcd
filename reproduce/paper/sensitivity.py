"""Figure 5 as data: final log-perplexity beside uniform against r, paired by seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from reproduce.paper.matching import Group
from reproduce.paper.run_groups import Settings, settings_without
from reproduce.paper.runs import Run
from reproduce.paper.seed_lines import SPAN
from reproduce.paper.tables import MEAN
from reproduce.paper.text import clean
from reproduce.study import Figure, Line, Mark, Panel

NEEDS = (
    "runs that are equal in all but reweighting.r, two values of it at least, and uniform runs of the same "
    "seeds, e.g. `reweight train --recipe gpt2_nano_linupper --seed 1 --set reweighting.r=2 --out runs/r2-1`"
)
MAX_LINES = 24
NOT_COMPARED = ("seed", "name", "paper.", "reweighting.r")


@dataclass
class _Swept:
    """One setting of everything but r."""

    title: str
    strategy: str
    recipe: str
    by_r: dict[float, list[float]] = field(default_factory=dict)
    """r -> differences from uniform, one a seed."""


def sensitivity(groups: Sequence[Group]) -> Figure | None:
    """The figure, a panel a model and data; None where no r was varied, or nothing to hold it against."""
    uniform = {
        (_setting(run, uniform=True), run.seed): run
        for group in groups
        if group.info.strategy == "uniform"
        for run in group.runs
    }
    swept: dict[Settings, dict[Settings, _Swept]] = {}
    for group in groups:
        if group.info.strategy == "uniform" or group.info.r is None:
            continue
        for run in group.runs:
            around = _setting(run, uniform=True)
            difference = _difference(run, uniform.get((around, run.seed)))
            if difference is not None:
                entry = swept.setdefault(around, {}).setdefault(
                    _setting(run), _Swept(_title(run), group.info.strategy, group.info.recipe)
                )
                entry.by_r.setdefault(group.info.r, []).append(difference)
    panels = [_panel(list(found.values())) for found in swept.values()]
    panels = [panel for panel in panels if panel.lines]
    if not panels:
        return None
    return Figure(
        id="figure5",
        title="Sensitivity to r (the paper's Figure 5)",
        caption="Final mean held-out log-perplexity minus uniform's, paired by seed, against the temperature "
        f"r (DRO-KL: λ). Below the line is better than uniform. {_seeds(swept)} {SPAN}",
        panels=tuple(panels),
        columns=min(2, len(panels)),
    )


def _panel(found: Sequence[_Swept]) -> Panel:
    varied = [each for each in found if len(each.by_r) > 1]
    alone = {each.strategy: sum(other.strategy == each.strategy for other in varied) == 1 for each in varied}
    lines = [
        _line(each, each.strategy if alone[each.strategy] else each.recipe) for each in varied[:MAX_LINES]
    ]
    return Panel(
        title=max((each.title for each in varied), key=len, default=""),  # not every recipe names a model
        x_label="r",
        y_label="minus uniform (nats)",
        x_log=True,
        lines=tuple(lines),
        marks=(Mark(axis="y", at=0.0, label="uniform"),),
    )


def _line(swept: _Swept, label: str) -> Line:
    at = sorted(swept.by_r)
    values = [swept.by_r[r] for r in at]
    several = max(map(len, values)) > 1
    return Line(
        label=clean(label, 40),
        strategy=swept.strategy,
        x=tuple(at),
        y=tuple(sum(each) / len(each) for each in values),
        low=tuple(map(min, values)) if several else None,
        high=tuple(map(max, values)) if several else None,
    )


def _setting(run: Run, *, uniform: bool = False) -> Settings:
    """What has to be equal: all but r and names; for the uniform partner no setting of weights counts."""
    skipped = (*NOT_COMPARED, "reweighting.") if uniform else NOT_COMPARED
    return (
        *settings_without(run, skipped),
        ("evaluation set", run.results.eval_set_sha256),
        ("training data", run.data_fingerprint),
        ("step", run.results.step),
    )


def _difference(run: Run, partner: Run | None) -> float | None:
    if partner is None:
        return None
    ours, theirs = run.results.log_perplexity().get(MEAN), partner.results.log_perplexity().get(MEAN)
    return None if ours is None or theirs is None else ours - theirs


def _title(run: Run) -> str:
    scale = "reduced scale" if run.info.scale == "reduced" else ""
    return ", ".join(filter(None, (clean(run.info.model or "", 30), scale)))


def _seeds(swept: dict[Settings, dict[Settings, _Swept]]) -> str:
    counts = [
        len(values)
        for found in swept.values()
        for each in found.values()
        if len(each.by_r) > 1
        for values in each.by_r.values()
    ]
    low, high = min(counts), max(counts)
    return f"{low} seed{'s' * (low > 1)} a point." if low == high else f"{low} to {high} seeds a point."

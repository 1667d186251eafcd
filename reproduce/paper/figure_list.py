"""Every figure that there is, and which of them the given runs and studies hold the numbers for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reproduce.paper import figures as draw
from reproduce.paper import sensitivity
from reproduce.paper.cost_figure import overhead
from reproduce.paper.extras import uniform_beside
from reproduce.paper.figures import Curves
from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.matching import Group, judged_scale
from reproduce.paper.metrics_log import Metrics
from reproduce.paper.run_groups import Family, families
from reproduce.paper.run_logs import said_of
from reproduce.paper.runs import Scalar
from reproduce.paper.seed_lines import MAX_LABEL, Series
from reproduce.paper.tables import Table, load_tables
from reproduce.paper.text import clean
from reproduce.paper.weight_figures import max_weight_distribution, weights_by_quantile
from reproduce.study import Figure, Panel

MODELS: Mapping[str, str] = {"figure2": "GPT2-medium", "figure3": "GPT2-mini", "figure4": "GPT2-small"}
"""Figure of the paper -> the model whose domains it shows."""

NamedLine = tuple[Group, Series]

STUDIES: Mapping[str, str] = {"figure7": "regression", "figure8": "dro"}

MEASURED = ("loss", "weights-by-quantile")
"""Figures of runs with few points, which are marked one by one."""

OF_LINES: Mapping[str, Callable[[Sequence[Series]], Figure]] = {
    "figure6": max_weight_distribution,
    "loss": draw.loss_curves,
    "ess": draw.ess_curves,
    "entropy": draw.entropy_curves,
    "weight-share": draw.weight_share_curves,
    "weights-by-quantile": weights_by_quantile,
}
"""Figure -> how it is made of a family's lines alone."""

Has = Callable[[Metrics], bool]
"""Whether a run's log has a value for a figure."""


def _evaluated(metrics: Metrics) -> bool:
    return bool(metrics.log_perplexity)


HAS: Mapping[str, Has] = {
    **dict.fromkeys((*MODELS, "domains"), _evaluated),
    "figure6": lambda m: not np.isnan(m.max_weight).all(),
    "loss": lambda m: bool(np.isfinite(m.loss).any()) or _evaluated(m),
    "ess": lambda m: bool(np.isfinite(m.ess).any()),
    "entropy": lambda m: bool(np.isfinite(m.entropy).any()),
    "weight-share": lambda m: bool(m.weight_share),
    "overhead": lambda m: bool(np.isfinite(m.tokens_per_s).any() or m.seconds),
    "weights-by-quantile": lambda m: bool(m.weight_by_loss),
}
"""Every figure that is drawn from logs."""

IN_METRICS = "runs with `{}` in metrics.jsonl"
NEEDS: Mapping[str, str] = {
    "figure1": "nothing",
    **{
        name: f"runs of {model} (a recipe's paper.table and paper.model) or, asked for by --only, any GPT-2 "
        "runs of Table 1 at reduced scale, with evaluations in metrics.jsonl"
        for name, model in MODELS.items()
    },
    "figure5": sensitivity.NEEDS,
    "figure6": "runs of another strategy than uniform with `max_weight` in metrics.jsonl",
    **{name: f"a toy study: `reweight toy {study}`" for name, study in STUDIES.items()},
    "loss": IN_METRICS.format("loss"),
    "domains": "runs that are in none of figure2 to figure4, with evaluations in metrics.jsonl",
    "ess": IN_METRICS.format("ess"),
    "entropy": IN_METRICS.format("entropy"),
    "weight-share": IN_METRICS.format("weight_share"),
    "overhead": "a uniform run and one of another strategy, alike in the rest, with `tokens_per_s` and "
    "`seconds` in metrics.jsonl",
    "weights-by-quantile": "runs of another strategy than uniform with `weight_by_loss` in metrics.jsonl",
}
"""Figure -> what it needs. The keys are all figures, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A figure that can be drawn."""

    kind: str
    """A key of NEEDS; several families of runs have a figure each."""
    figure: Figure
    measured: bool
    """Whether its points are measurements of their own, to be marked one by one."""


@dataclass(frozen=True, kw_only=True)
class FigureList:
    """What given runs and studies hold the numbers for."""

    found: list[Found]
    missing: list[tuple[str, str]]
    """Figures that cannot be drawn, and what each needs."""
    notes: list[str]
    """Runs whose logs are not as they should be, a line each."""


def find_figures(
    groups: Sequence[Group], studies: Sequence[FoundStudy], curves: Curves | None, only: Sequence[str] = ()
) -> FigureList:
    """The figures that can be drawn, and those that cannot.

    Args:
        groups: as `group_by_settings` gives them.
        studies: as `find_studies` gives them.
        curves: data of Figure 1; None leaves it out without a word.
        only: keys of NEEDS; none is all.

    Raises:
        DataError: a broken metrics.jsonl.
    """
    asked = [kind for kind in NEEDS if not only or kind in only]
    together = families(groups) if any(kind in HAS for kind in asked) else []
    found = [Found(kind="figure1", figure=draw.strategy_curves(curves), measured=False)] if curves else []
    found += [each for family in together for each in family_figures(family, only)]
    swept = sensitivity.sensitivity(groups)
    found += [Found(kind="figure5", figure=swept, measured=True)] if swept else []
    found += _of_studies(studies)
    ordered = [each for kind in asked for each in found if each.kind == kind]
    there = {each.kind for each in ordered} | {"figure1"}
    return FigureList(
        found=_named_apart(ordered),
        missing=[(kind, NEEDS[kind]) for kind in asked if kind not in there],
        notes=[log.note for family in together for log in family.logs if log.note],
    )


def family_figures(family: Family, asked: Sequence[str] = ()) -> list[Found]:
    """The figures of runs that share axes, in the order of NEEDS; those without a value are left out.

    Args:
        family: the runs.
        asked: figures asked for by name: for one of another model than theirs, runs at reduced scale stand
            in, too.
    """
    found = list(_domain_figures(family, load_tables()["table1"], asked))
    figures: dict[str, Figure | None] = {kind: make(family.series) for kind, make in OF_LINES.items()}
    figures["overhead"] = overhead(family.series, _twins(family))
    for kind, figure in figures.items():
        if figure is not None and not draw.empty(figure):
            told = _told(family, figure, HAS[kind])
            if kind == "overhead" and _several_machines(family):
                told = replace(told, caption=f"{told.caption} The runs were not all made on one machine.")
            found.append(Found(kind=kind, figure=told, measured=kind in MEASURED))
    return sorted(found, key=lambda each: list(NEEDS).index(each.kind))


def _twins(family: Family) -> dict[str, str]:
    """Label of each line -> that of the uniform one beside it."""
    labels = {id(group): series.label for group, series in family.lines}
    groups = [group for group, _ in family.lines]
    beside = {labels[id(group)]: uniform_beside(group, groups) for group in groups}
    return {label: labels[id(group)] for label, group in beside.items() if group is not None}


def _domain_figures(family: Family, table: Table, asked: Sequence[str]) -> Iterator[Found]:
    """Figures 2 to 4 from runs that Table 1 has, and one of all runs where that leaves any out."""
    known = [
        line
        for line in family.lines
        if line[0].info.table == table.id and line[0].info.model in MODELS.values()
    ]
    shown = 0
    for kind, model in MODELS.items():
        own = [line for line in known if line[0].info.model == model]
        drawn = _with_stand_ins(model, known, table) if kind in asked else own
        figure = draw.domain_curves([series for _, series in drawn])
        if draw.empty(figure):
            continue
        shown += len(own)
        figure = _told(family, _as_of_paper(figure, kind, drawn, table), _evaluated)
        yield Found(kind=kind, figure=figure, measured=True)
    everything = draw.domain_curves(family.series)
    if shown < len(family.lines) and not draw.empty(everything):
        yield Found(kind="domains", figure=_told(family, everything, _evaluated), measured=True)


def _with_stand_ins(model: str, known: Sequence[NamedLine], table: Table) -> list[NamedLine]:
    """A model's runs with those at reduced scale that name another, unless its own are at the paper's.

    One architecture stands in for all three models, so its runs are drawn as the model that they name and
    not three times over; but whoever asks for a figure gets it.
    """
    own = [line for line in known if line[0].info.model == model]
    reduced = [line for line in known if _is_reduced(line[0], table)]
    return reduced if all(_is_reduced(group, table) for group, _ in own) else own


def _as_of_paper(figure: Figure, kind: str, drawn: Sequence[NamedLine], table: Table) -> Figure:
    """The domains' curves titled as a figure of the paper, or as what stands in for it."""
    model, number = MODELS[kind], kind.removeprefix("figure")
    reduced = any(_is_reduced(group, table) for group, _ in drawn)
    stands = f"a reduced-scale stand-in for {model}" if reduced else model
    others = sorted({str(group.info.model) for group, _ in drawn} - {model})
    named = f" The recipes name {', '.join(others)}: one stand-in for all." if others else ""
    return replace(
        figure,
        id=kind + "-reduced" * reduced,
        title=f"Log-perplexity by domain: {stands} (the paper's Figure {number})",
        caption=figure.caption + named,
    )


def _is_reduced(group: Group, table: Table) -> bool:
    row = next(row for row in table.rows if row.model == group.info.model)
    return judged_scale(group, table, row)[0] == "reduced"


def _of_studies(studies: Sequence[FoundStudy]) -> list[Found]:
    return [
        Found(kind=kind, figure=figure, measured=False)
        for kind, name in STUDIES.items()
        for each in studies
        if each.study.study == name
        for figure in each.study.figures
    ]


def _named_apart(found: Sequence[Found]) -> list[Found]:
    """The same with ids of their own, which name files: the second of an id gets a number."""
    counts: dict[str, int] = {}
    named = []
    for each in found:
        key = each.figure.id.casefold()
        counts[key] = counts.get(key, 0) + 1
        suffix = f"-{counts[key]}" if counts[key] > 1 else ""
        named.append(replace(each, figure=replace(each.figure, id=each.figure.id + suffix)))
    return named


def _told(family: Family, figure: Figure, has: Has) -> Figure:
    """The figure with a caption that says whose it is, and which logs are not as they should be."""
    return replace(figure, caption=f"{_about(family, figure, has)} {figure.caption}{said_of(family.logs)}")


def _about(family: Family, figure: Figure, has: Has) -> str:
    """In a sentence: which model, trained for how long, over how many seeds the figure's lines are."""
    settings: Mapping[str, Scalar] = family.groups[0].info.settings
    drawn = {line.label for panel in figure.panels if isinstance(panel, Panel) for line in panel.lines}
    shown = [each for each in family.series if not drawn or clean(each.label, MAX_LABEL) in drawn]
    seeds = sorted({count for each in shown if (count := sum(map(has, each.seeds)))}) or [0]
    words = [
        str(settings.get("model.family", "a model")),
        *(f"{settings[key]} {word}" for key, word in _SHAPE.items() if key in settings),
        f"{family.groups[0].runs[0].results.step} steps",
        f"{'-'.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seed{'s' * (seeds[-1] > 1)}",
    ]
    return clean(", ".join(words), 160) + "."


_SHAPE = {"model.layers": "layers", "model.width": "wide"}


def _several_machines(family: Family) -> bool:
    machines = {
        tuple((k, v) for k, v in sorted(run.provenance.items()) if k.startswith("hardware."))
        for group, _ in family.lines
        for run in group.runs
    }
    return len(machines) > 1

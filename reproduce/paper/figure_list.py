"""Every figure that there is, and which of them the given runs and studies hold the numbers for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from reproduce.paper import figures as draw
from reproduce.paper import sensitivity
from reproduce.paper.cost_figure import overhead
from reproduce.paper.figures import Curves, Series
from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.matching import Group, judged_scale
from reproduce.paper.run_groups import Family, families
from reproduce.paper.runs import Scalar
from reproduce.paper.tables import Table, load_tables
from reproduce.paper.text import clean
from reproduce.study import Figure

MODELS: Mapping[str, str] = {"figure2": "GPT2-medium", "figure3": "GPT2-mini", "figure4": "GPT2-small"}
"""Figure of the paper -> the model whose domains it shows."""

STUDIES: Mapping[str, str] = {"figure7": "regression", "figure8": "dro"}

MEASURED = ("loss", "weights-by-quantile")
"""Figures of runs with few points, which are marked one by one."""

IN_METRICS = "runs with `{}` in metrics.jsonl"
NEEDS: Mapping[str, str] = {
    "figure1": "nothing",
    **{
        name: f"runs of {model} or of its reduced-scale twin (a recipe's paper.table and paper.model), with "
        "evaluations in metrics.jsonl"
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


def find_figures(
    groups: Sequence[Group], studies: Sequence[FoundStudy], curves: Curves | None, only: Sequence[str] = ()
) -> tuple[list[Found], list[tuple[str, str]]]:
    """The figures that can be drawn, and those that cannot with what they need.

    Args:
        groups: as `group_by_settings` gives them.
        studies: as `find_studies` gives them.
        curves: data of Figure 1; None leaves it out without a word.
        only: keys of NEEDS; none is all.

    Raises:
        DataError: a broken metrics.jsonl.
    """
    asked = [kind for kind in NEEDS if not only or kind in only]
    found = [Found(kind="figure1", figure=draw.strategy_curves(curves), measured=False)] if curves else []
    found += [each for family in families(groups) for each in family_figures(family)]
    swept = sensitivity.sensitivity(groups)
    found += [Found(kind="figure5", figure=swept, measured=True)] if swept else []
    found += _of_studies(studies)
    ordered = [each for kind in asked for each in found if each.kind == kind]
    there = {each.kind for each in ordered} | {"figure1"}
    return _named_apart(ordered), [(kind, NEEDS[kind]) for kind in asked if kind not in there]


def family_figures(family: Family) -> list[Found]:
    """The figures of runs that share axes, in the order of NEEDS; those without a value are left out."""
    about = _about(family)
    found = list(_domain_figures(family, load_tables()["table1"]))
    simple: Mapping[str, Callable[[Sequence[Series]], Figure | None]] = {
        "figure6": draw.max_weight_distribution,
        "loss": draw.loss_curves,
        "ess": draw.ess_curves,
        "entropy": draw.entropy_curves,
        "weight-share": draw.weight_share_curves,
        "overhead": overhead,
        "weights-by-quantile": draw.weights_by_quantile,
    }
    for kind, make in simple.items():
        figure = make(family.series)
        if figure is not None and not draw.empty(figure):
            caption = f"{about} {figure.caption}"
            if kind == "overhead" and _several_machines(family):
                caption += " The runs were not all made on one machine."
            drawn = replace(figure, caption=caption)
            found.append(Found(kind=kind, figure=drawn, measured=kind in MEASURED))
    return sorted(found, key=lambda each: list(NEEDS).index(each.kind))


def _domain_figures(family: Family, table: Table) -> Iterator[Found]:
    """Figures 2 to 4 from runs that Table 1 has, and one of all runs where that leaves any out."""
    shown = []
    for kind, model in MODELS.items():
        lines = [
            (group, series)
            for group, series in family.lines
            if group.info.table == table.id and group.info.model == model
        ]
        figure = draw.domain_curves([series for _, series in lines])
        if draw.empty(figure):
            continue
        shown += lines
        row = next(row for row in table.rows if row.model == model)
        reduced = any(judged_scale(group, table, row)[0] == "reduced" for group, _ in lines)
        number = kind.removeprefix("figure")
        stands = f"a reduced-scale stand-in for {model}" if reduced else model
        yield Found(
            kind=kind,
            figure=replace(
                figure,
                id=kind + "-reduced" * reduced,
                title=f"Log-perplexity by domain: {stands} (the paper's Figure {number})",
                caption=f"{_about(family)} {figure.caption}",
            ),
            measured=True,
        )
    everything = draw.domain_curves(family.series)
    if len(shown) < len(family.lines) and not draw.empty(everything):
        figure = replace(everything, caption=f"{_about(family)} {everything.caption}")
        yield Found(kind="domains", figure=figure, measured=True)


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


def _about(family: Family) -> str:
    """In a sentence: which model, trained for how long, over how many seeds."""
    settings: Mapping[str, Scalar] = family.groups[0].info.settings
    seeds = sorted({len(group.by_seed) for group in family.groups})
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

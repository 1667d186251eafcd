"""Figures of `reweight toy bounds`. Shapes: S seeds, K methods, P recorded numbers of steps."""

from collections.abc import Sequence

from torch import Tensor

from reproduce.method.strategies import CAP
from reproduce.studies.bounds_races import Race
from reproduce.studies.bounds_result import BoundsResult
from reproduce.studies.bounds_run import FULL_CAPPED, FULL_MEAN
from reproduce.studies.cap import CapCell
from reproduce.studies.problems import LOSS_SHAPES
from reproduce.studies.settings import BASELINE, Method
from reproduce.studies.summary import as_row, band_line, median
from reproduce.study import Figure, Line, Map, Mark, Panel

SHOWN = "linupper"
"""The strategy whose bound is taken apart."""


def bounds_figures(result: BoundsResult) -> tuple[Figure, ...]:
    """All of them."""
    return (_gap_and_bound(result), _by_strategy(result), _cap_map(result), _cap_weights(result))


def _gap_and_bound(result: BoundsResult) -> Figure:
    k = _place(result.settings.methods, SHOWN)
    name = result.settings.methods[k].name
    return Figure(
        id="gap-and-bound",
        title=f"Measured gap beside the bound of Theorems 1 and 2: {name}",
        caption=f"Median over seeds and middle 95% of the gap that the theorem bounds; median of the bound "
        f"and of its two terms. Uniform's bound is the classic term alone. The delta term lowers "
        f"{name}'s bound where `minus delta term` is drawn; where it is missing, the term is positive.",
        panels=tuple(
            _terms_panel(race, k) for race in result.races if race.algorithm not in (FULL_CAPPED, FULL_MEAN)
        ),
        columns=2,
    )


def _terms_panel(race: Race, k: int) -> Panel:
    name = race.methods[k].name
    bound = (race.classic_curve + race.delta_curve)[:, :, k]
    return Panel(
        title=race.name,
        x_label="steps T",
        y_label="F - F*",
        lines=(
            _banded("uniform: gap", BASELINE, race, race.gap_curve[:, :, 0]),
            _banded(f"{name}: gap", SHOWN, race, race.gap_curve[:, :, k]),
            _middle(f"{name}: bound", SHOWN, race, bound),
            _middle(f"{name}: minus delta term", SHOWN, race, -race.delta_curve[:, :, k]),
            _middle("classic term", "classic", race, race.classic_curve[:, :, k]),
        ),
        x_log=True,
        y_log=True,
    )


def _by_strategy(result: BoundsResult) -> Figure:
    methods = result.settings.methods
    places = [_place(methods, name) for name in dict.fromkeys(method.strategy for method in methods)]
    panels = []
    for race in result.races:
        if race.algorithm.minibatch:
            share = 1 + race.delta_curve / race.classic_curve
            panels.append(_methods_panel(race, "gap", race.gap_curve, places, y_log=True))
            panels.append(_methods_panel(race, "bound / classic term", share, places, y_log=False))
    return Figure(
        id="gaps-and-bounds-by-strategy",
        title="Does the bound order the strategies as the gaps do?",
        caption="Medians over seeds; every strategy at its first r or lambda. Left the gap, right its bound "
        "as a multiple of the classic term, which is uniform's bound.",
        panels=tuple(panels),
        columns=2,
    )


def _methods_panel(race: Race, what: str, curve: Tensor, places: Sequence[int], *, y_log: bool) -> Panel:
    return Panel(
        title=race.name,
        x_label="steps T",
        y_label=what,
        lines=tuple(
            _middle(race.methods[k].name, race.methods[k].strategy, race, curve[:, :, k]) for k in places
        ),
        x_log=True,
        y_log=y_log,
    )


def _banded(label: str, strategy: str, race: Race, values_PS: Tensor) -> Line:
    return band_line(label, strategy, race.points, values_PS.mT)


def _middle(label: str, strategy: str, race: Race, values_PS: Tensor) -> Line:
    return Line(
        label=label,
        strategy=strategy,
        x=tuple(float(point) for point in race.points),
        y=as_row(median(values_PS.mT)),
    )


def _cap_map(result: BoundsResult) -> Figure:
    settings = result.settings
    panels = []
    for shape in LOSS_SHAPES:
        rows = [
            [_cell(result.cells, shape, size, SHOWN, r) for size in settings.cap_sizes]
            for r in settings.cap_r
        ]
        panels.append(
            Map(
                title=shape,
                x_label="batch size M",
                y_label="r",
                x_names=tuple(str(size) for size in settings.cap_sizes),
                y_names=tuple(f"{r:g}" for r in settings.cap_r),
                values=tuple(tuple(cell.share for cell in row) for row in rows),
                texts=tuple(tuple(_percent(cell.share) for cell in row) for row in rows),
            )
        )
    return Figure(
        id="cap-broken",
        title=f"Share of batches in which {SHOWN} exceeds 2/M",
        caption=f"{settings.cap_batches} batches of random losses a cell; from r = 1/log 2 = 1.44 on no "
        "losses can do it.",
        panels=tuple(panels),
        columns=2,
    )


def _cap_weights(result: BoundsResult) -> Figure:
    r = min(result.settings.cap_r, key=lambda each: abs(each - result.settings.r[0]))
    strategies = tuple(dict.fromkeys(cell.strategy for cell in result.cells))
    panels = tuple(
        Panel(
            title=f"{shape}, r = {r:g}",
            x_label="batch size M",
            y_label="largest M w",
            lines=tuple(_weight_line(result, shape, strategy, r) for strategy in strategies),
            x_log=True,
            y_log=True,
            marks=(Mark(axis="y", at=CAP, label="2, the cap"),),
        )
        for shape in LOSS_SHAPES
    )
    return Figure(
        id="largest-weight",
        title="Largest weight in units of the uniform weight",
        caption=f"Over {result.settings.cap_batches} batches (fewer for capped_softmax). dro_kl's lambda and "
        "capped_softmax's are r; the losses' quartiles lie as far apart as a standard normal's.",
        panels=panels,
        columns=2,
    )


def _weight_line(result: BoundsResult, shape: str, strategy: str, r: float) -> Line:
    sizes = result.settings.cap_sizes
    return Line(
        label=strategy,
        strategy=strategy,
        x=tuple(float(size) for size in sizes),
        y=tuple(_cell(result.cells, shape, size, strategy, r).largest for size in sizes),
    )


def _cell(cells: Sequence[CapCell], shape: str, samples: int, strategy: str, r: float) -> CapCell:
    return next(
        cell
        for cell in cells
        if (cell.shape, cell.samples, cell.strategy, cell.r) == (shape, samples, strategy, r)
    )


def _place(methods: Sequence[Method], strategy: str) -> int:
    """Its first method."""
    return next(k for k, method in enumerate(methods) if method.strategy == strategy)


def _percent(share: float) -> str:
    """Rounded, but neither to 0% nor to 100% unless it is."""
    if 0 < share < 0.01:
        return "<1%"
    return ">99%" if 0.99 < share < 1 else f"{100 * share:.0f}%"

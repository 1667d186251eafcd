"""Tables of the sweep: all cells, and counts of them."""

import math
from collections.abc import Sequence

import numpy as np

from reproduce.studies.settings import SweepSettings
from reproduce.studies.sweep import Grid
from reproduce.studies.sweep_cells import FACTORS, Cells, at_level, colder_is_higher, levels
from reproduce.study import Scalar, Table, finite_or_none

DIGITS = 6
"""Significant digits of the large table."""


def setting(cells: Cells) -> str:
    """Which learning rate the methods have."""
    return "own best learning rate" if cells.best_lr else "same learning rate"


def overview(settings: SweepSettings, cells: Sequence[Cells]) -> Table:
    """One row a quantity and method, over all cells."""
    rows: list[tuple[Scalar, ...]] = []
    for each in cells:
        won = each.winners()
        for k, method in enumerate(settings.methods):
            count = each.counts(k)
            rows.append(
                (
                    each.name,
                    setting(each),
                    method.name,
                    finite_or_none(each.typical(k)),
                    count.lower if k else None,
                    count.higher if k else None,
                    count.cells,
                    int(won[..., k].sum()),
                )
            )
    columns = (
        "quantity",
        "with",
        "method",
        "x uniform, median cell",
        "lower in",
        "higher in",
        "cells",
        "lowest in",
    )
    title = (
        "Against uniform: cells that are lower or higher by the sign test; cells where the median is lowest"
    )
    return Table(id="overview", title=title, columns=columns, rows=tuple(rows))


def by_level(settings: SweepSettings, cells: Sequence[Cells]) -> Table:
    """The same for every value of every factor."""
    rows: list[tuple[Scalar, ...]] = []
    for each in cells:
        for factor, (name, values) in enumerate(levels(settings).items()):
            if each.best_lr and name == "lr":
                continue
            for level, value in enumerate(values):
                where = at_level(factor, level)
                for k, method in enumerate(settings.methods[1:], start=1):
                    count = each.counts(k, where)
                    typical = finite_or_none(each.typical(k, where))
                    rows.append(
                        (
                            each.name,
                            setting(each),
                            name,
                            value,
                            method.name,
                            typical,
                            count.lower,
                            count.higher,
                            count.cells,
                        )
                    )
    columns = (
        "quantity",
        "with",
        "factor",
        "value",
        "method",
        "x uniform, median cell",
        "lower in",
        "higher in",
        "cells",
    )
    return Table(id="levels", title="The same, one factor at a time", columns=columns, rows=tuple(rows))


def winners(settings: SweepSettings, cells: Sequence[Cells]) -> Table:
    """How often each method has the lowest median, by outlier share; ties count for each."""
    rows: list[tuple[Scalar, ...]] = []
    for each in cells:
        won = each.winners()
        for k, method in enumerate(settings.methods):
            by_share = [int(won[level, ..., k].sum()) for level in range(len(settings.outlier_shares))]
            rows.append((each.name, setting(each), method.name, *by_share))
    shares = tuple(f"share {share:g}" for share in settings.outlier_shares)
    return Table(
        id="winners",
        title="Cells in which a method has the lowest median, by outlier share",
        columns=("quantity", "with", "method", *shares),
        rows=tuple(rows),
    )


def colder(settings: SweepSettings, cells: Sequence[Cells]) -> Table:
    """LinUpper's smallest temperature beside the next, by factor and by share and scale of the outliers."""
    pair = colder_is_higher(settings, cells[0])
    rows: list[tuple[Scalar, ...]] = []
    if pair is not None:
        values = {**levels(settings), FACTORS[0]: [settings.outlier_shares[i] for i in pair.shares]}
        places = [
            (name, f"{value:g}", at_level(factor, level))
            for factor, (name, each) in enumerate(values.items())
            for level, value in enumerate(each)
        ]
        places += [
            (f"{FACTORS[0]}, {FACTORS[1]}", f"{share:g}, {scale:g}", (i, j))
            for i, share in enumerate(values[FACTORS[0]])
            for j, scale in enumerate(values[FACTORS[1]])
        ]
        for name, value, where in places:
            signs = pair.signs[where][pair.known[where]]
            rows.append((name, value, int((signs < 0).sum()), int((signs > 0).sum()), signs.size))
    names = " beside ".join(pair.names) if pair is not None else "two temperatures of linupper"
    return Table(
        id="colder",
        title=f"Final loss of {names}: cells with outliers where the first one's median is higher or lower",
        columns=("factor", "value", "higher in", "lower in", "cells"),
        rows=tuple(rows),
    )


def arrivals(settings: SweepSettings, cells: Sequence[Cells]) -> Table:
    """Where anybody learns: cells in which the median run reaches the first threshold."""
    early = next(each for each in cells if not each.best_lr and each.name.startswith("steps"))
    there = np.isfinite(early.middle)
    rows = [
        (
            share,
            scale,
            there[i, j, ..., 0].size,
            *(int(there[i, j, ..., k].sum()) for k in range(there.shape[-1])),
        )
        for i, share in enumerate(settings.outlier_shares)
        for j, scale in enumerate(settings.outlier_scales)
    ]
    goal = early.name.removeprefix("steps to ")
    return Table(
        id="arrivals",
        title=f"Cells in which the median run reaches {goal} of the loss at the start",
        columns=(*FACTORS[:2], "cells", *(method.name for method in settings.methods)),
        rows=tuple(rows),
    )


def everything(grid: Grid, cells: Sequence[Cells]) -> Table:
    """One row a cell and method."""
    settings = grid.settings
    shown = [each for each in cells if not each.best_lr]
    values = list(levels(settings).values())
    diverged = grid.diverged.sum(dim=1).numpy().reshape(shown[0].middle.shape)
    rows: list[tuple[Scalar, ...]] = []
    for place in np.ndindex(*(len(each) for each in values)):
        for k, method in enumerate(settings.methods):
            at = (*place, k)
            rows.append(
                (
                    *(value[i] for value, i in zip(values, place, strict=True)),
                    method.name,
                    *(_short(float(each.middle[at])) for each in shown),
                    *(int(each.standing[at]) for each in shown),
                    int(diverged[at]),
                )
            )
    columns = (
        *FACTORS,
        "method",
        *(f"{each.name}, median" for each in shown),
        *(f"{each.name}: -1 lower than uniform, 1 higher" for each in shown),
        "diverged",
    )
    return Table(id="cells", title="Every cell", columns=columns, rows=tuple(rows))


def _short(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None

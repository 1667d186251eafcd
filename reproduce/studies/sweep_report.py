"""The sweep as a Study: where each method is faster than uniform and where it ends lower."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from reproduce.studies.regression import Advance
from reproduce.studies.settings import SweepSettings
from reproduce.studies.sweep import run_grid
from reproduce.studies.sweep_cells import Cells, at_level, at_the_edge, cells_of, levels
from reproduce.studies.sweep_tables import arrivals, by_level, colder, everything, overview, setting, winners
from reproduce.studies.sweep_verdicts import sweep_findings
from reproduce.studies.versions import versions
from reproduce.study import Figure, Line, Map, Panel, Study, finite_or_none


def run_sweep(settings: SweepSettings, command: str, advance: Advance = lambda share, what: None) -> Study:
    """Run the grid and sum it up; the same settings give the same Study."""
    grid = run_grid(settings, advance)
    cells = cells_of(grid)
    return Study(
        study="sweep",
        title="Toy regression over data and settings",
        command=command,
        settings=settings.as_settings(),
        versions=versions(),
        tables=(
            overview(settings, cells),
            by_level(settings, cells),
            winners(settings, cells),
            colder(settings, cells),
            arrivals(settings, cells),
            everything(grid, cells),
        ),
        figures=(_by_share(settings, cells), _where(settings, cells), _by_factor(settings, cells)),
        findings=sweep_findings(settings, cells),
        numbers={
            "cells": int(cells[0].distinct.sum()),
            "runs": grid.final.numel(),
            "diverged": int(grid.diverged.sum()),
            "overflowed": int(grid.overflowed.sum()),
            "best learning rate at the edge of the grid (share)": at_the_edge(grid, settings),
        },
    )


def _by_share(settings: SweepSettings, cells: Sequence[Cells]) -> Figure:
    methods = settings.methods[1:]
    panels = tuple(
        _map(
            f"{each.name}, {setting(each)}",
            "outlier share",
            "method",
            [f"{share:g}" for share in settings.outlier_shares],
            [method.name for method in methods],
            [
                [_entry(each, k, at_level(0, level)) for level in range(len(settings.outlier_shares))]
                for k in range(1, len(methods) + 1)
            ],
        )
        for each in cells
    )
    return Figure(
        id="by_share",
        title="Who is faster, who ends lower",
        caption="Median over cells of a method's value over uniform's; below it, how many percent of the "
        f"cells are resolved lower : higher ({settings.seeds} seeds, sign test, each cell by itself). "
        "Blue is better than uniform.",
        panels=_finite(panels),
        columns=len(cells) // 2,
    )


def _where(settings: SweepSettings, cells: Sequence[Cells]) -> Figure:
    """LinUpper's and its rivals' floor over outlier share and scale, one panel a noise and temperature."""
    final = cells[0]
    lanes = [k for k, method in enumerate(settings.methods) if method.strategy == "linupper"] or [
        min(1, len(settings.methods) - 1)
    ]
    panels = tuple(
        _map(
            f"{settings.methods[k].name}, noise {noise:g}",
            "outlier share",
            "outlier scale",
            [f"{share:g}" for share in settings.outlier_shares],
            [f"{scale:g}" for scale in settings.outlier_scales],
            [
                [_entry(final, k, (share, scale, n)) for share in range(len(settings.outlier_shares))]
                for scale in range(len(settings.outlier_scales))
            ],
        )
        for k in lanes
        for n, noise in enumerate(settings.noises)
    )
    return Figure(
        id="floor",
        title="Where the floor is higher",
        caption="Final held-out loss over uniform's at the same learning rate: median over batch sizes and "
        "learning rates, and percent of those cells resolved lower : higher.",
        panels=_finite(panels),
        columns=len(settings.noises),
    )


def _map(
    title: str,
    x_label: str,
    y_label: str,
    x_names: Sequence[str],
    y_names: Sequence[str],
    entries: Sequence[Sequence[tuple[float | None, str]]],
) -> Map:
    return Map(
        title=title,
        x_label=x_label,
        y_label=y_label,
        x_names=tuple(x_names),
        y_names=tuple(y_names),
        values=tuple(tuple(value for value, _ in row) for row in entries),
        texts=tuple(tuple(text for _, text in row) for row in entries),
    )


def _finite(panels: Sequence[Map]) -> tuple[Map, ...]:
    """Infinite ratios drawn as the worst and the best of all these maps, which share their colours."""
    values = [value for panel in panels for row in panel.values for value in row if value is not None]
    known = [value for value in values if math.isfinite(value)]
    worst, best = max([1.0, *known]), min([-1.0, *known])

    def drawn(value: float | None) -> float | None:
        return None if value is None else min(worst, max(best, value))

    return tuple(
        replace(panel, values=tuple(tuple(map(drawn, row)) for row in panel.values)) for panel in panels
    )


def _entry(cells: Cells, method: int, where: Sequence[slice | int]) -> tuple[float | None, str]:
    """Colour (log2 of the typical ratio, infinite where only one arrives) and text of a cell of a map."""
    ratio, count = cells.typical(method, where), cells.counts(method, where)
    if not count.cells:
        return None, "–"
    share = f"{100 * count.lower / count.cells:.0f}:{100 * count.higher / count.cells:.0f}"
    if math.isnan(ratio):
        return None, f"–\n{share}"
    text = "∞" if math.isinf(ratio) else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
    return (math.log2(ratio) if ratio else -math.inf), f"{text}\n{share}"


def _by_factor(settings: SweepSettings, cells: Sequence[Cells]) -> Figure:
    same = [each for each in cells if not each.best_lr]
    return Figure(
        id="by_factor",
        title="One factor at a time",
        caption="A method's value over uniform's at the same learning rate, median over all cells with that "
        "value of the factor. Below 1 is better than uniform.",
        panels=tuple(
            Panel(
                title=each.name,
                x_label=name,
                y_label="x uniform",
                x_log=min(values) > 0,
                y_log=True,
                lines=tuple(_factor_lines(settings, each, factor, values)),
            )
            for each in same
            for factor, (name, values) in enumerate(levels(settings).items())
            if len(values) > 1
        ),
        columns=max(1, sum(len(values) > 1 for values in levels(settings).values())),
    )


def _factor_lines(
    settings: SweepSettings, cells: Cells, factor: int, values: Sequence[float]
) -> Iterator[Line]:
    for k, method in enumerate(settings.methods[1:], start=1):
        ratios = [cells.typical(k, at_level(factor, level)) for level in range(len(values))]
        yield Line(
            label=method.name,
            strategy=method.strategy,
            x=tuple(float(value) for value in values),
            y=tuple(finite_or_none(ratio) for ratio in ratios),
        )

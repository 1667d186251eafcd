"""A study's figures as SVG and PNG: panels in a grid, one legend below. Same figure, same bytes."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reproduce.errors import UserError
from reproduce.paper.drawing import Drawn, drawing
from reproduce.paper.study_axes import LineName, Look, draw_lines, looks
from reproduce.paper.study_map import (
    BETTER,
    CHARACTER_EM,
    LARGEST_FONT,
    WORSE,
    draw_map,
    font_size,
    full_colour_at,
    least_width,
    map_height,
    to_hex,
)
from reproduce.paper.text import clean
from reproduce.study import Figure, Map, Panel

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure as Canvas

MAX_PANELS = 64
MAX_LINES = 64
"""Lines of one panel, and marks."""

MAX_CELLS = 2500
"""Cells of one map."""

PAGE_WIDTH, WIDEST = 7.2, 14.0
"""Inches. A figure is as wide as a page, unless the texts of its maps need more."""

PANEL_HEIGHT = 2.4
LEGEND_FONT = 7.0
MAP_LABELS = {"better": BETTER, "worse": WORSE}


def draw_figure(figure: Figure, *, title: bool = True, png: bool = True, dots: bool = False) -> Drawn:
    """The figure as files' contents.

    Args:
        figure: what to draw.
        title: write the figure's title above the panels.
        png: draw the PNG too: 150 dots an inch, on white.
        dots: mark every point of a line of few points: they were measured, what lies between was not.

    Raises:
        UserError: more panels, lines or cells than can be read, let alone drawn.
    """
    _check_size(figure)
    columns = max(1, min(figure.columns, len(figure.panels)))
    rows = [figure.panels[at : at + columns] for at in range(0, len(figure.panels), columns)]
    maps = [panel for panel in figure.panels if isinstance(panel, Map)]
    width = min(WIDEST, max([PAGE_WIDTH, *(columns * least_width(grid) for grid in maps)]))
    heights = [max(_height(panel, width / columns) for panel in row) for row in rows] or [PANEL_HEIGHT]
    styles = looks([panel for panel in figure.panels if isinstance(panel, Panel)])
    labels = [*(clean(label, 60) for _, label in styles), *_colour_labels(maps)]
    across = _legend_columns(labels, width)
    height = sum(heights) + 0.17 * math.ceil(len(labels) / across) + 0.3 * title + 0.1
    with drawing(figure.id, width, height, png=png) as (canvas, out):
        if title:
            canvas.suptitle(clean(figure.title, 110), fontsize=9)
        _fill(canvas, rows, columns, heights, styles, width, dots=dots)
        if labels:
            _draw_legend(canvas, styles, labels, across)
    return out


def _check_size(figure: Figure) -> None:
    def refuse(problem: str) -> UserError:
        return UserError(f"figure {figure.id} has {problem}; run the study with fewer settings")

    if len(figure.panels) > MAX_PANELS:
        raise refuse(f"{len(figure.panels)} panels, more than the {MAX_PANELS} that are drawn")
    for number, panel in enumerate(figure.panels, 1):
        if isinstance(panel, Map):
            cells = len(panel.x_names) * len(panel.y_names)
            if cells > MAX_CELLS:
                raise refuse(f"{cells} cells in panel {number}, more than the {MAX_CELLS} that are drawn")
        elif max(len(panel.lines), len(panel.marks)) > MAX_LINES:
            most = max(len(panel.lines), len(panel.marks))
            raise refuse(f"{most} lines in panel {number}, more than the {MAX_LINES} that are drawn")


def _fill(
    canvas: "Canvas",
    rows: Sequence[Sequence[Panel | Map]],
    columns: int,
    heights: Sequence[float],
    styles: Mapping[LineName, Look],
    width: float,
    *,
    dots: bool,
) -> None:
    maps = [panel for row in rows for panel in row if isinstance(panel, Map)]
    size = min([font_size(panel, width / columns) for panel in maps] or [LARGEST_FONT])
    scale = full_colour_at(maps)  # one for all panels, so that they can be compared
    grid = canvas.add_gridspec(len(heights), columns, height_ratios=heights)
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            axes = canvas.add_subplot(grid[i, j])
            if isinstance(panel, Map):
                draw_map(axes, panel, width / columns, size, scale)
            else:
                draw_lines(axes, panel, styles, dots=dots)


def _height(panel: Panel | Map, width: float) -> float:
    """Inches of a panel, with its title and labels."""
    return map_height(panel, width) if isinstance(panel, Map) else PANEL_HEIGHT


def _draw_legend(
    canvas: "Canvas", styles: Mapping[LineName, Look], labels: Sequence[str], columns: int
) -> None:
    """One entry a line, then the maps' colours that the labels name."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Artist] = [Line2D([], [], **look.style()) for look in styles.values()]
    handles += [Patch(color=to_hex(MAP_LABELS[label])) for label in labels[len(handles) :]]
    canvas.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        handlelength=3.5,
        fontsize=LEGEND_FONT,
    )


def _colour_labels(maps: Sequence[Map]) -> list[str]:
    """Which ends of the colours the maps have."""
    values = [value for grid in maps for row in grid.values for value in row if value is not None]
    there = (any(value < 0 for value in values), any(value > 0 for value in values))
    return [label for label, used in zip(MAP_LABELS, there, strict=True) if used]


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """As many columns as the longest label leaves room for."""
    longest = max(map(len, labels), default=1)
    entry = (longest * CHARACTER_EM + 6.5) * LEGEND_FONT / 72
    return max(1, min(5, int(width / entry)))

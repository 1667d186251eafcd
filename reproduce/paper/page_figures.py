"""Figures as they stand in the report's page: SVG with caption, and the values that the pointer finds."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.json_files import finite
from reproduce.paper.drawing import INK, Box, prefix_ids
from reproduce.paper.study_axes import LineName, Look, drawn_points, looks
from reproduce.paper.study_figures import draw_figure
from reproduce.paper.study_map import (
    NAME_LIMIT,
    SMALLEST_FONT,
    cell_colour,
    cell_lines,
    full_colour_at,
    to_hex,
)
from reproduce.paper.text import clean
from reproduce.study import Figure, Line, Map, Panel

if TYPE_CHECKING:
    from markupsafe import Markup

CAPTION_LIMIT = 1000

READABLE_PX = 9
"""CSS pixels of a figure's smallest text; a screen that is too narrow for it scrolls the figure."""


@dataclass(frozen=True, kw_only=True)
class HoverLine:
    """One line's values, in order; `-` where there is none."""

    label: str
    colour: str
    x: str
    y: str
    low: str
    """Empty without a band."""
    high: str


@dataclass(frozen=True, kw_only=True)
class Hover:
    """Where a panel's axes lie over the figure."""

    name: str
    left: str
    """Percent of the figure's width or height, as the three below."""
    top: str
    width: str
    height: str


@dataclass(frozen=True, kw_only=True)
class HoverPanel(Hover):
    """What a panel's axes span, and the values that are drawn there."""

    x: str
    """Values at the two ends."""
    y: str
    x_log: bool
    y_log: bool
    x_label: str
    lines: tuple[HoverLine, ...]


@dataclass(frozen=True, kw_only=True)
class HoverMap(Hover):
    """What each cell of a map says."""

    columns: str
    """What each column stands for, as a JSON list; the first stands left."""
    rows: str
    """What each row stands for, as a JSON list; the first stands at the top."""
    cells: str
    """A JSON list of rows, each a list of (text, colour)."""


@dataclass(frozen=True, kw_only=True)
class PageFigure:
    """One figure with its caption."""

    title: str
    caption: str
    svg: "Markup"
    least_width: int
    """CSS pixels at which every text in it can be read."""
    panels: tuple[HoverPanel, ...] = ()
    maps: tuple[HoverMap, ...] = ()

    @property
    def size(self) -> int:
        """About how many bytes of the page it takes."""
        values = [t for p in self.panels for w in p.lines for t in (w.x, w.y, w.low, w.high)]
        values += [escaped for m in self.maps for escaped in map(_escaped, (m.columns, m.rows, m.cells))]
        return len(self.svg.encode()) + sum(map(len, values)) + 400 * (len(self.panels) + len(self.maps))


def page_figure(figure: Figure, prefix: str, *, dots: bool = False) -> PageFigure:
    """The figure for the page; `prefix` keeps its ids apart from another's.

    Raises:
        UserError: more panels, lines or cells than are drawn at all.
    """
    drawn = draw_figure(figure, title=False, png=False, dots=dots)
    styles = looks([panel for panel in figure.panels if isinstance(panel, Panel)])
    placed = list(zip(figure.panels, drawn.boxes, strict=True))
    panels = (_hover(panel, box, styles) for panel, box in placed if isinstance(panel, Panel))
    grids = [(panel, box) for panel, box in placed if isinstance(panel, Map)]
    scale = full_colour_at([grid for grid, _ in grids])
    return PageFigure(
        title=clean(figure.title, 200),
        caption=clean(figure.caption, CAPTION_LIMIT),
        svg=embedded(prefix_ids(drawn.svg, prefix)),
        least_width=_least_width(drawn.svg),
        panels=tuple(panel for panel in panels if panel.lines),
        maps=tuple(
            _hover_map(figure, grid, box, scale) for grid, box in grids if grid.x_names and grid.y_names
        ),
    )


def embedded(svg: str) -> "Markup":
    """The figure as it stands in the page: the one text that is not escaped there."""
    from markupsafe import Markup

    # Hidden from assistive technology: the caption, the panels over it and the tables say what it shows.
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))


def _least_width(svg: str) -> int:
    """CSS pixels at which the smallest text of a drawn figure is READABLE_PX high."""
    # Names from files come with `<` escaped: they cannot pass for a text's size.
    sizes = [float(size) for size in re.findall(r"<text [^>]*?font-size: ([\d.]+)px", svg)]
    across = re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+)', svg)
    if not sizes or across is None:
        return 0
    return math.ceil(READABLE_PX * float(across[1]) / max(SMALLEST_FONT, min(sizes)))


def _hover(panel: Panel, box: Box, styles: Mapping[LineName, Look]) -> HoverPanel:
    name = (
        f"{clean(panel.title, 80)}: {clean(panel.y_label, 80)}" if panel.title else clean(panel.y_label, 80)
    )
    return HoverPanel(
        **_placed(name, box),
        x=" ".join(map(repr, box.x)),
        y=" ".join(map(repr, box.y)),
        x_log=box.x_log,
        y_log=box.y_log,
        x_label=clean(panel.x_label, 80),
        lines=tuple(_line(line, panel, styles[line.strategy, line.label]) for line in panel.lines if line.x),
    )


def _hover_map(figure: Figure, grid: Map, box: Box, scale: float) -> HoverMap:
    def named(label: str, names: Sequence[str]) -> str:
        return json.dumps([clean(f"{label}: {name}" if label else name, 80 + NAME_LIMIT) for name in names])

    def cell(text: str, value: float | None) -> tuple[str, str]:
        said, colour = ", ".join(cell_lines(text)), cell_colour(value, scale)
        exact = "" if colour is None else f" ({_number(value)} on the colour scale)"
        return said + exact, "transparent" if colour is None else to_hex(colour)

    return HoverMap(
        **_placed(clean(grid.title or figure.title, 80), box),
        columns=named(grid.x_label, grid.x_names),
        rows=named(grid.y_label, grid.y_names),
        cells=json.dumps(
            [
                [cell(text, value) for text, value in zip(texts, values, strict=True)]
                for texts, values in zip(grid.texts, grid.values, strict=True)
            ]
        ),
    )


def _line(line: Line, panel: Panel, look: Look) -> HoverLine:
    kept = drawn_points(line, panel).tolist()

    def values(of: Sequence[float | None] | None) -> str:
        return "" if of is None else " ".join(_number(of[index]) for index in kept)

    return HoverLine(
        label=clean(line.label, 60),
        colour="currentColor" if look.colour == INK else look.colour,
        x=values(line.x),
        y=values(line.y),
        low=values(line.low),
        high=values(line.high),
    )


def _number(value: float | None) -> str:
    number = finite(value)
    return "-" if number is None else f"{number:.5g}"


def _escaped(text: str) -> str:
    return text.replace('"', "&#34;")


def _placed(name: str, box: Box) -> dict[str, str]:
    places = {"left": box.left, "top": box.top, "width": box.width, "height": box.height}
    return {"name": name, **{key: _percent(share) for key, share in places.items()}}


def _percent(share: float) -> str:
    return f"{100 * share:.3f}%"

"""Figures as they stand in the report's page: SVG with caption, and the values that the pointer finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eval.json_files import finite
from reproduce.paper.drawing import INK, Box, prefix_ids
from reproduce.paper.study_axes import LineName, Look, drawn_points, looks
from reproduce.paper.study_figures import draw_figure
from reproduce.paper.text import clean
from reproduce.study import Figure, Line, Panel

if TYPE_CHECKING:
    from markupsafe import Markup

CAPTION_LIMIT = 1000


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
class HoverPanel:
    """Where a panel's axes lie over the figure, what they span, and the values that are drawn there."""

    name: str
    left: str
    """Percent of the figure's width or height, as the three below."""
    top: str
    width: str
    height: str
    x: str
    """Values at the two ends."""
    y: str
    x_log: bool
    y_log: bool
    x_label: str
    lines: tuple[HoverLine, ...]


@dataclass(frozen=True, kw_only=True)
class PageFigure:
    """One figure with its caption."""

    title: str
    caption: str
    svg: "Markup"
    panels: tuple[HoverPanel, ...] = ()

    @property
    def size(self) -> int:
        """About how many bytes of the page it takes."""
        values = (len(t) for p in self.panels for w in p.lines for t in (w.x, w.y, w.low, w.high))
        return len(self.svg.encode()) + sum(values) + 400 * len(self.panels)


def page_figure(figure: Figure, prefix: str, *, dots: bool = False) -> PageFigure:
    """The figure for the page; `prefix` keeps its ids apart from another's.

    Raises:
        UserError: more panels, lines or cells than are drawn at all.
    """
    drawn = draw_figure(figure, title=False, png=False, dots=dots)
    styles = looks([panel for panel in figure.panels if isinstance(panel, Panel)])
    panels = (
        _hover(panel, box, styles)
        for panel, box in zip(figure.panels, drawn.boxes, strict=True)
        if isinstance(panel, Panel)  # a map's cells say what they hold
    )
    return PageFigure(
        title=clean(figure.title, 200),
        caption=clean(figure.caption, CAPTION_LIMIT),
        svg=embedded(prefix_ids(drawn.svg, prefix)),
        panels=tuple(panel for panel in panels if panel.lines),
    )


def embedded(svg: str) -> "Markup":
    """The figure as it stands in the page: the one text that is not escaped there."""
    from markupsafe import Markup

    # Hidden from assistive technology: the caption, the panels over it and the tables say what it shows.
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))


def _hover(panel: Panel, box: Box, styles: Mapping[LineName, Look]) -> HoverPanel:
    name = (
        f"{clean(panel.title, 80)}: {clean(panel.y_label, 80)}" if panel.title else clean(panel.y_label, 80)
    )
    return HoverPanel(
        name=name,
        left=_percent(box.left),
        top=_percent(box.top),
        width=_percent(box.width),
        height=_percent(box.height),
        x=" ".join(map(repr, box.x)),
        y=" ".join(map(repr, box.y)),
        x_log=box.x_log,
        y_log=box.y_log,
        x_label=clean(panel.x_label, 80),
        lines=tuple(_line(line, panel, styles[line.strategy, line.label]) for line in panel.lines if line.x),
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


def _percent(share: float) -> str:
    return f"{100 * share:.3f}%"

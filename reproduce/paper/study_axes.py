"""A panel of a study's figure as matplotlib draws it: lines with bands and marks. No legend, no layout.

What cannot be drawn is left out: a value of 0 or below on a logarithmic axis breaks the line, as None does.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.json_files import finite
from reproduce.paper.drawing import INK, OTHER, STYLES
from reproduce.paper.metrics_log import Floats
from reproduce.paper.text import clean
from reproduce.study import Line, Mark, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

LineName = tuple[str, str]
"""Strategy and label: what one entry of a legend stands for."""

POINTS = 200
"""A longer line is drawn at so many places along the axis, to keep a page of figures small."""

FEW_POINTS = 30
MARKERS = "s^DvP<X>*"
"""No circle: dots on measured points are small ones."""

MARKERS_A_LINE = 8

STROKES = ((1.4, 1.0), (3.0, 0.45), (0.8, 1.0), (2.4, 0.8), (1.6, 0.5))
"""Width in points and opacity of a strategy's first line, its second and so on, over again after the last:
what tells them apart between their markers, and in grey. Opacity, for it works on dark pages too."""

SMALLEST, LARGEST = 1e-80, 1e80
"""Drawn in place of what is larger, or nearer to 0 on a logarithmic axis: axes and ticks stay finite."""

RISE = 1e3
"""A logarithmic y axis goes so many times above where its lines start and where the calmest of them ends:
one line that diverges must not press all others into one."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one line is drawn."""

    colour: str
    dashes: Any
    variant: int
    """Counts the lines of one strategy: 0 is plain, the others have a stroke of their own and markers."""

    def style(self) -> dict[str, Any]:
        """For matplotlib. Lines of one strategy share colour and dashes; stroke and marker differ."""
        width, opacity = STROKES[self.variant % len(STROKES)]
        style = {"color": self.colour, "linestyle": self.dashes}
        if self.variant:
            # Above the bands, the wide below the narrow: none hides another.
            style |= {"linewidth": width, "alpha": opacity, "zorder": 2 - width / 100}
            round_, marker = divmod(self.variant - 1, len(MARKERS))
            face = self.colour if round_ % 2 == 0 else "none"
            style |= {"marker": MARKERS[marker], "markersize": 4.5, "markerfacecolor": face}
        return style


def looks(panels: Sequence[Panel]) -> dict[LineName, Look]:
    """Every line of a figure by name, in order of appearance; a name looks the same in all panels."""
    found: dict[LineName, Look] = {}
    taken: Counter[str] = Counter()
    for line in (line for panel in panels for line in panel.lines):
        name = (line.strategy, line.label)
        if name not in found:
            colour, dashes = STYLES.get(line.strategy, OTHER)
            found[name] = Look(colour=colour, dashes=dashes, variant=taken[colour])
            taken[colour] += 1
    return found


def draw_lines(axes: "Axes", panel: Panel, styles: Mapping[LineName, Look], *, dots: bool = False) -> None:
    """Lines, bands and marks of a panel, its axes and labels; no legend.

    `dots`: every point of a line of at most FEW_POINTS gets a marker.
    """
    drawn = [_Drawn.of(line, panel, styles[line.strategy, line.label]) for line in panel.lines]
    # Without a value that it can show, a logarithmic axis has no limits.
    x_log = panel.x_log and any(each.x.size for each in drawn)
    y_log = panel.y_log and any(each.values().size for each in drawn)
    axes.set_xscale("log" if x_log else "linear")
    axes.set_yscale("log" if y_log else "linear")
    for each in drawn:
        each.draw(axes, dots=dots)
    marks = [
        replace(mark, at=at)
        for mark in panel.marks
        if math.isfinite(at := float(_floats([mark.at], log=x_log if mark.axis == "x" else y_log)[0]))
    ]
    for mark in marks:
        _draw_mark(axes, mark)
    note = _limit(axes, drawn, [mark.at for mark in marks if mark.axis == "y"]) if y_log else ""
    if not x_log and any(each.x.size and each.x[0] < 0 for each in drawn):
        axes.locator_params(axis="x", nbins=5)  # numbers with a sign are wide
    for axis, log in ((axes.xaxis, x_log), (axes.yaxis, y_log)):
        if log:
            _plain_ticks(axis)
    axes.set_title(clean(panel.title, 80) + note, fontsize=8)
    axes.set_xlabel(clean(panel.x_label, 80))
    axes.set_ylabel(clean(panel.y_label, 80))


def drawn_points(line: Line, panel: Panel) -> Indices:
    """Which of a line's points are drawn: few enough to keep a figure small, none without a place."""
    x = _floats(line.x, log=panel.x_log)
    y = _floats(line.y, log=panel.y_log)
    keep = np.flatnonzero(np.isfinite(x))
    kept: Indices = keep[_thinned(_places(x[keep], log=panel.x_log), y[keep])]
    return kept


@dataclass(frozen=True)
class _Drawn:
    """A line's arrays, NaN where it breaks."""

    x: Floats
    y: Floats
    low: Floats | None
    high: Floats | None
    look: Look

    @classmethod
    def of(cls, line: Line, panel: Panel, look: Look) -> "_Drawn":
        x = _floats(line.x, log=panel.x_log)
        y = _floats(line.y, log=panel.y_log)
        keep = drawn_points(line, panel)
        low, high = (
            # A band that reaches 0, which a logarithmic axis has not, goes down to the axis: no gap.
            None if values is None else _floats(values, log=panel.y_log, at_zero=0.0)[keep]
            for values in (line.low, line.high)
        )
        return cls(x[keep], y[keep], low, high, look)

    def values(self) -> Floats:
        """What of y is drawn."""
        there: Floats = self.y[np.isfinite(self.y)]
        return there

    def draw(self, axes: "Axes", *, dots: bool) -> None:
        places = _places(self.x, log=axes.get_xscale() == "log")
        # Markers of lines that lie on each other stand beside each other.
        cells = np.floor(MARKERS_A_LINE * places + 0.37 * self.look.variant)
        marked = np.flatnonzero(np.diff(cells, prepend=-1.0)).tolist()
        style = self.look.style()
        if dots and self.x.size <= FEW_POINTS:
            marked, style = list(range(self.x.size)), {"marker": "o", "markersize": 2.5, **style}
        axes.plot(self.x, self.y, markevery=marked, **style)
        alone = _alone(np.isfinite(self.y))
        if alone.any():
            dot: dict[str, Any] = {
                "color": self.look.colour,
                "marker": style["marker"] if self.look.variant else ".",
                "linestyle": "none",
                "markersize": 4.0,
            }
            axes.plot(self.x[alone], self.y[alone], **dot)
        if self.low is not None and self.high is not None:
            axes.fill_between(self.x, self.low, self.high, color=self.look.colour, alpha=0.13, linewidth=0)


def _floats(values: Sequence[float | None], *, log: bool, at_zero: float = math.nan) -> Floats:
    """The values as drawn: NaN for what is not there; on a logarithmic axis `at_zero` for 0 and below."""
    numbers = [math.nan if (number := finite(value)) is None else number for value in values]
    array: Floats = np.clip(np.array(numbers, dtype=np.float64), -LARGEST, LARGEST)
    if log:
        array = np.where(array > 0, np.maximum(array, SMALLEST), np.where(np.isnan(array), np.nan, at_zero))
    return array


def _places(x: Floats, *, log: bool) -> Floats:
    """Where the values stand along their axis, from 0 to 1."""
    if not x.size:
        return x
    along = np.log10(x) if log else x / max(1.0, float(np.abs(x).max()))  # lest their range overflow
    reach = float(np.ptp(along))
    places: Floats = (along - along.min()) / reach if reach > 0 else np.zeros_like(x)
    return places


def _thinned(places: Floats, y: Floats) -> Indices:
    """Indices of at most one point in each of POINTS places along the axis, plus where the line breaks."""
    if places.size <= POINTS:
        return np.arange(places.size)
    cells = np.minimum(np.floor(places * POINTS), POINTS - 1)
    changes = np.diff(cells, prepend=-1.0) != 0
    changes |= np.diff(np.isfinite(y), prepend=not np.isfinite(y[0]))
    changes[-1] = True
    return np.flatnonzero(changes)


def _alone(there: Flags) -> Flags:
    """Which points have no neighbour to draw a line to."""
    before, after = np.zeros_like(there), np.zeros_like(there)
    before[1:], after[:-1] = there[:-1], there[1:]
    alone: Flags = there & ~before & ~after
    return alone


def _draw_mark(axes: "Axes", mark: Mark) -> None:
    style: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (1, 2)), "alpha": 0.8}
    text: dict[str, Any] = {"s": clean(mark.label, 40), "ha": "right", "fontsize": 6.5, "clip_on": True}
    if mark.axis == "x":
        axes.axvline(mark.at, **style)
        axes.text(mark.at, 0.98, rotation=90, va="top", transform=axes.get_xaxis_transform(), **text)
    else:
        axes.axhline(mark.at, **style)
        axes.text(0.99, mark.at, va="bottom", transform=axes.get_yaxis_transform(), **text)


def _limit(axes: "Axes", drawn: Sequence[_Drawn], marks: Sequence[float]) -> str:
    """Set the limits of a logarithmic y axis; a line for the title where something lies above them."""
    shown = [values for each in drawn if (values := each.values()).size]
    lowest = min([*(float(values.min()) for values in shown), *marks])
    highest = max([*(float(values.max()) for values in shown), *marks])
    calmest = min(float(values.max()) for values in shown)
    end = RISE * max([calmest, *(float(values[0]) for values in shown), *marks])
    # A band may reach further than the lines, by a decade at most: its low end may be next to 0.
    bands = [e for each in drawn for e in (each.low, each.high) if e is not None and np.isfinite(e).any()]
    low = min([lowest, *(max(lowest / 10, float(np.nanmin(each))) for each in bands)])
    high = max([highest, *(min(highest * 10, float(np.nanmax(each))) for each in bands)])
    margin = 0.04 * max(0.1, math.log10(min(high, end)) - math.log10(low))
    axes.set_ylim(low / 10**margin, min(high * 10**margin, end))
    return f"\n(values above {end:.0e} not shown)" if highest > end else ""


def _plain_ticks(axis: Any) -> None:
    """Numbers on a logarithmic axis as plain text: matplotlib's own formatter writes them as math."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    decades = math.log10(high) - math.log10(low)
    # A short stretch of an axis may hold none of 1, 2 and 5.
    subs = (1.0,) if decades > 2 else (1.0, 2.0, 5.0) if decades > 0.8 else (1.0, 1.5, *range(2, 10))
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    if decades > 3:  # too close to tell apart, and most of the figure's bytes
        axis.set_minor_locator(NullLocator())

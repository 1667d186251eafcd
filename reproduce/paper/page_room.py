"""How many figures the page has room for: each that fits is drawn, and few are drawn for nothing."""

from dataclasses import dataclass, field

from reproduce.errors import UserError
from reproduce.paper.page_figures import PageFigure, page_figure
from reproduce.paper.study_axes import POINTS
from reproduce.study import Figure, Map, Panel

FIGURE_BYTES, PANEL_BYTES, LINE_BYTES, CELL_BYTES = 2000, 8000, 500, 500
POINT_BYTES, BAND_BYTES = 18, 34
"""At least what a point takes: `L 206.79 529.14`, and its x and y beside the pointer; a band takes two more
points and values."""

VAIN = 3
"""After so many figures that were drawn and found too large, only what fits for certain is drawn."""

CERTAIN = 3
"""The page's figures take up to so many times their least bytes: 1.05 to 2.4 times, measured."""


@dataclass
class Room:
    """Bytes that are left for figures."""

    left: int
    taken: int = 0
    _vain: int = field(default=0, repr=False)

    def draw(self, figure: Figure, prefix: str, *, dots: bool = False) -> PageFigure | None:
        """The figure as `page_figure` draws it, its bytes taken; None where it does not fit or is not drawn.

        Drawing takes up to seconds, so what is too large by its number of points is not drawn at all.
        """
        least = least_bytes(figure)
        if least * (CERTAIN if self._vain >= VAIN else 1) > self.left:
            return None
        try:
            drawn = page_figure(figure, prefix, dots=dots)
        except UserError:  # more lines than are drawn at all
            return None
        if drawn.size > self.left:
            self._vain += 1
            return None
        self.left -= drawn.size
        self.taken += drawn.size
        return drawn


def least_bytes(figure: Figure) -> int:
    """What the figure takes of the page at the least, from its numbers alone."""
    return FIGURE_BYTES + sum(map(_panel_bytes, figure.panels))


def _panel_bytes(panel: Panel | Map) -> int:
    if isinstance(panel, Map):
        return CELL_BYTES * len(panel.x_names) * len(panel.y_names)
    points = [(min(POINTS, len(line.x)), line.low is not None) for line in panel.lines]
    by_line = (LINE_BYTES + n * (POINT_BYTES + BAND_BYTES * banded) for n, banded in points)
    return PANEL_BYTES + sum(by_line)

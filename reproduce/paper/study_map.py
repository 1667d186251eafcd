"""A map of a study's figure as matplotlib draws it: coloured cells, each with a text that says the same."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from eval.json_files import finite
from reproduce.paper.drawing import INK
from reproduce.paper.text import clean
from reproduce.study import Map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BETTER, MIDDLE, WORSE = (0x00, 0x72, 0xB2), (0xF2, 0xF2, 0xF2), (0xE6, 0x7E, 0x00)
"""Colours below 0, at 0 and above 0, red green blue: they stay apart for the colour-blind."""

Colour = tuple[int, int, int]

FULL_AT = 0.9
"""Colours are full at this quantile of the cells' distances from 0: a few giants must not bleach the rest."""

LARGEST_FONT, READABLE_FONT, SMALLEST_FONT = 7.0, 5.0, 3.5
CHARACTER_EM, CELL_CHARACTER_EM = 0.62, 0.78
"""Width of a character over the size of its font in DejaVu Sans: of digits and letters, and of `+30%`."""

TEXT_LINES = 3
NAME_LIMIT = 40
CELL_HEIGHT, LINE_HEIGHT, FRAME = 0.24, 0.12, 0.85
"""Inches: a cell of one line, each further line, title and labels of a map."""


def draw_map(axes: "Axes", grid: Map, width: float, size: float, scale: float) -> None:
    """Draw the cells; the first y name stands at the top, as in a table.

    Args:
        axes: where to draw.
        grid: the map.
        width: inches for the whole map.
        size: of the cells' texts, in points; see `font_size`.
        scale: where the colours are full; see `full_colour_at`.
    """
    from matplotlib.patches import Rectangle

    texts = [[cell_lines(text) for text in row] for row in grid.texts]
    for i, row in enumerate(grid.values):
        for j, value in enumerate(row):
            colour = cell_colour(value, scale)
            if colour is not None:
                axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=to_hex(colour), linewidth=0))
            ink = INK if colour is None else to_hex(ink_on(colour))
            axes.text(j, i, "\n".join(texts[i][j]), color=ink, ha="center", va="center", fontsize=size)
    _dress(axes, grid, width)


def font_size(grid: Map, width: float) -> float:
    """Points at which the texts fit the cells of a map of that width, within bounds."""
    fitting = 0.95 * _cell_width(grid, width) * 72 / (CELL_CHARACTER_EM * max(1, _longest(grid)))
    return min(LARGEST_FONT, max(SMALLEST_FONT, fitting))


def least_width(grid: Map) -> float:
    """Inches that a map needs for its texts to be read."""
    cell = _longest(grid) * CELL_CHARACTER_EM * READABLE_FONT / 72 + 0.03
    return _left(grid) + max(1, len(grid.x_names)) * cell


def map_height(grid: Map, width: float) -> float:
    """Inches of a map of that width, with its title and labels."""
    lines = max((len(cell_lines(text)) for row in grid.texts for text in row), default=1)
    upright = _name_width(grid.x_names) if _crowded(grid, width) else 0.0
    return FRAME + upright + max(1, len(grid.y_names)) * (CELL_HEIGHT + LINE_HEIGHT * (lines - 1))


def _dress(axes: "Axes", grid: Map, width: float) -> None:
    """Names, labels and limits around the cells."""
    x_names, y_names = ([clean(n, NAME_LIMIT) for n in names] for names in (grid.x_names, grid.y_names))
    turn = 90 if _crowded(grid, width) else 0
    axes.set_xticks(range(len(x_names)), x_names, fontsize=LARGEST_FONT, rotation=turn)
    axes.set_yticks(range(len(y_names)), y_names, fontsize=LARGEST_FONT)
    axes.set_xlim(-0.5, max(len(x_names), 1) - 0.5)
    axes.set_ylim(max(len(y_names), 1) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(clean(grid.title, 80), fontsize=8)
    axes.set_xlabel(clean(grid.x_label, 80))
    axes.set_ylabel(clean(grid.y_label, 80))


def _cell_width(grid: Map, width: float) -> float:
    return max(0.05, (width - _left(grid)) / max(1, len(grid.x_names)))


def _left(grid: Map) -> float:
    """Inches left of the cells: y names, label, margin."""
    return 0.45 + _name_width(grid.y_names)


def _crowded(grid: Map, width: float) -> bool:
    """Whether the x names have to stand upright to fit."""
    return _name_width(grid.x_names) > _cell_width(grid, width)


def _name_width(names: Sequence[str]) -> float:
    longest = max((min(len(name), NAME_LIMIT) for name in names), default=1)
    return longest * CHARACTER_EM * LARGEST_FONT / 72


def _longest(grid: Map) -> int:
    return max((len(line) for row in grid.texts for text in row for line in cell_lines(text)), default=1)


def cell_lines(text: str) -> list[str]:
    """A cell's text as its lines, each fit to show."""
    return [clean(line, 24) for line in text.split("\n", TEXT_LINES)[:TEXT_LINES]]


def full_colour_at(grids: Sequence[Map]) -> float:
    """The distance from 0, above 0, at which a cell of these maps has its full colour."""
    values = [finite(value) for grid in grids for row in grid.values for value in row]
    distances = sorted(abs(value) for value in values if value)
    return distances[math.ceil(FULL_AT * len(distances)) - 1] if distances else 1.0


def cell_colour(value: float | None, scale: float) -> Colour | None:
    """A value's colour on the diverging scale; None for None."""
    number = finite(value)
    if number is None:
        return None
    end = BETTER if number < 0 else WORSE
    share = min(1.0, abs(number) / scale)
    red, green, blue = (round(m + share * (e - m)) for m, e in zip(MIDDLE, end, strict=True))
    return red, green, blue


def luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2)."""
    parts = [part / 255 for part in colour]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever has the greater contrast with the colour (WCAG 2)."""
    # Equal contrast: (1.05) / (L + 0.05) = (L + 0.05) / 0.05.
    return (0, 0, 0) if luminance(colour) > math.sqrt(1.05 * 0.05) - 0.05 else (255, 255, 255)


def to_hex(colour: Colour) -> str:
    """As matplotlib and SVG take it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)

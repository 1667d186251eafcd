"""How figures are drawn: their colours, matplotlib set up and given back, SVG fit for a page, and PNG.

Colours are Okabe and Ito's, which stay apart for the colour-blind, and every strategy has a line style of its
own besides. Text and axes of an SVG take the colour of the page around them, so one figure serves light and
dark.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#0a0b0c"
"""Stands for the page's text colour while matplotlib draws; replaced by currentColor in the SVG."""

BY_STRATEGY: Mapping[str, tuple[str, Any]] = {
    "uniform": (INK, "-"),
    "linupper": ("#0072B2", (0, (5, 1.5))),
    "quadratic": ("#D55E00", (0, (5, 1.5, 1, 1.5))),
    "extremes": ("#009E73", (0, (1, 1))),
    "dro_kl": ("#CC79A7", (0, (3, 1, 1, 1, 1, 1))),
    "capped_softmax": ("#56B4E9", (0, (8, 2))),
    "linear": ("#E69F00", (0, (2, 2))),
}
"""Strategy -> colour, dashes."""

STYLES = {**BY_STRATEGY, **{str(index): look for index, look in enumerate(BY_STRATEGY.values())}}
"""The same, and by number for lines that stand for no strategy: 0, 1, 2 ..."""

OTHER = ("#8A8A8A", (0, (4, 1, 1, 1)))

NO_METADATA: Mapping[str, None] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
"""For savefig as SVG: nothing that changes from day to day."""

DOTS_AN_INCH = 150


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where a panel's axes lie in the SVG, and what they span: enough to find a value's place."""

    left: float
    """Share of the figure's width, from the left; the others likewise."""
    top: float
    width: float
    height: float
    x: tuple[float, float]
    """Values at the left and right ends."""
    y: tuple[float, float]
    """Values at the bottom and at the top."""
    x_log: bool
    y_log: bool


@dataclass
class Drawn:
    """A figure as files' contents."""

    svg: str = ""
    png: bytes = b""
    """Empty unless asked for."""
    boxes: tuple[Box, ...] = ()
    """One a panel, in their order."""


@contextmanager
def figure_style(name: str, ink: str) -> Iterator[None]:
    """matplotlib with the looks of our figures and nothing of the user's; `name` salts an SVG's ids."""
    import matplotlib as mpl

    settings = {
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 8,
        "text.parse_math": False,  # a run may be called $\x$
        "axes.grid": True,
        "grid.alpha": 0.25,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.4,
        "path.simplify": False,
        **dict.fromkeys(
            ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), ink
        ),
    }
    with mpl.rc_context():
        mpl.rcdefaults()  # a matplotlibrc of the user's must not change the bytes
        mpl.rcParams.update(settings)
        yield


@contextmanager
def drawing(name: str, width: float, height: float, *, png: bool = False) -> Iterator[tuple["Figure", Drawn]]:
    """A figure in inches; its SVG, and its PNG if asked for, are in the second value once the block ends."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    out = Drawn()
    with figure_style(name, INK):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, out
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=NO_METADATA)
        out.boxes = tuple(map(_box, figure.axes))  # before the PNG, which is laid out anew
        if png:
            raster = io.BytesIO()
            figure.savefig(
                raster, format="png", dpi=DOTS_AN_INCH, facecolor="white", metadata={"Software": None}
            )
            out.png = raster.getvalue()
    out.svg = _inline(buffer.getvalue(), name)


def _box(axes: "Axes") -> Box:
    place = axes.get_position()
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return Box(
        left=float(place.x0),
        top=float(1 - place.y1),
        width=float(place.width),
        height=float(place.height),
        x=(float(left), float(right)),
        y=(float(bottom), float(top)),
        x_log=axes.get_xscale() == "log",
        y_log=axes.get_yscale() == "log",
    )


def prefix_ids(svg: str, prefix: str) -> str:
    """Put `prefix-` before every id and every reference to one: several figures can share a page."""
    named = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}-", named)


def _inline(svg: str, name: str) -> str:
    """Make a matplotlib SVG fit for a page: no prolog, own ids, short paths, the page's text colour."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = prefix_ids(body, name)
    body = re.sub(r'\bd="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)
    body = re.sub(r'<svg ([^>]*?)width="[\d.]+pt" ', r"<svg \1", body, count=1)
    body = re.sub(r'<svg ([^>]*?)height="[\d.]+pt" ', r"<svg \1", body, count=1)
    return body.replace(INK, "currentColor").strip() + "\n"

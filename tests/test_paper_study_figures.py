"""A study's figures: same bytes, nothing dropped or joined, apart without colour; no input crashes."""

import math
import re
import struct
import warnings
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from study_samples import LOSSES, WHO_WINS, renamed, sample_study

from reproduce.errors import UserError
from reproduce.paper import study_axes, study_map
from reproduce.paper.drawing import INK, STYLES
from reproduce.paper.study_axes import LARGEST, POINTS, RISE, draw_lines, looks
from reproduce.paper.study_figures import MAX_CELLS, MAX_LINES, MAX_PANELS, draw_figure
from reproduce.paper.study_map import (
    BETTER,
    MIDDLE,
    WORSE,
    Colour,
    cell_colour,
    cell_lines,
    draw_map,
    full_colour_at,
    ink_on,
    luminance,
)
from reproduce.study import Figure, Line, Map, Mark, Panel

LOSS = sample_study().figures[0]


def figure(*panels: Panel | Map, **changes: object) -> Figure:
    return replace(Figure(id="f", title="t", caption="c", panels=panels), **changes)  # type: ignore[arg-type]


def svg_of(*panels: Panel | Map) -> str:
    return draw_figure(figure(*panels), png=False).svg


def line(y: tuple[float | None, ...], **changes: object) -> Line:
    made = Line(label="a", strategy="linupper", x=tuple(range(1, len(y) + 1)), y=y)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def axes() -> object:
    from matplotlib.figure import Figure as Canvas

    return Canvas().add_subplot()


def drawn(axes: object, panel: Panel) -> list[tuple[list[float], list[float]]]:
    """x and y of every line on the axes, marks included."""
    draw_lines(axes, panel, looks([panel]))  # type: ignore[arg-type]
    return [(list(each.get_xdata()), list(each.get_ydata())) for each in axes.get_lines()]  # type: ignore[attr-defined]


def test_the_same_figure_gives_the_same_bytes() -> None:
    import matplotlib as mpl

    first = draw_figure(LOSS)
    with mpl.rc_context({"lines.linewidth": 9.0, "axes.linewidth": 5.0, "savefig.facecolor": "red"}):
        assert draw_figure(LOSS) == first
    assert svg_of(WHO_WINS) == svg_of(WHO_WINS)


def test_the_svg_takes_the_pages_colour_and_the_png_is_on_white() -> None:
    out = draw_figure(LOSS)
    ET.fromstring(out.svg)
    assert "currentColor" in out.svg
    assert INK not in out.svg
    assert not re.search(r"<image|data:", out.svg)
    assert all(target.startswith("#") for target in re.findall(r'(?:href=|url\()"?([^")]+)', out.svg))
    assert out.png.startswith(b"\x89PNG\r\n\x1a\n")
    import io

    from matplotlib.image import imread

    pixels = imread(io.BytesIO(out.png))
    assert pixels[0, 0].tolist() == [1.0, 1.0, 1.0, 1.0]
    # 7.2 inches at 150 dots.
    assert pixels.shape[1] == 1080
    (per_metre,) = {struct.unpack(">I", out.png[at : at + 4])[0] for at in (out.png.index(b"pHYs") + 4,)}
    assert per_metre == round(150 / 0.0254)
    assert b"Software" not in out.png
    assert draw_figure(LOSS, png=False).png == b""


def test_the_title_is_left_out_where_the_page_has_one() -> None:
    blank = replace(LOSS, panels=())
    assert ">Test loss<" in draw_figure(blank, png=False).svg
    assert ">Test loss<" not in draw_figure(blank, png=False, title=False).svg


def test_every_text_of_a_figure_is_in_the_svg() -> None:
    svg = svg_of(WHO_WINS, LOSSES)
    texts = {"final loss beside uniform", "outlier share", "r", "0.25", "2", "+75%", "diverges", "0%"}
    texts |= {"25% outliers", "step", "test loss", "noise", "threshold"}
    texts |= {
        "uniform",
        "linupper r=0.4",
        "linupper r=1",
        "DRO-KL, λ=0.4",
        "better",
        "worse",
    }
    found = set(re.findall(r">([^<>\n]+)</text>", svg))
    assert texts <= found, texts - found


def test_a_hole_breaks_the_line_and_a_point_alone_is_a_dot(axes: object) -> None:
    panel = replace(LOSSES, lines=(line((1.0, 2.0, None, 3.0, None, 4.0, 5.0)),), marks=())
    whole, dots = drawn(axes, panel)
    assert np.isnan(whole[1]).tolist() == [False, False, True, False, True, False, False]
    assert dots == ([4.0], [3.0])


def test_a_logarithmic_axis_has_no_place_for_zero(axes: object) -> None:
    values = (1.0, 0.0, -2.0, 0.5, 0.25)
    band = {"low": (0.5, None, None, 0.0, 0.125), "high": (2.0, None, None, 1.0, 0.5)}
    panel = replace(LOSSES, lines=(line(values, **band),), marks=(Mark(axis="y", at=0.0, label="zero"),))
    (whole, dots) = drawn(axes, panel)  # the mark at 0 is not there
    assert np.isnan(whole[1]).tolist() == [False, True, True, False, False]
    assert dots == ([1.0], [1.0])
    low, high = axes.get_ylim()  # type: ignore[attr-defined]
    assert 0.01 < low < 0.125
    assert 2.0 < high < 3.0
    linear = replace(panel, y_log=False)
    assert drawn_again(linear)[0][1] == list(values)


def drawn_again(panel: Panel) -> list[tuple[list[float], list[float]]]:
    from matplotlib.figure import Figure as Canvas

    return drawn(Canvas().add_subplot(), panel)


def test_a_line_that_diverges_leaves_through_the_top(axes: object) -> None:
    calm, wild = line((4.0, 2.0, 1.0), label="calm"), line((4.0, 1e12, 1e300), label="wild")
    panel = replace(LOSSES, lines=(calm, wild), marks=())
    drawn(axes, panel)
    # Both begin at 4, and the calm one never exceeds it.
    assert axes.get_ylim()[1] == pytest.approx(4 * RISE)  # type: ignore[attr-defined]
    assert "values above 4e+03 not shown" in axes.get_title()  # type: ignore[attr-defined]
    tame = replace(LOSSES, lines=(calm, line((4.0, 40.0, 400.0))), marks=())
    svg = svg_of(tame)
    assert "not shown" not in svg


def test_a_rise_from_nearly_nothing_is_shown(axes: object) -> None:
    panel = replace(LOSSES, lines=(line((1e-9, 1.0, 10.0)), line((1e-9, 2.0, 20.0), label="b")), marks=())
    drawn(axes, panel)
    assert axes.get_ylim()[1] > 20  # type: ignore[attr-defined]
    assert "not shown" not in axes.get_title()  # type: ignore[attr-defined]


EXTREMES: dict[str, tuple[float | None, ...]] = {
    "huge": (1.0, 1e300, 1.7e308),
    "tiny": (5e-324, 1e-300, 1.0),
    "both": (5e-324, 1.7e308, 1.0),
    "negative": (-1.7e308, -1.0, 1.7e308),
    "nothing": (None, None, None),
    "zeros": (0.0, 0.0, 0.0),
    "one": (None, 1.0, None),
    "equal": (3.0, 3.0, 3.0),
    "empty": (),
    "an int that is no float": (10**400, 1, 2),
}


@pytest.mark.parametrize("logs", [(False, False), (True, True)])
def test_no_value_crashes(logs: tuple[bool, bool]) -> None:
    x_log, y_log = logs
    panels = [
        replace(LOSSES, lines=(line(y, low=y, high=y),), marks=(), x_log=x_log, y_log=y_log)
        for y in EXTREMES.values()
    ]
    wide = line((1.0, 1e300, 2.0), x=(1e-300, 1.0, 1e300))
    ats = (0.0, 1e300, -1.0, 5e-324)
    marks = tuple(Mark(axis=axis, at=at, label="m") for axis in ("x", "y") for at in ats)
    panels.append(replace(LOSSES, lines=(wide,), marks=marks, x_log=x_log, y_log=y_log))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = draw_figure(figure(*panels, columns=4), png=False).svg
    ET.fromstring(svg)
    assert not re.search(r"\b(nan|inf)\b", svg)


def test_ticks_are_plain_numbers() -> None:
    svg = svg_of(replace(LOSSES, lines=(line((1e-4, 1.0, 1e2)),), marks=()))
    assert "mathdefault" not in svg
    assert ">0.0001<" in svg
    assert ">1<" in svg


def test_lines_of_one_strategy_stay_apart_without_colour() -> None:
    # One line is plain; nine markers, full and hollow, make 18 more.
    lines = [line((1.0, 2.0), label=f"r={i}") for i in range(19)]
    found = looks([replace(LOSSES, lines=(*lines, line((1.0, 2.0), strategy="uniform")))])
    styles = [look.style() for look in found.values()]
    of_one, other = styles[:-1], styles[-1]
    marks = {(style.get("marker"), style.get("markerfacecolor") == "none") for style in of_one}
    assert len(marks) == 19
    assert {(style["color"], style["linestyle"]) for style in of_one} == {STYLES["linupper"]}
    assert other["linestyle"] != STYLES["linupper"][1]


@pytest.mark.parametrize("strategy", ["uniform", "dro_kl"])
def test_lines_of_one_strategy_stay_apart_between_their_markers_in_grey(strategy: str) -> None:
    lines = tuple(line((1.0, 2.0), label=f"{i}", strategy=strategy) for i in range(5))
    styles = [look.style() for look in looks([replace(LOSSES, lines=lines)]).values()]
    grey = luminance(tuple(int(styles[0]["color"][at : at + 2], 16) for at in (1, 3, 5)))  # type: ignore[arg-type]
    # Points wide, and how dark on white: the plain line is matplotlib's own 1.4 points, opaque.
    strokes = [(s.get("linewidth", 1.4), (1 - grey) * s.get("alpha", 1.0)) for s in styles]
    for index, (width, dark) in enumerate(strokes):
        for other_width, other_dark in strokes[index + 1 :]:
            apart = max(width, other_width) / min(width, other_width) > 1.49
            assert apart or max(dark, other_dark) / min(dark, other_dark) > 1.49
    # Each has a path of its own, markers aside.
    svg = svg_of(replace(LOSSES, lines=lines, marks=()))
    widths = re.findall(r"stroke-width: ([\d.]+)", svg)
    assert {"3", "0.8", "2.4", "1.6"} <= set(widths)


def test_small_dots_are_no_marker_of_a_line() -> None:
    lines = tuple(line((1.0, 2.0), label=f"{i}", strategy="uniform") for i in range(19))
    panel = replace(LOSSES, lines=lines, marks=())
    assert not {look.style().get("marker") for look in looks([panel]).values()} & {"o", "."}
    from matplotlib.figure import Figure as Canvas

    axes = Canvas().add_subplot()
    draw_lines(axes, panel, looks([panel]), dots=True)
    plain, *others = (each.get_marker() for each in axes.get_lines())
    assert plain == "o"
    assert plain not in others


def test_a_point_alone_has_the_marker_of_its_line(axes: object) -> None:
    lines = (line((1.0,), label="a"), line((2.0,), label="b"))
    draw_lines(axes, replace(LOSSES, lines=lines, marks=()), looks([replace(LOSSES, lines=lines)]))  # type: ignore[arg-type]
    dots = [each.get_marker() for each in axes.get_lines() if each.get_linestyle() == "None"]  # type: ignore[attr-defined]
    assert dots == [".", "s"]


def test_a_name_looks_the_same_in_all_panels_and_others_are_grey() -> None:
    one = replace(LOSSES, lines=(line((1.0,), label="r=1"), line((1.0,), label="r=2")))
    other = replace(LOSSES, lines=(line((1.0,), label="r=2"), line((1.0,), label="x", strategy="bound")))
    found = looks([one, other])
    assert list(found) == [("linupper", "r=1"), ("linupper", "r=2"), ("bound", "x")]
    assert [look.variant for look in found.values()] == [0, 1, 0]
    assert found["bound", "x"].colour == "#8A8A8A"
    svg = svg_of(one, other)
    assert svg.count(">r=2<") == 1  # in the legend


def test_a_long_line_is_thinned_but_keeps_its_ends_and_holes(axes: object) -> None:
    n = 20_000
    y = tuple(None if i == 7_777 else 2.0 + math.sin(i / 900) for i in range(n))
    (whole, *_) = drawn(axes, replace(LOSSES, lines=(line(y),), marks=()))
    assert POINTS <= len(whole[0]) <= POINTS + 5
    assert (whole[0][0], whole[0][-1]) == (1, n)
    assert [x for x, value in zip(*whole, strict=True) if math.isnan(value)] == [7_778]
    shown = {x: value for x, value in zip(*whole, strict=True) if not math.isnan(value)}
    assert all(value == y[int(x) - 1] for x, value in shown.items())  # points of the line, no means


def test_on_a_logarithmic_axis_the_early_points_are_kept(axes: object) -> None:
    panel = replace(LOSSES, lines=(line(tuple(1.0 for _ in range(20_000))),), marks=(), x_log=True)
    (whole, *_) = drawn(axes, panel)
    assert whole[0][:10] == list(range(1, 11))
    assert len(whole[0]) <= POINTS + 1


def contrast(one: Colour, other: Colour) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_diverge_around_zero_and_texts_read_on_them() -> None:
    assert cell_colour(0.0, 1.0) == MIDDLE
    assert cell_colour(-1.0, 1.0) == BETTER
    assert cell_colour(5.0, 1.0) == WORSE  # no further than the full colour
    assert cell_colour(None, 1.0) is None
    # Luminance after WCAG: white 1, black 0, sRGB 119 the nearest to a contrast of 4.5 with white.
    assert (luminance((255, 255, 255)), luminance((0, 0, 0))) == (pytest.approx(1.0), 0.0)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)
    for value in np.linspace(-1, 1, 101):
        colour = cell_colour(float(value), 1.0)
        assert colour is not None
        best = max(contrast(colour, (0, 0, 0)), contrast(colour, (255, 255, 255)))
        assert contrast(colour, ink_on(colour)) == best >= 4.5
    blue = [luminance(cell_colour(-v, 1.0) or MIDDLE) for v in (0.0, 0.25, 0.5, 1.0)]
    assert blue == sorted(blue, reverse=True)


def test_a_giant_does_not_bleach_the_others() -> None:
    row = (*[float(i) for i in range(1, 10)], 1e300)
    grid = Map(
        title="t",
        x_label="x",
        y_label="y",
        x_names=tuple("abcdefghij"),
        y_names=("y",),
        values=(row,),
        texts=(("",) * 10,),
    )
    # The ninth of ten distances: 90% of them are at most 9.
    assert full_colour_at([grid]) == 9.0
    assert full_colour_at([replace(grid, values=((None,) * 10,))]) == 1.0
    assert full_colour_at([replace(grid, values=((0.0,) * 10,))]) == 1.0
    assert full_colour_at([]) == 1.0


def test_a_map_is_cells_with_the_first_y_name_at_the_top(axes: object) -> None:
    draw_map(axes, WHO_WINS, 4.0, 7.0, 0.75)  # type: ignore[arg-type]
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    cells = {(c.get_x() + 0.5, c.get_y() + 0.5): c for c in axes.patches if isinstance(c, Rectangle)}  # type: ignore[attr-defined]
    assert len(cells) == 5  # 3 x 2, one without a value
    full = tuple(part / 255 for part in WORSE)
    assert to_rgb(cells[1.0, 0.0].get_facecolor()) == pytest.approx(full)
    texts = {text.get_position(): text.get_text() for text in axes.texts}  # type: ignore[attr-defined]
    assert texts[1, 0] == "+75%"
    assert texts[1, 2] == "diverges"
    top, bottom = axes.get_ylim()[1], axes.get_ylim()[0]  # type: ignore[attr-defined]
    assert (top, bottom) == (-0.5, 2.5)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0.4", "1", "2"]  # type: ignore[attr-defined]
    assert cell_lines("a\nb\x1b\nc\nd") == ["a", "b\\x1b", "c"]


def test_the_legend_names_the_colours_that_are_there() -> None:
    both, worse, none = (
        svg_of(replace(WHO_WINS, values=((low, 0.5), (0.0, None), (None, None)))) for low in (-0.5, 0.5, None)
    )
    assert "better" in both
    assert "worse" in both
    assert "better" not in worse
    assert "worse" in none
    assert not re.search("better|worse", svg_of(replace(WHO_WINS, title="", values=((0.0, None),) * 3)))


def test_texts_of_a_wide_map_widen_the_figure() -> None:
    names = tuple(map(str, range(14)))
    wide = replace(
        WHO_WINS,
        x_names=names,
        values=tuple((1.0,) * 14 for _ in range(3)),
        texts=tuple(("+100.5%",) * 14 for _ in range(3)),
    )
    box = re.compile(r'viewBox="0 0 ([\d.]+)')
    narrow, broad = (float(box.findall(svg_of(*panels))[0]) for panels in ((WHO_WINS,), (wide, wide)))
    assert narrow == pytest.approx(7.2 * 72)
    # 2 x 14 cells of 7 characters, each 0.78 of 5 points: 764 points of text alone.
    assert broad > 764


HOSTILE = ("</script><script>a&b\"'", r"$\frac{$ ]]>-->", "\x1b[31m\x00\ud800‮", "x" * 9999)


def test_hostile_texts_stay_text() -> None:
    panels = [panel for text in HOSTILE for panel in renamed(sample_study(), text).figures[0].panels]
    svg = draw_figure(figure(*panels, columns=4, title=HOSTILE[0]), png=False).svg
    ET.fromstring(svg)
    assert "<script" not in svg
    assert r"$\frac{$" in svg
    assert not re.search("[\x00-\x08\x1b‮]", svg)
    assert "x" * 200 not in svg


@pytest.mark.parametrize(
    ("panels", "said"),
    [
        ((LOSSES,) * (MAX_PANELS + 1), "65 panels, more than the 64"),
        ((replace(LOSSES, lines=LOSSES.lines[:1] * (MAX_LINES + 1)),), "65 lines in panel 1"),
        ((LOSSES, replace(LOSSES, marks=LOSSES.marks[:1] * 65)), "65 lines in panel 2"),
        (
            (replace(WHO_WINS, x_names=("a",) * (MAX_CELLS + 1), y_names=("b",), values=((),), texts=((),)),),
            "2501 cells in panel 1",
        ),
    ],
)
def test_what_nobody_could_read_is_not_drawn(panels: tuple[Panel | Map, ...], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        draw_figure(figure(*panels))
    assert caught.value.exit_code == 2


def test_figures_without_panels_lines_or_cells_are_drawn() -> None:
    empty = Map(title="", x_label="", y_label="", x_names=(), y_names=(), values=(), texts=())
    ET.fromstring(svg_of(replace(LOSSES, lines=(), marks=()), empty))
    ET.fromstring(svg_of())
    assert LARGEST < study_axes.RISE * LARGEST < math.inf
    assert study_map.SMALLEST_FONT < study_map.READABLE_FONT

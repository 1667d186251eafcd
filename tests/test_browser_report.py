"""The report in a real browser: nothing fetched, sorting, values, a phone's width, light and dark."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Tab, chromium, find_browser
from paper_runs import make_run, metrics_lines, mini
from study_samples import LOSSES, WHO_WINS, renamed, sample_study

from reproduce.paper.figures import Curves
from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.report import write_report
from reproduce.paper.runs import find_runs

pytestmark = pytest.mark.browser

GRID = np.linspace(-1.0, 1.0, 21)
CURVES = Curves(scores={"linupper": (GRID, GRID)}, weights={"linupper": (GRID, GRID)}, r=0.4)
DESKTOP, PHONE = (1100, 900), (360, 780)
EVIL = '"><img src=x onerror=alert(1)><script>alert(1)</script>'
PANEL = "document.querySelector('[data-name=\"held-out log-perplexity, mean: nats\"]')"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    executable = find_browser()
    if executable is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    with chromium(executable, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    for strategy in ("uniform", "linupper", "quadratic", "extremes"):
        for seed in (9, 10):
            make_run(root / "runs", strategy, seed, mini(strategy, 0.01 * (seed - 9)), metrics=True)
    studies = [FoundStudy(path=Path("runs/toy"), study=sample_study())]
    return write_report(find_runs([root / "runs"]), root / "report.html", CURVES, studies)


@pytest.fixture
def opened(tab: Tab, page: Path) -> Tab:
    tab.open(page, *DESKTOP)
    return tab


def complaints(tab: Tab) -> list[dict[str, Any]]:
    heard = (
        "Runtime.exceptionThrown",
        "Runtime.consoleAPICalled",
        "Log.entryAdded",
        "Page.javascriptDialogOpening",
    )
    return [event for event in tab.events if event["method"] in heard]


def requests(tab: Tab) -> list[str]:
    sent = [event for event in tab.events if event["method"] == "Network.requestWillBeSent"]
    return [event["params"]["request"]["url"] for event in sent]


def column(tab: Tab, table: str, index: int) -> list[str]:
    found: list[str] = tab.run(
        f"[...document.querySelector('[aria-label=\"{table}\"] tbody').rows]"
        f".map((row) => row.cells[{index}].textContent.trim())"
    )
    return found


def head(table: str, index: int) -> str:
    return f"document.querySelectorAll('[aria-label=\"{table}\"] thead th')[{index}]"


def test_it_loads_without_a_request_or_a_complaint(opened: Tab, page: Path) -> None:
    opened.run("1")  # whatever was still on its way has come
    assert complaints(opened) == []
    assert requests(opened) == [page.resolve().as_uri()]
    # The script ran: its policy names it.
    assert opened.run("document.querySelectorAll('th button').length") > 20


def test_tables_sort_by_click_and_come_back(opened: Tab) -> None:
    before = column(opened, "Runs", 1)
    assert before == ["9", "10"] * 4
    for order, expected in (
        ("ascending", ["9"] * 4 + ["10"] * 4), ("descending", ["10"] * 4 + ["9"] * 4), ("none", before),
    ):  # fmt: skip
        opened.run(f"{head('Runs', 1)}.scrollIntoView({{block: 'center'}})")
        box = opened.run(f"{head('Runs', 1)}.querySelector('button').getBoundingClientRect().toJSON()")
        opened.point(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, click=True)
        assert opened.run(f"{head('Runs', 1)}.getAttribute('aria-sort')") == order
        assert column(opened, "Runs", 1) == expected


def test_tables_sort_by_keyboard_as_numbers(opened: Tab) -> None:
    # The mean of Table 1: uniform's own value, and the others' differences from it, with their signs.
    opened.run(f"{head('Verdicts for table1', 8)}.querySelector('button').focus()")
    opened.key("Enter")
    assert opened.run("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
    rows = column(opened, "Verdicts for table1", 0)
    values = [float(re.match(r"[+-]?[\d.]+", text)[0]) for text in column(opened, "Verdicts for table1", 8)]  # type: ignore[index]
    assert values == sorted(values)
    assert rows[0].startswith("GPT2-mini/linupper")
    assert rows[-1].startswith("GPT2-mini/uniform")
    opened.key("Tab")
    assert opened.run("document.activeElement.tagName") != "TH"


def test_values_show_under_the_pointer_and_go_with_it(opened: Tab) -> None:
    opened.run(f"{PANEL}.scrollIntoView({{block: 'center'}})")
    box = opened.run(f"{PANEL}.getBoundingClientRect().toJSON()")
    opened.point(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    assert not opened.run("document.querySelector('.tip').hidden")
    lines = opened.run("[...document.querySelector('.tip').children].map((each) => each.textContent)")
    # Step 400 is the middle of three; metrics_lines adds 2/3 there. The seeds lie 0.01 apart.
    assert lines == [
        "step 400",
        "extremes 4.0317 (4.0267 to 4.0367)",
        "quadratic 4.0317 (4.0267 to 4.0367)",
        "uniform 3.9917 (3.9867 to 3.9967)",
        "linupper 3.9717 (3.9667 to 3.9767)",
    ]
    opened.point(5, 5)
    assert opened.run("document.querySelector('.tip').hidden")


@pytest.mark.parametrize("key", ["Home", "End"])
def test_dots_lie_on_the_drawn_lines(opened: Tab, key: str) -> None:
    opened.run(f"{PANEL}.focus()")
    opened.key(key)
    dots = opened.run(
        "[...document.querySelectorAll('.dot')].map((dot) => { const box = dot.getBoundingClientRect();"
        " return [box.x + box.width / 2, box.y + box.height / 2]; })"
    )
    # Where matplotlib put the markers of the evaluations: one <use> a point.
    marks = opened.run(
        f"[...{PANEL}.closest('.plot').querySelectorAll('svg use')].map((use) => {{"
        " const box = use.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; })"
    )
    assert len(dots) == 4
    for x, y in dots:
        assert min(abs(x - u) + abs(y - v) for u, v in marks) < 1


def test_values_are_read_by_keyboard(opened: Tab) -> None:
    opened.run(f"{PANEL}.focus()")

    def said() -> str:
        text: str = opened.run("document.activeElement.getAttribute('aria-valuetext')")
        return text

    assert opened.run("document.activeElement.getAttribute('role')") == "slider"
    assert opened.run("document.activeElement.getAttribute('aria-label')") == (
        "held-out log-perplexity, mean: nats, by step"
    )
    assert said().startswith("step 600: ")
    assert "uniform 3.325 (3.32 to 3.33)" in said()
    opened.key("ArrowLeft")
    assert said().startswith("step 400: ")
    opened.key("Home")
    opened.key("ArrowLeft")
    assert said().startswith("step 200: ")
    opened.key("End")
    assert said().startswith("step 600: ")
    opened.key("Escape")
    assert opened.run("document.querySelector('.tip').hidden")


def test_a_map_says_its_cells_under_the_pointer_and_by_keyboard(opened: Tab) -> None:
    grid = "document.querySelector('[data-name=\"final loss beside uniform\"]')"

    def tip() -> list[str]:
        return opened.run("[...document.querySelector('.tip').children].map((each) => each.textContent)")  # type: ignore[no-any-return]

    def said() -> str:
        return opened.run("document.activeElement.getAttribute('aria-valuetext')")  # type: ignore[no-any-return]

    opened.run(f"{grid}.scrollIntoView({{block: 'center'}})")
    box = opened.run(f"{grid}.getBoundingClientRect().toJSON()")
    opened.point(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"])
    assert tip() == ["r: 1, outlier share: 0.25", "+12% (0.125 on the colour scale)"]
    # The mark lies over the cell that matplotlib drew: the text in its middle is that cell's.
    mark = opened.run("document.querySelector('.cell').getBoundingClientRect().toJSON()")
    words = opened.run(
        f"[...{grid}.closest('.plot').querySelectorAll('svg text')].filter((each) => "
        "each.textContent === '+12%').map((each) => each.getBoundingClientRect().toJSON())[0]"
    )
    assert mark["x"] < words["x"]
    assert mark["x"] + mark["width"] > words["x"] + words["width"]
    assert mark["y"] < words["y"] + words["height"] / 2 < mark["y"] + mark["height"]

    opened.run(f"{grid}.focus()")
    for key, expected in (
        ("Home", "r: 0.4, outlier share: 0: -50% (-0.5 on the colour scale)"),
        ("ArrowLeft", "r: 0.4, outlier share: 0: -50% (-0.5 on the colour scale)"),
        ("ArrowRight", "r: 0.4, outlier share: 0.25: +75% (0.75 on the colour scale)"),
        ("ArrowUp", "r: 0.4, outlier share: 0.25: +75% (0.75 on the colour scale)"),
        ("ArrowDown", "r: 1, outlier share: 0.25: +12% (0.125 on the colour scale)"),
        ("End", "r: 2, outlier share: 0.25: diverges"),
    ):
        opened.key(key)
        assert said() == expected
    opened.key("Escape")
    assert opened.run("document.querySelector('.tip').hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_only_down(tab: Tab, page: Path, scheme: str, tmp_path: Path) -> None:
    tab.open(page, *PHONE, scheme)
    assert tab.run("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    tab.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert tab.run("document.documentElement.scrollWidth") == 360
    # Values stay on the screen, too.
    tab.run(f"{PANEL}.scrollIntoView({{block: 'center', inline: 'center'}}); {PANEL}.focus()")
    left, right = tab.run(
        "((box) => [box.left, box.right])(document.querySelector('.tip').getBoundingClientRect())"
    )
    assert 0 <= left < right <= 360
    tab.screenshot(tmp_path / "phone.png")
    assert complaints(tab) == []


SIZES = [(390, 844), (1280, 900)]
LONG_NAME = "gpt2_nano_linupper_with_another_temperature_and_weights"

BROKEN = """[...document.querySelectorAll('tbody th, tbody td')].map((cell) => {
  const range = document.createRange();
  range.selectNodeContents(cell);
  const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.bottom))).size;
  return [cell.textContent.trim().length / lines, lines, cell.textContent.trim().slice(0, 80)];
}).filter(([, lines]) => lines > 3).sort((a, b) => a[0] - b[0])[0] ?? null"""
"""The cell of most lines for its letters: how many a line, lines, text."""

TEXTS = """[...document.querySelectorAll('.plot')].map((plot) => [
  Math.min(...[...plot.querySelectorAll('svg text')].map((text) => {
    const { a, b } = text.getScreenCTM();
    return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b);
  })), plot.closest('figure').getAttribute('aria-label')]).sort((a, b) => a[0] - b[0])[0]"""
"""The figure with the smallest text: CSS pixels, title."""


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with what needs room: long names, sentences, a map of many cells."""
    root = tmp_path_factory.mktemp("wordy")
    make_run(root / "runs", "uniform", 9, mini("uniform"), metrics=True)
    # Not the paper's r: its numbers are ours only, and say why.
    make_run(root / "runs", "linupper", 9, mini("linupper"), name=LONG_NAME, reweighting__r=7.0, metrics=True)
    study = sample_study()
    sentence = "the median over the seeds of the held-out loss at the last step, beside that of uniform; " * 3
    findings = tuple(
        replace(each, claim=sentence[:140], where=sentence[:100], evidence=sentence)
        for each in study.findings
    )
    wide = replace(
        WHO_WINS,
        x_names=tuple(map(str, range(24))),
        values=((0.5,) * 24,) * 3,
        texts=(("1.23\n12:34",) * 24,) * 3,
    )
    figures = (study.figures[0], replace(study.figures[1], panels=(wide, WHO_WINS), columns=2))
    studies = [FoundStudy(path=Path("runs/toy"), study=replace(study, findings=findings, figures=figures))]
    return write_report(find_runs([root / "runs"]), root / "report.html", CURVES, studies)


@pytest.mark.parametrize("size", SIZES)
def test_words_keep_room_and_captions_stay_on_the_screen(
    tab: Tab, wordy: Path, size: tuple[int, int], tmp_path: Path
) -> None:
    tab.open(wordy, *size)
    broken = tab.run(BROKEN)
    # A narrow column broke sentences into words, of six letters or so.
    assert broken is None or broken[0] >= 12, broken
    assert (
        tab.run("Math.max(...[...document.querySelectorAll('tbody tr')].map((row) => row.offsetHeight))")
        < 260
    )
    tab.run("document.querySelectorAll('.scroll').forEach((each) => { each.scrollLeft = 90; })")
    captions = tab.run(
        "[...document.querySelectorAll('caption')].map((each) => { const range = document.createRange();"
        " range.selectNodeContents(each); const { left, right } = range.getBoundingClientRect();"
        " return [left, right]; })"
    )
    assert len(captions) == 8
    for left, right in captions:
        assert 0 <= left < right <= size[0]
    assert tab.run("document.documentElement.scrollWidth") <= size[0]
    tab.screenshot(tmp_path / "wordy.png")


@pytest.mark.parametrize("size", SIZES)
def test_the_smallest_text_of_a_figure_can_be_read(tab: Tab, wordy: Path, size: tuple[int, int]) -> None:
    tab.open(wordy, *size)
    pixels, title = tab.run(TEXTS)
    assert pixels >= 8.99, title
    # Beyond the screen it is scrolled, not cut; the page itself goes only down.
    assert tab.run("document.documentElement.scrollWidth") <= size[0]
    assert tab.run(
        "[...document.querySelectorAll('.plot')].every((each) => "
        "each.parentElement.scrollWidth >= each.offsetWidth)"
    )


def test_buttons_are_large_enough_to_hit(tab: Tab, page: Path) -> None:
    smallest = (
        "[...document.querySelectorAll('%s')].map((each) => each.getBoundingClientRect())"
        ".reduce(([w, h], box) => [Math.min(w, box.width), Math.min(h, box.height)], [1e9, 1e9])"
    )
    tab.open(page, *DESKTOP)
    assert not tab.run("matchMedia('(pointer: coarse)').matches")
    for what in (".sort", "nav a", "summary"):
        assert min(tab.run(smallest % what)) >= 24, what  # WCAG 2.2, AA
    tab.open(page, *PHONE)
    assert tab.run("matchMedia('(pointer: coarse)').matches")
    for what in (".sort", "nav a", "summary"):
        assert min(tab.run(smallest % what)) >= 44, what  # AAA, for fingers


def test_an_end_of_a_band_that_is_missing_is_no_number(tab: Tab, tmp_path: Path) -> None:
    # Of three seeds one diverged: no upper end at 20, none at all at 30.
    line = replace(LOSSES.lines[0], low=(3.5, 1.5, 0.75, None), high=(4.5, 2.5, None, None))
    low = replace(line, label="other", strategy="linupper", low=(None,) * 4)
    panel = replace(LOSSES, lines=(line, low))
    study = replace(sample_study(), figures=(replace(sample_study().figures[0], panels=(panel,)),))
    out = write_report([], tmp_path / "r.html", None, [FoundStudy(path=Path("runs/toy"), study=study)])
    tab.open(out, *DESKTOP)
    tab.run("document.querySelector('.panel').focus()")
    said = []
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowRight"):
        tab.key(key)
        said.append(tab.run("document.activeElement.getAttribute('aria-valuetext')"))
    assert said == [
        "step 0: uniform 4 (3.5 to 4.5); other 4 (– to 4.5)",
        "step 10: uniform 2 (1.5 to 2.5); other 2 (– to 2.5)",
        "step 20: uniform 1 (0.75 to –); other 1",
        "step 30: uniform 0.5; other 0.5",
    ]
    assert "NaN" not in tab.run("document.querySelector('.tip').textContent")


CONTRAST = """(() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map((each) => {
      const share = each / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (colour !== 'rgba(0, 0, 0, 0)') return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const texts = [...document.querySelectorAll('body *')].filter((node) => !node.closest('svg, script')
    && [...node.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim()));
  return texts.map((node) => {
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.outerHTML.slice(0, 120)];
  }).sort((a, b) => a[0] - b[0])[0];
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_in_both_schemes(tab: Tab, page: Path, scheme: str) -> None:
    tab.open(page, *DESKTOP, scheme)
    ratio, where = tab.run(CONTRAST)
    assert ratio >= 4.5, where  # WCAG 2, AA
    ink = tab.run("getComputedStyle(document.querySelector('figure svg text')).fill")
    page_colour = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (ink, page_colour) == {
        "light": ("rgb(26, 28, 30)", "rgb(255, 255, 255)"), "dark": ("rgb(231, 233, 236)", "rgb(21, 23, 26)"),
    }[scheme]  # fmt: skip


def test_hostile_names_are_shown_and_do_nothing(tab: Tab, tmp_path: Path) -> None:
    values = {"c4": 4.0, EVIL: 3.0, "mean": 3.5}
    folder = make_run(tmp_path / "runs", "linupper", 0, values, metrics=True)
    (folder / "metrics.jsonl").write_text("".join(metrics_lines(values, 0, steps=30)))
    studies = [FoundStudy(path=Path(EVIL), study=renamed(sample_study(), EVIL))]
    out = write_report(find_runs([tmp_path / "runs"]), tmp_path / "report.html", CURVES, studies)
    tab.open(out, *DESKTOP)
    # Every panel's values, and every table's order, with such names in them.
    tab.run("document.querySelectorAll('.panel').forEach((panel) => panel.focus())")
    tab.run("document.querySelectorAll('th button').forEach((button) => button.click())")
    assert EVIL[:20] in tab.run("document.querySelector('.tip').textContent")
    assert tab.run("document.querySelectorAll('img, body script').length") == 1
    assert complaints(tab) == []
    assert requests(tab) == [out.resolve().as_uri()]

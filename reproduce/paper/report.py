"""One self-contained HTML page about runs and toy studies. A pure function of their folders: no clock, no
network, and one script of ours, which the page's policy names by its digest and lets nothing else run.

Every string from a file passes clean() and jinja2's autoescape; only SVG that we drew, and that script, go in
unescaped.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.files import atomic_file
from reproduce.errors import DataError, StorageError
from reproduce.paper.figures import Curves
from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.page import Page, build_page
from reproduce.paper.runs import Run
from reproduce.paper.text import clean

MAX_BYTES = 3 * 1024 * 1024
TEMPLATE, SCRIPT = "report.html.j2", "report.js"


def write_report(
    runs: Sequence[Run],
    out: Path,
    curves: Curves | None = None,
    studies: Sequence[FoundStudy] = (),
    tell: Callable[[str], None] = lambda reason: None,
) -> Path:
    """Write the page about these runs and studies; the same folders give the same bytes.

    Args:
        runs: as `find_runs` gives them; none gives a page that says so.
        out: the HTML file, replaced whole or not at all.
        curves: data of Figure 1; left out without.
        studies: as `find_studies` gives them.
        tell: told why the page has no verdicts, where it is open which run stands for what.

    Raises:
        UserError: runs that cannot be compared with each other.
        DataError: a broken metrics.jsonl, or a page above 3 MB.
        StorageError: the page cannot be written.
    """
    page = build_page(runs, curves, studies)
    text = page_text(page)
    size = len(text.encode())
    if size > MAX_BYTES:
        raise DataError(f"the report would be {size / 1e6:.1f} MB, above 3 MB; name fewer runs or studies")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(out) as file:
            file.write(text.encode())
    except OSError as error:
        raise StorageError(
            f"cannot write {out}: {error.strerror}; free space or choose another --out"
        ) from error
    if page.verdicts.refusal:
        tell(page.verdicts.refusal)
    return out


def render(runs: Sequence[Run], curves: Curves | None = None, studies: Sequence[FoundStudy] = ()) -> str:
    """The page as text; raises as write_report does, but for its size."""
    return page_text(build_page(runs, curves, studies))


def page_text(page: Page) -> str:
    """The page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent
    script = (folder / SCRIPT).read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clean"] = clean
    return environment.get_template(TEMPLATE).render(
        page=page, script=Markup(script), script_source=source_of(script)
    )


def source_of(script: str) -> str:
    """The script as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

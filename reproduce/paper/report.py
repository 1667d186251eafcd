"""One self-contained HTML page about runs and toy studies. A pure function of their folders: no clock, no
network, and one script of ours, which the page's policy names by its digest and lets nothing else run.

Every string from a file passes clean() and jinja2's autoescape; only SVG that we drew, and that script, go in
unescaped.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from data_prep.files import atomic_file
from reproduce.errors import DataError, StorageError
from reproduce.paper.figures import Curves
from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.page import build_page
from reproduce.paper.runs import Run
from reproduce.paper.text import clean

MAX_BYTES = 3 * 1024 * 1024
TEMPLATE, SCRIPT = "report.html.j2", "report.js"


def write_report(
    runs: Sequence[Run], out: Path, curves: Curves | None = None, studies: Sequence[FoundStudy] = ()
) -> Path:
    """Write the page about these runs and studies; the same folders give the same bytes.

    Args:
        runs: as `find_runs` gives them; none gives a page that says so.
        out: the HTML file, replaced whole or not at all.
        curves: data of Figure 1; left out without.
        studies: as `find_studies` gives them.

    Raises:
        UserError: runs that cannot be compared with each other.
        DataError: a broken metrics.jsonl, or a page above 3 MB.
        StorageError: the page cannot be written.
    """
    text = render(runs, curves, studies)
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
    return out


def render(runs: Sequence[Run], curves: Curves | None = None, studies: Sequence[FoundStudy] = ()) -> str:
    """The page as text; raises as write_report does, but for its size."""
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
        page=build_page(runs, curves, studies), script=Markup(script), script_source=source_of(script)
    )


def source_of(script: str) -> str:
    """The script as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

"""`reweight report`: one self-contained HTML page about runs and toy studies."""

from pathlib import Path

import click

from reproduce.cli.compare import load_all
from reproduce.cli.console import UserPath, emit_json, json_option, note, progress

DEFAULT_OUT = Path("report.html")
PAPER_R = 0.4
"""The paper's temperature for its GPT-2 runs, for Figure 1's weights."""

EPILOG = """\b
Examples:
  reweight report
  reweight report runs/gpt2_nano_uniform runs/gpt2_nano_linupper --out nano.html
  reweight report demo/runs --json

The page fetches nothing, and is the same for the same run folders. Its tables sort and its figures say their
values; the rest of it needs no script.
"""


@click.command(epilog=EPILOG)
@click.argument("runs", nargs=-1, type=UserPath())
@click.option(
    "--out",
    type=UserPath(dir_okay=False),
    default=DEFAULT_OUT,
    show_default=True,
    help="The file to write.",
)
@json_option
def command(runs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Write a page with the verdicts, curves and provenance of RUNS (default: ./runs), toy studies too."""
    from reproduce.cli.curves import figure_one
    from reproduce.paper.report import write_report

    found, studies = load_all(runs)
    reasons: list[str] = []
    about = f"{len(found)} runs" + (f", {len(studies)} toy studies" if studies else "")
    with progress("report", 2, "parts") as line:
        line.update(0, "strategy curves")
        curves = figure_one(PAPER_R)
        line.update(1, f"page about {about}")
        path = write_report(found, out, curves, studies, tell=reasons.append)
        line.update(2)
    for reason in reasons:
        note(f"no verdicts on the page: {reason}")
    size = path.stat().st_size
    if as_json:
        emit_json(
            {
                "report": str(path),
                "bytes": size,
                "runs": [str(run.path) for run in found],
                "studies": [str(each.path) for each in studies],
                "not_judged": next(iter(reasons), None),
            }
        )
    else:
        note(f"{about}, {size / 1e3:.0f} kB")
        click.echo(str(path))

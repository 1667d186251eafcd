"""`reweight report`: one self-contained HTML page about runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from reproduce.cli.compare import load_runs
from reproduce.cli.console import emit_json, json_option, note, progress

if TYPE_CHECKING:
    from reproduce.paper.figures import Curves

DEFAULT_OUT = Path("report.html")
FIGURE_1 = ("uniform", "linupper", "quadratic", "extremes")
POINTS = 201

EPILOG = """\b
Examples:
  reweight report
  reweight report runs/gpt2_nano_uniform runs/gpt2_nano_linupper --out nano.html
  reweight report demo/runs --json

The page needs no network and no script, and is the same for the same run folders.
"""


@click.command(epilog=EPILOG)
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_OUT,
    show_default=True,
    help="The file to write.",
)
@json_option
def command(runs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Write a page with the verdicts, curves and provenance of RUNS (default: ./runs)."""
    from reproduce.paper.report import write_report

    found = load_runs(runs)
    with progress("report", 2, "parts") as line:
        line.update(0, "strategy curves")
        curves = figure_1()
        line.update(1, f"page about {len(found)} runs")
        path = write_report(found, out, curves)
        line.update(2)
    size = path.stat().st_size
    if as_json:
        emit_json({"report": str(path), "bytes": size, "runs": [str(run.path) for run in found]})
    else:
        note(f"{len(found)} runs, {size / 1e3:.0f} kB")
        click.echo(str(path))


def figure_1(r: float = 0.4) -> "Curves":
    """Figure 1's data: f(h), and the weights at temperature r in a batch whose losses spread evenly."""
    import numpy as np
    import torch

    from reproduce.method import SCORES, sample_weights
    from reproduce.paper.figures import Curves

    h = torch.linspace(-1.0, 1.0, POINTS)
    grid = h.double().numpy().astype(np.float64)
    scores = {name: (grid, SCORES[name](h, 1.0).double().numpy()) for name in FIGURE_1}
    # Evenly spread losses normalise to exactly this h, so the curve is what training would apply.
    weights = {
        name: (grid, POINTS * sample_weights(h, strategy=name, r=r).double().numpy()) for name in FIGURE_1
    }
    return Curves(scores=scores, weights=weights, r=r)

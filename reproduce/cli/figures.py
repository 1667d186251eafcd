"""`reweight figures`: the paper's figures and ours from run folders, as SVG, PNG and CSV."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reproduce.cli.compare import load_all
from reproduce.cli.console import UserPath, emit_json, json_option, note, progress
from reproduce.cli.report import PAPER_R
from reproduce.errors import DataError, ExitCode, StorageError, UserError
from reproduce.paper.text import clean

if TYPE_CHECKING:
    from reproduce.paper.figure_list import FigureList, Found

DEFAULT_OUT = Path("figures")

EPILOG = """\b
Examples:
  reweight figures
  reweight figures runs/gpt2_nano_uniform runs/gpt2_nano_linupper --out nano
  reweight figures --only figure5,figure6
  reweight figures runs docs/results/toy --json

\b
figure1              the strategies' curves; needs no run
figure2 3 4          log-perplexity by domain: GPT2-medium, mini, small; runs at reduced scale are drawn once,
                     as the model they name, and as another where --only asks for its figure
figure5              final mean log-perplexity beside uniform against r
figure6              largest weight of a step, against the bound 2/M
figure7 8            toy regression, and with outliers; from `reweight toy`
loss, domains        training and held-out loss; domains of runs that no figure of the paper has
ess, entropy         of the weights over time
weight-share         of the domains over time
overhead             time of a step by phase, each recipe beside its own uniform twin
weights-by-quantile  weight against the loss's rank in its batch

Each is written as ID.svg, ID.png and ID.csv, the same bytes from the same runs; a second set of runs, which
cannot share axes with the first, gets ID-2. What the given runs do not hold is said in a line each, and so
are runs without a metrics.jsonl, or with one that ends early; exit code 3 if nothing could be drawn.
"""


@click.command(epilog=EPILOG)
@click.argument("runs", nargs=-1, type=UserPath())
@click.option(
    "--only", metavar="ID,...", help="Only these figures; may be given several times.", multiple=True
)
@click.option("--out", type=UserPath(file_okay=False), default=DEFAULT_OUT, show_default=True, help="Folder.")
@json_option
def command(runs: tuple[Path, ...], only: tuple[str, ...], out: Path, as_json: bool) -> int:
    """Draw every figure that RUNS hold the numbers for (default: ./runs), those of toy studies too."""
    from reproduce.paper.figure_list import find_figures
    from reproduce.paper.run_groups import group_by_settings

    asked = _asked(only)
    scored, studies = load_all(runs)
    groups, left_out = group_by_settings(scored)
    for line in left_out:
        note(f"left out: {line}")
    curves = None
    if not asked or "figure1" in asked:
        from reproduce.cli.curves import figure_one

        curves = figure_one(PAPER_R)
    figures = find_figures(groups, studies, curves, asked)
    for line in figures.notes:
        note(line)
    written = _write(figures.found, out)
    lines = [f"{kind}: not drawn, it needs {why}" for kind, why in figures.missing] + [
        f"{each.figure.id}: not drawn, {files}" for each, files in written if isinstance(files, str)
    ]
    drawn = [(each, files) for each, files in written if not isinstance(files, str)]
    if not drawn:
        raise DataError(f"no figure could be drawn; {'; '.join(lines)}")
    for line in lines:
        note(line)
    if as_json:
        emit_json(_document(out, drawn, figures))
    else:
        for each, files in drawn:
            click.echo(f"{files[0]}  {clean(each.figure.title, 160)}")
    return ExitCode.DONE


def _asked(only: Sequence[str]) -> list[str]:
    """The figures named, in lists or one by one."""
    import difflib

    from reproduce.paper.figure_list import NEEDS

    names = [name.strip() for text in only for name in text.split(",")]
    for name in names:
        if name not in NEEDS:
            near = difflib.get_close_matches(name, NEEDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there is {', '.join(NEEDS)}"
            raise click.UsageError(f"no figure '{clean(name, 60)}'; {hint}")
    return names


def _write(found: "Sequence[Found]", out: Path) -> "list[tuple[Found, list[Path] | str]]":
    """The files of each figure, or why it is too large to draw."""
    from reproduce.paper.study_output import write_figure

    written: list[tuple[Found, list[Path] | str]] = []
    with progress("figures", len(found), "figures") as line:
        for index, each in enumerate(found):
            line.update(index, each.figure.id)
            try:
                written.append((each, write_figure(out, each.figure, dots=each.measured)))
            except StorageError:
                raise
            except UserError as error:  # more panels or lines than are drawn at all
                written.append((each, str(error)))
        line.update(len(found))
    return written


def _document(
    out: Path, drawn: "Sequence[tuple[Found, list[Path] | str]]", figures: "FigureList"
) -> dict[str, object]:
    return {
        "out": str(out),
        "figures": [
            {
                "id": each.figure.id,
                "figure": each.kind,
                "title": each.figure.title,
                "caption": each.figure.caption,
                "files": [str(path) for path in files],
            }
            for each, files in drawn
        ],
        "missing": [{"figure": kind, "needs": why} for kind, why in figures.missing],
        "notes": figures.notes,
    }

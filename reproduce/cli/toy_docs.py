"""`reweight toy docs`: numbers of a page of documentation, filled in from studies."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reproduce.cli.console import UserPath, note
from reproduce.errors import ExitCode, UserError

if TYPE_CHECKING:
    from reproduce.study import Study

EPILOG = """\b
Examples:
  reweight toy docs docs/theory.md runs/toy/regression runs/toy/bounds
  reweight toy docs docs/theory.md runs/toy/regression runs/toy/bounds --check

What stands between <!-- study:regression:table:final --> and <!-- /study --> is replaced; so is number:NAME
in a sentence, and findings, settings and command. Conditions choose rows: table:final; method=uniform|linear.
cell:final:diverged; method=uniform is one cell of the row that is left.
"""


@click.command(epilog=EPILOG)
@click.argument("page", type=UserPath(exists=True, dir_okay=False))
@click.argument("folders", nargs=-1, required=True, type=UserPath(), metavar="STUDY_FOLDER...")
@click.option("--check", is_flag=True, help="Write nothing; exit 8 if the page would change.")
def docs(page: Path, folders: tuple[Path, ...], check: bool) -> int:
    """Fill the blocks of PAGE with what the studies in STUDY_FOLDER... found."""
    from reproduce.paper.study_blocks import count_blocks, fill, fill_file, read_page

    studies = _by_kind(folders)
    text = read_page(page)
    if not count_blocks(text, page):
        # Else a check would pass for ever on a page whose comments have a slip.
        raise UserError(f"{page}: no block to fill, such as <!-- study:bounds:findings --> <!-- /study -->")
    if not check:
        note("filled" if fill_file(page, studies) else "nothing has changed")
        click.echo(str(page))
        return ExitCode.DONE
    if fill(text, studies, page) == text:
        return ExitCode.DONE
    note(f"{page} differs from what the studies say; fill it by the same command without --check")
    return ExitCode.OUT_OF_TOLERANCE


def _by_kind(folders: Sequence[Path]) -> "dict[str, Study]":
    from reproduce.study_file import FILE_NAME, read_study

    studies: dict[str, Study] = {}
    for folder in folders:
        study = read_study(folder / FILE_NAME)
        if study.study in studies:
            raise UserError(f"{folder}: a second study of {study.study}; name one folder of each kind")
        studies[study.study] = study
    return studies

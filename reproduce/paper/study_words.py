"""A study's values and verdicts as words: one spelling for the terminal, the report and the docs."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from reproduce.paper.again import again_folder
from reproduce.paper.text import clean
from reproduce.study import Outcome, Scalar, Study

OUTCOME_TEXTS: Mapping[Outcome, tuple[str, str]] = {
    "holds": ("✓", "holds"),
    "does_not": ("✗", "does not hold"),
    "only_where": ("~", "only where"),
    "unresolved": ("?", "unresolved"),
}
"""Outcome -> mark, words."""

VALUE_LIMIT = 400
COMMAND_LIMIT = 1000
"""Room for the options of a study and two long paths: a command cut short is another command."""


def shown(value: Scalar | tuple[Scalar, ...], limit: int = VALUE_LIMIT) -> str:
    """A value as a reader meets it: floats to 4 digits, integers whole, lists with commas, None as a dash."""
    if isinstance(value, tuple):
        # Not joined first: a list from a file may hold a million values.
        return clean(", ".join(shown(each) for each in value[:limit]), limit)
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else clean(value, limit)


def verdict(outcome: Outcome) -> str:
    """The outcome with its mark."""
    return " ".join(OUTCOME_TEXTS[outcome])


def repeat_command(study: Study, folder: Path | None = None) -> str | None:
    """The command that repeats the study, safe to paste; None where the file names no toy study of ours.

    Args:
        study: its `command` may be anybody's text.
        folder: where the study lies; --out is another one, for in this one the command would only show the
            study again. None leaves --out out.
    """
    try:
        words = shlex.split(study.command)
    except ValueError:  # an open quote
        return None
    if words[:2] != ["reweight", "toy"]:
        return None
    out = [] if folder is None else ["--out", str(again_folder(folder))]
    # Quoted anew: what was `;` or `$(...)` for a shell is a plain word now.
    return clean(shlex.join([*words, *out]), COMMAND_LIMIT)

"""Tables, verdicts and settings of a study as Markdown. Whatever a study says stays text."""

import re
from collections.abc import Sequence

from reproduce.paper.study_words import repeat_command, shown, verdict
from reproduce.study import Scalar, Study, Table

SPECIAL = re.compile(r"[\\`*\[\]|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""What Markdown reads as more than itself; an underscore inside a word is none of it."""

TEXT_LIMIT = 2000


def escaped(text: str) -> str:
    """A text that Markdown, and HTML inside it, show as it is."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\g<0>", safe)


def value_text(value: Scalar | tuple[Scalar, ...]) -> str:
    """A value as it stands in a sentence or a cell."""
    return escaped(shown(value, TEXT_LIMIT))


def table_markdown(table: Table) -> str:
    """The table; columns that hold numbers only are aligned to the right."""
    numbers = [all(not isinstance(row[j], str) for row in table.rows) for j in range(len(table.columns))]
    return _grid(table.columns, numbers, [[value_text(cell) for cell in row] for row in table.rows])


def findings_markdown(study: Study) -> str:
    """The verdicts, one a row."""
    rows = [
        [
            escaped(shown(finding.claim, TEXT_LIMIT)),
            escaped(shown(finding.source, TEXT_LIMIT)),
            verdict(finding.outcome).replace("~", r"\~"),
            value_text(finding.where or None),
            escaped(shown(finding.evidence, TEXT_LIMIT)),
            str(finding.seeds),
        ]
        for finding in study.findings
    ]
    columns = ("claim", "source", "verdict", "where", "evidence", "seeds")
    return _grid(columns, [False] * 5 + [True], rows)


def settings_markdown(study: Study) -> str:
    """The settings, one a row."""
    rows = [[escaped(shown(key)), value_text(value)] for key, value in study.settings.items()]
    return _grid(("setting", "value"), [False, False], rows)


def command_markdown(study: Study) -> str:
    """The command that repeats the study, as a block of code."""
    command = repeat_command(study) or "(study.json names no command of this project)"
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", command)), default=0))
    return f"{fence}bash\n{command}\n{fence}"


def _grid(columns: Sequence[str], numbers: Sequence[bool], rows: Sequence[Sequence[str]]) -> str:
    heads = [escaped(shown(name)) for name in columns]
    dashes = ["---:" if number else "---" for number in numbers]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, dashes, *rows))

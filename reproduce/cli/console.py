"""What commands print with: results on stdout, everything else on stderr, no control codes off a terminal."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reproduce.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from eval.perplexity import LogPerplexity

F = TypeVar("F", bound=Callable[..., Any])

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
"""Longest file name and path of the usual file systems."""

PLAIN_INTERVAL_S = 10.0
"""Off a terminal, one plain progress line this often."""


class UserPath(click.Path):
    """A path of the command line as a `Path`: not too long, nor empty, which would be the current folder."""

    def __init__(self, *, exists: bool = False, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(exists=exists, file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what no file system takes, then check as click does."""
        encoded = os.fsencode(value)
        if not encoded or b"\0" in encoded:
            self.fail("the path is empty" if not encoded else "the path holds a NUL", param, ctx)
        try:
            encoded.decode("utf-8")
        except UnicodeDecodeError:
            # Libraries that write our files take no other names; better said now than after a day's run.
            self.fail(f"{one_line(str(value), 400)} is not UTF-8; rename it", param, ctx)
        if len(encoded) > MAX_PATH_BYTES or any(len(n) > MAX_NAME_BYTES for n in encoded.split(b"/")):
            self.fail(f"{str(value)[:60]!r}... is too long for a path", param, ctx)
        return super().convert(value, param, ctx)


def json_option(function: F) -> F:
    """Add --json: exactly one document on stdout, everything else on stderr."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(
        function
    )


def emit_json(document: object) -> None:
    """Print the one JSON document of this command. NaN and infinity are refused, not written."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    click.echo(json.dumps(document, indent=2, ensure_ascii=not unicode, allow_nan=False))


def note(message: str) -> None:
    """A line for the reader, on stderr. Work does not stop because nobody reads any more."""
    with suppress(OSError):
        click.echo(message, err=True)


def stdout_console() -> "Console":
    """A rich console on stdout; 100 columns when piped, so tables are not cut."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    # force_terminal: off a terminal not even FORCE_COLOR brings control codes.
    return Console(file=sys.stdout, width=None if terminal else 100, highlight=False, force_terminal=terminal)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout. The first column is left-aligned, the others right-aligned."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*[Text(str(cell)) for cell in row])
    print_rich(table)


def print_rich(renderable: object) -> None:
    """Print what rich renders on stdout."""
    console = stdout_console()
    with console.capture() as shown:
        console.print(renderable)
    # Not by rich itself: where the reader has left, it ends the process with code 1.
    click.echo(shown.get(), nl=False)


def print_log_perplexity(title: str, scores: "Mapping[str, LogPerplexity]") -> None:
    """Print log-perplexity by domain and `mean`, in nats with standard errors."""
    rows = [
        (name, f"{s.value:.4f}", "-" if s.stderr is None else f"{s.stderr:.4f}", s.n)
        for name, s in scores.items()
    ]
    print_table(title, ("domain", "nats", "std. error", "windows"), rows)


class Progress:
    """One line about a running job: done, total, rate, time left."""

    def __init__(self, label: str, total: float, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._start = self._last_line = time.monotonic()
        self._first: float | None = None
        self._last_done: float | None = None
        self._width = 0
        self._tty = sys.stderr.isatty()

    def update(self, done: float, detail: str = "") -> None:
        """Report that `done` of the total is behind us; cheap to call often."""
        now = time.monotonic()
        if self._first is None:
            # The rate counts from here: what came before (imports, opening files) was no progress.
            self._first, self._start = done, now
        waited = now - self._last_line
        if done == self._last_done or (
            waited < (0.2 if self._tty else PLAIN_INTERVAL_S) and done < self._total
        ):
            return
        self._last_line, self._last_done = now, done
        line = self._line(done, now - self._start, detail)
        if self._tty:
            sys.stderr.write("\r" + line.ljust(self._width))
            sys.stderr.flush()
            self._width = len(line)
        elif now - self._start > 2.0 or done < self._total:
            note(line)

    def close(self) -> None:
        """End the line on a terminal."""
        if self._tty and self._width:
            sys.stderr.write("\n")

    def _line(self, done: float, elapsed: float, detail: str) -> str:
        progressed = done - (self._first or 0)
        rate = progressed / elapsed if elapsed > 0 else 0.0
        eta = f", {duration((self._total - done) / rate)} left" if rate > 0 and done < self._total else ""
        share = f"{100 * done / self._total:3.0f}%" if self._total else ""
        tail = f" | {detail}" if detail else ""
        return f"{self._label} {share} {rate:,.1f} {self._unit}/s{eta}{tail}"


@contextmanager
def progress(label: str, total: float, unit: str) -> Iterator[Progress]:
    """A progress line on stderr for anything longer than two seconds."""
    line = Progress(label, total, unit)
    try:
        yield line
    finally:
        line.close()


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42s, 3m10s, 5h02m, 3.2d."""
    if seconds < 60:
        return f"{seconds:.0f}s"
    if seconds < 3600:
        return f"{int(seconds // 60)}m{int(seconds % 60):02d}s"
    if seconds < 48 * 3600:
        return f"{int(seconds // 3600)}h{int(seconds % 3600 // 60):02d}m"
    return f"{seconds / 86400:.1f}d"


def quantity(number: float) -> str:
    """A count as a person says it: 950, 12.3k, 328M, 105B."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{suffix}"
    return f"{number:g}"

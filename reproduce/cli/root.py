"""The command group: lazy subcommands, and one place that turns errors into a line and an exit code."""

import difflib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from reproduce import __version__
from reproduce.cli.console import note
from reproduce.errors import ExitCode, RecipeError, one_line

COMMANDS = {
    "demo": "The whole chain on text this machine already has: minutes, offline, CPU.",
    "prep": "Turn text into token shards.",
    "recipes": "List, show, validate and copy what can be trained.",
    "train": "Pretrain a model from a recipe.",
    "eval": "Score runs and models: log-perplexity per domain, and the paper's question tasks.",
    "domains": "Learn domain weights with DoReMi or DoGE, and show sets of them.",
    "toy": "The paper's toy studies and theorems, by number: seconds on a CPU.",
    "weights": "Show what a strategy does to given losses.",
    "reproduce": "Run what one table or figure of the paper takes, and compare.",
    "compare": "Hold runs against the paper's numbers.",
    "figures": "Draw the paper's figures and ours from runs: SVG, PNG, CSV.",
    "report": "Write one self-contained HTML page about runs.",
    "bench": "Measure the cost of reweighting, of preparing data, and of scoring.",
}
"""Subcommand -> one line of help. The module is reproduce.cli.<name>, its click command `command`."""

QUICK_START = """\b
Quick start:
  reweight demo
  reweight prep slimpajama
  reweight train --recipe gpt2_mini_linupper
  reweight compare --against paper

\b
Exit codes: 0 done · 1 bug · 2 usage or recipe · 3 data · 4 hub or network · 5 resume refused ·
6 non-finite numbers · 7 disk, memory, lock · 8 outside tolerance · 9 ranks disagree ·
75 preempted, run again · 130 interrupted
"""

DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.EFBIG}
PATH_ERRNOS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


class LazyGroup(click.Group):
    """A group that imports a subcommand's module only when that subcommand is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of use, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import reproduce.cli.<cmd_name> and return its command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"reproduce.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Add the nearest name to click's complaint about an unknown command."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else " `reweight --help` lists them."
            raise click.UsageError(f"No such command '{name}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table above, importing nothing."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, epilog=QUICK_START, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reweight")
def cli() -> None:
    """Loss-based sample reweighting for LLM pretraining: train, evaluate, compare with the paper."""


def run(argv: Sequence[str]) -> int:
    """Run the command line; return the exit code. Only bugs print a traceback."""
    try:
        result = cli.main(args=list(argv), prog_name="reweight", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        return _complain(("interrupted",), ExitCode.INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "reweight"
        message = one_line(error.format_message())
        return _complain((f"{message} (`{command} --help` shows the usage)",), ExitCode.USAGE)
    except KeyboardInterrupt:
        return _complain(("interrupted",), ExitCode.INTERRUPTED)
    except SystemExit as stop:
        if stop.code not in (ExitCode.INTERRUPTED, ExitCode.PREEMPTED):
            return _reader_left()  # click's own answer to a broken pipe
        # From a signal handler: there is nobody else to raise it.
        return _complain(("stopped at once; run the same command again",), int(stop.code or 0))
    except BrokenPipeError:
        return _reader_left()
    except MemoryError:
        return _complain(("out of memory: lower the batch or the number of workers",), ExitCode.STORAGE)
    except Exception as error:
        return _report(error)
    return result if isinstance(result, int) else ExitCode.DONE


def _reader_left() -> int:
    """Leave quietly after head or less, without Python's own complaint at shutdown."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
            continue
        os.dup2(nowhere, stream.fileno())
    return ExitCode.DONE


def _report(error: Exception) -> int:
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return _complain(error.lines if isinstance(error, RecipeError) else (str(error),), code)
    # With a file's name it is the file system that refused, whatever the number.
    if isinstance(error, OSError) and (error.errno in DISK_ERRNOS or error.filename):
        where = f" '{error.filename}'" if error.filename else ""
        if error.errno in PATH_ERRNOS:
            return _complain((f"cannot use{where}: {error.strerror}; check the path",), ExitCode.STORAGE)
        remedy = "free space or mend permissions and run it again, or choose another --out"
        return _complain((f"cannot write{where}: {error.strerror}; {remedy}",), ExitCode.STORAGE)
    traceback.print_exception(error)
    return _complain(("this is a bug in reweight; please report it with the lines above",), ExitCode.BUG)


def _complain(lines: Sequence[str], code: int) -> int:
    note("reweight: " + "\n".join(one_line(line) for line in lines))
    return int(code)

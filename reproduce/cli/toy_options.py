"""Options of `reweight toy`, declared once: rows that name the settings' field whose default they show."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])

NOT_PRINTED = ("out", "as_json", "workers", "sweep")
"""Parameters that change no number, or that the command line names in another way."""


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers separated by commas: 0.4,1,2."""

    name = "NUMBER,..."

    def __init__(self, kind: type[int] | type[float] = float) -> None:
        """`kind`: what each of them is."""
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Refuse what is no number; whether it is a sensible one is the study's to say."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(part.strip()) for part in str(value).split(","))
        except (ValueError, OverflowError):
            what = "whole numbers" if self._kind is int else "numbers"
            self.fail(f"{str(value)[:60]!r}: expected {what}, separated by commas", param, ctx)


class Names(click.ParamType[tuple[str, ...]]):
    """Names separated by commas; the study knows which there are."""

    name = "NAME,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Split."""
        return value if isinstance(value, tuple) else tuple(part.strip() for part in str(value).split(","))


FLOATS, INTEGERS, NAMES = Numbers(), Numbers(int), Names()


class Row(NamedTuple):
    """One option."""

    flag: str
    kind: Any
    """A click type."""
    text: str
    field: str
    """The settings' field that it fills."""
    in_grid: str | None = None
    """The field of a sweep's settings that takes several values of it; None: the same field."""

    @property
    def parameter(self) -> str:
        """The name of its value in a command's function."""
        return self.flag.removeprefix("--").replace("-", "_")


def declare(rows: Sequence[Row], settings: object, grid: object | None = None) -> Callable[[F], F]:
    """Options without a default of their own: the help shows the settings', and the grid's."""

    def decorate(function: F) -> F:
        for row in reversed(rows):
            shown = shown_value(getattr(settings, row.field))
            if grid is not None:
                in_grid = shown_value(getattr(grid, row.in_grid or row.field, None))
                shown += f"; with --sweep {in_grid}" * (in_grid not in (shown, "None"))
            text = f"{row.text}  [default: {shown}]"
            function = click.option(row.flag, row.parameter, type=row.kind, default=None, help=text)(function)
        return function

    return decorate


def filled(rows: Sequence[Row], chosen: Mapping[str, Any], *, grid: bool = False) -> dict[str, Any]:
    """The settings' fields that the user chose. Without a grid, a list that stands for one value has one."""
    found = {}
    for row in rows:
        value = chosen[row.parameter]
        if value is None:
            continue
        if row.in_grid is not None and not grid:
            if len(value) != 1:
                raise click.UsageError(f"{row.flag}: several values go with --sweep; without it give one")
            value = value[0]
        found[row.in_grid if grid and row.in_grid else row.field] = value
    return found


def shown_value(value: object) -> str:
    """A value as one would type it."""
    if isinstance(value, tuple):
        return ",".join(shown_value(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def command_line(verb: str, ctx: click.Context, *flags: str) -> str:
    """What repeats this study: what the user chose, without the folder it was written to."""
    words = [f"reweight toy {verb}", *flags]
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name in NOT_PRINTED or ctx.get_parameter_source(name) != ParameterSource.COMMANDLINE:
            continue
        words += [parameter.opts[0], shown_value(ctx.params[name])]
    return " ".join(words)

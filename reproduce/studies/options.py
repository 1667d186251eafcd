"""Checks of what a user asks of a study: each error names the option, what was found and what is allowed."""

import math
from collections.abc import Sequence
from pathlib import Path

from reproduce.errors import UserError
from reproduce.recipe.checks import STRATEGY_NAMES

LARGEST_COUNT = 10_000_000
"""Of samples, steps or seeds: beyond it a number is taken for a slip of the hand."""

SHARE_OF_MEMORY = 0.8
"""Of the free memory, what a study may plan to use."""


def positive_integer(option: str, value: int) -> None:
    """UserError unless 1 <= value <= LARGEST_COUNT."""
    if not 1 <= value <= LARGEST_COUNT:
        raise UserError(f"{option} {value}: expected a whole number from 1 to {LARGEST_COUNT}")


def within(
    option: str,
    value: float,
    low: float,
    high: float,
    meaning: str,
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """UserError unless the value is finite and between the limits."""
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    if not (math.isfinite(value) and above and below):
        brackets = ("(" if low_open else "[") + f"{low:g}, {high:g}" + (")" if high_open else "]")
        raise UserError(f"{option} {value:g}: expected {meaning}, in {brackets}")


def known_strategies(names: Sequence[str]) -> None:
    """UserError for a name that is no strategy, or none at all, or one twice."""
    unknown = [name for name in names if name not in STRATEGY_NAMES]
    if unknown:
        raise UserError(f"--strategy {unknown[0]!r:.60}: unknown; there is {', '.join(STRATEGY_NAMES)}")
    distinct("--strategy", names)


def distinct(option: str, values: Sequence[object]) -> None:
    """UserError for an empty list, or one that holds a value twice."""
    if not values:
        raise UserError(f"{option}: give at least one value")
    if len(set(values)) < len(values):
        raise UserError(f"{option} {','.join(map(str, values))[:80]}: the same value twice")


def fits_memory(what: str, needed_bytes: int, remedy: str) -> None:
    """UserError where a study would need more memory than is free."""
    free = available_bytes()
    if free is not None and needed_bytes > SHARE_OF_MEMORY * free:
        raise UserError(
            f"{what} needs about {needed_bytes / 1e9:,.1f} GB of memory, {free / 1e9:,.1f} GB are free; "
            f"{remedy}"
        )


def available_bytes() -> int | None:
    """Memory that new work can have on Linux; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None

"""What a proxy's metrics say of its weights: their mean over all steps, and how they moved. No torch."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from reproduce.errors import DataError
from reproduce.recipe.weight_set import HistoryPoint

POINTS = 100
"""Steps of a history that are kept, at most, besides the last."""

ROUNDING = 1e-6
"""How far weights in metrics may sum from one."""

Item = TypeVar("Item")


def proxy_history(
    text: str, run: Path, *, domains: Sequence[str], steps: int
) -> tuple[dict[str, float], tuple[HistoryPoint, ...]]:
    """The mean weights over all steps, by domain, and the weights at some steps.

    Args:
        text: metrics.jsonl of a finished proxy, whose last step is always logged.
        run: its folder, for messages.
        domains: what is weighed.
        steps: of the proxy.

    Raises:
        DataError: lines that are damaged, lack the last step, or are of other domains.
    """
    try:
        lines = [line for line in map(json.loads, text.splitlines()) if line["kind"] == "train"]
        numbers = [line["step"] for line in lines]
        if numbers != sorted(set(numbers)) or not all(type(number) is int for number in numbers):
            raise ValueError("its steps are not in order")
        if numbers[-1:] != [steps]:
            raise ValueError(f"its last step is not {steps}")
        mean = _weights(lines[-1]["average_alpha"], domains)
        points = tuple(
            HistoryPoint(step=line["step"], weights=tuple(_weights(line["alpha"], domains).values()))
            for line in thinned(lines, POINTS)
        )
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise DataError(
            f"{run / 'metrics.jsonl'}: holds no domain weights that can be read ({str(error)[:100]}); "
            f"restore it, or delete {run} and run the same command again"
        ) from None
    return mean, points


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly, besides the last; none of none."""
    kept = list(items[:: max(1, -(-len(items) // max(1, most)))])
    return kept if not items or kept[-1] is items[-1] else [*kept, items[-1]]


def _weights(found: Any, domains: Sequence[str]) -> dict[str, float]:
    if set(found) != set(domains):
        raise ValueError("weights of other domains")
    weights = {name: float(found[name]) for name in domains}
    if not all(0 <= value <= 1 + ROUNDING for value in weights.values()):
        raise ValueError("a weight that is no share")
    if abs(math.fsum(weights.values()) - 1) > ROUNDING:
        raise ValueError("weights that do not sum to 1")
    return weights

"""What a proxy's metrics say of its weights: their mean over all steps, and how they moved."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproduce.errors import DataError
from reproduce.recipe.weight_set import HistoryPoint

POINTS = 100
"""Steps of a history that are kept, at most, besides the last."""


def proxy_history(text: str, run: Path) -> tuple[dict[str, float], tuple[HistoryPoint, ...]]:
    """The mean weights over all steps, by domain, and the weights at some steps.

    Args:
        text: metrics.jsonl of a finished proxy, whose last step is always logged.
        run: its folder, for messages.

    Raises:
        DataError: no line of a training step with weights, or a damaged one.
    """
    try:
        lines = [line for line in map(json.loads, text.splitlines()) if line["kind"] == "train"]
        last = lines[-1]
        mean = _weights(last["average_alpha"])
        kept = lines[:: -(-len(lines) // POINTS)]
        if kept[-1] is not last:
            kept.append(last)
        points = tuple(
            HistoryPoint(
                step=int(line["step"]), weights=tuple(_weights(line["alpha"])[name] for name in mean)
            )
            for line in kept
        )
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"{run / 'metrics.jsonl'}: holds no domain weights that can be read ({error}); restore it, or "
            f"delete {run} and run the same command again"
        ) from None
    return mean, points


def _weights(found: Mapping[str, Any]) -> dict[str, float]:
    weights = {str(name): float(value) for name, value in found.items()}
    if not weights or not all(math.isfinite(value) and value >= 0 for value in weights.values()):
        raise ValueError("a weight that is no share")
    return weights

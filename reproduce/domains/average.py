"""One set of domain weights from those of several seeds: their mean. No torch."""

from collections.abc import Sequence
from dataclasses import replace

from reproduce.errors import UserError
from reproduce.recipe.weight_set import WeightSet

SAME = (
    "algorithm",
    "recipe",
    "tokenizer",
    "tokenizer_sha256",
    "data_fingerprint",
    "steps",
    "settings",
)
"""What sets must share to be seeds of one experiment."""


LONGEST_SOURCE = 2000
"""Letters of a source that a file may have; the first set's may be as long already."""


def average(sets: Sequence[WeightSet], name: str) -> WeightSet:
    """The mean of each domain's weight over sets that differ in their seeds only; each seed counts once.

    Raises:
        UserError: fewer than two sets, another setting, other domains, or a seed twice; names the first.
    """
    if len(sets) < 2:
        raise UserError("a mean needs at least two sets of weights; name the weights.yaml of several seeds")
    first = sets[0]
    for other in sets[1:]:
        for field in SAME:
            if getattr(other, field) != getattr(first, field):
                raise UserError(
                    f"{first.name} and {other.name} differ in {field}: no seeds of one experiment; average "
                    "sets that were learned alike"
                )
        if other.rounds and first.rounds and _start(other) != _start(first):
            raise UserError(
                f"{first.name} and {other.name} differ in the weights they began with: no seeds of one "
                "experiment; average sets that were learned alike"
            )
        if list(other.weights) != list(first.weights):
            raise UserError(
                f"{first.name} has the domains {', '.join(first.weights)}, {other.name} "
                f"{', '.join(other.weights)}; average sets over the same domains"
            )
    seeds = [seed for each in sets for seed in each.seeds]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds {', '.join(map(str, sorted(seeds)))}: one is there twice; name each set once")
    counts = [max(1, len(each.seeds)) for each in sets]  # a set may be a mean itself
    return replace(
        first,
        name=name,
        weights={
            domain: sum(
                count * each.weights[domain] / sum(each.weights.values())
                for count, each in zip(counts, sets, strict=True)
            )
            / sum(counts)
            for domain in first.weights
        },
        source=f"mean over seeds of weights {first.source.partition(', seed')[0]}"[:LONGEST_SOURCE],
        seeds=tuple(sorted(seeds)),
        rounds=(),
    )


def _start(weights: WeightSet) -> dict[str, float]:
    """What the first reference was trained with, or a doge proxy drew by."""
    return dict(weights.rounds[0].reference_weights)

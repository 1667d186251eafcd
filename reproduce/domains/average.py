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


def average(sets: Sequence[WeightSet], name: str) -> WeightSet:
    """The mean of each domain's weight over sets that differ in their seeds only.

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
        if list(other.weights) != list(first.weights):
            raise UserError(
                f"{first.name} has the domains {', '.join(first.weights)}, {other.name} "
                f"{', '.join(other.weights)}; average sets over the same domains"
            )
    seeds = [seed for each in sets for seed in each.seeds]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds {', '.join(map(str, sorted(seeds)))}: one is there twice; name each set once")
    return replace(
        first,
        name=name,
        weights={
            domain: sum(each.weights[domain] / sum(each.weights.values()) for each in sets) / len(sets)
            for domain in first.weights
        },
        source=f"mean over seeds of weights {first.source.partition(', seed')[0]}",
        seeds=tuple(sorted(seeds)),
        rounds=(),
    )

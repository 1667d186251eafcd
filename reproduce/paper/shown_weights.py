"""A run's weights over domains as the report's page shows them: by name or at a glance, and whole."""

from collections.abc import Mapping
from functools import cache
from math import isclose

from reproduce.paper.runs import RunInfo
from reproduce.paper.text import clean
from reproduce.recipe.weight_sets import read_weight_set, shipped_weight_sets

AT_A_GLANCE = 3
"""Domains of the largest weights; the others are counted."""

MOST_DOMAINS = 60


def weights_at_a_glance(info: RunInfo) -> str:
    """Their name where they have one, also if they were written out; else the largest of them."""
    weights = info.domain_weights
    if isinstance(weights, str):
        return clean(weights, 40)
    shares = _shares(weights)
    if len(shares) > 1 and len(set(shares.values())) == 1:
        return f"all {len(shares)} alike"
    name = next((name for name, theirs in _published().items() if _same(shares, theirs)), None)
    if name is not None:
        return f"{name}, as published"
    largest = sorted(shares, key=lambda domain: -shares[domain])
    rest = len(shares) - AT_A_GLANCE
    shown = [f"{clean(domain, 20)} {100 * shares[domain]:.2g}%" for domain in largest[:AT_A_GLANCE]]
    return ", ".join([*shown, *([f"{rest} more"] if rest > 0 else [])])


def written_weights(info: RunInfo) -> str:
    """Every weight of a run that has them written out, as a share of the sum; empty where they are named."""
    weights = info.domain_weights
    if isinstance(weights, str):
        return ""
    shares = list(_shares(weights).items())
    rest = len(shares) - MOST_DOMAINS
    shown = [f"{clean(domain, 40)} {share:.4g}" for domain, share in shares[:MOST_DOMAINS]]
    return ", ".join([*shown, *([f"{rest} more"] if rest > 0 else [])])


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights with sum 1; as they are where that cannot be, which no recipe of ours is."""
    total = sum(weights.values())
    return {domain: weight / total if total > 0 else weight for domain, weight in weights.items()}


def _same(ours: Mapping[str, float], theirs: Mapping[str, float]) -> bool:
    alike = set(ours) == set(theirs)
    return alike and all(isclose(ours[domain], theirs[domain], rel_tol=1e-6) for domain in theirs)


@cache
def _published() -> dict[str, dict[str, float]]:
    """Name -> shares of every set in recipes/domain_weights."""
    return {name: _shares(read_weight_set(path).weights) for name, path in shipped_weight_sets().items()}

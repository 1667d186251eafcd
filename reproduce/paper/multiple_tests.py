"""Many tests at once: p values of a normal test, adjusted over a family. Standard library only."""

import math
from collections.abc import Sequence

ALPHA = 0.05
"""Below this a p value, adjusted or not, counts."""


def normal_p(z: float) -> float:
    """Two-sided p value of a standard normal z."""
    return math.erfc(abs(z) / math.sqrt(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979): below alpha, the family's chance of any false call is at most alpha.

    The k-th smallest of m is multiplied by m - k + 1; none is smaller than one before it, none above 1. Holds
    whatever the dependence between the tests.
    """
    adjusted = [0.0] * len(p_values)
    so_far = 0.0
    for k, index in enumerate(_rising(p_values)):
        so_far = max(so_far, min(1.0, (len(p_values) - k) * p_values[index]))
        adjusted[index] = so_far
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values (Benjamini and Hochberg 1995): below alpha, a share of alpha at most is false.

    The k-th smallest of m is multiplied by m / k; none is larger than one after it. Holds for independent
    tests, and for positively dependent ones.
    """
    m = len(p_values)
    adjusted = [1.0] * m
    so_far = 1.0
    for k, index in reversed(list(enumerate(_rising(p_values), 1))):
        so_far = min(so_far, p_values[index] * m / k)
        adjusted[index] = so_far
    return adjusted


def _rising(p_values: Sequence[float]) -> list[int]:
    return sorted(range(len(p_values)), key=lambda index: p_values[index])

"""`reweight toy regression --sweep`: the regression over a grid of data and settings, all methods everywhere.

Shapes: G data setups (share x scale x noise), S seeds, B batch sizes, R learning rates, K methods,
H thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reproduce.studies.ensemble import Protocol, simulate, with_rates
from reproduce.studies.regression import Advance, counting
from reproduce.studies.settings import SweepSettings
from reproduce.studies.setup import draw_batches, make_worlds

BLOCK_BYTES = 128 * 1024 * 1024
"""Worlds of so many setups are held at a time."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What every run of the sweep did. Infinite: diverged, or never arrived."""

    settings: SweepSettings
    final: Tensor
    """(G, S, B, R, K) held-out loss at the end."""
    reached: Tensor
    """(G, S, B, R, K, H) steps to each threshold."""
    diverged: Tensor
    """(G, S, B, R, K) bool."""
    overflowed: Tensor
    """(G, S, B, R, K) bool."""


def run_grid(settings: SweepSettings, advance: Advance = lambda share, what: None) -> Grid:
    """Run every combination. The same settings give the same numbers, whatever the number of threads."""
    setups = settings.setups
    G, S, B = len(setups), settings.seeds, len(settings.batches)
    R, K, H = len(settings.lrs), len(settings.methods), len(settings.thresholds)
    grid = Grid(
        settings=settings,
        final=torch.empty(G, S, B, R, K, dtype=torch.float64),
        reached=torch.empty(G, S, B, R, K, H, dtype=torch.float64),
        diverged=torch.empty(G, S, B, R, K, dtype=torch.bool),
        overflowed=torch.empty(G, S, B, R, K, dtype=torch.bool),
    )
    # Work grows with the batch size; the constant stands for what every step costs besides.
    weights = [batch + 16 for batch in settings.batches]
    count = counting(
        advance, float(settings.steps * G * S * R * K * sum(weights)), f"{G * B * R * K:,} cells"
    )
    block = max(1, BLOCK_BYTES // (settings.data.bytes_a_world * S))
    seeds = list(settings.seed_numbers)
    for start in range(0, G, block):
        part = slice(start, min(start + block, G))
        worlds = make_worlds(setups[part], seeds)
        for b, batch in enumerate(settings.batches):
            outcome = simulate(
                worlds,
                draw_batches(seeds, settings.data.samples, batch, settings.steps),
                with_rates(settings.methods, settings.lrs),
                Protocol(steps=settings.steps, thresholds=settings.thresholds),
                workers=settings.workers,
                advance=lambda work, weight=weights[b]: count(work * weight),  # type: ignore[misc]
            )
            # Worlds: setups, then seeds. Methods: methods, then learning rates.
            shape = (part.stop - part.start, S, K, R)
            grid.final[part, :, b] = outcome.final.view(shape).mT
            grid.diverged[part, :, b] = (outcome.diverged > 0).view(shape).mT
            grid.overflowed[part, :, b] = outcome.overflowed.view(shape).mT
            grid.reached[part, :, b] = outcome.reached.view(*shape, H).transpose(2, 3)
    return grid


def levels(settings: SweepSettings) -> dict[str, Sequence[float]]:
    """The grid's factors and their values, by the name that tables show."""
    return {
        "outlier share": settings.outlier_shares,
        "outlier scale": settings.outlier_scales,
        "noise": settings.noises,
        "batch": settings.batches,
        "lr": settings.lrs,
    }

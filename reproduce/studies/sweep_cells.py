"""The sweep's runs as cells: every method beside uniform, at the same learning rate and at its own best.

Shapes: a cell is a combination of the grid's factors, F of them; S seeds, K methods. Lower is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reproduce.statistics import sign_test
from reproduce.studies.settings import SweepSettings
from reproduce.studies.summary import ALPHA, Floats, median
from reproduce.studies.sweep import Grid

FACTORS = ("outlier share", "outlier scale", "noise", "batch", "lr")
"""Dimensions of the cells, in this order; with the best learning rate the last has one level."""

SCALE = FACTORS.index("outlier scale")

Signs = NDArray[np.int8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One quantity in every cell."""

    name: str
    """What it is: `final`, or `steps to 0.5`."""
    middle: Floats
    """(F..., K) median over seeds; infinite: diverged, or never arrived."""
    standing: Signs
    """(F..., K) against uniform by the sign test over seeds, each cell by itself: -1 lower, 1 higher, 0
    neither."""
    p: Floats
    """(F..., K) of that test."""
    best_lr: bool
    """Whether every method has its own best learning rate."""
    distinct: Mask
    """(F...) cells that are no copy of another: without outliers their scale changes nothing."""

    @property
    def ratio(self) -> Floats:
        """(F..., K) median over uniform's; infinite where only uniform arrives, NaN where neither does."""
        base = self.middle[..., :1]
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio: Floats = np.where(np.isinf(self.middle) & np.isinf(base), np.nan, self.middle / base)
        return ratio

    def typical(self, method: int, where: Sequence[slice | int] = ()) -> float:
        """Median ratio over cells (some of them: an index a factor); NaN where neither arrives in any."""
        values = self.ratio[(*where, ..., method)]
        known = values[~np.isnan(values) & self._counted(where)]
        return float(median(known)) if known.size else float("nan")

    def counts(self, method: int, where: Sequence[slice | int] = ()) -> "Counts":
        """In how many cells the method is lower, higher or neither."""
        signs = self.standing[(*where, ..., method)]
        open_to = ~np.isnan(self.ratio[(*where, ..., method)]) & self._counted(where)
        return Counts(
            lower=int(((signs < 0) & open_to).sum()),
            higher=int(((signs > 0) & open_to).sum()),
            cells=int(open_to.sum()),
        )

    def winners(self) -> Mask:
        """(F..., K) which methods have the lowest median: several where they tie, or none."""
        lowest = self.middle.min(axis=-1, keepdims=True)
        won: Mask = (self.middle == lowest) & np.isfinite(lowest) & self.distinct[..., np.newaxis]
        return won

    def _counted(self, where: Sequence[slice | int]) -> Mask:
        """Which of the cells there to count: all where one scale is asked for, else no copies."""
        one_scale = len(where) > SCALE and isinstance(where[SCALE], int)
        distinct: Mask = self.distinct[tuple(where)]
        return np.ones_like(distinct) if one_scale else distinct


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Cells by their resolved outcome."""

    lower: int
    higher: int
    cells: int
    """All in which at least one of the two arrived."""


def cells_of(grid: Grid) -> list[Cells]:
    """Final loss and steps to each threshold: at the same learning rate, then each method at its own best."""
    settings = grid.settings
    shape = (
        len(settings.outlier_shares),
        len(settings.outlier_scales),
        len(settings.noises),
        settings.seeds,
        len(settings.batches),
        len(settings.lrs),
        len(settings.methods),
    )
    quantities = {"final loss": grid.final.numpy().reshape(shape)}
    for h, threshold in enumerate(settings.thresholds):
        quantities[f"steps to {threshold:g}"] = grid.reached[..., h].numpy().reshape(shape)
    by_seed = {name: np.moveaxis(values, 3, 0) for name, values in quantities.items()}
    copy = np.zeros(shape[:3], bool)
    copy[[share == 0 for share in settings.outlier_shares], 1:] = True
    same = [_cells(name, values, copy, best_lr=False) for name, values in by_seed.items()]
    best = [_cells(name, at_best_lr(values), copy, best_lr=True) for name, values in by_seed.items()]
    return same + best


def at_best_lr(values: Floats) -> Floats:
    """(S, F..., R, K) -> (S, F..., 1, K): each method at the rate with its lowest median, in each cell.

    Chosen on the seeds it is then judged by, for every method alike.
    """
    chosen = median(values).argmin(axis=-2)  # (F..., K); the smaller rate where they tie
    return np.take_along_axis(values, chosen[np.newaxis, ..., np.newaxis, :], axis=-2)


def at_the_edge(grid: Grid, settings: SweepSettings) -> float:
    """Share of cells and methods whose lowest final loss is at the grid's largest or smallest rate."""
    chosen = median(np.moveaxis(grid.final.numpy(), 1, 0)).argmin(axis=-2)
    return float(np.isin(chosen, (0, len(settings.lrs) - 1)).mean())


def _cells(name: str, values: Floats, copy: Mask, *, best_lr: bool) -> Cells:
    """values (S, F..., K); copy (share, scale, noise)."""
    seeds = len(values)
    wins = (values < values[..., :1]).sum(axis=0)
    losses = (values > values[..., :1]).sum(axis=0)
    pairs, place = np.unique(wins * (seeds + 1) + losses, return_inverse=True)
    p = np.array([sign_test(*divmod(int(pair), seeds + 1)) for pair in pairs])
    p = p[place].reshape(wins.shape)
    return Cells(
        name=name,
        middle=median(values),
        standing=np.where(p <= ALPHA, np.sign(losses - wins), 0).astype(np.int8),
        p=p,
        best_lr=best_lr,
        distinct=np.broadcast_to(~copy[..., np.newaxis, np.newaxis], values.shape[1:-1]),
    )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two methods' final losses beside each other, in cells with outliers."""

    names: tuple[str, str]
    shares: Sequence[int]
    """Which of the outlier shares, along the cells' first dimension."""
    signs: Signs
    """(F...) -1 where the first one's median is higher, 1 where it is lower."""
    known: Mask
    """(F...) where at least one of them has not diverged."""


def colder_is_higher(settings: SweepSettings, final: Cells) -> Pair | None:
    """LinUpper at its smallest temperature beside the next; None without two of them, or without outliers."""
    lanes = [k for k, method in enumerate(settings.methods) if method.strategy == "linupper"]
    shares = [i for i, share in enumerate(settings.outlier_shares) if share > 0]
    if len(lanes) < 2 or not shares:
        return None
    cold, warm = sorted(lanes, key=lambda k: settings.methods[k].r)[:2]
    a, b = (final.middle[shares, ..., k] for k in (cold, warm))
    return Pair(
        names=(settings.methods[cold].name, settings.methods[warm].name),
        shares=shares,
        signs=np.where(a > b, -1, np.where(a < b, 1, 0)).astype(np.int8),
        known=np.isfinite(a) | np.isfinite(b),
    )


def levels(settings: SweepSettings) -> dict[str, Sequence[float]]:
    """The factors and their values."""
    found = (
        settings.outlier_shares,
        settings.outlier_scales,
        settings.noises,
        settings.batches,
        settings.lrs,
    )
    return dict(zip(FACTORS, found, strict=True))


def at_level(factor: int, level: int | slice) -> tuple[slice | int, ...]:
    """Index of the cells at one level of a factor."""
    return (*[slice(None)] * factor, level)

"""Everything that `reweight toy bounds` measures, before it becomes tables, figures and verdicts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reproduce.studies.bounds_races import Race, run_races
from reproduce.studies.bounds_settings import BoundsSettings
from reproduce.studies.cap import CapCell, survey
from reproduce.studies.nonconvex import NonConvexHeld, WeightsBy, draw_network, hold_nonconvex, train
from reproduce.studies.problems import LOSS_SHAPES, minibatches
from reproduce.studies.proposition import Agreement, StandIn, compare_all, load_solver

HIDDEN_UNITS = 8
"""Of Theorem 4's network."""

SOLVED_SIZES = (4, 8, 16, 32)
"""Batch sizes of Proposition 1: scipy's solver takes seconds from about 100 on."""

STAND_IN_BATCHES = 200
"""Batches a cell on which LinUpper is compared with the optimum."""

SHARES = {"theorems 1 and 2": 0.5, "theorem 4": 0.15, "proposition 1": 0.2, "the cap": 0.15}
"""Parts of the study, and roughly how much of its time they take."""

Advance = Callable[[float, str], None]
"""Told the share of the work that is done, and what is being done."""


@dataclass(frozen=True, kw_only=True)
class BoundsResult:
    """All measurements."""

    settings: BoundsSettings
    races: tuple[Race, ...]
    nonconvex: Mapping[WeightsBy, NonConvexHeld]
    agreements: tuple[Agreement, ...]
    stand_ins: tuple[StandIn, ...]
    cells: tuple[CapCell, ...]


def measure(settings: BoundsSettings, advance: Advance) -> BoundsResult:
    """Run all parts; UserError before anything else where scipy is missing."""
    load_solver()
    parts = _Parts(advance)
    races = run_races(settings, parts.begin("theorems 1 and 2"))
    nonconvex = _theorem_4(settings, parts.begin("theorem 4"))
    told = parts.begin("proposition 1")
    agreements, stand_ins = compare_all(
        tuple(LOSS_SHAPES),
        SOLVED_SIZES,
        settings.cap_r,
        (settings.problems, STAND_IN_BATCHES),
        settings.first_seed,
        told,
    )
    cells = survey(
        settings.cap_sizes, settings.cap_r, settings.cap_batches, settings.first_seed, parts.begin("the cap")
    )
    return BoundsResult(
        settings=settings,
        races=tuple(races),
        nonconvex=nonconvex,
        agreements=tuple(agreements),
        stand_ins=tuple(stand_ins),
        cells=tuple(cells),
    )


class _Parts:
    """Turns each part's own share into the study's."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._before = 0.0

    def begin(self, part: str) -> Callable[[float], None]:
        start = self._before
        self._before += SHARES[part]
        return lambda share: self._advance(start + SHARES[part] * share, part)


def _theorem_4(settings: BoundsSettings, advance: Callable[[float], None]) -> dict[WeightsBy, NonConvexHeld]:
    network = draw_network(settings.seed_numbers, settings.samples, settings.features, HIDDEN_UNITS)
    batches = minibatches(settings.seed_numbers, settings.steps, settings.samples, settings.batch)
    found: dict[WeightsBy, NonConvexHeld] = {}
    kinds: tuple[WeightsBy, ...] = ("gradient norm", "loss")
    for number, weights_by in enumerate(kinds):
        trace = train(network, settings.methods, weights_by, batches)
        found[weights_by] = hold_nonconvex(trace)
        advance((number + 1) / len(kinds))
    return found

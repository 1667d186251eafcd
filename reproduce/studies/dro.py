"""`reweight toy dro`: the paper's Figure 8, DRO-KL against uniform and LinUpper where a quarter are outliers.

The paper's text gives no formula for DRO-KL: weights from raw losses are an assumption, and are said to be
one wherever the study speaks of them. capped_softmax, Proposition 1's optimum on the same losses, is run
beside it at the same lambdas: the two differ in the cap and in nothing else.
"""

from collections.abc import Callable

from reproduce.studies.contest import Contest
from reproduce.studies.dro_races import Races
from reproduce.studies.dro_settings import CHECKED, DroSettings
from reproduce.studies.dro_tables import ASSUMED, dro_figures, dro_tables
from reproduce.studies.dro_verdicts import dro_findings
from reproduce.studies.ensemble import Protocol, recorded_steps, simulate, with_rates
from reproduce.studies.regression import Advance, counting
from reproduce.studies.setup import draw_batches, make_worlds
from reproduce.studies.stability import Stability, calls, search
from reproduce.studies.versions import versions
from reproduce.study import Scalar, Study, finite_or_none


def run_dro(settings: DroSettings, command: str, advance: Advance = lambda share, what: None) -> Study:
    """Run everything and sum it up; the same settings give the same Study."""
    of_search = settings.search_seeds * settings.search_steps * calls(settings.halvings, CHECKED)
    of_runs = settings.seeds * settings.steps * len(settings.lrs)
    count = counting(advance, float((of_search + of_runs) * len(settings.methods)), "runs")
    races = _races(settings, count)
    stability = _stability(settings, count)
    return Study(
        study="dro",
        title=f"DRO-KL ({ASSUMED}) with {100 * settings.data.outlier_share:g}% outliers",
        command=command,
        settings=settings.as_settings(),
        versions=versions(),
        tables=dro_tables(races, stability),
        figures=dro_figures(races, stability, settings),
        findings=dro_findings(races, stability, settings.data.outlier_share),
        numbers=_numbers(races, stability),
    )


def _races(settings: DroSettings, count: Callable[[float], None]) -> Races:
    """Every method at every learning rate."""
    seeds = list(settings.seed_numbers)
    methods = with_rates(settings.methods, settings.lrs)
    outcome = simulate(
        make_worlds([settings.data], seeds),
        draw_batches(seeds, settings.data.samples, settings.batch, settings.steps),
        methods,
        Protocol(steps=settings.steps, thresholds=settings.thresholds, record=recorded_steps(settings.steps)),
        workers=settings.workers,
        advance=count,
    )
    whole = Contest(methods=methods, outcome=outcome, thresholds=settings.thresholds)
    return Races(whole=whole, lrs=settings.lrs)


def _stability(settings: DroSettings, count: Callable[[float], None]) -> Stability:
    """The largest stable learning rate of every method, seed by seed."""
    seeds = list(settings.search_seed_numbers)
    return search(
        make_worlds([settings.data], seeds),
        draw_batches(seeds, settings.data.samples, settings.batch, settings.search_steps),
        settings.methods,
        bracket=(settings.search_lrs[0], settings.search_lrs[1]),
        halvings=settings.halvings,
        checked=CHECKED,
        workers=settings.workers,
        advance=count,
    )


def _numbers(races: Races, stability: Stability) -> dict[str, Scalar]:
    """By method: the largest stable learning rate, the best one and the loss there."""
    found: dict[str, Scalar] = {}
    for k, method in enumerate(races.methods):
        found[f"stable lr {method.name}"] = finite_or_none(stability.ranked(k, 0.5))
        found[f"best lr {method.name}"] = races.at_best.methods[k].lr
        found[f"final {method.name}"] = finite_or_none(races.at_best.median_final(k))
    return found

"""Tables of `reweight toy bounds`. Shapes: S seeds, K methods."""

from collections.abc import Callable

import torch
from torch import Tensor

from reproduce.statistics import mean_interval
from reproduce.studies.bounds_races import Race, ranking
from reproduce.studies.bounds_result import BoundsResult
from reproduce.studies.summary import as_row, median
from reproduce.study import Scalar, Table, finite_or_none


def bounds_tables(result: BoundsResult) -> tuple[Table, ...]:
    """All of them."""
    makers: tuple[Callable[[BoundsResult], Table], ...] = (
        _bounds,
        _ranking,
        _theorem_4,
        _proposition,
        _stand_in,
        _cap,
    )
    return tuple(make(result) for make in makers)


def _bounds(result: BoundsResult) -> Table:
    columns = (
        "problem",
        "algorithm",
        "method",
        "gap",
        "low",
        "high",
        "classic term",
        "delta term",
        "bound",
        "gap/bound",
        "(gap - bound) / classic term, at most",
        "failed steps",
        "failed bounds on a path",
        "weighted gap",
        "gap x uniform",
        "steps over 2/M",
        "largest M w",
        "classic term if 2/M is needed",
        "losses span under 1e-6 at step",
        "seeds",
    )
    rows = [_bounds_row(race, k) for race in result.races for k in range(len(race.methods))]
    return Table(
        id="bounds",
        title=f"Measured gap and bound after {result.settings.steps} steps, means over seeds",
        columns=columns,
        rows=tuple(rows),
    )


def _bounds_row(race: Race, k: int) -> tuple[Scalar, ...]:
    held, excess = race.held, race.excess(k)
    gap, bound = float(held.gap[:, k].mean()), float(held.bound[:, k].mean())
    return (
        race.problem,
        race.algorithm.name,
        race.methods[k].name,
        *_interval(held.gap[:, k]),
        finite_or_none(float(held.classic[:, k].mean())),
        finite_or_none(float(held.delta_term[:, k].mean())),
        finite_or_none(bound),
        finite_or_none(gap / bound),
        None if excess is None else excess.high,
        int(held.step_violations[k]),
        None if race.algorithm.minibatch else int(held.path_violations[k]),
        finite_or_none(float(race.weighted[:, k].mean())),
        finite_or_none(gap / float(held.gap[:, 0].mean())),
        float(race.steps_over_cap[:, k].double().mean()) / race.steps,
        finite_or_none(float(race.top_weight[k])),
        finite_or_none(float(race.capped_road_classic[:, k].mean())),
        finite_or_none(float(median(race.floor_step[:, k]))),
        race.seeds,
    )


def _interval(values: Tensor) -> tuple[Scalar, Scalar, Scalar]:
    """Mean over seeds and its 95% interval; nothing where a run is not finite."""
    if not bool(torch.isfinite(values).all()):
        return (None, None, None)
    interval = mean_interval(values.tolist())
    return (interval.mean, interval.low, interval.high)


def _ranking(result: BoundsResult) -> Table:
    rows = []
    for race in result.races:
        found = ranking(race)
        share = found.agree / found.pairs if found.pairs else None
        pairs = len(race.methods) * (len(race.methods) - 1) // 2
        rows.append((race.problem, race.algorithm.name, pairs, found.pairs, found.agree, share, race.seeds))
    return Table(
        id="ranking",
        title="Pairs of methods that the bound orders as the measured gaps do",
        columns=("problem", "algorithm", "pairs", "both differ", "same order", "share", "seeds"),
        rows=tuple(rows),
    )


def _theorem_4(result: BoundsResult) -> Table:
    columns = (
        "weights by",
        "method",
        "mean ||grad F||^2",
        "bound",
        "2 F(0)/(eta T)",
        "sigma^2",
        "gradient norms",
        "delta term",
        "failed steps",
        "failed bounds",
        "delta < 0 with weights by loss",
        "same sign by loss and by norm",
        "seeds",
    )
    rows: list[tuple[Scalar, ...]] = []
    for weights_by, held in result.nonconvex.items():
        sides = (held.gradient, held.bound, held.start, held.sigma, held.norms, held.delta)
        for k, method in enumerate(result.settings.methods):
            rows.append(
                (
                    weights_by,
                    method.name,
                    *(finite_or_none(float(side[:, k].mean())) for side in sides),
                    int(held.step_violations[k]),
                    int(held.violations[k]),
                    # Uniform's delta is 0: it has no sign.
                    *(
                        (None, None)
                        if k == 0
                        else as_row(torch.stack([held.helps[k], held.agreement[k]]).numpy())
                    ),
                    result.settings.seeds,
                )
            )
    return Table(id="theorem-4", title="Theorem 4 on a small network", columns=columns, rows=tuple(rows))


def _proposition(result: BoundsResult) -> Table:
    columns = (
        "losses",
        "M",
        "r",
        "problems",
        "largest difference to scipy",
        "largest residual of optimality",
        "solver stopped early",
    )
    rows = tuple(
        (each.shape, each.samples, each.r, each.problems, each.distance, each.kkt, each.stopped_early)
        for each in result.agreements
    )
    return Table(id="proposition-1", title="capped_softmax against scipy's SLSQP", columns=columns, rows=rows)


def _stand_in(result: BoundsResult) -> Table:
    columns = (
        "losses",
        "M",
        "r",
        "batches",
        "total variation distance",
        "batches within 2/M",
        "share of the improvement",
    )
    rows = tuple(
        (each.shape, each.samples, each.r, each.batches, each.distance, each.within_cap, each.improvement)
        for each in result.stand_ins
    )
    return Table(id="stand-in", title="LinUpper against Proposition 1's optimum", columns=columns, rows=rows)


def _cap(result: BoundsResult) -> Table:
    columns = (
        "losses",
        "M",
        "strategy",
        "r",
        "batches",
        "share over 2/M",
        "mean M max w",
        "largest M w",
        "largest possible",
        "step left by the proof",
    )
    rows = tuple(
        (
            cell.shape,
            cell.samples,
            cell.strategy,
            cell.r,
            cell.batches,
            cell.share,
            cell.typical,
            cell.largest,
            cell.worst,
            cell.step_factor,
        )
        for cell in result.cells
    )
    return Table(id="cap", title="How often a weight exceeds 2/M", columns=columns, rows=rows)

"""The sweep: each cell is the plain regression, and counting cells is counting."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from reproduce.errors import UserError
from reproduce.studies import sweep
from reproduce.studies.regression import run_contest
from reproduce.studies.settings import DataSetup, RegressionSettings, SweepSettings
from reproduce.studies.sweep import Grid, run_grid
from reproduce.studies.sweep_cells import Cells, at_best_lr, at_the_edge, cells_of
from reproduce.studies.sweep_report import _by_share, run_sweep
from reproduce.studies.sweep_tables import arrivals, colder
from reproduce.studies.sweep_verdicts import sweep_findings
from reproduce.study import Finding, Map
from reproduce.study_file import study_text

SMALL = SweepSettings(
    data=DataSetup(features=3, samples=40, test_samples=20),
    outlier_shares=(0.0, 0.25),
    outlier_scales=(1.0, 2.0),
    noises=(0.1,),
    lrs=(0.01, 0.05, 20.0),
    batches=(4, 8),
    strategies=("uniform", "linupper"),
    r=(0.4, 1.0),
    steps=12,
    seeds=3,
    thresholds=(0.9, 0.5),
)


@pytest.fixture(scope="module")
def grid() -> Grid:
    return run_grid(SMALL)


@pytest.mark.parametrize(
    ("share", "scale", "batch", "lr"), [(0, 0, 0, 0), (1, 0, 1, 1), (1, 1, 0, 2), (0, 1, 1, 0)]
)
def test_a_cell_is_the_regression_with_its_settings(
    grid: Grid, share: int, scale: int, batch: int, lr: int
) -> None:
    alone = run_contest(
        RegressionSettings(
            data=replace(
                SMALL.data,
                outlier_share=SMALL.outlier_shares[share],
                outlier_scale=SMALL.outlier_scales[scale],
                noise=0.1,
            ),
            strategies=SMALL.strategies,
            r=SMALL.r,
            lr=SMALL.lrs[lr],
            batch=SMALL.batches[batch],
            steps=SMALL.steps,
            seeds=SMALL.seeds,
            thresholds=SMALL.thresholds,
        )
    ).outcome
    setup = 2 * share + scale  # share outermost, one noise
    torch.testing.assert_close(grid.final[setup, :, batch, lr], alone.final, rtol=1e-12, atol=0)
    assert torch.equal(grid.reached[setup, :, batch, lr], alone.reached)
    assert torch.equal(grid.diverged[setup, :, batch, lr], alone.diverged > 0)
    assert torch.equal(grid.overflowed[setup, :, batch, lr], alone.overflowed)


def test_a_learning_rate_far_too_large_diverges_and_is_counted(grid: Grid) -> None:
    assert bool(grid.diverged[..., 2, :].all())
    assert not bool(grid.diverged[..., 0, :].any())
    assert bool(torch.isinf(grid.final[..., 2, :]).all())


def test_neither_threads_nor_blocks_change_a_bit(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BLOCK_BYTES", 1)
    again = run_grid(replace(SMALL, workers=3))
    for name in ("final", "reached", "diverged", "overflowed"):
        assert torch.equal(getattr(grid, name), getattr(again, name)), name


def test_the_same_settings_give_the_same_text() -> None:
    one, other = (run_sweep(replace(SMALL, workers=n), "reweight toy regression --sweep") for n in (1, 2))
    assert study_text(one) == study_text(other)
    # 2 shares x 2 scales x 1 noise x 2 batches x 3 rates = 24 cells; 3 methods, 3 seeds each. Without
    # outliers the scale changes nothing: 2 x 3 cells are copies.
    assert one.numbers["cells"] == 24 - 6
    assert one.numbers["runs"] == 24 * 3 * 3
    assert len(one.table("cells").rows) == 24 * 3
    # Every run at learning rate 20 diverges: a third of all.
    assert one.numbers["diverged"] == 24 * 3 * 3 / 3


def test_best_learning_rate_is_each_method_s_own() -> None:
    # 3 seeds, one cell, 2 rates, 2 methods. Medians: method 0: 2 and 1; method 1: 5 and infinite.
    values = np.array(
        [
            [[[1.0, 4.0], [1.0, math.inf]]],
            [[[2.0, 5.0], [1.0, math.inf]]],
            [[[3.0, 6.0], [9.0, 0.0]]],
        ]
    )
    assert at_best_lr(values).tolist() == [[[[1.0, 4.0]]], [[[1.0, 5.0]]], [[[9.0, 6.0]]]]


def cells_from(values: list[list[list[float]]]) -> Cells:
    """(S, one cell a column, K) as a grid with that many outlier shares and one level of the rest."""
    from reproduce.studies.sweep_cells import _cells

    array = np.array(values)[:, :, None, None, None, None, :]
    return _cells("final loss", array, np.zeros(array.shape[1:4], bool), best_lr=False)


def test_a_cell_is_resolved_by_the_sign_test_over_seeds() -> None:
    # Six seeds. Method 1 wins 6 of 6: p = 2/64 = 0.031. Method 2 wins 5, loses 1: p = 14/64 = 0.22.
    # Method 3 loses all; method 4 ties in all.
    rows = [[[1.0, 0.5, 0.5 if seed else 2.0, 3.0, 1.0]] for seed in range(6)]
    cells = cells_from(rows)
    assert cells.standing.ravel().tolist() == [0, -1, 0, 1, 0]
    assert cells.ratio.ravel().tolist() == [1.0, 0.5, 0.5, 3.0, 1.0]
    assert cells.winners().ravel().tolist() == [False, True, True, False, False]
    count = cells.counts(1)
    assert (count.lower, count.higher, count.cells) == (1, 0, 1)


def test_cells_where_nobody_arrives_do_not_count() -> None:
    inf = math.inf
    # Cell 0: both diverge. Cell 1: only uniform does. Cell 2: only the method does. Cell 3: a ratio of 1/2.
    cells = cells_from([[[inf, inf], [inf, 1.0], [1.0, inf], [2.0, 1.0]] for _ in range(6)])
    ratio = cells.ratio[..., 1].ravel().tolist()
    assert math.isnan(ratio[0])
    assert ratio[1:] == [0.0, inf, 0.5]
    count = cells.counts(1)
    assert (count.lower, count.higher, count.cells) == (2, 1, 3)
    assert cells.typical(1) == 0.5  # the middle one of 0, 0.5, infinity
    assert math.isnan(cells.typical(1, (0,)))
    assert not cells.winners()[0].any()


def test_rates_at_the_edge_are_counted(grid: Grid) -> None:
    # Rate 20 always diverges, so the best is the first, which is an edge, or the second, which is none.
    share = at_the_edge(grid, SMALL)
    final = grid.final.median(dim=1).values  # of three seeds, the middle one
    first = final[..., 0, :] < final[..., 1, :]
    assert share == pytest.approx(float(first.double().mean()))


def findings_for(early: float, final: float, warm: float = 1.0) -> dict[str, Finding]:
    """Verdicts where LinUpper r=0.4 has these ratios to uniform in every cell and seed; r=1 has `warm`."""
    settings = replace(
        SMALL, lrs=(0.01,), batches=(4,), outlier_scales=(1.0,), outlier_shares=(0.0, 0.1, 0.4), seeds=6
    )
    shape = (3, 6, 1, 1, 3)

    def made(ratio: float) -> torch.Tensor:
        values = torch.ones(shape, dtype=torch.float64)
        values[..., 1], values[..., 2] = ratio, warm
        return values

    made_grid = Grid(
        settings=settings,
        final=made(final),
        reached=torch.stack([made(early), made(early)], dim=-1),
        diverged=torch.zeros(shape, dtype=torch.bool),
        overflowed=torch.zeros(shape, dtype=torch.bool),
    )
    return {each.claim: each for each in sweep_findings(settings, cells_of(made_grid))}


EARLY = "LinUpper is faster than uniform early (steps to 0.9), at the same learning rate"
LOWER = "LinUpper ends below uniform, at the same learning rate"
TRADE = "LinUpper is faster early and settles above uniform where outliers are 10% or more"
HURT = "outliers hurt linupper r=0.4 more than linupper r=1: its median final loss is higher"


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        # (early, final, both of r = 1)
        ((0.5, 2.0, 0.5), {EARLY: "holds", LOWER: "only_where", TRADE: "only_where", HURT: "holds"}),
        ((0.5, 0.5, 0.5), {EARLY: "holds", LOWER: "holds", TRADE: "does_not", HURT: "unresolved"}),
        ((0.5, 0.5, 2.0), {EARLY: "only_where", LOWER: "only_where", TRADE: "does_not", HURT: "does_not"}),
        ((2.0, 1.0, 1.0), {EARLY: "does_not", LOWER: "unresolved", TRADE: "unresolved", HURT: "unresolved"}),
        ((2.0, 2.0, 2.0), {EARLY: "does_not", LOWER: "does_not", TRADE: "unresolved", HURT: "unresolved"}),
    ],
)
def test_verdicts_follow_the_cells(ratios: tuple[float, float, float], expected: dict[str, str]) -> None:
    found = findings_for(*ratios)
    assert {claim: found[claim].outcome for claim in expected} == expected
    # Five claims about LinUpper, one a row whatever the number of temperatures; two about all methods.
    assert len(found) == 5 + 2


def test_one_verdict_tells_every_temperature_s_own_outcome() -> None:
    found = findings_for(0.5, 2.0, warm=0.5)
    assert found[EARLY].where == ""
    assert found[EARLY].evidence == (
        "linupper r=0.4: resolved for it in 3, against it in 0 of 3 cells; median ratio 0.5; "
        "linupper r=1: resolved for it in 3, against it in 0 of 3 cells; median ratio 0.5"
    )
    assert found[LOWER].where == "linupper r=1"
    assert found[LOWER].evidence == (
        "linupper r=0.4 (does not): resolved for it in 0, against it in 3 of 3 cells; median ratio 2; "
        "linupper r=1 (holds): resolved for it in 3, against it in 0 of 3 cells; median ratio 0.5"
    )
    # A temperature that does not hold beside one that nobody can tell: no place where it holds.
    assert findings_for(2.0, 2.0)[EARLY].outcome == "does_not"


def test_a_claim_that_holds_in_some_cells_says_in_which() -> None:
    settings = replace(
        SMALL, lrs=(0.01,), batches=(4,), outlier_scales=(1.0,), outlier_shares=(0.0, 0.1, 0.4), seeds=6
    )
    final = torch.ones(3, 6, 1, 1, 3, dtype=torch.float64)
    final[0, ..., 1], final[1:, ..., 1] = 0.5, 2.0  # lower without outliers, higher with them
    false = torch.zeros(final.shape, dtype=torch.bool)
    reached = final.unsqueeze(-1).expand(*final.shape, 2)
    made = Grid(settings=settings, final=final, reached=reached, diverged=false, overflowed=false)
    (found,) = (each for each in sweep_findings(settings, cells_of(made)) if each.claim == LOWER)
    assert found.outcome == "only_where"
    assert found.where == "linupper r=0.4, by outlier share: 0 100%, 0.1 0%, 0.4 0% of cells"
    assert "(only where): resolved for it in 1, against it in 2 of 3 cells" in found.evidence
    final[:, ..., 2] = final[:, ..., 1]
    final[2, ..., 2] = 0.5  # r = 1 is lower there as well: 2 of 3 cells
    (found,) = (each for each in sweep_findings(settings, cells_of(made)) if each.claim == LOWER)
    assert found.where == "by outlier share: 0 100%, 0.1 0%, 0.4 50% of cells"
    assert found.evidence.startswith("linupper r=0.4: resolved for it in 1, against it in 2 of 3 cells")


def test_where_the_smaller_temperature_ends_higher() -> None:
    # Shares 0, 0.1, 0.4 by scales 1, 3; r=0.4 ends at 2, r=1 at 1, but for share 0.4, scale 3: 1 against 3,
    # and share 0.1, scale 3: both diverge. Share 0 does not count.
    settings = replace(
        SMALL, lrs=(0.01,), batches=(4,), outlier_scales=(1.0, 3.0), outlier_shares=(0.0, 0.1, 0.4), seeds=6
    )
    final = torch.ones(6, 1, 1, 1, 3, dtype=torch.float64)  # setups: share outermost
    final[:, ..., 1] = 2.0
    final[3, ..., 1:] = math.inf
    final[5, ..., 1], final[5, ..., 2] = 1.0, 3.0
    table = colder(settings, _made(settings, final.expand(6, 6, 1, 1, 3)))
    counts = {row[:2]: row[2:] for row in table.rows}
    assert counts["outlier share", "0.1"] == (1, 0, 1)
    assert counts["outlier share", "0.4"] == (1, 1, 2)
    assert counts["outlier scale", "3"] == (0, 1, 1)
    assert counts["outlier share, outlier scale", "0.4, 3"] == (0, 1, 1)
    assert counts["outlier share, outlier scale", "0.1, 3"] == (0, 0, 0)
    assert counts["lr", "0.01"] == counts["batch", "4"] == (2, 1, 3)
    assert ("outlier share", "0") not in counts


def test_where_anybody_learns_is_counted() -> None:
    # Two shares by two scales, two rates; at share 0.4, scale 3 only r=1 arrives, and at one of the rates.
    settings = replace(
        SMALL, lrs=(0.01, 0.02), batches=(4,), outlier_scales=(1.0, 3.0), outlier_shares=(0.0, 0.4), seeds=6
    )
    reached = torch.ones(4, 6, 1, 2, 3, dtype=torch.float64)
    reached[3] = math.inf
    reached[3, :, :, 1, 2] = 7.0
    reached[0, :4, 0, 0, 1] = math.inf  # four of six seeds never arrive: neither does the middle one
    assert arrivals(settings, _made(settings, reached)).rows == (
        (0.0, 1.0, 2, 2, 1, 2),
        (0.0, 3.0, 2, 2, 2, 2),
        (0.4, 1.0, 2, 2, 2, 2),
        (0.4, 3.0, 2, 0, 0, 1),
    )


def test_what_never_arrives_is_coloured_as_the_worst() -> None:
    # Two shares, one cell each. Method 1 ends at 4 times uniform's, then diverges; method 2 at half, then
    # alone arrives.
    settings = replace(
        SMALL, lrs=(0.01,), batches=(4,), outlier_scales=(1.0,), outlier_shares=(0.0, 0.1), seeds=6
    )
    final = torch.tensor([[1.0, 4.0, 0.5], [1.0, math.inf, 2.0]], dtype=torch.float64)
    final = final.view(2, 1, 1, 1, 3).expand(2, 6, 1, 1, 3)
    reached = torch.tensor([[1.0, 0.5, 8.0], [1.0, 0.5, 8.0]], dtype=torch.float64)
    reached = reached.view(2, 1, 1, 1, 3).expand(2, 6, 1, 1, 3)
    panel = _by_share(settings, _made(settings, final)).panels[0]
    assert isinstance(panel, Map)
    assert panel.values == ((2.0, 2.0), (-1.0, 1.0))
    # Its maps share their colours: beside steps of 8 times uniform's, infinite is no paler than those.
    panel = _by_share(settings, _made(settings, final, reached)).panels[0]
    assert isinstance(panel, Map)
    assert panel.values == ((2.0, 3.0), (-1.0, 1.0))
    assert [row[1].split("\n")[0] for row in panel.texts] == ["∞", "2.00"]
    alone = final.clone()
    alone[1, ..., 0] = math.inf
    panel = _by_share(settings, _made(settings, alone)).panels[0]
    assert isinstance(panel, Map)
    assert panel.values == ((2.0, None), (-1.0, -1.0))  # neither arrives: no colour


def _made(settings: SweepSettings, final: torch.Tensor, steps: torch.Tensor | None = None) -> list[Cells]:
    false = torch.zeros(final.shape, dtype=torch.bool)
    reached = (final if steps is None else steps).unsqueeze(-1).expand(*final.shape, 2)
    return cells_of(Grid(settings=settings, final=final, reached=reached, diverged=false, overflowed=false))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outlier_shares": (0.1, 1.0)}, r"--outlier-share 1: expected a share, in \[0, 1\)"),
        ({"noises": (-1.0,)}, "--noise -1"),
        ({"lrs": ()}, "--lr: give at least one value"),
        ({"batches": (8, 8)}, "--batch 8,8: the same value twice"),
        ({"strategies": ("uniform", "linuper")}, "--strategy 'linuper': unknown"),
        ({"seeds": 9_000_000, "lrs": tuple(0.01 + i / 1e6 for i in range(1000))}, "GB of memory"),
    ],
)
def test_a_sweep_that_cannot_be_run_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SMALL, **changes)

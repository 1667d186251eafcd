"""`reweight toy bounds`: the paper's theorems by number, in float64, without noise or outliers.

Convex, smooth problems with one minimiser for all samples; a small network for Theorem 4; random losses for
Proposition 1 and for w <= 2/M.
"""

import importlib.metadata

from reproduce.studies.bounds_figures import bounds_figures
from reproduce.studies.bounds_findings import bounds_findings
from reproduce.studies.bounds_result import Advance, BoundsResult, measure
from reproduce.studies.bounds_settings import BoundsSettings
from reproduce.studies.bounds_tables import bounds_tables
from reproduce.studies.cap import safe_temperature, worst_case
from reproduce.studies.versions import versions
from reproduce.study import Scalar, Study

__all__ = ["BoundsSettings", "run_bounds"]


def run_bounds(settings: BoundsSettings, command: str, advance: Advance = lambda share, what: None) -> Study:
    """Measure everything and sum it up; the same settings give the same Study.

    Args:
        settings: sizes, seeds, temperatures.
        command: what repeats the study, for its record.
        advance: told the share of the work that is done, and what is being done.

    Raises:
        UserError: scipy is not installed.
    """
    result = measure(settings, advance)
    return Study(
        study="bounds",
        title="The theorems, checked by number",
        command=command,
        settings=settings.as_settings(),
        versions={**versions(), "scipy": importlib.metadata.version("scipy")},
        tables=bounds_tables(result),
        figures=bounds_figures(result),
        findings=bounds_findings(result),
        numbers=_numbers(result),
    )


def _numbers(result: BoundsResult) -> dict[str, Scalar]:
    """For sentences of the docs."""
    linupper = [cell for cell in result.cells if cell.strategy == "linupper"]
    floors = [float(race.floor_step[:, k].min()) for race in result.races for k in range(len(race.methods))]
    reached = [step for step in floors if step < float("inf")]
    # The step 1/(4 L_F) is allowed within 2/M only: what fails beyond it breaks no theorem.
    theory, longer = (
        [r for r in result.races if r.algorithm.by_mean is by_mean] for by_mean in (False, True)
    )
    failed = sum(int(race.held.step_violations.sum()) for race in longer)
    within = sum(race.failed_within_cap for race in longer)
    return {
        "steps checked": sum(race.steps * race.held.gap.numel() for race in theory),
        "failed steps": sum(int(race.held.step_violations.sum()) for race in theory),
        "failed steps with 1/(4 L_F), within 2/M": within,
        "failed steps with 1/(4 L_F), beyond 2/M": failed - within,
        "largest difference to scipy": max(each.distance for each in result.agreements),
        "first step with losses that span under 1e-6": min(reached) if reached else None,
        "worst M w, M=32, r=0.4": worst_case(32, 0.4),
        "r from which 2/M holds, M=32": safe_temperature(32),
        **{f"over 2/M, {c.shape}, M={c.samples}, r={c.r:g}": c.share for c in linupper},
    }

"""Verdicts of the sweep: in how many cells a claim holds, and where."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reproduce.studies.settings import SweepSettings
from reproduce.studies.summary import ALPHA
from reproduce.studies.sweep_cells import Cells, Mask, Signs, at_level, levels
from reproduce.study import Finding, Outcome

NEARLY_ALL = 0.95
"""A claim holds if it is resolved its way in this share of the cells, and fails if in less than the rest."""

MANY = 0.1
"""Outlier share from which outliers are `many`: ours."""

OURS = "ours"


def sweep_findings(settings: SweepSettings, cells: Sequence[Cells]) -> tuple[Finding, ...]:
    """Speed, floor and their trade, for LinUpper at each temperature; then what a practitioner asks."""
    judge = _Judge(settings, cells)
    found: list[Finding] = []
    for k, method in enumerate(settings.methods):
        if method.strategy == "linupper":
            found += judge.about_linupper(k, method.name)
    found += judge.hurt_more()
    found += judge.anything_better()
    return tuple(found)


class _Judge:
    """Counts cells for and against a claim."""

    def __init__(self, settings: SweepSettings, cells: Sequence[Cells]) -> None:
        self.settings = settings
        self.final, self.early, *_ = (each for each in cells if not each.best_lr)
        self.best_final, *self.best_steps = (each for each in cells if each.best_lr)
        self.many = [i for i, share in enumerate(settings.outlier_shares) if share >= MANY]

    def about_linupper(self, k: int, name: str) -> list[Finding]:
        """Faster early? Lower at the end? Both ways of paying? And with each method's own learning rate?"""
        slow = self.best_steps[-1]
        same, best = "at the same learning rate", "each at its own best learning rate"
        found = [
            self.against_uniform(
                f"{name} is faster than uniform early ({self.early.name}), {same}", "Figure 7", self.early, k
            ),
            self.against_uniform(f"{name} is faster than uniform ({slow.name}), {best}", OURS, slow, k),
            self.against_uniform(f"{name} ends below uniform, {same}", "Figure 7", self.final, k),
            self.against_uniform(f"{name} ends below uniform, {best}", OURS, self.best_final, k),
        ]
        if self.many:
            early, late = self.early.standing[self.many, ..., k], self.final.standing[self.many, ..., k]
            both = np.where((early < 0) & (late > 0), -1, np.where(late < 0, 1, 0)).astype(np.int8)
            claim = f"{name} is faster early and settles above uniform where outliers are {MANY:.0%} or more"
            known = self._known(self.final, k)[self.many]
            found.append(self.by_cells(claim, OURS, both, known, shares=self.many))
        return found

    def hurt_more(self) -> list[Finding]:
        """Whether the smallest temperature's floor is above the next one's, where there are outliers."""
        lanes = [k for k, m in enumerate(self.settings.methods) if m.strategy == "linupper"]
        shares = [i for i, share in enumerate(self.settings.outlier_shares) if share > 0]
        if len(lanes) < 2 or not shares:
            return []
        cold, warm = sorted(lanes, key=lambda k: self.settings.methods[k].r)[:2]
        a, b = (self.final.middle[shares, ..., k] for k in (cold, warm))
        signs = np.where(a > b, -1, np.where(a < b, 1, 0)).astype(np.int8)
        names = [self.settings.methods[k].name for k in (cold, warm)]
        claim = f"outliers hurt {names[0]} more than {names[1]}: its median final loss is higher"
        return [self.by_cells(claim, OURS, signs, np.isfinite(a) | np.isfinite(b), shares=shares)]

    def anything_better(self) -> list[Finding]:
        """Whether some reweighting ends below uniform when each method has its best learning rate."""
        if len(self.settings.methods) < 2:
            return []
        # The best of several is chosen: each gets its part of the level.
        level = ALPHA / (len(self.settings.methods) - 1)
        lower = ((self.best_final.standing < 0) & (self.best_final.p <= level)).any(axis=-1)
        higher = (self.best_final.standing[..., 1:] > 0).all(axis=-1)
        signs = np.where(lower, -1, np.where(higher, 1, 0)).astype(np.int8)
        claim = "some strategy ends below uniform, each at its own best learning rate"
        known = np.isfinite(self.best_final.middle).any(axis=-1) & self.best_final.distinct
        return [self.by_cells(claim, OURS, signs, known)]

    def against_uniform(self, claim: str, source: str, cells: Cells, k: int) -> Finding:
        """Whether a method is lower than uniform in one quantity."""
        found = self.by_cells(claim, source, cells.standing[..., k], self._known(cells, k))
        return replace(found, evidence=f"{found.evidence}; median ratio {cells.typical(k):.3g}")

    @staticmethod
    def _known(cells: Cells, k: int) -> Mask:
        """Cells in which the method or uniform arrives."""
        known: Mask = ~np.isnan(cells.ratio[..., k]) & cells.distinct
        return known

    def by_cells(
        self,
        claim: str,
        source: str,
        signs: Signs,
        known: Mask,
        shares: Sequence[int] | None = None,
    ) -> Finding:
        """-1 speaks for the claim, 1 against it; cells that are not known do not count."""
        holds, fails, total = (
            int(((signs < 0) & known).sum()),
            int(((signs > 0) & known).sum()),
            int(known.sum()),
        )
        outcome = _outcome(holds, fails, total)
        return Finding(
            claim=claim,
            source=source,
            outcome=outcome,
            where=self._where(signs, known, shares) if outcome == "only_where" else "",
            evidence=f"resolved for it in {holds}, against it in {fails} of {total} cells"
            if total
            else "no cell in which a method arrives",
            seeds=self.settings.seeds,
        )

    def _where(self, signs: Signs, known: Mask, shares: Sequence[int] | None) -> str:
        """Share of cells that speak for it, by the value of the factor that separates them best."""
        by_factor = {}
        for factor, (name, values) in enumerate(levels(self.settings).items()):
            chosen = values if factor or shares is None else [values[i] for i in shares]
            if signs.shape[factor] != len(chosen) or len(chosen) < 2:
                continue
            parts = []
            for level, value in enumerate(chosen):
                cells = known[at_level(factor, level)]
                for_it = (signs[at_level(factor, level)] < 0) & cells
                parts.append((value, float(for_it.sum() / max(1, cells.sum()))))
            by_factor[name] = parts
        if not by_factor:
            return "in some cells"
        name, parts = max(by_factor.items(), key=lambda item: np.ptp([share for _, share in item[1]]))
        return (
            f"by {name}: "
            + ", ".join(f"{value:g} {100 * share:.0f}%" for value, share in parts)
            + " of cells"
        )


def _outcome(holds: int, fails: int, total: int) -> Outcome:
    if total and holds >= NEARLY_ALL * total:
        return "holds"
    if holds <= (1 - NEARLY_ALL) * total:
        return "does_not" if fails > (1 - NEARLY_ALL) * total else "unresolved"
    return "only_where"

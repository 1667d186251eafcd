"""Verdicts of the sweep: in how many cells a claim holds, and where."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reproduce.studies.settings import SweepSettings
from reproduce.studies.summary import ALPHA
from reproduce.studies.sweep_cells import Cells, Mask, Signs, at_level, colder_is_higher, levels
from reproduce.study import Finding, Outcome

NEARLY_ALL = 0.95
"""A claim holds if it is resolved its way in this share of the cells, and fails if in less than the rest."""

MANY = 0.1
"""Outlier share from which outliers are `many`: ours."""

OURS = "ours"


WORDS: Mapping[Outcome, str] = {
    "holds": "holds",
    "does_not": "does not",
    "only_where": "only where",
    "unresolved": "unresolved",
}


@dataclass(frozen=True)
class _Votes:
    """What the cells say about one method."""

    name: str
    """Of the method."""
    signs: Signs
    """-1 speaks for the claim, 1 against it."""
    known: Mask
    """Cells that count."""
    ratio: float | None = None
    """Median ratio to uniform, where the claim is about one quantity."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """Cells for it, against it, in all."""
        holds, fails = (int(((self.signs * way > 0) & self.known).sum()) for way in (-1, 1))
        return holds, fails, int(self.known.sum())

    @property
    def outcome(self) -> Outcome:
        """The verdict on these cells."""
        return _outcome(*self.counts)

    def __str__(self) -> str:
        holds, fails, total = self.counts
        if not total:
            return "no cell in which a method arrives"
        said = f"resolved for it in {holds}, against it in {fails} of {total} cells"
        return said if self.ratio is None else f"{said}; median ratio {self.ratio:.3g}"


def sweep_findings(settings: SweepSettings, cells: Sequence[Cells]) -> tuple[Finding, ...]:
    """Speed, floor and their trade, for LinUpper at all temperatures; then what a practitioner asks."""
    judge = _Judge(settings, cells)
    return (*judge.about_linupper(), *judge.hurt_more(), *judge.anything_better())


class _Judge:
    """Counts cells for and against a claim."""

    def __init__(self, settings: SweepSettings, cells: Sequence[Cells]) -> None:
        self.settings = settings
        self.final, self.early, *_ = (each for each in cells if not each.best_lr)
        self.best_final, *self.best_steps = (each for each in cells if each.best_lr)
        self.many = [i for i, share in enumerate(settings.outlier_shares) if share >= MANY]
        self.lanes = [k for k, m in enumerate(settings.methods) if m.strategy == "linupper"]

    def about_linupper(self) -> Iterator[Finding]:
        """Faster early? Lower at the end? Both ways of paying? And with each method's own learning rate?"""
        if not self.lanes:
            return
        slow = self.best_steps[-1]
        same, best = "at the same learning rate", "each at its own best learning rate"
        for claim, source, cells in (
            (f"is faster than uniform early ({self.early.name}), {same}", "Figure 7", self.early),
            (f"is faster than uniform ({slow.name}), {best}", OURS, slow),
            (f"ends below uniform, {same}", "Figure 7", self.final),
            (f"ends below uniform, {best}", OURS, self.best_final),
        ):
            yield self.over_r(
                f"LinUpper {claim}", source, [self.against_uniform(cells, k) for k in self.lanes]
            )
        if self.many:
            claim = (
                f"LinUpper is faster early and settles above uniform where outliers are {MANY:.0%} or more"
            )
            yield self.over_r(claim, OURS, [self.trade(k) for k in self.lanes], shares=self.many)

    def trade(self, k: int) -> _Votes:
        """Cells with many outliers in which a method is faster early and higher at the end."""
        early, late = self.early.standing[self.many, ..., k], self.final.standing[self.many, ..., k]
        signs = np.where((early < 0) & (late > 0), -1, np.where(late < 0, 1, 0)).astype(np.int8)
        return _Votes(self.settings.methods[k].name, signs, self._known(self.final, k)[self.many])

    def hurt_more(self) -> list[Finding]:
        """Whether the smallest temperature's floor is above the next one's, where there are outliers."""
        pair = colder_is_higher(self.settings, self.final)
        if pair is None:
            return []
        claim = f"outliers hurt {pair.names[0]} more than {pair.names[1]}: its median final loss is higher"
        votes = _Votes(pair.names[0], pair.signs, pair.known)
        return [self.over_r(claim, OURS, [votes], shares=pair.shares)]

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
        return [self.over_r(claim, OURS, [_Votes("any", signs, known)])]

    def against_uniform(self, cells: Cells, k: int) -> _Votes:
        """Whether a method is lower than uniform in one quantity."""
        name = self.settings.methods[k].name
        return _Votes(name, cells.standing[..., k], self._known(cells, k), cells.typical(k))

    @staticmethod
    def _known(cells: Cells, k: int) -> Mask:
        """Cells in which the method or uniform arrives."""
        known: Mask = ~np.isnan(cells.ratio[..., k]) & cells.distinct
        return known

    def over_r(
        self, claim: str, source: str, votes: Sequence[_Votes], shares: Sequence[int] | None = None
    ) -> Finding:
        """One verdict over temperatures. Where theirs differ it is `only where`, and each is told."""
        outcomes = [each.outcome for each in votes]
        same = len(set(outcomes)) == 1
        some = [each for each in votes if each.outcome in ("holds", "only_where")]
        outcome: Outcome = outcomes[0] if same else "only_where" if some else "does_not"
        where = ""
        if outcome == "only_where" and same:
            signs, known = (
                np.stack([getattr(each, field) for each in votes], axis=-1) for field in ("signs", "known")
            )
            where = self._where(signs, known, shares)
        elif outcome == "only_where":
            parts = (
                each.name
                + ("" if each.outcome == "holds" else f", {self._where(each.signs, each.known, shares)}")
                for each in some
            )
            where = "; ".join(parts)
        words = ["" if same else f" ({WORDS[each]})" for each in outcomes]
        told = [f"{each.name}{word}: {each}" for each, word in zip(votes, words, strict=True)]
        return Finding(
            claim=claim,
            source=source,
            outcome=outcome,
            where=where,
            evidence="; ".join(told) if len(votes) > 1 else str(votes[0]),
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

"""The paper judged by its own numbers: which of its published differences its test sets can resolve at all.

A difference is a row minus the uniform row of the same model and domain weights. Families, over which p
values are adjusted, are declared here: the single tasks of a table; the single tasks of all tables; the means
likewise, apart, since a mean is no further test beside its tasks. A comparison that the paper prints twice
(Table 12 repeats two rows of Table 2, the averages repeat two means) counts once over all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reproduce.paper.claims import Claim, Comparison, comparisons, holds_on_paper, load_claims
from reproduce.paper.multiple_tests import ALPHA, benjamini_hochberg, holm, normal_p
from reproduce.paper.own_errors import accuracy_error, perplexity_spread
from reproduce.paper.tables import Column, Row, Table, load_tables
from reproduce.statistics import sign_test

OwnVerdict = Literal["resolved", "resolved_alone", "not_resolved", "cannot_be_judged"]
"""resolved: p below 0.05 after Holm's adjustment over all; resolved_alone: only before it, as if it were the
one test made; cannot_be_judged: the paper gives nothing that an error could be formed from."""

NO_ERROR = "cannot be judged: one seed, no error given"


@dataclass(frozen=True, kw_only=True)
class OwnCell:
    """One published difference; in the table's unit."""

    table: str
    row: str
    reference: str
    column: str
    kind: Literal["task", "mean"]
    paper: float
    paper_reference: float
    diff: float
    better: bool | None
    """Whether the difference favours the row; None: there is none."""

    within_rounding: bool
    """At most one printed unit: the unrounded difference may be zero."""

    n: int | None
    stderr: float | None
    """Unpaired: own_errors.py says when that is an upper bound. None: cannot be had."""

    z: float | None
    p: float | None
    p_holm_table: float | None
    p_bh_table: float | None
    p_holm_all: float | None
    p_bh_all: float | None
    stderr_paired_low: float | None
    stderr_paired_high: float | None
    disagree_at_most: float | None
    """Percent of items, see own_errors.Error."""

    spread_at_most: float | None
    """Log-perplexity: nats, see own_errors.perplexity_spread."""

    repeats: str | None
    """Table that prints the same comparison first."""

    verdict: OwnVerdict
    note: str


@dataclass(frozen=True, kw_only=True)
class OwnClaim:
    """One claim about one model: what its printed numbers bear."""

    id: str
    text: str
    model: str
    of: int
    held: int
    """Comparisons that the printed numbers satisfy."""

    resolved: int
    """Of those, the ones with p below 0.05 taken alone."""

    resolved_against: int
    """Comparisons with p below 0.05 that point the other way."""

    judged: int
    """Comparisons that have a p at all."""

    sign_p: float | None
    """Two-sided sign test over the tasks, ties left out, as if independent; None: no count of tasks."""


def own_cells(tables: Mapping[str, Table]) -> list[OwnCell]:
    """Every published difference from uniform of the given tables, judged within all of the paper."""
    every = load_tables()
    judged = [
        _cell(table, row, baseline, column, every)
        for table in every.values()
        for row in table.rows
        if (baseline := table.baseline(row)) is not None
        for column in table.columns
    ]
    return [cell for cell in _adjusted(_repeats(judged)) if cell.table in tables]


def own_claims(tables: Mapping[str, Table]) -> list[OwnClaim]:
    """Every claim whose tables are all given, once a model."""
    every = load_tables()
    return [
        _claim(claim, model, pairs, every)
        for claim in load_claims()
        if set(claim.tables) <= set(tables)
        for model, pairs in comparisons(claim, every).items()
    ]


def _cell(table: Table, row: Row, reference: Row, column: Column, every: Mapping[str, Table]) -> OwnCell:
    index = table.column_index(column.name)
    ours, theirs = row.values[index], reference.values[index]
    diff = float(ours.exact - theirs.exact)
    empty = OwnCell(
        table=table.id,
        row=row.name,
        reference=reference.name,
        column=column.name,
        kind="mean" if column.mean_of or column.mean_of_tables else "task",
        paper=ours.value,
        paper_reference=theirs.value,
        diff=diff,
        better=None if diff == 0 else (diff > 0) == table.higher_is_better,
        within_rounding=abs(diff) <= max(ours.unit, theirs.unit) * (1 + 1e-9),
        n=None,
        stderr=None,
        z=None,
        p=None,
        p_holm_table=None,
        p_bh_table=None,
        p_holm_all=None,
        p_bh_all=None,
        stderr_paired_low=None,
        stderr_paired_high=None,
        disagree_at_most=None,
        spread_at_most=None,
        repeats=None,
        verdict="cannot_be_judged",
        note="",
    )
    if table.unit == "nats":
        return replace(empty, spread_at_most=perplexity_spread(table, column, diff), note=NO_ERROR)
    error = accuracy_error(table, row, reference, column, every)
    z = diff / error.unpaired
    return replace(
        empty,
        n=error.n,
        stderr=error.unpaired,
        z=z,
        p=normal_p(z),
        stderr_paired_low=error.paired_low,
        stderr_paired_high=error.paired_high,
        disagree_at_most=error.disagree_at_most,
        note=_note(empty, error.estimated, error.disagree_at_most),
    )


def _note(cell: OwnCell, estimated: Sequence[str], disagree_at_most: float | None) -> str:
    if cell.kind == "mean":
        tiny = f", among them gp-IRT estimates from 100 items ({', '.join(estimated)})" if estimated else ""
        return f"the error is its tasks', taken as independent{tiny}"
    if estimated:
        return "a gp-IRT estimate from 100 items, taken as a share of them: the error is on the wide side"
    if cell.diff and disagree_at_most is None:
        return "too small for any pairing of these items to resolve"
    return ""


def _key(cell: OwnCell) -> object:
    """The same for two cells that compare the same two models by the same scores."""
    table = load_tables()[cell.table]
    return cell.row, cell.reference, table.columns[table.column_index(cell.column)].parts


def _repeats(cells: Sequence[OwnCell]) -> list[OwnCell]:
    """The cells; one that was printed before says in which table."""
    first: dict[object, str] = {}
    found = []
    for cell in cells:
        before = first.setdefault(_key(cell), cell.table)
        found.append(replace(cell, repeats=None if before == cell.table else before))
    return found


def _adjusted(cells: Sequence[OwnCell]) -> list[OwnCell]:
    """The cells with p values adjusted over their table and over all, and the verdict that follows."""
    found = list(cells)
    over_all: dict[object, tuple[float, float]] = {}
    for kind in ("task", "mean"):
        mine = [i for i, cell in enumerate(found) if cell.kind == kind and cell.p is not None]
        for table in dict.fromkeys(found[i].table for i in mine):
            family = [i for i in mine if found[i].table == table]
            for i, a, b in zip(family, *_both(found, family), strict=True):
                found[i] = replace(found[i], p_holm_table=a, p_bh_table=b)
        once = [i for i in mine if found[i].repeats is None]
        for i, a, b in zip(once, *_both(found, once), strict=True):
            over_all[_key(found[i])] = (a, b)
    return [cell if cell.p is None else _with_verdict(cell, cell.p, *over_all[_key(cell)]) for cell in found]


def _both(cells: Sequence[OwnCell], family: Sequence[int]) -> tuple[list[float], list[float]]:
    p_values = [p for i in family if (p := cells[i].p) is not None]
    return holm(p_values), benjamini_hochberg(p_values)


def _with_verdict(cell: OwnCell, p: float, holm_all: float, bh_all: float) -> OwnCell:
    alone: OwnVerdict = "resolved_alone" if p < ALPHA else "not_resolved"
    verdict: OwnVerdict = "resolved" if holm_all < ALPHA else alone
    return replace(cell, p_holm_all=holm_all, p_bh_all=bh_all, verdict=verdict)


def _claim(claim: Claim, model: str, pairs: Sequence[Comparison], every: Mapping[str, Table]) -> OwnClaim:
    held = [holds_on_paper(pair, every) for pair in pairs]
    cells = [_pair(pair, every) for pair in pairs]
    sure = [cell.p is not None and cell.p < ALPHA for cell in cells]
    signs = [cell.diff for cell in cells] if claim.columns is None else []
    wins, losses = sum(d > 0 for d in signs), sum(d < 0 for d in signs)
    return OwnClaim(
        id=claim.id,
        text=claim.text,
        model=model,
        of=len(pairs),
        held=sum(held),
        resolved=sum(h and s for h, s in zip(held, sure, strict=True)),
        resolved_against=sum(s and not h for h, s in zip(held, sure, strict=True)),
        judged=sum(cell.p is not None for cell in cells),
        sign_p=sign_test(wins, losses) if signs else None,
    )


def _pair(pair: Comparison, every: Mapping[str, Table]) -> OwnCell:
    table = every[pair.table]
    column = table.columns[table.column_index(pair.column)]
    return _cell(table, table.row(pair.row), table.row(pair.reference), column, every)


@dataclass(frozen=True, kw_only=True)
class OwnSummary:
    """How many differences of a kind a table holds, and how many of them its test sets resolve.

    What an earlier table prints already is counted there, and in no number here but `repeats`.
    """

    table: str
    kind: Literal["task", "mean"]
    differences: int
    repeats: int
    judged: int
    largest_z: float | None
    alone: int
    """p below 0.05, unadjusted."""

    holm_table: int
    bh_table: int
    holm_all: int
    bh_all: int


def own_summaries(cells: Sequence[OwnCell]) -> list[OwnSummary]:
    """One line a table and kind, in the order of the cells."""
    found = []
    for table, kind in dict.fromkeys((cell.table, cell.kind) for cell in cells):
        printed = [cell for cell in cells if (cell.table, cell.kind) == (table, kind)]
        mine = [cell for cell in printed if cell.repeats is None]
        sizes = [abs(cell.z) for cell in mine if cell.z is not None]
        found.append(
            OwnSummary(
                table=table,
                kind=kind,
                differences=len(mine),
                repeats=len(printed) - len(mine),
                judged=len(sizes),
                largest_z=max(sizes, default=None),
                alone=_below([cell.p for cell in mine]),
                holm_table=_below([cell.p_holm_table for cell in mine]),
                bh_table=_below([cell.p_bh_table for cell in mine]),
                holm_all=_below([cell.p_holm_all for cell in mine]),
                bh_all=_below([cell.p_bh_all for cell in mine]),
            )
        )
    return found


def below_alpha(cells: Sequence[OwnCell]) -> list[OwnCell]:
    """The differences with p below 0.05, what is printed twice once."""
    return [cell for cell in cells if cell.verdict in ("resolved", "resolved_alone") and cell.repeats is None]


def _below(p_values: Sequence[float | None]) -> int:
    return sum(p is not None and p < ALPHA for p in p_values)

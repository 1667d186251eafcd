"""The paper's claims about its tables as rules over pairs of cells. Judges nothing of ours.

Claims about figures are figure_claims.py's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from reproduce.paper.tables import Row, Table

Relation = Literal["below", "above", "within"]
CLAIMS = Path(__file__).parent / "claims.yaml"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence of the paper as a rule; claims.yaml explains the fields."""

    id: str
    tables: tuple[str, ...]
    text: str
    strategy: str
    relation: Relation
    bounds: Mapping[str, tuple[Fraction, Fraction]]
    """For within: column -> the least and the largest difference, in the table's unit; empty else."""

    references: tuple[str, ...]
    columns: tuple[str, ...] | None
    """None: every column that is no mean."""

    at_least: int | None
    """How many comparisons must hold; None: all."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`row` minus `reference` in one column of one table is below 0, above 0, or within bounds."""

    table: str
    row: str
    reference: str
    column: str
    relation: Relation
    bounds: tuple[Fraction, Fraction] | None


@cache
def load_claims() -> tuple[Claim, ...]:
    """Every claim of claims.yaml that is about tables, in its order."""
    entries = yaml.safe_load(CLAIMS.read_text(encoding="utf-8"))
    claims = tuple(_claim(entry) for entry in entries if "tables" in entry)
    assert len({claim.id for claim in claims}) == len(claims)
    return claims


def comparisons(claim: Claim, tables: Mapping[str, Table]) -> dict[str, list[Comparison]]:
    """Model -> the comparisons that the claim makes about it."""
    found: dict[str, list[Comparison]] = {}
    for table in (tables[name] for name in claim.tables):
        for row in table.rows:
            if row.strategy == claim.strategy:
                found.setdefault(row.model, []).extend(_of_row(claim, table, row))
    return found


def holds_on_paper(comparison: Comparison, tables: Mapping[str, Table]) -> bool:
    """Whether the paper's printed numbers satisfy the comparison, without binary rounding."""
    table = tables[comparison.table]
    index = table.column_index(comparison.column)
    difference = (
        table.row(comparison.row).values[index].exact - table.row(comparison.reference).values[index].exact
    )
    if comparison.bounds is not None:
        return comparison.bounds[0] <= difference <= comparison.bounds[1]
    return difference < 0 if comparison.relation == "below" else difference > 0


def _of_row(claim: Claim, table: Table, row: Row) -> list[Comparison]:
    references = [
        other.name
        for other in table.rows
        if other.strategy in claim.references
        and (other.model, other.domain_weights) == (row.model, row.domain_weights)
    ]
    names = claim.columns or tuple(c.name for c in table.columns if not (c.mean_of or c.mean_of_tables))
    return [
        Comparison(
            table=table.id,
            row=row.name,
            reference=reference,
            column=column,
            relation=claim.relation,
            bounds=claim.bounds.get(column),
        )
        for reference in references
        for column in names
    ]


def _claim(entry: Mapping[str, Any]) -> Claim:
    columns = entry.get("columns", ())
    bounds = {
        column: (Fraction(low), Fraction(high)) for column, (low, high) in entry.get("within", {}).items()
    }
    claim = Claim(
        id=entry["id"],
        tables=tuple(entry["tables"]),
        text=entry["text"],
        strategy=entry["strategy"],
        relation="within" if bounds else entry["relation"],
        bounds=bounds,
        references=tuple(entry["references"]),
        columns=tuple(bounds) or (None if columns == "tasks" else tuple(columns)),
        at_least=entry.get("at_least"),
    )
    assert claim.relation in ("below", "above", "within"), claim.id
    assert bool(bounds) == ("relation" not in entry) == (not columns), claim.id
    return claim

"""Where the paper's printing disagrees with itself: every printed mean and difference, recomputed."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

from reproduce.paper.tables import Column, Note, Printed, Row, Table


def disagreements(table: Table, tables: Mapping[str, Table]) -> list[Note]:
    """Recompute every printed mean and difference of a table; what comes out otherwise, in printed order.

    A mean disagrees when it is more than half a printed unit from the average of the printed columns; a
    difference when it is not exactly the difference of the printed columns.
    """
    found = [note for row in table.rows for note in _wrong_means(table, row, tables)]
    for printed in table.differences:
        row = table.row(printed.name)
        baseline = table.baseline(row)
        assert baseline is not None, printed.name
        for column, said, ours, theirs in zip(
            table.columns, printed.values, row.values, baseline.values, strict=True
        ):
            if said.exact != ours.exact - theirs.exact:
                found.append(_note("difference", row, column, said, ours.exact - theirs.exact))
    return found


def _wrong_means(table: Table, row: Row, tables: Mapping[str, Table]) -> list[Note]:
    found = []
    for column, said in zip(table.columns, row.values, strict=True):
        parts = [row.values[table.column_index(name)].exact for name in column.mean_of]
        for name in column.mean_of_tables:
            other = tables[name]
            same = other.row(row.name)
            parts += [v.exact for v, c in zip(same.values, other.columns, strict=True) if not c.mean_of]
        if parts and abs(Fraction(sum(parts), len(parts)) - said.exact) > Fraction(str(said.unit)) / 2:
            found.append(_note("mean", row, column, said, Fraction(sum(parts), len(parts))))
    return found


def _note(
    kind: Literal["mean", "difference"], row: Row, column: Column, said: Printed, exact: Fraction
) -> Note:
    recomputed = f"{float(exact):.4f}".rstrip("0")
    return Note(kind=kind, row=row.name, column=column.name, printed=said.text, recomputed=recomputed)

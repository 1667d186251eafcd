"""The error of one published difference, from what the paper prints and the size of the test set.

What is known: two models' accuracies p1 and p2 on the same n items, one seed each, and no item's outcome. The
difference d = p1 - p2 then has, by the draw of the items,

  unpaired   sqrt(p1 (1 - p1) / n + p2 (1 - p2) / n), as if each model had items of its own. The items are
             shared; two models that tend to be right on the same ones have a smaller error. So this is an
             upper bound unless they are right on different ones more often than chance would have it.
  paired     sqrt((q - d^2) / n), q the share of items on which exactly one of the two is right. Not printed;
             it lies between |d| and min(p1 + p2, 2 - p1 - p2), which bounds the error from both sides.

Neither counts that another seed of training gives other models: with one seed a run nothing here says
anything about that, and the error of "the method is better" is larger than any of these.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from reproduce.paper.tables import Column, Row, Table
from reproduce.paper.verdicts import NORMAL_975
from reproduce.statistics import accuracy_stderr

GP_IRT = "gp_irt"


@dataclass(frozen=True, kw_only=True)
class Error:
    """Standard errors of a difference, in percentage points."""

    unpaired: float
    paired_low: float
    """The two models disagree on as few items as the difference allows."""

    paired_high: float
    """They disagree on as many as the two accuracies allow."""

    n: int | None
    """Items; None for a mean over tasks."""

    disagree_at_most: float | None
    """Percent of items on which the two may disagree at most if |d| is to be 1.96 paired errors; None for a
    mean, for a gp-IRT estimate, and where no pairing does it."""

    estimated: tuple[str, ...]
    """Columns behind it that are gp-IRT estimates from 100 items, no shares of them."""


def accuracy_error(
    table: Table, row: Row, reference: Row, column: Column, tables: Mapping[str, Table]
) -> Error:
    """The error of row - reference in one column of a table of accuracies, a mean's from its tasks'.

    A mean's tasks count as independent. Some share items (the remarks in numbers/*.yaml), so its error is
    somewhat larger than this.
    """
    parts = [
        _task_error(other, one, two, part)
        for other, one, two, part in _tasks(table, row, reference, column, tables)
    ]
    if not (column.mean_of or column.mean_of_tables):
        return parts[0]
    k = len(parts)
    return Error(
        unpaired=math.hypot(*(part.unpaired for part in parts)) / k,
        paired_low=math.hypot(*(part.paired_low for part in parts)) / k,
        paired_high=math.hypot(*(part.paired_high for part in parts)) / k,
        n=None,
        disagree_at_most=None,
        estimated=tuple(name for part in parts for name in part.estimated),
    )


def perplexity_spread(table: Table, column: Column, difference: float) -> float | None:
    """Largest spread of per-sample losses, in nats, at which the draw of samples leaves |d| at 1.96 errors.

    Two rows of Table 1 were measured on two draws of at most `samples` samples, evenly over the domains:
    the error of a difference is spread x sqrt(2 / samples) for the mean, sqrt(domains) times that for one
    domain. None where there is no difference.
    """
    assert table.samples is not None
    mean = next(c for c in table.columns if c.mean_of)
    share = 1 if column.mean_of else len(mean.mean_of)
    return abs(difference) / (NORMAL_975 * math.sqrt(2 * share / table.samples)) or None


def _tasks(
    table: Table, row: Row, reference: Row, column: Column, tables: Mapping[str, Table]
) -> list[tuple[Table, Row, Row, Column]]:
    """What a column averages: (table, row, reference, task's column); itself for a task."""
    if column.mean_of_tables:
        return [
            (other, other.row(row.name), other.row(reference.name), task)
            for other in (tables[name] for name in column.mean_of_tables)
            for task in other.columns
            if not task.mean_of
        ]
    names = column.mean_of or (column.name,)
    return [(table, row, reference, table.columns[table.column_index(name)]) for name in names]


def _task_error(table: Table, row: Row, reference: Row, column: Column) -> Error:
    index = table.column_index(column.name)
    p1, p2 = (each.values[index].value / 100 for each in (row, reference))
    key = column.parts[0]
    n = key.n
    assert n is not None, (table.id, column.name)
    errors = (accuracy_stderr(p1, n), accuracy_stderr(p2, n))
    unpaired = 100 * math.hypot(*errors)
    if key.metric == GP_IRT:
        # No share of items: nothing bounds its error from below, and from above only that of each by itself.
        return Error(
            unpaired=unpaired,
            paired_low=0.0,
            paired_high=100 * sum(errors),
            n=n,
            disagree_at_most=None,
            estimated=(column.name,),
        )
    d = abs(float(row.values[index].exact - reference.values[index].exact)) / 100
    most = min(p1 + p2, 2 - p1 - p2)
    enough = d * d * (n / NORMAL_975**2 + 1)
    return Error(
        unpaired=unpaired,
        paired_low=100 * math.sqrt((d - d * d) / n),
        paired_high=100 * math.sqrt((most - d * d) / n),
        n=n,
        disagree_at_most=100 * min(enough, most) if d and enough >= d else None,
        estimated=(),
    )

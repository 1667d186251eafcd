"""What a study found, as data: settings, tables, figures, named numbers, verdicts.

It is all that printing, drawing, `compare`, `report` and the docs need: nobody computes anything again.
study_file.py keeps it as JSON. Loads without torch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

StudyName = Literal["regression", "dro", "sweep", "bounds"]
STUDY_NAMES: tuple[str, ...] = get_args(StudyName)

Outcome = Literal["holds", "does_not", "only_where", "unresolved"]
OUTCOMES: tuple[str, ...] = get_args(Outcome)

Scalar = str | int | float | None
"""A cell of a table; None: there is no such value."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of values under named columns."""

    id: str
    """Name of its CSV file, and of its place in the docs."""
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Scalar, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a panel, with a band where there is one."""

    label: str
    strategy: str
    """Which of the strategies' colours it takes; any other text: grey."""
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    """None: no finite value there (a run has diverged); the line breaks."""
    low: tuple[float | None, ...] | None = None
    high: tuple[float | None, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A straight line across a panel, with a name: a bound, the noise."""

    axis: Literal["x", "y"]
    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Lines over one pair of axes."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_log: bool = False
    y_log: bool = False
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Map:
    """A grid of cells, each with a text and a colour from a diverging scale around 0."""

    title: str
    x_label: str
    y_label: str
    x_names: tuple[str, ...]
    y_names: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    """One row a y name; below 0 is better (blue), above is worse (orange), None is no colour."""
    texts: tuple[tuple[str, ...], ...]
    """What stands in the cells, so that the map reads without its colours."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Panels side by side."""

    id: str
    """Name of its SVG, PNG and CSV files."""
    title: str
    caption: str
    panels: tuple[Panel | Map, ...]
    columns: int = 2
    """Panels in a row."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One verdict: a claim held against what the study measured."""

    claim: str
    source: str
    """Where the claim stands: a figure, theorem or section of the paper, or `ours`."""
    outcome: Outcome
    where: str
    """The condition under which it holds (or fails), for `only_where`; else empty."""
    evidence: str
    """The numbers, in one sentence."""
    seeds: int
    """Independent repetitions behind the numbers."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A finished study."""

    study: StudyName
    title: str
    command: str
    """What repeats it, without the folder it is written to."""
    settings: Mapping[str, Scalar | tuple[Scalar, ...]]
    versions: Mapping[str, str]
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    findings: tuple[Finding, ...]
    numbers: Mapping[str, Scalar] = field(default_factory=dict)
    """Values with a name, for sentences of the docs."""

    def table(self, table_id: str) -> Table:
        """The table of that id; KeyError where there is none."""
        found = {table.id: table for table in self.tables}
        return found[table_id]


def finite_or_none(value: float) -> float | None:
    """The value as JSON takes it: None for NaN and infinity."""
    return value if math.isfinite(value) else None

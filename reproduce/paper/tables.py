"""The paper's tables as data: values exactly as printed, and which of our runs and scores each cell asks for.

Files: numbers/*.yaml, one a table. By which metric a task is scored, and with how many shots, is
eval/suites.yaml's. No comparison here (disagreements.py has the paper's own sums), and nothing about runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from eval.suites import load_suites

NUMBERS = Path(__file__).parent / "numbers"
MEAN = "mean"


@dataclass(frozen=True, kw_only=True)
class ScoreKey:
    """Which score of a results.json."""

    suite: str
    task: str
    metric: str
    stand_in: str | None = None
    """Metric to show, judged by nothing, where the printed one was not computed."""

    num_fewshot: int | None = None
    """Shots that the score must have; None: the notion does not apply."""

    n: int | None = None
    """Items that the score must be over, the size of the published split; None: any."""

    version: str | None = None
    """Version of the task that the printed number is taken to be of; None: the notion does not apply."""


@dataclass(frozen=True, kw_only=True)
class Printed:
    """One number as the paper prints it."""

    text: str
    """Digit for digit, trailing zeros included."""

    @property
    def value(self) -> float:
        """The number."""
        return float(self.text)

    @property
    def exact(self) -> Fraction:
        """The number without binary rounding, for recomputing the paper's own sums."""
        return Fraction(self.text)

    @property
    def unit(self) -> float:
        """One unit in the last printed place: 0.01 for 2.48."""
        return float(10.0 ** -len(self.text.partition(".")[2]))


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column measures."""

    name: str
    parts: tuple[ScoreKey, ...]
    """Scores whose plain average is the cell; one for a task, several for an average over tasks."""

    mean_of: tuple[str, ...] = ()
    """For a mean: the columns of this table that it averages."""

    mean_of_tables: tuple[str, ...] = ()
    """For an average over tables: their ids."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trained model of the paper."""

    model: str
    strategy: str
    r: float | None
    """Temperature (for dro_kl: lambda); None for uniform, which has none."""

    domain_weights: str
    """Name of the weights over domains: uniform, doge, doremi."""

    values: tuple[Printed, ...]
    """In the order of the table's columns."""

    @property
    def name(self) -> str:
        """GPT2-mini/linupper; with what else tells rows of a table apart: /doge/, /dro_kl-5."""
        weights = "" if self.domain_weights == "uniform" else f"{self.domain_weights}/"
        lam = f"-{self.r:g}" if self.strategy == "dro_kl" else ""
        return f"{self.model}/{weights}{self.strategy}{lam}"


@dataclass(frozen=True, kw_only=True)
class Note:
    """A printed number that the paper's other printed numbers do not give."""

    kind: Literal["mean", "difference"]
    row: str
    column: str
    printed: str
    recomputed: str
    """From the printed numbers, four decimals at most."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What makes a run of a model one at the paper's scale."""

    steps: int
    settings: Mapping[str, str | int]
    """Dotted path in a recipe -> the paper's value. A run that differs in one is a reduced-scale run."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of the paper."""

    id: str
    source: str
    caption: str
    unit: Literal["nats", "percent"]
    higher_is_better: bool
    tolerance: float | None
    """What one seed may be off and still count as reproduced, in `unit`; ours, not the paper's. None: from
    the test-set size."""

    columns: tuple[Column, ...]
    models: Mapping[str, Scale]
    domain_weights: Mapping[str, Mapping[str, float]]
    """Weights over domains behind the names that rows use; `uniform` needs none."""

    rows: tuple[Row, ...]
    differences: tuple[Row, ...]
    """Printed differences from uniform, one row a strategy."""

    notes: tuple[Note, ...]
    """Where the printing disagrees with itself."""

    remarks: tuple[str, ...]
    """Where the prose says something else than the table, and what else its reader has to know."""

    samples: int | None
    """Log-perplexity: held-out samples behind a row's mean at most, drawn evenly over the domains."""

    @property
    def factor(self) -> float:
        """From the unit of results.json (nats, fractions) to the table's."""
        return 100.0 if self.unit == "percent" else 1.0

    def column_index(self, name: str) -> int:
        """Position of a column; KeyError names it if there is none."""
        for index, column in enumerate(self.columns):
            if column.name == name:
                return index
        raise KeyError(f"{self.id} has no column {name!r}")

    def row(self, name: str) -> Row:
        """The row of that name; KeyError if there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{self.id} has no row {name!r}")

    def baseline(self, row: Row) -> Row | None:
        """The uniform row of the same model and domain weights; None for a uniform row itself."""
        if row.strategy == "uniform":
            return None
        same = (row.model, row.domain_weights)
        return next(
            (r for r in self.rows if r.strategy == "uniform" and (r.model, r.domain_weights) == same), None
        )


@cache
def load_tables() -> Mapping[str, Table]:
    """Every table of the paper by id, in the order of INTERFACE: table1, table2, table3, llama, table12."""
    raw = {path.stem: _read(path) for path in sorted(NUMBERS.glob("*.yaml"))}
    order = ["table1", "table2", "table3", *sorted(i for i in raw if i.startswith("llama")), "table12"]
    return {name: _table(raw[name], raw) for name in order}


def _read(path: Path) -> dict[str, Any]:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict), path
    assert document["id"] == path.stem, path
    return document


def _table(raw: Mapping[str, Any], every: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = tuple(_column(name, entry, raw, every) for name, entry in raw["columns"].items())
    table = Table(
        id=raw["id"],
        source=raw["source"],
        caption=raw["caption"],
        unit=raw["unit"],
        higher_is_better=raw["higher_is_better"],
        tolerance=raw.get("tolerance"),
        columns=columns,
        models={name: Scale(**scale) for name, scale in raw["models"].items()},
        domain_weights=raw.get("domain_weights", {}),
        rows=tuple(_row(entry, len(columns)) for entry in raw["rows"]),
        differences=tuple(_row(entry, len(columns)) for entry in raw.get("differences", [])),
        notes=tuple(Note(**note) for note in raw["notes"]),
        remarks=tuple(raw.get("remarks", ())),
        samples=raw.get("samples"),
    )
    assert len({row.name for row in table.rows}) == len(table.rows), table.id
    assert all(row.model in table.models for row in table.rows), table.id
    assert {row.domain_weights for row in table.rows} == {"uniform"} or table.domain_weights, table.id
    return table


def _column(
    name: str, entry: Mapping[str, Any], raw: Mapping[str, Any], every: Mapping[str, Mapping[str, Any]]
) -> Column:
    tables = tuple(entry.get("mean_of_tables", ()))
    if tables:
        parts = tuple(key for table in tables for key in _task_keys(every[table]))
    elif "mean_of" in entry and "task" not in entry:
        parts = tuple(_key(part, raw["columns"][part], raw) for part in entry["mean_of"])
    else:
        parts = (_key(name, entry, raw),)
    mean_of = tuple(entry.get("mean_of", ()))
    return Column(name=name, parts=parts, mean_of=mean_of, mean_of_tables=tables)


def _task_keys(raw: Mapping[str, Any]) -> list[ScoreKey]:
    return [_key(name, entry, raw) for name, entry in raw["columns"].items() if "mean_of" not in entry]


def _key(name: str, entry: Mapping[str, Any], raw: Mapping[str, Any]) -> ScoreKey:
    task = entry.get("task", name)
    suite = load_suites().get(raw["suite"])
    if suite is None:  # perplexity: no shots, and any size of the evaluation set
        return ScoreKey(suite=raw["suite"], task=task, metric=raw["metric"])
    asked = suite.task(task)
    assert entry["n"] == asked.n, f"{raw['id']}: {name} has {entry['n']} items, the suite {asked.n}"
    printed = entry.get("printed", asked.paper_metric)
    return ScoreKey(
        suite=suite.name,
        task=task,
        metric=printed,
        stand_in=None if printed == asked.paper_metric else asked.paper_metric,
        num_fewshot=asked.num_fewshot,
        n=asked.n,
        version=asked.version,
    )


def _row(entry: Mapping[str, Any], width: int) -> Row:
    values = tuple(Printed(text=text) for text in entry["values"].split())
    assert len(values) == width, entry
    return Row(
        model=entry["model"],
        strategy=entry["strategy"],
        r=entry.get("r"),
        domain_weights=entry.get("domain_weights", "uniform"),
        values=values,
    )

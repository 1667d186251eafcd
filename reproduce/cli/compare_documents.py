"""`reweight compare` as documents: JSON, CSV and Markdown of what was judged. Names in it are anybody's."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from reproduce.cli.formats import emit_csv, markdown_table
from reproduce.paper.text import clean

if TYPE_CHECKING:
    from reproduce.cli.compare import Judgement
    from reproduce.paper.compare import Cell
    from reproduce.paper.found_studies import FoundStudy
    from reproduce.paper.matching import Matches
    from reproduce.paper.runs import Run

NONE = "–"
CELL_COLUMNS = ("row", "column", "paper", "ours", "paper's difference", "ours, difference", "95%",
                "interval of", "error over samples", "seeds", "verdict", "note")  # fmt: skip
CLAIM_COLUMNS = ("claim", "model", "held", "verdict", "note")
FIGURE_COLUMNS = ("claim", "figure", "outcome", "evidence")
EXTRA_COLUMNS = ("recipe", "domain", "ours", "minus uniform", "95%", "seeds", "note")


def cleaned(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with its texts made fit to show."""
    return {key: clean(value, 1000) if isinstance(value, str) else value for key, value in entry.items()}


def paper_document(judgement: "Judgement") -> dict[str, Any]:
    """What --json prints."""
    return {
        "against": "paper",
        "cells": [cleaned(asdict(cell)) for cell in judgement.cells],
        "claims": [asdict(claim) for claim in judgement.claims],
        "runs": [_run_entry(run, judgement.matches) for group in judgement.groups for run in group.runs],
        "extra": [cleaned(asdict(entry)) for entry in judgement.extra],
        "unjudged": [cleaned(asdict(each)) for each in judgement.unjudged],
        "studies": [_study_entry(each) for each in judgement.studies],
        "figures": [cleaned(asdict(each)) for each in judgement.figures],
    }


def print_paper_csv(judgement: "Judgement") -> None:
    """Print every cell, a row each."""
    from reproduce.paper.compare import Cell

    emit_csv([field.name for field in fields(Cell)], [cleaned(asdict(cell)) for cell in judgement.cells])


def paper_markdown(judgement: "Judgement", *, show_all: bool) -> str:
    """A section a table that has a run (`show_all`: every table), then claims, ours only, studies."""
    from reproduce.paper.study_markdown import escaped, findings_markdown

    parts = ["# Ours beside the paper"]
    for table in judgement.tables.values():
        mine = [cell for cell in judgement.cells if cell.table == table.id]
        if show_all or any(cell.scale is not None for cell in mine):
            parts += [f"## {table.id}", f"{table.caption} In {table.unit}."]
            parts.append(markdown_table(CELL_COLUMNS, [_cell(cell) for cell in mine]))
        else:
            parts.append(f"{table.id}: {len(mine)} cells not_run. {table.caption}")
    claims = [
        (claim.text, claim.model, f"{claim.held}/{claim.of}", claim.verdict, claim.note)
        for claim in judgement.claims
        if show_all or claim.verdict != "not_run"
    ]
    figures = [
        (each.text, each.source, each.outcome, clean(each.evidence, 300))
        for each in judgement.figures
        if each.outcome != "not_run"
    ]
    if claims:
        parts += ["## Claims", markdown_table(CLAIM_COLUMNS, claims)]
    if figures:
        parts += ["## Claims about figures", markdown_table(FIGURE_COLUMNS, figures)]
    if judgement.extra:
        rows = [
            (
                clean(entry.recipe, 60),
                clean(entry.column, 40),
                f"{entry.ours:.4f}",
                number(entry.our_difference, "+.4f"),
                interval(entry.ci_low, entry.ci_high),
                str(entry.n_seeds),
                clean(entry.note, 300),
            )
            for entry in judgement.extra
        ]
        parts += ["## Ours only, in nats; judged by nothing", markdown_table(EXTRA_COLUMNS, rows)]
    for found in judgement.studies:
        parts += [f"## Toy study: {escaped(clean(found.path, 200))}", findings_markdown(found.study)]
    return "\n\n".join(parts)


def number(value: float | None, how: str) -> str:
    """A number as a cell, or a dash."""
    return NONE if value is None else format(value, how)


def interval(low: float | None, high: float | None) -> str:
    """An interval as a cell, or a dash."""
    return NONE if low is None or high is None else f"[{low:+.4f}, {high:+.4f}]"


def _cell(cell: "Cell") -> Sequence[str]:
    return (
        cell.row,
        cell.column,
        f"{cell.paper:.2f}",
        number(cell.ours, ".4f"),
        number(cell.paper_difference, "+.2f"),
        number(cell.our_difference, "+.4f"),
        interval(cell.ci_low, cell.ci_high),
        NONE if cell.ci_of is None else cell.ci_of,
        number(cell.sample_stderr, ".4f"),
        str(cell.n_seeds),
        cell.verdict,
        clean(cell.note, 300),
    )


def _run_entry(run: "Run", found: "Matches") -> dict[str, Any]:
    from reproduce.paper.matching import paths

    rows = sorted({f"{key[0]}:{key[1]}" for key, m in found.items() if run.path in paths(m.group)})
    scales = {key[2] for key, m in found.items() if run.path in paths(m.group)}
    return cleaned(
        {
            "path": str(run.path),
            "recipe": run.info.recipe,
            "strategy": run.info.strategy,
            "r": run.info.r,
            "seed": run.seed,
            "step": run.results.step,
            "model": run.info.model,
            "declared_scale": run.info.scale,
            "judged_scale": min(scales) if scales else None,
        }
    ) | {"rows": rows}


def _study_entry(found: "FoundStudy") -> dict[str, Any]:
    study = found.study
    entry = {"study": study.study, "path": str(found.path), "command": study.command}
    return cleaned(entry) | {"findings": [cleaned(asdict(finding)) for finding in study.findings]}

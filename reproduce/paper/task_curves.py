"""Task scores of one run against its steps: as data (JSON, CSV) and as a figure (PNG, SVG).

The same scores give the same bytes, whenever they are written. Judges nothing.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from eval.records import GP_IRT
from eval.results import Score
from eval.suites import EvalTask, load_suites
from reproduce.errors import DataError, UserError
from reproduce.paper.drawing import DOTS_AN_INCH, NO_METADATA, figure_style
from reproduce.paper.output_files import write_files
from reproduce.paper.text import clean
from reproduce.paper.verdicts import NORMAL_975

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEMA = 1
INK = "#1a1c1e"
COLOUR = "#0072B2"
COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class Point:
    """A score at one step."""

    step: int
    value: float
    """In the unit of results.json: accuracies as fractions."""

    stderr: float | None
    n: int
    """Items scored."""

    limit: int | None
    """Only the first items were scored; None: all."""

    requests: int | None
    truncated: int | None
    """Requests longer than the context."""

    shots_kept: float | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric of one task over the steps."""

    task: str
    metric: str
    num_fewshot: int | None
    drawn: bool
    """Whether it is the metric of the task's panel: the paper's."""

    chance: float | None
    """What guessing gives, where every item of the task has the same number of choices."""

    points: tuple[Point, ...]
    """By rising step."""


def task_curves(suite: str, by_step: Mapping[int, Sequence[Score]]) -> tuple[Curve, ...]:
    """The scores of a suite as curves, in the suite's order of tasks and metrics.

    Args:
        suite: one of eval/suites.yaml.
        by_step: step -> scores of one run at that step; those of other suites are passed over.

    Raises:
        UserError: no such suite.
        DataError: no score of it.
    """
    suites = load_suites()
    if suite not in suites:
        raise UserError(f"no suite '{suite[:60]}'; there is {', '.join(suites)}")
    curves = []
    for task in suites[suite].tasks:
        points: dict[tuple[str, int | None], dict[int, Point]] = {}
        for step in sorted(by_step):
            for score in by_step[step]:
                if (score.suite, score.task) == (suite, task.name):
                    points.setdefault((score.metric, score.num_fewshot), {})[step] = _point(step, score)
        shown = _shown(task, list(points))
        curves += [
            Curve(
                task=task.name,
                metric=metric,
                num_fewshot=shots,
                drawn=(metric, shots) == shown,
                chance=_chance(task) if metric in ("acc", "acc_norm") else None,
                points=tuple(found.values()),
            )
            for (metric, shots), found in points.items()
        ]
    if not curves:
        raise DataError(f"no scores of {suite} to draw; run `reweight eval RUN --suite {suite}` first")
    return tuple(curves)


def write_curves(folder: Path, suite: str, by_step: Mapping[int, Sequence[Score]], title: str) -> list[Path]:
    """Write <suite>.json, .csv, .png and .svg; each whole or not at all.

    Raises:
        UserError, DataError: as task_curves.
        StorageError: a file cannot be written.
    """
    curves = task_curves(suite, by_step)
    png, svg = _figure(suite, curves, title)
    document = {"schema": SCHEMA, "suite": suite, "title": title, "curves": [asdict(c) for c in curves]}
    contents = {
        "json": (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(),
        "csv": _csv(curves).encode(),
        "png": png,
        "svg": svg,
    }
    named = [(f"{suite}.{ending}", content) for ending, content in contents.items()]
    return write_files(folder, named, "make the folder writable")


def _point(step: int, score: Score) -> Point:
    return Point(
        step=step,
        value=score.value,
        stderr=score.stderr,
        n=score.n,
        limit=score.limit,
        requests=score.requests,
        truncated=score.truncated,
        shots_kept=score.shots_kept,
    )


def _shown(task: EvalTask, found: Sequence[tuple[str, int | None]]) -> tuple[str, int | None] | None:
    """Metric and shots of a task's panel: gp-IRT where there is one, for it is what the paper printed."""
    for metric in (GP_IRT, task.paper_metric):
        for shots in (task.num_fewshot, *(shots for name, shots in found if name == metric)):
            if (metric, shots) in found:
                return metric, shots
    return None


def _chance(task: EvalTask) -> float | None:
    """One over the number of choices, if requests (one a choice) are a whole multiple of the items."""
    choices, rest = divmod(task.requests, task.n)
    return 1 / choices if not rest and not task.generated and choices > 1 else None


def _csv(curves: Sequence[Curve]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["task", "metric", "num_fewshot", *(field.name for field in fields(Point))])
    for curve in curves:
        for point in curve.points:
            writer.writerow([curve.task, curve.metric, curve.num_fewshot, *astuple(point)])
    return out.getvalue()


def _figure(suite: str, curves: Sequence[Curve], title: str) -> tuple[bytes, bytes]:
    """The figure as PNG and as SVG, one panel a task."""
    from matplotlib.figure import Figure

    drawn = [curve for curve in curves if curve.drawn]
    columns = min(COLUMNS, max(1, len(drawn)))
    rows = max(1, -(-len(drawn) // columns))
    with figure_style(suite, INK):
        figure = Figure(figsize=(max(3.6, 2.2 * columns), 2.0 * rows + 0.5), layout="constrained")
        figure.suptitle(clean(title, 100), fontsize=9)
        for index, curve in enumerate(drawn):
            axes = figure.add_subplot(rows, columns, index + 1)
            _panel(axes, curve)
            axes.set_xlabel("step" if index >= len(drawn) - columns else "")
            axes.set_ylabel("%" if index % columns == 0 else "")
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=DOTS_AN_INCH, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata=NO_METADATA)
    return png.getvalue(), svg.getvalue()


def _panel(axes: "Axes", curve: Curve) -> None:
    steps = [point.step for point in curve.points]
    values = [100 * point.value for point in curve.points]
    # The band needs two steps to be seen; a bar is seen at one.
    half = [100 * NORMAL_975 * (point.stderr or 0.0) for point in curve.points]
    axes.plot(steps, values, color=COLOUR, marker="o", markersize=2.5)
    if len(steps) == 1:
        axes.errorbar(steps, values, yerr=half, color=COLOUR, capsize=2)
    low, high = ([v + sign * h for v, h in zip(values, half, strict=True)] for sign in (-1, 1))
    axes.fill_between(steps, low, high, color=COLOUR, alpha=0.2, linewidth=0)
    if curve.chance is not None:
        axes.axhline(100 * curve.chance, color="#8A8A8A", linestyle=(0, (2, 2)), linewidth=1)
    shots = "" if curve.num_fewshot is None else f", {curve.num_fewshot} shots"
    axes.set_title(f"{curve.task}\n{curve.metric}{shots}\n{_cut_short(curve)}", fontsize=7)


def _cut_short(curve: Curve) -> str:
    """What the panel's numbers lack, if anything."""
    limited = any(point.limit is not None for point in curve.points)
    truncated = any(point.truncated for point in curve.points)
    return ", ".join(["first items only"] * limited + ["prompts cut"] * truncated)

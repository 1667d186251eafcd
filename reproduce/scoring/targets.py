"""What `reweight eval --suite` was pointed at: a run's model or checkpoints, or a Hugging Face folder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data_prep.errors import DataError, StorageError, UserError
from eval.records import TaskRecord, as_scores
from eval.results import Results, merged, write_results
from reproduce.recipe import Recipe
from reproduce.scoring.models import CheckpointModel, FolderModel
from reproduce.scoring.sole_writer import sole_writer
from reproduce.scoring.tasks import Model
from reproduce.training.checkpoint import Checkpoint, steps_asked
from reproduce.training.products import read_or_put_aside
from reproduce.training.provenance import versions
from reproduce.training.recorded import recorded_recipe

RECORDS = "evaluations"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One model to score, and where its scores go."""

    label: str
    """For people."""
    step: int
    """Optimizer steps behind it; 0 where unknown."""
    home: Path
    """Run folder, or --out."""
    records: Path
    """Folder of its records."""
    open: Callable[[], Model]
    recipe: str
    seed: int
    final: bool
    """Whether results.json is about this model."""


def targets(
    path: Path, which: str, data: Path | None, out: Path | None, device: torch.device
) -> list[Target]:
    """The models that a path and --checkpoint name.

    Args:
        path: run folder, or a Hugging Face model folder.
        which: `last`, `all` or a step.
        data: token store with the tokenizer of a run that has no model/ yet.
        out: where the scores of a model folder go; None: evaluations/NAME.
        device: of the models.

    Raises:
        DataError: nothing there to score.
        UserError: --out for a run, which keeps its own scores; --checkpoint for a model folder; no such step.
    """
    try:
        is_run, is_model = (path / "recipe.yaml").is_file(), (path / "config.json").is_file()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); mend its permissions") from None
    if is_run:
        if out is not None:
            raise UserError(f"--out is for model folders; the scores of {path} go into its own results.json")
        return _of_run(path, which, data, device)
    if not is_model:
        raise DataError(
            f"{path} is neither a run folder (recipe.yaml) nor a Hugging Face model folder (config.json); "
            "`reweight train` makes runs"
        )
    if which != "last":
        raise UserError(f"--checkpoint {which[:40]}: {path} is a model folder and has no checkpoints")
    name = path.resolve().name or "model"  # "/" has no name
    home = out or Path(RECORDS) / name
    return [
        Target(
            label=str(path),
            step=0,
            home=home,
            records=home / RECORDS / "model",
            open=lambda: FolderModel(path, device),
            recipe=name,
            seed=0,
            final=True,
        )
    ]


def step_folder(run: Path, step: int) -> Path:
    """Folder of the records of a run at a step."""
    return run / RECORDS / f"step-{step:07d}"


def record_scores(
    target: Target, suite: str, records: tuple[TaskRecord, ...], warn: Callable[[str], None]
) -> None:
    """Put a model's scores into results.json, keeping what else it says of this model.

    Raises:
        StorageError: it cannot be written, or another process does not end writing it.
    """
    path = target.home / "results.json"
    fresh = Results(recipe=target.recipe, seed=target.seed, step=target.step, scores=(), versions=versions())
    scores = [score for record in records for score in as_scores(record, suite)]
    model = records[0].key.model_sha256 if records else None
    try:
        with sole_writer(path):
            results = read_or_put_aside(path, fresh, warn)
            foreign = [s for s in results.scores if s.model_sha256 not in (None, model)]
            if foreign:
                warn(f"{path}: {len(foreign)} scores of another model are left out; its records are kept")
            results = replace(results, scores=tuple(s for s in results.scores if s not in foreign))
            write_results(path, merged(results, scores))
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); free space or mend permissions, and run the same "
            "command again: the records are kept"
        ) from None


def _of_run(run: Path, which: str, data: Path | None, device: torch.device) -> list[Target]:
    recipe = recorded_recipe(run)
    if which == "last":
        if not (run / "model" / "config.json").is_file():
            raise DataError(
                f"{run} has no model/ yet; finish it with `reweight train`, or use --checkpoint all"
            )
        return [
            Target(
                label=str(run),
                step=recipe.train.steps,
                home=run,
                records=run / RECORDS / "model",
                open=lambda: FolderModel(run / "model", device),
                recipe=recipe.name,
                seed=recipe.seed,
                final=True,
            )
        ]
    return [_at_checkpoint(found, recipe, run, data, device) for found in steps_asked(run, which)]


def _at_checkpoint(
    found: Checkpoint, recipe: Recipe, run: Path, data: Path | None, device: torch.device
) -> Target:
    return Target(
        label=f"{run} step {found.step}",
        step=found.step,
        home=run,
        records=step_folder(run, found.step),
        open=lambda: CheckpointModel(found, recipe, run, data, device),
        recipe=recipe.name,
        seed=recipe.seed,
        final=False,
    )

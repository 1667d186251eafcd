"""`reweight eval --suite perplexity`: log-perplexity per domain, added to results.json."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.cli.console import emit_json, note, print_log_perplexity, progress
from reproduce.errors import DataError, ExitCode

if TYPE_CHECKING:
    from eval.perplexity import EvaluationSet, LogPerplexity
    from reproduce.recipe import Recipe
    from reproduce.training.checkpoint import Checkpoint
    from reproduce.training.mesh import Mesh

    Scoring = Callable[[Callable[[int], None]], dict[str, LogPerplexity]]


def evaluate(runs: tuple[Path, ...], which: str, data: Path | None, limit: int | None, as_json: bool) -> int:
    """Score and print; `last` goes into RUN/results.json, checkpoints and limited ones are printed only."""
    documents = [_evaluate(run, which, data, limit, as_json) for run in runs]
    if as_json:
        emit_json([entry for entries in documents for entry in entries])
    return ExitCode.DONE


def _evaluate(
    run: Path, which: str, data: Path | None, limit: int | None, as_json: bool
) -> list[dict[str, Any]]:
    own = run / "recipe.yaml"
    if not own.is_file():
        raise DataError(f"{run} is not a run folder: it has no recipe.yaml; `reweight train` makes one")
    from reproduce.training.data import (
        check_tokenizer,
        evaluation_set,
        open_store,
        verify_store,
    )
    from reproduce.training.mesh import make_mesh
    from reproduce.training.recorded import recorded_recipe, recorded_store

    recipe = recorded_recipe(run)
    if limit is not None:
        recipe = replace(recipe, evaluation=replace(recipe.evaluation, samples=limit))
    store = open_store(recipe, data or recorded_store(run))
    check_tokenizer(store, run)
    verify_store(store, [recipe.data.eval_split])
    evaluation = evaluation_set(store, recipe)
    mesh = make_mesh(recipe.train.precision)
    entries = []
    for step, score in _targets(run, which, recipe, evaluation, mesh):
        windows = sum(len(w) for w in evaluation.windows.values())
        with progress(f"{run} step {step}", windows, "windows") as line:
            scores = score(line.update)
        if which == "last" and limit is None:
            _record(run, recipe, step, scores, evaluation.sha256)
        entries.append(
            {
                "run": str(run),
                "step": step,
                "log_perplexity": {name: s.value for name, s in scores.items()},
                "stderr": {name: s.stderr for name, s in scores.items()},
                "n": {name: s.n for name, s in scores.items()},
                "eval_set_sha256": evaluation.sha256,
            }
        )
        if not as_json:
            print_log_perplexity(f"{run}, step {step}: log-perplexity", scores)
    return entries


def _targets(
    run: Path, which: str, recipe: "Recipe", evaluation: "EvaluationSet", mesh: "Mesh"
) -> "list[tuple[int, Scoring]]":
    """Step and scoring function of the exported model, or of checkpoints."""
    from reproduce.training.checkpoint import steps_asked
    from reproduce.training.evaluate import evaluate_checkpoint, evaluate_model

    if which == "last":
        model = run / "model"
        if not (model / "config.json").is_file():
            raise DataError(
                f"{run} has no model/ yet; finish it with `reweight train`, or use --checkpoint all"
            )
        return [
            (recipe.train.steps, lambda advance: evaluate_model(model, recipe, evaluation, mesh, advance))
        ]
    found = steps_asked(run, which)

    def scoring(each: "Checkpoint") -> "Scoring":
        return lambda advance: evaluate_checkpoint(each, recipe, evaluation, mesh, advance)

    return [(each.step, scoring(each)) for each in found]


def _record(run: Path, recipe: "Recipe", step: int, scores: "dict[str, LogPerplexity]", sha256: str) -> None:
    """Put the scores into results.json in place of earlier ones of this suite, keeping other suites', and
    the losses behind them beside it."""
    from eval.results import PERPLEXITY_SUITE, Results, write_results
    from eval.sample_losses import FILE_NAME, write_sample_losses
    from reproduce.scoring.sole_writer import sole_writer
    from reproduce.training.evaluate import as_sample_losses, as_scores
    from reproduce.training.products import read_or_put_aside
    from reproduce.training.provenance import versions

    path = run / "results.json"
    fresh = Results(recipe=recipe.name, seed=recipe.seed, step=step, scores=(), versions=versions())
    with sole_writer(path):
        results = read_or_put_aside(path, fresh, note)
        others = tuple(s for s in results.scores if s.suite != PERPLEXITY_SUITE)
        write_sample_losses(run / FILE_NAME, as_sample_losses(scores, step, sha256))
        write_results(
            path, replace(results, step=step, scores=as_scores(scores) + others, eval_set_sha256=sha256)
        )
    note(f"wrote {path}")

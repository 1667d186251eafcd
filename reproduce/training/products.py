"""What a finished run leaves: the model as a Hugging Face folder, results.json, and the losses behind it."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from eval.perplexity import LogPerplexity
from eval.results import Results, ResultsError, read_results, write_results
from eval.sample_losses import write_sample_losses
from reproduce.training.evaluate import as_sample_losses, as_scores
from reproduce.training.model import LanguageModel, build_network, export, store_tokenizer
from reproduce.training.provenance import versions
from reproduce.training.start import Start


def write_model(start: Start, model: LanguageModel, full: Mapping[str, Tensor] | None) -> None:
    """Write RUN/model, whole or not at all.

    Args:
        start: the run.
        model: its model.
        full: every parameter whole, where the model holds only this rank's rows.
    """
    recipe, store = start.recipe, start.store
    temporary = start.folder.path / ".tmp-model"
    shutil.rmtree(temporary, ignore_errors=True)
    file, meta = store.path / "tokenizer.json", store.manifest.tokenizer
    tokenizer = None
    if file.is_file():
        tokenizer = store_tokenizer(file, meta.end_of_text, recipe.model.context)
    network = model.network
    if full is not None:
        network = build_network(recipe.model, recipe.seed, meta.end_of_text)
        with torch.no_grad():
            for name, parameter in LanguageModel(network).named_parameters():
                parameter.copy_(full[name])
    try:
        export(network, temporary, tokenizer)
        shutil.rmtree(start.folder.model, ignore_errors=True)
        temporary.rename(start.folder.model)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_scores(start: Start, scores: dict[str, LogPerplexity]) -> None:
    """Write sample_losses.npz and results.json of the last step: who finds the second finds the first."""
    step, windows = start.recipe.train.steps, start.evaluation.sha256
    write_sample_losses(start.folder.sample_losses, as_sample_losses(scores, step, windows))
    write_results(
        start.folder.results,
        Results(
            recipe=start.recipe.name,
            seed=start.recipe.seed,
            step=step,
            scores=as_scores(scores),
            eval_set_sha256=windows,
            versions=versions(),
        ),
    )


def read_or_put_aside(path: Path, fresh: Results, warn: Callable[[str], None]) -> Results:
    """What results.json says, or `fresh`; a damaged one is moved aside, and named."""
    if not path.exists():
        return fresh
    try:
        return read_results(path)
    except ResultsError as error:
        aside = path.with_suffix(".damaged.json")
        path.replace(aside)
        warn(f"{error}; moved to {aside.name}, and written anew")
        return fresh

"""What a finished run leaves: the model as a Hugging Face folder, and results.json."""

import shutil
from collections.abc import Mapping

import torch
from torch import Tensor

from eval.perplexity import LogPerplexity
from eval.results import Results, write_results
from reproduce.training.evaluate import as_scores
from reproduce.training.model import LanguageModel, build_network, export
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
    tokenizer = store.path / "tokenizer.json"
    network = model.network
    if full is not None:
        network = build_network(recipe.model, recipe.seed, store.manifest.tokenizer.end_of_text)
        with torch.no_grad():
            for name, parameter in LanguageModel(network).named_parameters():
                parameter.copy_(full[name])
    try:
        export(network, temporary, tokenizer if tokenizer.is_file() else None)
        shutil.rmtree(start.folder.model, ignore_errors=True)
        temporary.rename(start.folder.model)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_scores(start: Start, scores: dict[str, LogPerplexity]) -> None:
    """Write results.json of the last step."""
    write_results(
        start.folder.results,
        Results(
            recipe=start.recipe.name,
            seed=start.recipe.seed,
            step=start.recipe.train.steps,
            scores=as_scores(scores),
            eval_set_sha256=start.evaluation.sha256,
            versions=versions(),
        ),
    )

"""Log-perplexity of a model: during a run, of a finished run, or of one of its checkpoints."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data_prep.errors import DataError
from eval.perplexity import METRIC_VERSION, EvaluationSet, LogPerplexity, log_perplexity
from eval.results import Score, log_perplexity_score
from eval.sample_losses import SampleLosses
from reproduce.recipe import Recipe
from reproduce.recipe.estimate import parameter_count
from reproduce.training import checkpoint
from reproduce.training.mesh import Mesh
from reproduce.training.model import LanguageModel, build_network, load_network


class Losses:
    """A model as the callable that eval.perplexity asks for: token ids (b, T) -> losses (b,)."""

    def __init__(self, model: nn.Module, mesh: Mesh) -> None:
        """The model is already on the mesh's device."""
        self._model, self._mesh = model, mesh

    @torch.no_grad()
    def __call__(self, tokens_BT: NDArray[np.int32]) -> NDArray[np.float32]:
        """Losses (b,) in nats a token, dropout off; of several ranks each computes its share."""
        self._model.eval()
        share = -(-len(tokens_BT) // self._mesh.world)
        places = np.arange(self._mesh.rank * share, (self._mesh.rank + 1) * share)
        # Every rank takes equally many: the last windows stand in where there are too few.
        own_BT = tokens_BT[np.minimum(places, len(tokens_BT) - 1)]
        with self._mesh.autocast():
            own_B = self._model(self._mesh.place(own_BT))
        losses: NDArray[np.float32] = self._mesh.gather(own_B.float())[: len(tokens_BT)].cpu().numpy()
        return losses


def evaluate_model(
    folder: Path,
    recipe: Recipe,
    evaluation: EvaluationSet,
    mesh: Mesh,
    advance: Callable[[int], None] | None = None,
) -> dict[str, LogPerplexity]:
    """Log-perplexity of a run's exported Hugging Face model folder.

    Raises:
        DataError: the folder is damaged, or holds another model than the recipe's.
    """
    network = load_network(folder)
    found, expected = sum(p.numel() for p in network.parameters()), parameter_count(recipe.model)
    if found != expected:
        raise DataError(
            f"{folder}: holds {found:,} parameters and recipe.yaml describes {expected:,}; restore the folder"
        )
    return _score(LanguageModel(network), evaluation, mesh, recipe.evaluation.batch, advance)


def evaluate_checkpoint(
    found: checkpoint.Checkpoint,
    recipe: Recipe,
    evaluation: EvaluationSet,
    mesh: Mesh,
    advance: Callable[[int], None] | None = None,
) -> dict[str, LogPerplexity]:
    """Log-perplexity of a training checkpoint.

    Raises:
        DataError: the checkpoint is damaged.
    """
    wrong = checkpoint.damage(found)
    if wrong is not None:
        raise DataError(f"{wrong}; evaluate another checkpoint")
    model = LanguageModel(build_network(recipe.model, recipe.seed, end_of_text=0))
    checkpoint.load_parameters(found, model)
    return _score(model, evaluation, mesh, recipe.evaluation.batch, advance)


def as_scores(perplexities: dict[str, LogPerplexity]) -> tuple[Score, ...]:
    """What results.json records of them."""
    return tuple(
        log_perplexity_score(name, s.value, stderr=s.stderr, n=s.n, version=METRIC_VERSION)
        for name, s in perplexities.items()
    )


def as_sample_losses(perplexities: dict[str, LogPerplexity], step: int, eval_set_sha256: str) -> SampleLosses:
    """What sample_losses.npz records of them."""
    return SampleLosses(
        step=step,
        eval_set_sha256=eval_set_sha256,
        losses={name: s.losses_n for name, s in perplexities.items() if s.losses_n is not None},
    )


def _score(
    model: LanguageModel,
    evaluation: EvaluationSet,
    mesh: Mesh,
    batch: int,
    advance: Callable[[int], None] | None,
) -> dict[str, LogPerplexity]:
    return log_perplexity(evaluation, Losses(model.to(mesh.device), mesh), batch, advance)

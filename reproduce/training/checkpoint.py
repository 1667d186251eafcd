"""Checkpoints that are complete or absent, written by all ranks and continued on any number of them.

Files are safetensors, beside a manifest of digests written last: safetensors alone would load a flipped bit
silently. No pickle anywhere. This module finds, verifies and loads; what else callers need of its siblings is
passed on: checkpoint_save (`Saver`), checkpoint_files (folders), checkpoint_ranks (who takes part).
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from reproduce.errors import DataError, StorageError, UserError
from reproduce.training.checkpoint_files import (
    MANIFEST,
    MODEL,
    OPTIMIZER,
    Checkpoint,
    check_space,
    checkpoints,
    damage,
    read_manifest,
)
from reproduce.training.checkpoint_ranks import (
    ALONE,
    NotSharedError,
    Ranks,
    check_shared,
    discard_temporaries,
)
from reproduce.training.checkpoint_save import Saver
from reproduce.training.checkpoint_tensors import (
    held_by_model,
    held_by_optimizer,
    make_room,
    read_extra,
    read_tensors,
)

__all__ = [
    "ALONE",
    "MANIFEST",
    "MODEL",
    "OPTIMIZER",
    "Checkpoint",
    "Ranks",
    "Saver",
    "check_shared",
    "check_space",
    "checkpoints",
    "damage",
    "discard_temporaries",
    "latest",
    "load",
    "load_parameters",
    "steps_asked",
]


def latest(folder: Path, warn: Callable[[str], None], ranks: Ranks = ALONE) -> Checkpoint | None:
    """The newest checkpoint that verifies, the same on all ranks; a collective.

    Each damaged one is named through `warn`, on every rank, and passed over. The ranks share the reading out.

    Raises:
        StorageError: on all ranks; one does not see what rank 0 sees.
    """
    names = [each.path.name for each in checkpoints(folder)]
    names = json.loads(ranks.exchange(json.dumps(names))[0])
    for name in reversed(names):
        found = Checkpoint(path=folder / name, step=int(name.removeprefix("step-")))
        visible = found.path.is_dir()
        wrong = damage(found, rank=ranks.rank, world=ranks.world) if visible else None
        if not visible:
            wrong = str(NotSharedError(folder, ranks.rank))
        answers = [json.loads(text) for text in ranks.exchange(json.dumps([visible, wrong]))]
        if not all(seen for seen, _ in answers):
            raise StorageError(next(text for seen, text in answers if not seen))
        said = next((text for _, text in answers if text is not None), None)
        if said is None:
            return found
        warn(f"checkpoint passed over: {said}")
    return None


def steps_asked(run: Path, which: str) -> list[Checkpoint]:
    """The checkpoints of a run that `all` or a step names.

    Raises:
        UserError: `which` is neither.
        DataError: there is no such checkpoint.
    """
    found = {c.step: c for c in checkpoints(run / "checkpoints")}
    have = ", ".join(map(str, found)) or "none"
    if which == "all":
        asked = list(found)
    elif which.isascii() and which.isdecimal() and len(which) <= 12:
        asked = [int(which)]
    else:
        raise UserError(f"--checkpoint {which[:40]}: give last, all or a step; there is {have}")
    if not asked or not all(step in found for step in asked):
        raise DataError(f"{run} has no checkpoint {which}; there is {have}")
    return [found[step] for step in asked]


def load(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Put a verified checkpoint's parameters and optimizer state in place, of any layout into any other.

    No collective: each rank reads the rows that it holds. Returns the extra tensors, on the host.

    Raises:
        ResumeError: tensors that do not fit this model.
    """
    manifest = read_manifest(checkpoint)
    read_tensors(checkpoint.path, manifest, "model", held_by_model(model, 0))
    make_room(model, optimizer, manifest)
    read_tensors(checkpoint.path, manifest, "optimizer", held_by_optimizer(model, optimizer, 0))
    return read_extra(checkpoint.path, manifest)


def load_parameters(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Put a verified checkpoint's parameters in place (ResumeError: they do not fit)."""
    read_tensors(checkpoint.path, read_manifest(checkpoint), "model", held_by_model(model, 0))

"""Checkpoints that are complete or absent: safetensors, and a manifest of digests written last.

A checkpoint is a folder `step-0001000`, renamed into place only when every byte is on disk. There is no
pointer file: the latest checkpoint is the highest one whose manifest verifies. No pickle anywhere.
safetensors alone would load a flipped bit silently; the digests find it.
"""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from data_prep.files import read_ordinary_file, sha256_file, sync_folder
from reproduce.errors import ResumeError, StorageError

MANIFEST = "MANIFEST.json"
FORMAT = 1
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
FOLDER = re.compile(r"step-(\d{7,})")
TEMPORARY_PREFIX = ".tmp-"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint on disk, not yet verified."""

    path: Path
    step: int


def checkpoints(folder: Path) -> list[Checkpoint]:
    """The checkpoints of a run, oldest first; nothing that is half written."""
    if not folder.is_dir():
        return []
    found = [(FOLDER.fullmatch(path.name), path) for path in folder.iterdir() if path.is_dir()]
    return sorted(
        (
            Checkpoint(path=path, step=int(match[1]))
            for match, path in found
            if match and not path.is_symlink()
        ),
        key=lambda checkpoint: checkpoint.step,
    )


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, *, keep: int) -> Path:
    """Write the checkpoint of a step, then delete all but the newest `keep`.

    Raises:
        OSError, StorageError: nothing is left behind and older checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{TEMPORARY_PREFIX}{step}-{uuid.uuid4().hex}"
    target = folder / f"step-{step:07d}"
    try:
        temporary.mkdir()
        _save_tensors(temporary / MODEL, _parameters(model))
        _save_tensors(temporary / OPTIMIZER, _optimizer_tensors(model, optimizer))
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(temporary.iterdir())
        }
        manifest = json.dumps({"format": FORMAT, "step": step, "files": files}, indent=2)
        _write_synced(temporary / MANIFEST, manifest)
        sync_folder(temporary)
        if target.exists():
            shutil.rmtree(target)  # of a crashed run's later step, taken again
        temporary.rename(target)
        sync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old.path)
    return target


def damage(checkpoint: Checkpoint) -> str | None:
    """What is wrong with a checkpoint, naming the file; None where every digest agrees."""
    manifest = checkpoint.path / MANIFEST
    try:
        document = json.loads(read_ordinary_file(manifest))
        files = {
            str(name): (int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in document["files"].items()
        }
        if document["format"] != FORMAT or document["step"] != checkpoint.step:
            return f"{manifest}: of another format or step"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{manifest}: unreadable ({type(error).__name__})"
    if set(files) != {MODEL, OPTIMIZER}:
        return f"{manifest}: lists other files than {MODEL} and {OPTIMIZER}"
    for name, (size, digest) in files.items():
        path = checkpoint.path / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{path}: missing or of another size"
        if sha256_file(path) != digest:
            return f"{path}: its bytes are not those that were saved"
    return None


def latest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that verifies; each damaged one is named through `warn` and passed over."""
    for checkpoint in reversed(checkpoints(folder)):
        wrong = damage(checkpoint)
        if wrong is None:
            return checkpoint
        warn(f"checkpoint passed over: {wrong}")
    return None


def load(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a verified checkpoint's parameters and optimizer state in place.

    Raises:
        ResumeError: tensors that do not fit this model.
    """
    load_parameters(checkpoint, model)
    parameters = dict(model.named_parameters())
    state = _empty_optimizer_tensors(parameters)
    _load_into(checkpoint.path / OPTIMIZER, state)
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {key: state[f"{name}/{key}"] for key in ADAM_STATE}


def load_parameters(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Put a verified checkpoint's parameters in place (ResumeError: they do not fit)."""
    _load_into(checkpoint.path / MODEL, dict(model.named_parameters()))


ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


def discard_temporaries(folder: Path) -> None:
    """Remove what a killed save left behind."""
    if folder.is_dir():
        for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(path)


def _parameters(model: nn.Module) -> dict[str, Tensor]:
    # named_parameters gives a tied tensor once; state_dict would give it twice, which safetensors refuses.
    return {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": optimizer.state[parameter][key].detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key in ADAM_STATE
    }


def _empty_optimizer_tensors(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    shapes = {"step": lambda p: torch.zeros((), dtype=torch.float32, device=p.device)}
    return {
        f"{name}/{key}": shapes.get(key, torch.empty_like)(parameter.detach())
        for name, parameter in parameters.items()
        for key in ADAM_STATE
    }


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # its own error for every failed write
        raise StorageError(
            f"cannot write {path}: {error}; free space, then run the same command again"
        ) from None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load_into(path: Path, targets: dict[str, Tensor] | dict[str, nn.Parameter]) -> None:
    with safe_open(path, framework="pt") as file, torch.no_grad():
        if set(file.keys()) != set(targets):
            raise ResumeError(f"{path}: holds other tensors than this model; it is of another recipe")
        for name, target in targets.items():
            saved = file.get_tensor(name)
            if saved.shape != target.shape:
                raise ResumeError(f"{path}: {name} has shape {tuple(saved.shape)}, not {tuple(target.shape)}")
            target.copy_(saved)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())

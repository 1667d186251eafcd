"""The tensors of a checkpoint: which rows this rank holds, written to files, read back into any layout.

A parameter is a plain tensor, or a DTensor that `fully_shard` cut along dimension 0 (and copied to other
groups of ranks, under hybrid sharding). Its name is the same in every layout, and so is what lies on disk but
for the cuts: a reader takes the rows that it needs, wherever they are.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from data_prep.files import sha256_file
from reproduce.errors import ResumeError
from reproduce.training.checkpoint_manifest import FileEntry, Manifest, Piece, TensorEntry
from reproduce.training.sharding import reshard

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class Held:
    """The rows of one tensor that lie in this rank's memory."""

    local: Tensor
    """(rows, ...) as the whole tensor, or no dimension where that has none; shares memory with it."""
    first: int
    shape: tuple[int, ...]
    """Of the whole tensor."""
    sharded: bool
    writes: bool
    """Whether this rank writes them: of copies on several ranks only one does."""

    @property
    def rows(self) -> int:
        """How many of the whole tensor's rows."""
        return self.local.shape[0] if self.shape else 1


def held(tensor: Tensor, rank: int) -> Held:
    """The rows of a tensor that this rank holds.

    Raises:
        ValueError: a DTensor cut otherwise than along dimension 0.
    """
    if not isinstance(tensor, DTensor):
        return Held(
            local=tensor.detach(), first=0, shape=tuple(tensor.shape), sharded=False, writes=rank == 0
        )
    local = tensor.to_local().detach()
    first, writes, cuts = 0, True, 0
    coordinates = tensor.device_mesh.get_coordinate()
    assert coordinates is not None, "a parameter of ranks that this one is not among"
    for dimension, placement in enumerate(tensor.placements):
        if isinstance(placement, Replicate):
            writes = writes and coordinates[dimension] == 0
        elif type(placement) is Shard and placement.dim == 0 and not cuts:
            # As torch.chunk cuts: equal chunks, a shorter one, then empty ones.
            chunk = -(-tensor.shape[0] // tensor.device_mesh.size(dimension))
            first = min(chunk * coordinates[dimension], tensor.shape[0])
            rows = min(chunk, tensor.shape[0] - first)
            assert local.shape[0] == rows, f"{local.shape[0]} rows where {rows} were expected"
            cuts = 1
        else:
            raise ValueError(f"cannot checkpoint a tensor placed as {tensor.placements}")
    return Held(local=local, first=first, shape=tuple(tensor.shape), sharded=True, writes=writes)


def held_by_model(model: nn.Module, rank: int) -> dict[str, Held]:
    """The rows of every parameter that this rank holds, as `model/NAME`; a tied one has its first name."""
    reshard(model)
    return {f"model/{name}": held(parameter, rank) for name, parameter in model.named_parameters()}


def held_by_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> dict[str, Held]:
    """The rows of AdamW's state, as `optimizer/NAME/exp_avg` and so on; none of parameters never updated."""
    return {
        f"optimizer/{name}/{key}": held(optimizer.state[parameter][key], rank)
        for name, parameter in model.named_parameters()
        for key in ADAM_STATE
        if parameter in optimizer.state
    }


def make_room(model: nn.Module, optimizer: torch.optim.Optimizer, manifest: Manifest) -> None:
    """Give every parameter that had AdamW state when it was saved uninitialised state to load into."""
    for name, parameter in model.named_parameters():
        optimizer.state.pop(parameter, None)
        if f"optimizer/{name}/step" in manifest.tensors:
            # Beside the parameter, where the fused update wants its count of steps too.
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            moments = {key: torch.empty_like(parameter.detach()) for key in ADAM_STATE[1:]}
            optimizer.state[parameter] = {"step": step, **moments}


def on_host(tensors: Mapping[str, Held], *, copy: bool) -> dict[str, Held]:
    """What this rank is to write, in host memory; with `copy`, apart from what training goes on changing."""
    return {
        name: replace(each, local=each.local.to("cpu", copy=copy).contiguous())
        for name, each in tensors.items()
        if each.writes and (each.rows or not each.sharded)
    }


def write_tensors(folder: Path, step: int, rank: int, world: int, tensors: Mapping[str, Held]) -> Manifest:
    """Write and sync this rank's rows, a file for each group; returns their part of the manifest.

    Files are `model.safetensors` and so on, or `model-00003.safetensors` with the rank where tensors are cut.

    Raises:
        OSError, SafetensorError: the disk did not take them.
    """
    suffix = f"-{rank:05d}" if any(each.sharded for each in tensors.values()) else ""
    groups: dict[str, dict[str, Tensor]] = {}
    entries: dict[str, TensorEntry] = {}
    for key, each in tensors.items():
        group, name = key.split("/", 1)
        groups.setdefault(group, {})[name] = each.local
        piece = Piece(file=f"{group}{suffix}.safetensors", first=each.first, rows=each.rows)
        dtype = str(each.local.dtype).removeprefix("torch.")
        entries[key] = TensorEntry(dtype=dtype, shape=each.shape, pieces=(piece,))
    files = {}
    for group, content in groups.items():
        path = folder / f"{group}{suffix}.safetensors"
        save_file(content, path)
        _sync_file(path)
        files[path.name] = FileEntry(bytes=path.stat().st_size, sha256=sha256_file(path))
    return Manifest(step=step, world=world, files=files, tensors=entries)


def read_tensors(folder: Path, manifest: Manifest, group: str, targets: Mapping[str, Held]) -> None:
    """Fill the rows that this rank holds from a verified checkpoint, reading no others.

    Raises:
        ResumeError: the checkpoint's tensors of this group are not these.
    """
    saved = {key: entry for key, entry in manifest.tensors.items() if key.startswith(f"{group}/")}
    if saved.keys() != targets.keys():
        raise ResumeError(f"{folder}: holds other tensors than this model; it is of another recipe")
    with ExitStack() as stack, torch.no_grad():
        files = _Files(folder, stack)
        for key, target in targets.items():
            entry = saved[key]
            if entry.shape != target.shape:
                raise ResumeError(f"{folder}: {key} has shape {entry.shape}, not {target.shape}")
            for piece, start, stop in _overlaps(entry, target):
                rows = files.rows(piece, key, start - piece.first, stop - piece.first)
                place = (
                    target.local[start - target.first : stop - target.first] if target.shape else target.local
                )
                # copy_ would cast and broadcast in silence.
                if (rows.shape, rows.dtype) != (place.shape, place.dtype):
                    raise ResumeError(f"{folder / piece.file}: {key} is not as MANIFEST.json describes it")
                place.copy_(rows)


def read_extra(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    """The tensors that were saved besides model and optimizer, whole, on the host (ResumeError as above)."""
    with ExitStack() as stack:
        files = _Files(folder, stack)
        return {
            key.removeprefix("extra/"): files.rows(piece, key, 0, piece.rows)
            for key, entry in manifest.tensors.items()
            if key.startswith("extra/")
            for piece in entry.pieces  # one: rank 0 wrote it
        }


class _Files:
    """The checkpoint's files, each opened once."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._open: dict[str, Any] = {}

    def rows(self, piece: Piece, key: str, start: int, stop: int) -> Tensor:
        """Rows of a piece, counted from its first; the whole of a tensor without dimensions."""
        name = key.split("/", 1)[1]
        try:
            if piece.file not in self._open:
                file = safe_open(self._folder / piece.file, framework="pt")
                self._open[piece.file] = self._stack.enter_context(file)
            part = self._open[piece.file].get_slice(name)
            rows: Tensor = part[start:stop] if part.get_shape() else self._open[piece.file].get_tensor(name)
        except (SafetensorError, IndexError) as error:
            raise ResumeError(f"{self._folder / piece.file}: {key} cannot be read ({error})") from None
        return rows


def _overlaps(entry: TensorEntry, target: Held) -> Iterator[tuple[Piece, int, int]]:
    """Pieces that hold rows of the target, with the first such row and the one after the last."""
    for piece in entry.pieces:
        start = max(piece.first, target.first)
        stop = min(piece.first + piece.rows, target.first + target.rows)
        if start < stop:
            yield piece, start, stop


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

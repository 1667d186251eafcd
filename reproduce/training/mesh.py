"""Ranks, devices, precision and seeds: the only file of training that knows what hardware it runs on.

One process for now, on the CPU or one GPU.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.errors import StorageError, UserError
from reproduce.errors import RecipeError
from reproduce.recipe import Recipe
from reproduce.recipe.estimate import ADAM_BYTES_A_PARAMETER, parameter_count

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Where this process computes."""

    device: torch.device
    precision: Precision
    """Resolved: never `auto`."""
    rank: int = 0
    world: int = 1

    @property
    def waits_for_device(self) -> bool:
        """Whether reading a number from the device stalls the host until the device has caught up."""
        return self.device.type != "cpu"

    def autocast(self) -> AbstractContextManager[object]:
        """Forward passes run inside this."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def place(self, tokens: NDArray[np.int32]) -> Tensor:
        """Token ids on the device as int64; the copy to a GPU does not stall the host."""
        host = torch.from_numpy(tokens)
        if self.device.type == "cuda":
            host = host.pin_memory()
        return host.to(self.device, non_blocking=True).long()

    def seed(self, seed: int, step: int, part: int = 0) -> None:
        """Seed dropout from (seed, step, micro-batch): any step can be repeated, none depends on another.

        So a resumed run needs no saved generator state, and the two passes over a micro-batch drop the same
        units.
        """
        torch.manual_seed(_mix(seed, step, part))


def make_mesh(precision: Literal["fp32", "bf16", "auto"]) -> Mesh:
    """The mesh of this process.

    Raises:
        UserError: started by a launcher with several processes.
        RecipeError: bf16 asked for where the device only emulates it.
    """
    world = os.environ.get("WORLD_SIZE") or "1"
    if world != "1":
        raise UserError(f"started with WORLD_SIZE={world}, but training runs on one process; start it alone")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    has_bf16 = _has_bf16(device)
    if precision == "bf16" and not has_bf16:
        raise RecipeError(
            f"train.precision: this {device.type} only emulates bf16, slowly; add --set train.precision=fp32"
        )
    use_bf16 = precision == "bf16" or (precision == "auto" and has_bf16 and device.type == "cuda")
    return Mesh(device=device, precision="bf16" if use_bf16 else "fp32")


def check_memory(recipe: Recipe, mesh: Mesh) -> None:
    """Refuse a model whose weights, gradients and optimizer state alone exceed the device's memory.

    Raises:
        StorageError: with both sizes. Activations come on top and are found out by running.
    """
    need = ADAM_BYTES_A_PARAMETER * parameter_count(recipe.model)
    if mesh.device.type == "cuda":
        have = torch.cuda.get_device_properties(mesh.device).total_memory
    else:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        raise StorageError(
            f"{recipe.name} needs at least {need / 1e9:,.1f} GB for weights, gradients and moments, and this "
            f"{mesh.device.type} has {have / 1e9:,.1f} GB; choose a smaller model or a larger machine"
        )


@contextmanager
def named_memory_errors() -> Iterator[None]:
    """Turn a failed allocation, for which every library has its own error, into a StorageError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch raises a plain RuntimeError that only its text tells from others.
        named = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not named and "allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise StorageError(
            "out of memory; lower train.micro_batch (weights stay exact), train.sequence or evaluation.batch"
        ) from None


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        # Natively from compute capability 8.0 (Ampere); older cards emulate it.
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _mix(seed: int, step: int, part: int) -> int:
    """One 63-bit number from three; different triples give different streams."""
    value = 0
    for number in (seed, step, part):
        value = (value ^ number) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 29
    return value >> 1

"""Ranks, devices, precision and seeds: where this process computes, and what it says to the others.

The host's own traffic (texts about files, errors, versions) goes over a gloo group of its own, with a longer
patience than a training step has. How the model is split over ranks: sharding.py.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from data_prep.errors import StorageError, UserError
from reproduce.errors import ExitCode, PeerFailedError, RankError, RecipeError
from reproduce.method import gather_losses, shares
from reproduce.recipe import ParallelSpec, Recipe
from reproduce.recipe.estimate import ADAM_BYTES_A_PARAMETER, parameter_count
from reproduce.training.launch import adopt_scheduler, launched

Precision = Literal["fp32", "bf16"]
Result = TypeVar("Result")

COMPILE_PATIENCE_S = 300
"""Seconds that ranks wait longer for each other where blocks are compiled in the first step."""

HOST_PATIENCE_S = 3600
"""Seconds that ranks wait for each other's disk work: a checkpoint, a store's verification."""


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Where this process computes, among how many."""

    device: torch.device
    precision: Precision
    """Resolved: never `auto`."""
    rank: int = 0
    """Global rank: what samples and weights go by."""
    world: int = 1
    local_rank: int = 0
    """Rank within the node: decides the GPU, and nothing else."""
    local_world: int = 1
    sharded: bool = False
    """Whether parameters are split over ranks; their own policy then sets the precision of a forward pass."""
    host_group: dist.ProcessGroup | None = None
    store: Store | None = None
    """Where ranks first met; answers as long as its host lives, also when collectives no longer do."""

    @property
    def leads(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def waits_for_device(self) -> bool:
        """Whether reading a number from the device stalls the host until the device has caught up."""
        return self.device.type != "cpu"

    def shares(self, samples: int) -> list[int]:
        """How many of a global batch's samples each rank takes."""
        return shares(samples, self.world)

    def autocast(self) -> AbstractContextManager[object]:
        """Forward passes run inside this."""
        if self.precision == "fp32" or self.sharded:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def place(self, tokens: NDArray[np.int32]) -> Tensor:
        """Token ids on the device as int64; the copy to a GPU does not stall the host."""
        return self.put(torch.from_numpy(tokens)).long()

    def put(self, host: Tensor) -> Tensor:
        """A host tensor on the device, without stalling the host."""
        if self.device.type == "cuda":
            host = host.pin_memory()
        return host.to(self.device, non_blocking=True)

    def seed(self, seed: int, step: int, part: int = 0) -> None:
        """Seed dropout from (seed, step, micro-batch, rank): any step can be repeated by itself.

        So a resumed run needs no saved generator state, and the two passes over a micro-batch drop the same
        units.
        """
        torch.manual_seed(_mix(seed, step, part, *([self.rank] if self.rank else [])))

    def gather(self, own_B: Tensor) -> Tensor:
        """Values (B,) of every rank, (W * B,), on the device; B is the same on all ranks."""
        return gather_losses(own_B) if self.world > 1 else own_B

    def sum_over_ranks(self, values: Tensor) -> None:
        """Add every rank's values up, in place."""
        if self.world > 1:
            dist.all_reduce(values)

    def exchange(self, text: str) -> list[str]:
        """Every rank's text, in rank order. A collective of the host: all ranks call it."""
        if self.world == 1:
            return [text]
        data = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(text.encode())]), group=self.host_group)
        width = max(1, max(int(size) for size in sizes))
        padded = torch.zeros(width, dtype=torch.uint8)
        padded[: len(data)] = data[:width]
        texts = [torch.empty(width, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(texts, padded, group=self.host_group)
        return [bytes(t[: int(n)].numpy()).decode() for t, n in zip(texts, sizes, strict=True)]

    def together(self, action: Callable[[], Result]) -> Result:
        """Run something that may fail on any rank; where it fails on one, it fails on all.

        Raises:
            PeerFailedError: on the ranks where it went well, naming the first where it did not.
        """
        if self.world == 1:
            return action()
        error: Exception | None = None
        try:
            result = action()
        except Exception as caught:
            error = caught
        said = self.exchange("" if error is None else json.dumps([_exit_code(error), str(error)]))
        if error is not None:
            raise error
        for rank, text in enumerate(said):
            if text:
                code, message = json.loads(text)
                raise PeerFailedError(f"rank {rank}: {message}", code)
        return result

    def require_equal(self, facts: dict[str, str]) -> None:
        """Refuse to go on where ranks differ in what must be the same on all.

        Raises:
            RankError: naming the fact, the rank and both values.
        """
        for rank, text in enumerate(said := self.exchange(json.dumps(facts))):
            theirs, first = json.loads(text), json.loads(said[0])
            for name in first:
                if theirs.get(name) != first[name]:
                    raise RankError(
                        f"rank {rank} has {name} {theirs.get(name)}, rank 0 has {first[name]}; start all "
                        "ranks with the same command, code and data"
                    )


def make_mesh(precision: Literal["fp32", "bf16", "auto"]) -> Mesh:
    """The mesh of one process that computes alone.

    Raises:
        RecipeError: bf16 asked for where the device only emulates it.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Mesh(device=device, precision=_resolve(precision, device))


@contextmanager
def joined(
    precision: Literal["fp32", "bf16", "auto"], spec: ParallelSpec, host_patience_s: int = HOST_PATIENCE_S
) -> Iterator[Mesh]:
    """The mesh of this rank, among those that a launcher or scheduler started with it; alone without one.

    Args:
        precision: of forward passes.
        spec: how long to wait for each other, and how the model is split.
        host_patience_s: seconds that ranks wait for each other's work on the host.

    Raises:
        UserError: an environment that contradicts itself; ranks that did not come in time.
        RecipeError: bf16 asked for where the device only emulates it.
    """
    adopt_scheduler(os.environ)
    if not launched(os.environ) or os.environ.get("WORLD_SIZE", "1") == "1":
        yield make_mesh(precision)
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = _device_of(local_rank)
    resolved = _resolve(precision, device)
    store, host_group = _join(spec, device, rank, world, host_patience_s)
    try:
        yield Mesh(
            device=device,
            precision=resolved,
            rank=rank,
            world=world,
            local_rank=local_rank,
            local_world=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            sharded=spec.sharding != "none" and world > 1,
            host_group=host_group,
            store=store,
        )
    finally:
        dist.destroy_process_group()


def _join(
    spec: ParallelSpec, device: torch.device, rank: int, world: int, host_patience_s: int
) -> tuple[Store, dist.ProcessGroup]:
    start = timedelta(seconds=spec.start_timeout_s)
    # Ranks may finish compiling at different times.
    step = timedelta(seconds=spec.step_timeout_s + (COMPILE_PATIENCE_S if spec.compile else 0))
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, world = next(iter(rendezvous("env://", rank, world, timeout=start)))
        dist.init_process_group(
            backend, store=PrefixStore("ranks", store), rank=rank, world_size=world, timeout=step
        )
        patience = timedelta(seconds=host_patience_s)
        return store, dist.new_group(backend="gloo", timeout=patience)
    except (RuntimeError, ValueError, OSError) as error:
        why = " ".join(str(error).split())[:200]
        raise RankError(
            f"rank {rank} of {world} did not meet the others at {os.environ.get('MASTER_ADDR')}:"
            f"{os.environ.get('MASTER_PORT')} within {spec.start_timeout_s} s ({why}); check that all ranks "
            "were started and reach that address, or raise parallel.start_timeout_s"
        ) from None


def _device_of(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    # A scheduler may show each task only its own GPU.
    if local_rank >= count and count != 1:
        raise UserError(
            f"local rank {local_rank} has no GPU: {count} are visible; start at most {count} ranks a node"
        )
    device = torch.device("cuda", local_rank % count)
    torch.cuda.set_device(device)
    return device


def _resolve(precision: Literal["fp32", "bf16", "auto"], device: torch.device) -> Precision:
    has_bf16 = _has_bf16(device)
    if precision == "bf16" and not has_bf16:
        raise RecipeError(
            f"train.precision: this {device.type} only emulates bf16, slowly; add --set train.precision=fp32"
        )
    use_bf16 = precision == "bf16" or (precision == "auto" and has_bf16 and device.type == "cuda")
    return "bf16" if use_bf16 else "fp32"


def check_memory(recipe: Recipe, mesh: Mesh) -> None:
    """Refuse a model whose weights, gradients and optimizer state alone exceed the device's memory.

    Raises:
        StorageError: with both sizes. Activations come on top and are found out by running.
    """
    need = ADAM_BYTES_A_PARAMETER * parameter_count(recipe.model)
    if mesh.sharded:
        need //= recipe.parallel.shard_ranks or (
            mesh.world if recipe.parallel.sharding == "full" else mesh.local_world
        )
    if mesh.device.type == "cuda":
        have = torch.cuda.get_device_properties(mesh.device).total_memory
    else:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        raise StorageError(
            f"{recipe.name} needs at least {need / 1e9:,.1f} GB a rank for weights, gradients and moments, "
            f"and this {mesh.device.type} has {have / 1e9:,.1f} GB; choose a smaller model, more ranks with "
            "parallel.sharding=full, or a larger machine"
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


def _exit_code(error: Exception) -> int:
    storage = isinstance(error, (OSError, MemoryError))
    return int(getattr(error, "exit_code", ExitCode.STORAGE if storage else ExitCode.BUG))


def _mix(*numbers: int) -> int:
    """One 63-bit number from several; different ones give different streams."""
    value = 0
    for number in numbers:
        value = (value ^ number) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 29
    return value >> 1

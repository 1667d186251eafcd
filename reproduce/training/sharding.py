"""One model on many ranks: DDP copies, FSDP2 shards, or shards within groups that are copied (hybrid).

`fully_shard` is applied here directly, on every device: through accelerate it would silently be DDP on a CPU.
Gradients are averaged over all ranks in every layout.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from reproduce.errors import RankError, RecipeError
from reproduce.recipe import ParallelSpec
from reproduce.training.mesh import Mesh
from reproduce.training.model import LanguageModel, blocks, compile_blocks, recompute_blocks

_SWITCHES = inspect.signature(DistributedDataParallel.__init__).parameters
_NO_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _SWITCHES else "broadcast_buffers": False
}
"""The networks' only buffers are constants, and need no exchange; torch 2.13 renames the switch."""


def share_model(model: LanguageModel, mesh: Mesh, spec: ParallelSpec) -> nn.Module:
    """The model as the ranks share it: what `train_step` calls. `model` itself keeps its parameters' names.

    Raises:
        RecipeError: groups of shards that do not divide the ranks.
    """
    prepare_blocks(model, spec)
    if not mesh.sharded:
        return copy_to_ranks(model, mesh)
    device_mesh = _device_mesh(mesh, spec)
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = half if mesh.precision == "bf16" else MixedPrecisionPolicy()
    for block in blocks(model.network):
        fully_shard(block, mesh=device_mesh, mp_policy=policy)
    fully_shard(model, mesh=device_mesh, mp_policy=policy)
    return model


def prepare_blocks(model: LanguageModel, spec: ParallelSpec) -> None:
    """Recompute or compile its blocks, as the recipe asks."""
    if spec.recompute == "blocks":
        recompute_blocks(model.network)
    if spec.compile:
        compile_blocks(model.network)


def copy_to_ranks(module: nn.Module, mesh: Mesh) -> nn.Module:
    """The module on this rank's device; several ranks average its gradients (DDP)."""
    module.to(mesh.device)
    if mesh.world == 1:
        return module
    return DistributedDataParallel(
        module,
        device_ids=[mesh.device.index] if mesh.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **_NO_BUFFERS,
    )


def _device_mesh(mesh: Mesh, spec: ParallelSpec) -> DeviceMesh:
    if spec.sharding == "full":
        return init_device_mesh(mesh.device.type, (mesh.world,), mesh_dim_names=("shard",))
    group = spec.shard_ranks or mesh.local_world
    if mesh.world % group:
        raise RecipeError(
            f"parallel.shard_ranks: groups of {group} do not divide {mesh.world} ranks; choose a divisor"
        )
    return init_device_mesh(
        mesh.device.type, (mesh.world // group, group), mesh_dim_names=("replicate", "shard")
    )


def collecting(model: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Forward and backward of one of several micro-batches: ranks exchange gradients with the last one only.

    Fully sharded gradients are reduced each time: kept whole they would cost the memory that sharding saves.
    """
    if isinstance(model, DistributedDataParallel):
        return nullcontext() if last else model.no_sync()
    if isinstance(model, FSDPModule):
        model.set_requires_all_reduce(last)
    return nullcontext()


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale gradients down to a global norm; returns the norm before, a scalar, the same on all ranks."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def reshard(model: nn.Module) -> None:
    """Let every parameter be its shard again: after a forward pass without a backward some are whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def full_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter whole, one at a time, in host memory. A collective where parameters are sharded."""
    reshard(model)
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        yield name, (value.full_tensor() if isinstance(value, DTensor) else value).cpu()


def check_replicas(model: nn.Module, mesh: Mesh, step: int) -> None:
    """Compare the parameters of ranks that must hold the same ones, bit for bit.

    Raises:
        RankError: naming the ranks that differ from the first of their group.
    """
    reshard(model)
    digest = _digest(list(model.parameters()))
    said = [text.split() for text in mesh.exchange(f"{_shard_index(model)} {digest}")]
    first: dict[str, str] = {}
    wrong = [rank for rank, (shard, found) in enumerate(said) if first.setdefault(shard, found) != found]
    if wrong:
        raise RankError(
            f"after step {step} the parameters of rank {', '.join(map(str, wrong))} are no longer those of "
            "the ranks that hold the same ones; continue from the last checkpoint with the same command, and "
            "suspect the hardware if it happens again"
        )


def _digest(parameters: Sequence[nn.Parameter]) -> int:
    """A number that changes with any bit of the own parameters."""
    total = torch.zeros((), dtype=torch.int64, device=parameters[0].device)
    for index, parameter in enumerate(parameters):
        value = parameter.detach()
        local = value.to_local() if isinstance(value, DTensor) else value
        bits = local.contiguous().view(torch.int32).flatten().long()
        # Odd factors by place: two values that change places change the sum.
        places = torch.arange(len(bits), device=bits.device) * 2 + 1
        total += (bits * places).sum() * (2 * index + 1)
    return int(total.item())


def _shard_index(model: nn.Module) -> int:
    """Which part of the parameters this rank holds; ranks with the same index are replicas."""
    parameter = next(model.parameters())
    if not isinstance(parameter, DTensor):
        return 0
    return int(parameter.device_mesh.get_local_rank("shard"))

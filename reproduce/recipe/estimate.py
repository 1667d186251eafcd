"""What a run will cost, from the recipe alone: FLOPs, hours, memory, disk. No torch.

Hours need the arithmetic that a device sustains. For the GPUs in `DEVICES` that is a share of the printed
peak, and the shares are assumptions from others' published runs, none measured here; `measure_flops` measures
a CPU.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from reproduce.recipe.memory import (
    ADAM_BYTES_A_PARAMETER,
    Device,
    Layout,
    Memory,
    Precision,
    parameter_count,
    peak_memory,
)
from reproduce.recipe.schema import ModelSpec, Recipe

__all__ = [
    "ADAM_BYTES_A_PARAMETER",
    "CPU_SHARE",
    "DEVICES",
    "UNSEEN_BYTES",
    "Accelerator",
    "Estimate",
    "Layout",
    "estimate",
    "flops_a_token",
    "measure_flops",
    "parameter_count",
]

CHECKPOINT_BYTES_A_PARAMETER = 12
"""Weight and two moments, float32; of all ranks' files together."""

MODEL_BYTES_A_PARAMETER = 4
"""The exported model, float32."""

LOG_LINE_BYTES = 1500
"""A line of metrics.jsonl, at most."""

CPU_SHARE = 0.35
"""Model FLOPs over matrix-product FLOPs, assumed: 0.6 was seen on a quiet core, half of it on a busy one."""

UNSEEN_BYTES = 2 * 10**9
"""What a GPU holds beside the tensors counted in memory.py: context, workspaces, fragmentation. Assumed."""


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A GPU by its data sheet."""

    bf16_flops: float
    """Dense bf16 matrix products, FLOP/s."""
    fp32_flops: float
    """Float32 outside tensor cores, FLOP/s: torch's default for float32 products."""
    memory_bytes: int
    """As the driver reports it."""
    eager_share: float
    """Share of the bf16 peak that a training step reaches without torch.compile."""
    compiled_share: float
    """The same with torch.compile."""

    def sustained(self, precision: Precision, compiled: bool) -> float:
        """Model FLOP/s that a training step reaches, assumed."""
        if precision == "fp32":
            return FP32_SHARE * self.fp32_flops
        return (self.compiled_share if compiled else self.eager_share) * self.bf16_flops


FP32_SHARE = 0.7
"""Of the float32 peak: a 124M GPT-2 in float32 at 16.4k tokens/s on an A100 (the nanoGPT lecture)."""

DEVICES: Mapping[str, Accelerator] = {
    # Compiled: nanoGPT's lecture 50% on an A100, llm.c 64%, fms-fsdp 68% for 7B. Eager: fms-fsdp's gap of a
    # tenth for 7B, the lecture's factor of two for 124M; between them.
    "a100": Accelerator(
        bf16_flops=312e12,
        fp32_flops=19.5e12,
        memory_bytes=79 * 2**30,
        eager_share=0.35,
        compiled_share=0.5,
    ),
    # Compiled: modded-nanogpt 40% for 124M, picotron 38% and fms-fsdp 46% for 7B, torchtitan 41% for 8B at
    # 8,192 tokens, and 36% there without.
    "h100": Accelerator(
        bf16_flops=989e12,
        fp32_flops=67e12,
        memory_bytes=79 * 2**30,
        eager_share=0.3,
        compiled_share=0.4,
    ),
    "h200": Accelerator(
        bf16_flops=989e12,
        fp32_flops=67e12,
        memory_bytes=139 * 2**30,
        eager_share=0.3,
        compiled_share=0.4,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of a run."""

    parameters: int
    tokens: int
    steps: int
    layout: Layout
    micro_batches: int
    """Forward passes of a step on one rank, scoring passes not counted."""
    flops: float
    """FLOPs of the whole run on all ranks, scoring passes and recomputed blocks included."""
    memory: Memory
    """Of one rank."""
    checkpoint_bytes: int
    """Checkpoints kept, and one more while saving."""
    model_bytes: int
    """The exported model."""
    log_bytes: int
    store_bytes: int
    """The training tokens that the run reads once, as the token store holds them."""

    @property
    def memory_bytes(self) -> int:
        """Peak of one rank."""
        return self.memory.total

    @property
    def disk_bytes(self) -> int:
        """What the run folder takes at most."""
        return self.checkpoint_bytes + self.model_bytes + self.log_bytes


def flops_a_token(model: ModelSpec, sequence: int) -> float:
    """Forward and backward: 6N + 12 L D T (nanoGPT's formula; attention counted in full, not causally)."""
    return 6.0 * parameter_count(model) + 12.0 * model.layers * model.width * sequence


def estimate(
    recipe: Recipe, precision: Precision, layout: Layout | None = None, device: Device = "cpu"
) -> Estimate:
    """The cost of a recipe.

    Args:
        recipe: resolved.
        precision: as the device resolves it.
        layout: ranks; None is one.
        device: what the ranks compute on.
    """
    layout = layout or Layout()
    train, parameters = recipe.train, parameter_count(recipe.model)
    return Estimate(
        parameters=parameters,
        tokens=train.tokens,
        steps=train.steps,
        layout=layout,
        micro_batches=recipe.micro_batches(layout.ranks),
        flops=train.tokens * _flops_a_trained_token(recipe, layout),
        memory=peak_memory(recipe, precision, layout, device),
        checkpoint_bytes=(train.keep_checkpoints + 1) * CHECKPOINT_BYTES_A_PARAMETER * parameters,
        model_bytes=MODEL_BYTES_A_PARAMETER * parameters,
        log_bytes=(train.steps // train.log_every_steps + 2) * LOG_LINE_BYTES,
        store_bytes=train.tokens * (2 if recipe.model.vocab <= 2**16 else 4),
    )


def _flops_a_trained_token(recipe: Recipe, layout: Layout) -> float:
    """With the forward passes that come on top; a forward pass is a third of forward and backward."""
    base = flops_a_token(recipe.model, recipe.train.sequence)
    passes = recipe.micro_batches(layout.ranks)
    scored = max(passes - recipe.parallel.kept_graphs, 0) if recipe.weighs_twice else 0
    total = base * (1 + scored / passes / 3)
    if recipe.parallel.recompute == "blocks":
        total += (base - 6.0 * recipe.model.vocab * recipe.model.width) / 3
    return total


def measure_flops(seconds: float = 0.4) -> float:
    """FLOP/s of this machine's CPU in float32 matrix products, measured for about this long."""
    import numpy as np

    size = 1024
    left = np.ones((size, size), dtype=np.float32)
    right = np.ones((size, size), dtype=np.float32)
    best, start = 0.0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        began = time.perf_counter()
        left @ right
        best = max(best, 2.0 * size**3 / (time.perf_counter() - began))
    return best

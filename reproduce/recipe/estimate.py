"""What a run will cost, from the recipe alone: parameters, FLOPs, memory, disk. No torch.

Time needs one more number, the arithmetic this machine sustains; `measure_flops` gives it.
"""

import time
from dataclasses import dataclass

from reproduce.recipe.schema import ModelSpec, Recipe

ADAM_BYTES_A_PARAMETER = 16
"""Weight, gradient and two moments, float32."""

CHECKPOINT_BYTES_A_PARAMETER = 12
"""Weight and two moments, float32."""

ACTIVATION_BYTES = {"fp32": 68, "bf16": 34}
"""A token, unit of width and layer: 34 in half precision without attention scores (Korthikanti 2022)."""

SHARE_OF_PEAK = {"cpu": 0.35, "gpu": 0.4}
"""Model FLOPs over matrix-product FLOPs that a training step of this size reaches."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of a run."""

    parameters: int
    tokens: int
    steps: int
    flops: float
    """Model FLOPs of the whole run, scoring passes of micro-batches included."""
    memory_bytes: int
    """Peak of one process: parameters, gradients, optimizer, activations, logits."""
    disk_bytes: int
    """Checkpoints kept, one more while saving, the exported model and the logs."""


def parameter_count(model: ModelSpec) -> int:
    """Trainable parameters, tied matrices once; equals the built network's."""
    width, inner = model.width, model.inner
    embeddings = model.vocab * width * (1 if model.tie_embeddings else 2)
    if model.family == "gpt2":
        attention = 4 * width * width + 4 * width
        feed_forward = 2 * width * inner + inner + width
        norms = 4 * width
        return (
            embeddings + model.context * width + model.layers * (attention + feed_forward + norms) + 2 * width
        )
    return embeddings + model.layers * (4 * width * width + 3 * width * inner + 2 * width) + width


def flops_a_token(model: ModelSpec, sequence: int) -> float:
    """Forward and backward: 6N + 12 L D T (nanoGPT's formula; attention counted in full, not causally)."""
    return 6.0 * parameter_count(model) + 12.0 * model.layers * model.width * sequence


def estimate(recipe: Recipe, precision: str) -> Estimate:
    """The cost of a recipe on one process.

    Args:
        recipe: resolved.
        precision: fp32 or bf16, as the device resolves it.
    """
    model, train = recipe.model, recipe.train
    parameters = parameter_count(model)
    rows = (train.micro_batch or train.global_batch) * train.sequence
    activations = ACTIVATION_BYTES[precision] * rows * model.width * model.layers
    logits = rows * model.vocab * (2 if precision == "bf16" else 4)
    half_weights = 2 * parameters if precision == "bf16" else 0
    scored = (recipe.micro_batches() - 1) / recipe.micro_batches()
    extra = scored / 3 if recipe.reweighting.strategy != "uniform" else 0.0
    lines = train.steps // train.log_every_steps * 700
    return Estimate(
        parameters=parameters,
        tokens=train.tokens,
        steps=train.steps,
        flops=flops_a_token(model, train.sequence) * train.tokens * (1 + extra),
        memory_bytes=ADAM_BYTES_A_PARAMETER * parameters + half_weights + activations + logits,
        disk_bytes=(train.keep_checkpoints + 1) * CHECKPOINT_BYTES_A_PARAMETER * parameters
        + 4 * parameters
        + lines,
    )


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

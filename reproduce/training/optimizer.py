"""AdamW with decay groups, and the learning rate of every step."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from reproduce.recipe import OptimizerSpec


def learning_rate(spec: OptimizerSpec, steps: int, step: int) -> float:
    """Learning rate of a step, 1 <= step <= steps.

    Linear from `warmup_start_lr` to `lr` over the warm-up, reached at its last step; then half a cosine
    to `end_lr`, reached at the last step (METHOD: Table 7, "Linear Warmup Cosine").
    """
    if step <= spec.warmup_steps:
        share = step / spec.warmup_steps
        return spec.warmup_start_lr + (spec.lr - spec.warmup_start_lr) * share
    progress = (step - spec.warmup_steps) / (steps - spec.warmup_steps)
    return spec.end_lr + 0.5 * (spec.lr - spec.end_lr) * (1.0 + math.cos(math.pi * progress))


def decay_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, object]]:
    """Matrices decay; biases and normalisation gains, which are vectors, do not."""
    matrices: list[Tensor] = []
    vectors: list[Tensor] = []
    for _, parameter in parameters:
        (matrices if parameter.dim() >= 2 else vectors).append(parameter)
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, spec: OptimizerSpec) -> torch.optim.AdamW:
    """AdamW over a model's parameters, each tied one once.

    Fused, which also gives the update a switch on the device: with `optimizer.found_inf` at 1 a step
    changes nothing.
    """
    return torch.optim.AdamW(
        decay_groups(model.named_parameters(), spec.weight_decay),
        lr=spec.lr,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        fused=True,
    )

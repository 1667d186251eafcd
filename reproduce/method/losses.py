"""Per-sample loss, from logits or from hidden states and the head's weight.

Shapes: B own samples, T tokens of a sequence, V vocabulary, D width, N rows that predict a token.
Losses are reduced in float32 whatever the dtype of the logits: with bf16 losses the normalisation would
see a grid of 1/64 nat (a defect of the released Llama code).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_losses(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """Mean token cross entropy of each sequence (Algorithm 1, line 1).

    Args:
        logits: (B, T, V); position t predicts label t+1.
        labels: (B, T) token ids, not shifted; `ignore_index` does not count.
        ignore_index: label that is no target.

    Returns:
        (B,) float32, nats a token. A sequence without any target has loss 0.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if logits.dim() != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            f"logits must be (B, T, V) and labels (B, T), found {tuple(logits.shape)}, {tuple(labels.shape)}"
        )
    targets = labels[:, 1:]
    token_losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=ignore_index, reduction="none"
    )
    return _mean_over_targets(token_losses.view(targets.shape), targets != ignore_index)


def head_losses(hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """The same losses from the last hidden states and the output matrix, logits never leaving this call.

    The sample weights arrive after the forward. The forward keeps the unweighted gradient of the
    logits in the logits' own buffer, the backward folds the weights into the narrow operands: three matrix
    products and one N x V buffer, as for an unweighted mean.

    Args:
        hidden: (B, T, D), after the final normalisation.
        weight: (V, D) output matrix, tied or not; used in the dtype of `hidden`.
        labels: (B, T) token ids, not shifted; `ignore_index` does not count.
        ignore_index: label that is no target.

    Returns:
        (B,) float32, nats a token, with gradients for `hidden` and `weight` (no second derivative).
    """
    if hidden.dim() != 3 or labels.shape != hidden.shape[:2]:
        raise ValueError(
            f"hidden must be (B, T, D) and labels (B, T), found {tuple(hidden.shape)}, {tuple(labels.shape)}"
        )
    targets = labels[:, 1:]
    active = targets != ignore_index
    rows = hidden[:, :-1].reshape(-1, hidden.shape[-1])
    flat_targets = targets.masked_fill(~active, 0).reshape(-1)
    weight = weight.to(rows.dtype)
    if torch.is_grad_enabled():
        token_losses: Tensor = _LateHead.apply(rows, weight, flat_targets)  # type: ignore[no-untyped-call]
    else:
        token_losses = _losses_alone(rows, weight, flat_targets)
    return _mean_over_targets(token_losses.view(targets.shape), active)


def _mean_over_targets(token_losses: Tensor, active: Tensor) -> Tensor:
    # clamp_min: a sample with no target gives 0 and a zero gradient, not 0/0 for the whole batch.
    return (token_losses * active).sum(dim=1) / active.sum(dim=1).clamp_min(1)


class _LateHead(torch.autograd.Function):
    """Cross entropy of every row, whose upstream gradient is known only after all losses are."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """rows (N, D), weight (V, D), targets (N,) -> losses (N,) float32."""
        logits = rows @ weight.T
        losses = torch.empty(
            rows.shape[0], dtype=torch.promote_types(rows.dtype, torch.float32), device=rows.device
        )
        for start in range(0, rows.shape[0], ROWS_A_CHUNK):
            chunk = slice(start, start + ROWS_A_CHUNK)
            losses[chunk] = _losses_and_gradient_in_place(logits[chunk], targets[chunk])
        ctx.save_for_backward(rows, weight, logits)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """upstream (N,): the weight of every row's loss."""
        rows, weight, dlogits = ctx.saved_tensors
        # Scaled in the weights' float32 before rounding: a bf16 weight would be off by up to 1/256.
        scale = upstream.unsqueeze(1)
        drows = (scale * (dlogits @ weight)).to(rows.dtype) if ctx.needs_input_grad[0] else None
        dweight = dlogits.T @ (scale * rows).to(rows.dtype) if ctx.needs_input_grad[1] else None
        return drows, dweight, None


ROWS_A_CHUNK = 512
"""Rows whose logits are turned into their gradient at a time: few enough to stay in a cache."""

SCORED_ROWS_A_CHUNK = 4096
"""Rows whose logits are alive at a time where no gradient will be asked for."""


def _losses_alone(rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Losses (N,) without a graph, and without N x V logits."""
    size = SCORED_ROWS_A_CHUNK
    chunks = zip(torch.split(rows, size), torch.split(targets, size), strict=True)
    return torch.cat([F.cross_entropy((r @ weight.T).float(), t, reduction="none") for r, t in chunks])


def _losses_and_gradient_in_place(logits: Tensor, targets: Tensor) -> Tensor:
    """Losses (n,) of the rows; `logits` (n, V) becomes softmax(logits) - onehot(targets), unweighted."""
    half = logits.dtype in (torch.bfloat16, torch.float16)
    exact = logits.float() if half else logits  # half precision: a temporary of one chunk
    target_logits = exact.gather(1, targets.unsqueeze(1))
    top = exact.amax(dim=1, keepdim=True)
    target_logits = target_logits - top  # before `exact`, which may be `logits`, is overwritten
    exact.sub_(top).exp_()
    total = exact.sum(dim=1, keepdim=True)
    exact.div_(total)
    exact.scatter_add_(1, targets.unsqueeze(1), torch.full_like(target_logits, -1.0))
    if half:
        logits.copy_(exact)
    return (total.log() - target_logits).squeeze(1)

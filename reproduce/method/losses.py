"""Per-sample loss, from logits or from hidden states and the head's weight.

Shapes: B own samples, T tokens of a sequence, V vocabulary, P vocabulary padded for alignment, D width,
N rows that predict a token.
Losses are reduced in float32 whatever the dtype of the logits: with bf16 losses the normalisation would
see a grid of 1/64 nat (a defect of the released Llama code).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    products and one N x V buffer, as for an unweighted mean. On a GPU one compiled kernel turns logits into
    their gradient; nothing synchronises.

    Args:
        hidden: (B, T, D), after the final normalisation.
        weight: (V, D) output matrix, tied or not.
        labels: (B, T) token ids, not shifted; `ignore_index` does not count.
        ignore_index: label that is no target.

    Returns:
        (B,) float32, nats a token, with gradients for `hidden` and `weight` (no second derivative). Matrix
        products run in autocast's dtype where that is on, else in the dtype of `hidden`.

    Raises:
        ValueError: shapes that do not belong together.
    """
    head = head_operands(hidden, weight, labels, ignore_index)
    return head.sample_means(_late_losses(head))


def head_token_losses(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """`head_losses` before the mean: the loss of every token, (B, T - 1) float32, with the same gradients.

    Labels of -100 are no target, and have loss 0. Raises ValueError as `head_losses`.
    """
    head = head_operands(hidden, weight, labels)
    return _late_losses(head).view(head.active_BS.shape) * head.active_BS


@dataclass(frozen=True, kw_only=True)
class HeadOperands:
    """What every head works on: the rows that predict a token, the output matrix and the targets."""

    rows_ND: Tensor
    """(N, D) in the dtype of the matrix products; N = B x (T - 1)."""
    weight_VD: Tensor
    """(V, D) in the same dtype."""
    targets_N: Tensor
    """(N,) token ids; 0 where there is no target."""
    active_BS: Tensor
    """(B, T - 1) bool, where there is a target."""

    def sample_means(self, token_losses_N: Tensor) -> Tensor:
        """Losses (N,) of all rows -> (B,) means over each sequence's targets; 0 where it has none."""
        return _mean_over_targets(token_losses_N.view(self.active_BS.shape), self.active_BS)


def _late_losses(head: HeadOperands) -> Tensor:
    """Losses (N,) of all rows, whose weights may arrive after the forward."""
    if not torch.is_grad_enabled():
        return losses_alone(head.rows_ND, head.weight_VD, head.targets_N)
    rows = head.rows_ND
    with torch.autocast(rows.device.type, enabled=False):
        losses: Tensor = _LateHead.apply(  # type: ignore[no-untyped-call]
            rows, head.weight_VD, head.targets_N, rows.is_cuda
        )
    return losses


def head_operands(hidden: Tensor, weight: Tensor, labels: Tensor, ignore_index: int = -100) -> HeadOperands:
    """Check and flatten a head's arguments (those of `head_losses`, with its ValueError)."""
    if hidden.dim() != 3 or labels.shape != hidden.shape[:2]:
        raise ValueError(
            f"hidden must be (B, T, D) and labels (B, T), found {tuple(hidden.shape)}, {tuple(labels.shape)}"
        )
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[2]:
        raise ValueError(
            f"weight must be (V, D) for hidden (B, T, D), found {tuple(weight.shape)}, {tuple(hidden.shape)}"
        )
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    targets = labels[:, 1:]
    active = targets != ignore_index
    return HeadOperands(
        rows_ND=hidden[:, :-1].reshape(-1, hidden.shape[-1]).to(dtype),
        weight_VD=weight.to(dtype),
        targets_N=targets.masked_fill(~active, 0).reshape(-1),
        active_BS=active,
    )


def _mean_over_targets(token_losses: Tensor, active: Tensor) -> Tensor:
    # clamp_min: a sample with no target gives 0 and a zero gradient, not 0/0 for the whole batch.
    return (token_losses * active).sum(dim=1) / active.sum(dim=1).clamp_min(1)


class _LateHead(torch.autograd.Function):
    """Cross entropy of every row, whose upstream gradient is known only after all losses are."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, fused: bool) -> Tensor:
        """rows (N, D), weight (V, D), targets (N,) -> losses (N,) float32.

        `fused`: all rows in one compiled kernel, for GPUs. Else in chunks that stay in a CPU's cache.
        """
        ctx.vocab = weight.shape[0]
        if fused:
            weight = _aligned(weight)
            logits = rows @ weight.T
            losses = _fused(_gradient_in_place, logits, targets, ctx.vocab)
            ctx.save_for_backward(rows, weight, logits)
            return losses
        # A buffer a chunk: small ones are handed out again, a large one's pages are mapped anew every step.
        chunks = [chunk @ weight.T for chunk in torch.split(rows, ROWS_A_CHUNK)]
        parts = zip(chunks, torch.split(targets, ROWS_A_CHUNK), strict=True)
        losses = torch.cat([_losses_and_gradient_in_place(*part) for part in parts])
        ctx.save_for_backward(rows, weight, *chunks)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """upstream (N,): the weight of every row's loss."""
        rows, weight, *chunks = ctx.saved_tensors
        # Scaled in the weights' float32 before rounding: a bf16 weight would be off by up to 1/256.
        scale = upstream.unsqueeze(1)
        drows = dweight = None
        if ctx.needs_input_grad[0]:
            drows = (
                torch.cat([dlogits @ weight for dlogits in chunks]) if len(chunks) > 1 else chunks[0] @ weight
            )
            drows = (scale * drows).to(rows.dtype)
        if ctx.needs_input_grad[1]:
            dweight = _product_of_chunks(chunks, (scale * rows).to(rows.dtype))[: ctx.vocab]
        return drows, dweight, None, None


def _product_of_chunks(chunks: Sequence[Tensor], rows: Tensor) -> Tensor:
    """(V, D) product of the chunks' rows, (n, V) each, transposed, with rows (N, D)."""
    if len(chunks) == 1:
        return chunks[0].T @ rows
    # Summed in float32: a half-precision running sum would lose digits with every chunk.
    total = torch.zeros(chunks[0].shape[1], rows.shape[1], dtype=_wide(rows.dtype), device=rows.device)
    start = 0
    for dlogits in chunks:
        part = rows[start : start + len(dlogits)]
        start += len(dlogits)
        if total.dtype == rows.dtype:
            total.addmm_(dlogits.T, part)
        else:
            total += dlogits.T @ part
    return total.to(rows.dtype)


ROWS_A_CHUNK = 512
"""Rows whose logits are turned into their gradient at a time: few enough to stay in a cache."""

SCORED_ROWS_A_CHUNK = 4096
"""Rows whose logits are alive at a time where no gradient will be asked for."""

ALIGNED_VOCAB = 64
"""On a GPU the vocabulary is padded to a multiple of this: matrix products on rows that start at odd
addresses (GPT-2's 50,257) fall back to slow kernels."""


def losses_alone(rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Losses (N,) float32 of rows (N, D) without a graph, and without N x V logits."""
    vocab = weight.shape[0]
    weight = _aligned(weight) if rows.is_cuda else weight

    def losses(chunk: Tensor, chunk_targets: Tensor) -> Tensor:
        logits = chunk @ weight.T
        if chunk.is_cuda:
            return _fused(_losses, logits, chunk_targets, vocab)
        return F.cross_entropy(logits.to(_wide(logits.dtype)), chunk_targets, reduction="none")

    size = SCORED_ROWS_A_CHUNK
    chunks = zip(torch.split(rows, size), torch.split(targets, size), strict=True)
    with torch.autocast(rows.device.type, enabled=False):
        return torch.cat([losses(*chunk) for chunk in chunks])


def _wide(dtype: torch.dtype) -> torch.dtype:
    """At least float32."""
    return torch.promote_types(dtype, torch.float32)


def _aligned(weight: Tensor) -> Tensor:
    """weight (V, D) -> (P, D), rows of zeros below."""
    return F.pad(weight, (0, 0, 0, -weight.shape[0] % ALIGNED_VOCAB))


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


RowPass = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(logits (n, P), targets (n,), their logits (n,), V) -> losses (n,): plain code, fast once compiled."""


def _gradient_in_place(logits: Tensor, targets: Tensor, target_logits: Tensor, vocab: int) -> Tensor:
    """As `_losses_and_gradient_in_place`, for logits whose columns from `vocab` on are padding."""
    exact, top, total = _softmax_parts(logits, vocab)
    columns = torch.arange(logits.shape[1], device=logits.device)
    onehot = columns == targets.unsqueeze(1)
    logits.copy_((exact - top).exp() / total - onehot.to(exact.dtype))
    return total.squeeze(1).log() - (target_logits - top.squeeze(1))


def _losses(logits: Tensor, _targets: Tensor, target_logits: Tensor, vocab: int) -> Tensor:
    _, top, total = _softmax_parts(logits, vocab)
    return total.squeeze(1).log() - (target_logits - top.squeeze(1))


def _softmax_parts(logits: Tensor, vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits in float32 with padding at -inf, their maximum, and the sum of exp(logits - maximum)."""
    exact = logits.to(_wide(logits.dtype))
    if vocab < logits.shape[1]:
        columns = torch.arange(logits.shape[1], device=logits.device)
        exact = exact.masked_fill(columns >= vocab, float("-inf"))
    top = exact.amax(dim=1, keepdim=True)
    return exact, top, (exact - top).exp().sum(dim=1, keepdim=True)


def _fused(row_pass: RowPass, logits: Tensor, targets: Tensor, vocab: int) -> Tensor:
    """Run a row pass as compiled kernels."""
    # Outside the compiled code: read before the kernel overwrites it, in whatever order.
    target_logits = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    if not torch.compiler.is_compiling():
        # One kernel for any number of rows, but every vocabulary its own: its size decides the alignment.
        for by_row in (logits, targets, target_logits):
            torch._dynamo.maybe_mark_dynamic(by_row, 0)
        torch._dynamo.mark_static(logits, 1)
    return _compiled(row_pass)(logits, targets, target_logits, vocab)


@functools.cache
def _compiled(row_pass: RowPass) -> RowPass:
    return torch.compile(row_pass, fullgraph=True)

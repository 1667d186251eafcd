"""Ways from hidden states to per-sample losses, and the test that each must pass before it may train.

Shapes: B own samples, T tokens of a sequence, V vocabulary, D width, N rows that predict a token.

The weights of the samples are known only after the forward pass, so a head must honour a different upstream
gradient for every row. Kernels made for the mean of all rows often do not: Liger up to 0.8.1 scales every
gradient by the first row's. `accepted_head` finds that out on the device at hand.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reproduce.method.losses import head_losses, head_operands, losses_alone

Head = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden (B, T, D), output matrix (V, D), labels (B, T) not shifted, -100 is no target) -> losses (B,)
float32, nats a token, with gradients for the first two under any weights of the samples."""

LIGER_SINCE = (0, 8, 2)
"""First release of liger-kernel whose gradients are right under per-row weights."""


def chunked_losses(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """`head_losses` without an N x V buffer, in plain torch: the backward computes the logits again.

    Four matrix products instead of three; only a few thousand rows' logits are alive at a time.
    """
    head = head_operands(hidden, weight, labels)
    if not torch.is_grad_enabled():
        return head.sample_means(losses_alone(head.rows_ND, head.weight_VD, head.targets_N))
    with torch.autocast(hidden.device.type, enabled=False):
        token_losses: Tensor = _ChunkedHead.apply(  # type: ignore[no-untyped-call]
            head.rows_ND, head.weight_VD, head.targets_N, rows_a_chunk(hidden.device)
        )
    return head.sample_means(token_losses)


def rows_a_chunk(device: torch.device) -> int:
    """Rows whose logits are alive at a time: enough to fill a GPU, few enough for a CPU's cache."""
    return 4096 if device.type == "cuda" else 512


class _ChunkedHead(torch.autograd.Function):
    """Cross entropy of every row, chunk by chunk, forward and backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, size: int) -> Tensor:
        """rows (N, D), weight (V, D), targets (N,) -> losses (N,) float32; keeps logsumexp (N,)."""
        losses, normalisers = [], []
        for r, t in zip(torch.split(rows, size), torch.split(targets, size), strict=True):
            logits = _logits(r, weight)
            normaliser = logits.logsumexp(dim=1)
            normalisers.append(normaliser)
            losses.append(normaliser - logits.gather(1, t.unsqueeze(1)).squeeze(1))
        ctx.save_for_backward(rows, weight, targets, torch.cat(normalisers))
        ctx.size = size
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """upstream (N,): the weight of every row's loss."""
        rows, weight, targets, normalisers = ctx.saved_tensors
        drows = torch.empty_like(rows)
        # float32: bf16 sums over chunks would lose what a late chunk adds.
        dweight = torch.zeros_like(weight, dtype=normalisers.dtype)
        parts = (torch.split(each, ctx.size) for each in (rows, targets, normalisers, upstream, drows))
        for r, t, normaliser, g, dr in zip(*parts, strict=True):
            dlogits = _logits(r, weight).sub_(normaliser.unsqueeze(1)).exp_()
            dlogits.scatter_add_(1, t.unsqueeze(1), dlogits.new_full((len(t), 1), -1.0))
            dlogits = dlogits.mul_(g.unsqueeze(1)).to(rows.dtype)
            torch.mm(dlogits, weight, out=dr)
            if dweight.dtype == dlogits.dtype:
                dweight.addmm_(dlogits.T, r)
            else:
                dweight.add_(dlogits.T @ r)
        return drows, dweight.to(weight.dtype), None, None


def _logits(rows: Tensor, weight: Tensor) -> Tensor:
    logits = rows @ weight.T
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def linear_cross_entropy_losses(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """`head_losses` by torch's own chunked F.linear_cross_entropy (torch 2.13 and later).

    It returns token losses in the dtype of its operands. In float32 that is exact. In bfloat16 each token
    loss is rounded to 8 bits (by up to 0.016 nat near 7) before our float32 mean over the sample averages
    most of it out: measured at width 64, vocabulary 1,000 and losses near 7.4, samples of 127 tokens are off
    by 0.0009 nat on average and 0.0023 at most, of 511 tokens by 0.0004 and 0.0017. `late` and `chunked`
    round no loss; what the operands' rounding leaves is a tenth of that.
    """
    head = head_operands(hidden, weight, labels)
    function: Any = vars(F)["linear_cross_entropy"]  # torch 2.11 and 2.12 do not have it
    options = vars(torch.nn)["LinearCrossEntropyOptions"](batch_chunk_size=rows_a_chunk(hidden.device))
    with torch.autocast(hidden.device.type, enabled=False):
        token_losses: Tensor = function(
            head.rows_ND, head.weight_VD, head.targets_N, reduction="none", options=options
        )
    return head.sample_means(token_losses.float())


def liger_losses(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """`head_losses` by liger-kernel's fused linear cross entropy (Triton; 0.8.2 and later).

    Synchronises the device in forward and backward, where it counts targets.
    """
    functional = importlib.import_module("liger_kernel.transformers.functional")
    head = head_operands(hidden, weight, labels)
    with torch.autocast(hidden.device.type, enabled=False):
        token_losses: Tensor = functional.liger_fused_linear_cross_entropy(
            head.rows_ND, head.weight_VD, head.targets_N, reduction="none", accum_dtype=torch.float32
        )
    return head.sample_means(token_losses.float())


def released_bf16_losses(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The released Llama code's losses: logits, token losses and each sample's mean all in bfloat16.

    A defect, for comparison only (`compatibility.bf16_losses`): near 2.5 nats the losses lie on a grid of
    1/64, so the normalisation sees a few dozen levels. Plain autograd, three N x V buffers.
    """
    head = head_operands(hidden, weight, labels)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = (head.rows_ND @ head.weight_VD.T).bfloat16()
        token_losses = F.cross_entropy(logits, head.targets_N, reduction="none")
        # As a GPU's mean of bf16 numbers: summed in float32, rounded once.
        return head.sample_means(token_losses.float()).bfloat16().float()


HEADS: Mapping[str, Head] = {
    "late": head_losses,
    "chunked": chunked_losses,
    "linear_cross_entropy": linear_cross_entropy_losses,
    "liger": liger_losses,
    "released_bf16": released_bf16_losses,
}
"""Every head by the name that a recipe gives it; `late` is the default."""


def accepted_head(name: str, device: torch.device) -> Head:
    """A head that has just passed its test on this device; a few seconds on a GPU, for compilation.

    Raises:
        ValueError: no such head, its library is missing or too old, or it fails `check_head`.
    """
    if name not in HEADS:
        raise ValueError(f"unknown head {name!r}; known: {', '.join(HEADS)}")
    missing = _missing(name, device)
    if missing is not None:
        raise ValueError(f"head {name} is not available: {missing}; choose late or chunked")
    try:
        check_head(HEADS[name], device, tolerance=ROUNDED if name == "released_bf16" else None)
    except Exception as error:  # foreign kernels and compilers fail in a hundred ways
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"head {name} fails its test on {device.type}: {why}; choose {_instead(name)}"
        ) from None
    return HEADS[name]


def _instead(name: str) -> str:
    return "late or chunked" if name not in ("late", "chunked") else "another head"


def _missing(name: str, device: torch.device) -> str | None:
    """What a head lacks here, or None."""
    if name == "linear_cross_entropy" and not hasattr(F, "linear_cross_entropy"):
        return f"it needs torch 2.13 or later, this is {torch.__version__}"
    if name == "liger":
        try:
            version = importlib.metadata.version("liger-kernel")
        except importlib.metadata.PackageNotFoundError:
            return "it needs liger-kernel 0.8.2 or later, which is not installed"
        if _release(version) < LIGER_SINCE:
            return (
                f"liger-kernel {version} scales every gradient by the first sample's weight, 0.8.2 does not"
            )
        if device.type == "cpu":
            return "liger-kernel has no CPU kernels"
    return None


def _release(version: str) -> tuple[int, ...]:
    numbers = (part for part in version.split("+")[0].split("."))
    return tuple(int(digits) for part in numbers if (digits := "".join(filter(str.isdigit, part))))


EXACT = 5e-3
"""Relative error of float32 gradients and losses that passes: TensorFloat-32 products reach 1e-3."""

ROUNDED = 3e-2
"""The same in bfloat16. Gradients scaled by another row's weight are off by half and more."""

SAMPLE_WEIGHTS = (0.0, 0.62, 0.01, 9.0, 0.37)
"""Strongly unequal; the first, which a wrong kernel would give to all, is zero."""


def check_head(head: Head, device: torch.device, tolerance: float | None = None) -> None:
    """Hold a head's losses and gradients against float64 autograd, under strongly unequal weights.

    Args:
        head: what to test.
        device: where; on a GPU in float32 and in bfloat16, on a CPU in float32.
        tolerance: relative error that passes; None: EXACT or ROUNDED by dtype.

    Raises:
        ValueError: says what is wrong, and by how much.
    """
    for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
        _check(head, device, dtype, tolerance or (EXACT if dtype == torch.float32 else ROUNDED))


def _check(head: Head, device: torch.device, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    batch, tokens, width, vocab = len(SAMPLE_WEIGHTS), 13, 32, 203
    hidden = torch.randn(batch, tokens, width, generator=generator).to(dtype)
    weight = torch.randn(vocab, width, generator=generator).mul(width**-0.5).to(dtype)
    labels = torch.randint(0, vocab, (batch, tokens), generator=generator)
    labels[1, 3:6] = -100
    sample_weights = torch.tensor(SAMPLE_WEIGHTS)

    own_hidden, own_weight = (each.to(device).requires_grad_() for each in (hidden, weight))
    exact_hidden, exact_weight = (each.double().requires_grad_() for each in (hidden, weight))
    with torch.autocast(device.type, enabled=False), torch.enable_grad():
        losses = head(own_hidden, own_weight, labels.to(device))
        if losses.dtype != torch.float32 or losses.shape != (batch,):
            raise ValueError(f"losses must be ({batch},) float32, found {tuple(losses.shape)} {losses.dtype}")
        right = _reference(exact_hidden, exact_weight, labels)
        weighted, exactly = (
            (sample_weights.to(device) * losses).sum(),
            (sample_weights.double() * right).sum(),
        )
        found = (losses, *torch.autograd.grad(weighted, (own_hidden, own_weight)))
        expected = (right, *torch.autograd.grad(exactly, (exact_hidden, exact_weight)))
    for what, ours, theirs in zip(("losses", "d hidden", "d weight"), found, expected, strict=True):
        error = ((ours.double().cpu() - theirs).norm() / theirs.norm()).item()
        if not error <= tolerance:
            raise ValueError(f"{what} off by {error:.1%} in {dtype} under unequal sample weights")


def _reference(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Losses (B,) in float64 by the definition, through autograd alone."""
    targets = labels[:, 1:]
    active = targets != -100
    log_probabilities = torch.log_softmax((hidden @ weight.T)[:, :-1], dim=-1)
    picked = log_probabilities.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return -(picked * active).sum(dim=1) / active.sum(dim=1)

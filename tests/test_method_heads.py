"""Every head against float64 autograd and against the defects that the acceptance test is there to find."""

import importlib.metadata
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from device_watch import large_buffers

from reproduce.method import HEADS, accepted_head, head_losses
from reproduce.method.heads import ROUNDED, check_head, chunked_losses, released_bf16_losses, rows_a_chunk

CPU = torch.device("cpu")
HERE = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "liger" or not hasattr(F, "linear_cross_entropy" if "linear" in name else "relu"),
            reason="not available on this machine",
        ),
    )
    for name in HEADS
]


class _ScaledByTheFirst(torch.autograd.Function):
    """Liger's reduction="none" up to 0.8.1: gradients summed in the forward, all scaled by one number."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            own = [each.detach().requires_grad_() for each in (rows, weight)]
            losses = F.cross_entropy(own[0] @ own[1].T, targets, reduction="none")
            ctx.save_for_backward(*torch.autograd.grad(losses.sum(), own))
        return losses.detach()

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        drows, dweight = ctx.saved_tensors
        return drows * upstream[0], dweight * upstream[0], None


def scaled_by_the_first(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Losses right, gradients as of a wrong kernel."""
    targets = labels[:, 1:]
    active = targets != -100
    token_losses = _ScaledByTheFirst.apply(
        hidden[:, :-1].reshape(-1, hidden.shape[-1]), weight, targets.clamp_min(0).reshape(-1)
    ).view(targets.shape)
    return (token_losses * active).sum(1) / active.sum(1)


def batch(tokens: int, vocab: int = 61) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states (5, tokens, 16), an output matrix and labels, one ignored."""
    generator = torch.Generator().manual_seed(tokens)
    labels = torch.randint(0, vocab, (5, tokens), generator=generator)
    labels[1, 2] = -100
    return (
        torch.randn(5, tokens, 16, generator=generator),
        torch.randn(vocab, 16, generator=generator) * 0.4,
        labels,
    )


@pytest.mark.parametrize("name", HERE)
def test_every_head_that_is_here_is_accepted(name: str) -> None:
    assert accepted_head(name, CPU) is HEADS[name]


@pytest.mark.parametrize("name", [each for each in HERE if each.values[0] != "released_bf16"])
def test_heads_equal_the_default_one(name: str) -> None:
    sample = torch.tensor([0.0, 5.0, 0.02, 1.0, 0.4])
    found = []
    for head in (HEADS[name], head_losses):
        hidden, weight, labels = batch(tokens=300)  # 1,495 rows: several chunks of 512
        hidden.requires_grad_(), weight.requires_grad_()
        losses = head(hidden, weight, labels)
        (sample * losses).sum().backward()
        found.append((losses.detach(), hidden.grad, weight.grad))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() <= 2e-6 * theirs.abs().max()


def test_a_kernel_that_scales_every_gradient_by_the_first_weight_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hidden, weight, labels = batch(tokens=9)
    assert torch.allclose(scaled_by_the_first(hidden, weight, labels), head_losses(hidden, weight, labels))
    # The first weight is zero, and so are all its gradients: off by the whole of them.
    with pytest.raises(ValueError, match=r"d hidden off by 100\.0% .* under unequal sample weights"):
        check_head(scaled_by_the_first, CPU)
    monkeypatch.setitem(HEADS, "chunked", scaled_by_the_first)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"head chunked fails its test on cpu: d hidden off by .*; choose another"
    ):
        accepted_head("chunked", CPU)


@pytest.mark.parametrize("first", [0.0, 0.2])
def test_the_default_tolerance_refuses_weights_mixed_up_a_little(first: float) -> None:
    """Each sample's weight moved by a fifth towards its neighbour's."""

    class Mixed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, losses: torch.Tensor) -> torch.Tensor:
            return losses.clone()

        @staticmethod
        def backward(ctx: Any, upstream: torch.Tensor) -> torch.Tensor:
            return upstream * (1 - first) + upstream.roll(1) * first

    def head(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return Mixed.apply(head_losses(hidden, weight, labels))

    if first == 0:
        check_head(head, CPU)
    else:
        with pytest.raises(ValueError, match="d hidden off"):
            check_head(head, CPU, ROUNDED)


def test_other_defects_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(5,\) float32, found \(5,\) torch.bfloat16"):
        check_head(lambda h, w, y: head_losses(h, w, y).bfloat16(), CPU)
    with pytest.raises(ValueError, match="found \\(\\)"):
        check_head(lambda h, w, y: head_losses(h, w, y).mean(), CPU)
    with pytest.raises(ValueError, match="losses off by nan"):
        check_head(lambda h, w, y: head_losses(h, w, y) * torch.nan, CPU)
    with pytest.raises(ValueError, match="losses off"):  # an ignored label that counts
        check_head(lambda h, w, y: head_losses(h, w, y.clamp_min(0)), CPU)


def test_heads_that_are_not_here_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown head 'fused'; known: late, chunked"):
        accepted_head("fused", CPU)

    def version(name: str) -> str:
        if not found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[0]

    found: list[str] = []
    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(
        ValueError, match=r"needs liger-kernel 0\.8\.2 or later, which is not installed; choose"
    ):
        accepted_head("liger", CPU)
    for old in ("0.8.1", "0.5.10", "0.8.1.dev20260701+cu130"):
        found[:] = [old]
        with pytest.raises(ValueError, match=r"scales every gradient by the first sample's weight"):
            accepted_head("liger", CPU)
    for new in ("0.8.2", "0.10.0", "1.0"):
        found[:] = [new]
        with pytest.raises(ValueError, match="no CPU kernels"):
            accepted_head("liger", CPU)
    monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    with pytest.raises(ValueError, match=r"needs torch 2\.13 or later, this is "):
        accepted_head("linear_cross_entropy", CPU)


def test_chunked_keeps_no_buffer_of_rows_times_vocabulary() -> None:
    hidden, weight, labels = batch(tokens=300, vocab=400)
    rows, vocab = 5 * 299, 400
    hidden.requires_grad_(), weight.requires_grad_()
    sample = torch.rand(5)

    def steps(head: Any) -> Any:
        return lambda: (sample * head(hidden, weight, labels)).sum().backward()

    assert rows_a_chunk(CPU) < rows
    assert large_buffers(steps(chunked_losses), rows * vocab * 4) == 0
    assert large_buffers(steps(head_losses), 512 * vocab * 4) == rows // 512


def test_released_bf16_is_the_released_arithmetic() -> None:
    hidden, weight, labels = batch(tokens=40)
    labels[labels < 0] = 0  # the released code has no padding
    losses = released_bf16_losses(hidden, weight, labels)
    logits = (hidden @ weight.T)[:, :-1].bfloat16()
    token_losses = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="none").view(
        5, 39
    )
    assert token_losses.dtype == torch.bfloat16
    # A mean of bf16 on a GPU is summed in float32 and rounded once (on a CPU, the sum is rounded too).
    assert torch.equal(losses, token_losses.float().mean(1).bfloat16().float())
    # Between 4 and 8 nats bfloat16 has steps of 1/32.
    assert (losses > 4).all()
    assert (losses < 8).all()
    assert torch.equal(losses * 32, (losses * 32).round())
    exact = head_losses(hidden, weight, labels)
    assert 0 < (losses - exact).abs().max() < 0.05


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch 2.13 and later")
def test_bf16_error_of_linear_cross_entropy_is_what_its_docstring_says() -> None:
    generator = torch.Generator().manual_seed(128)
    hidden = torch.randn(64, 128, 64, generator=generator).bfloat16()
    weight = (torch.randn(1000, 64, generator=generator) / 8).bfloat16()
    labels = torch.randint(0, 1000, (64, 128), generator=generator)
    targets = labels[:, 1:, None]
    exact = (
        -torch.log_softmax((hidden.double() @ weight.double().T)[:, :-1], -1).gather(-1, targets).mean((1, 2))
    )
    with torch.no_grad():
        error = {
            name: (HEADS[name](hidden, weight, labels) - exact).abs()
            for name in ("linear_cross_entropy", "late")
        }
    assert error["linear_cross_entropy"].mean() == pytest.approx(0.0009, abs=2e-4)
    assert error["linear_cross_entropy"].max() < 0.003
    assert error["late"].mean() < 0.0002

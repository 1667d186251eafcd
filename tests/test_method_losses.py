"""Per-sample losses against an independent formula, and the head's gradients against float64 autograd."""

import math
from collections.abc import Callable

import pytest
import torch
from device_watch import large_buffers
from torch import Tensor

from reproduce.method import head_losses, sample_losses
from reproduce.method.losses import _aligned, _fused, _gradient_in_place, _LateHead, _losses


def test_sample_losses_by_hand() -> None:
    # Two positions predict labels 1 and 0 over V = 2 with logits (0, ln 3): p = 1/4, 3/4.
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(3)], [9.0, 9.0]]])
    labels = torch.tensor([[0, 1, 0]])
    expected = (math.log(4 / 3) + math.log(4)) / 2
    assert sample_losses(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_ignored_labels_do_not_count_and_an_empty_sample_is_zero() -> None:
    logits = torch.randn(2, 5, 7, requires_grad=True)
    labels = torch.randint(0, 7, (2, 5))
    labels[0, 2] = -100
    labels[1] = -100
    losses = sample_losses(logits, labels)
    kept = [
        -torch.log_softmax(logits[0, t].double(), 0)[labels[0, t + 1]].item() for t in range(4) if t + 1 != 2
    ]
    assert losses[0].item() == pytest.approx(sum(kept) / 3, rel=1e-6)
    assert losses[1].item() == 0.0
    losses.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[1] == 0).all()


def test_bf16_logits_give_float32_losses_off_the_bf16_grid() -> None:
    logits = torch.randn(4, 33, 50, generator=torch.Generator().manual_seed(1)).bfloat16()
    losses = sample_losses(logits, torch.randint(0, 50, (4, 33)))
    assert losses.dtype == torch.float32
    assert not torch.equal(losses, losses.bfloat16().float())


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        sample_losses(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="hidden"):
        head_losses(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"weight must be \(V, D\)"):
        head_losses(torch.zeros(2, 3, 5), torch.zeros(4, 3), torch.zeros(2, 3, dtype=torch.long))


@pytest.mark.parametrize("rows", [6, 400])  # below and across the chunk of 512 rows
@pytest.mark.parametrize("first_weight", [0.0, 0.37])
def test_head_gradients_equal_float64_autograd(rows: int, first_weight: float) -> None:
    """Strongly non-uniform weights, the first zero: catches heads that scale by the first weight only."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, rows, 8, generator=generator, requires_grad=True)
    weight = torch.randn(19, 8, generator=generator, requires_grad=True)
    labels = torch.randint(0, 19, (4, rows), generator=generator)
    labels[2, 1:3] = -100
    sample = torch.tensor([first_weight, 9.0, 0.01, 0.62])
    (sample * head_losses(hidden, weight, labels)).sum().backward()

    exact_hidden = hidden.detach().double().requires_grad_()
    exact_weight = weight.detach().double().requires_grad_()
    logits = (exact_hidden @ exact_weight.T)[:, :-1]
    targets = labels[:, 1:]
    active = targets != -100
    token = -torch.log_softmax(logits, -1).gather(-1, targets.clamp_min(0)[..., None])[..., 0] * active
    losses = token.sum(1) / active.sum(1)
    (sample.double() * losses).sum().backward()

    for ours, exact in ((hidden.grad, exact_hidden.grad), (weight.grad, exact_weight.grad)):
        assert (ours.double() - exact).abs().max() <= 1e-6 * exact.abs().max()
    if first_weight == 0:
        assert (hidden.grad[0] == 0).all()


def test_head_and_logits_agree_and_so_does_the_path_without_a_graph() -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, weight = torch.randn(3, 9, 8, generator=generator), torch.randn(19, 8, generator=generator)
    labels = torch.randint(0, 19, (3, 9), generator=generator)
    by_logits = sample_losses(hidden @ weight.T, labels)
    by_head = head_losses(hidden.requires_grad_(), weight, labels)
    with torch.no_grad():
        scored = head_losses(hidden, weight, labels)
    assert torch.allclose(by_head, by_logits, rtol=1e-6)
    assert torch.allclose(scored, by_logits, rtol=1e-6)


def test_bf16_head_keeps_float32_losses_and_gradients_close() -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(4, 64, 32, generator=generator)
    weight = torch.randn(50, 32, generator=generator) * 0.2
    labels = torch.randint(0, 50, (4, 64), generator=generator)
    sample = torch.tensor([0.05, 0.6, 0.3, 0.05])
    exact = hidden.clone().requires_grad_()
    (sample * head_losses(exact, weight, labels)).sum().backward()
    half = hidden.bfloat16().requires_grad_()
    losses = head_losses(half, weight, labels)
    assert losses.dtype == torch.float32
    (sample * losses).sum().backward()
    # bf16 keeps 8 bits: relative errors of a few times 2^-8.
    error = (half.grad.float() - exact.grad).norm() / exact.grad.norm()
    assert error < 0.01


def test_under_autocast_products_are_bf16_and_losses_and_gradients_float32() -> None:
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(4, 20, 32, generator=generator, requires_grad=True)
    weight = (torch.randn(50, 32, generator=generator) * 0.2).requires_grad_()
    labels = torch.randint(0, 50, (4, 20), generator=generator)
    sample = torch.tensor([0.0, 0.6, 0.3, 5.0])
    (sample * head_losses(hidden, weight, labels)).sum().backward()
    exact = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = head_losses(hidden, weight, labels)
    assert losses.dtype == torch.float32
    (sample * losses).sum().backward()
    rounded = head_losses(hidden.bfloat16(), weight.bfloat16(), labels)
    assert torch.equal(losses, rounded)
    for ours, theirs in zip((hidden.grad, weight.grad), exact, strict=True):
        assert ours.dtype == torch.float32
        assert 1e-4 < (ours - theirs).norm() / theirs.norm() < 0.01


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_one_buffer_of_rows_times_vocabulary_and_no_synchronisation(tied: bool, dtype: torch.dtype) -> None:
    """Forward and backward, with the embedding's own gradient where the matrix is tied."""
    generator = torch.Generator().manual_seed(5)
    table = torch.randn(900, 8, generator=generator, requires_grad=True)
    head = table if tied else table.detach().clone().requires_grad_()
    labels = torch.randint(0, 900, (4, 300), generator=generator)
    sample = torch.rand(4, generator=generator)

    def step() -> None:
        hidden = torch.nn.functional.embedding(labels, table).to(dtype)
        (sample * head_losses(hidden, head, labels)).sum().backward()

    # 1,196 rows are two chunks of 512 and one of 172: three buffers, and none of their size beside them but
    # the float32 temporary of one chunk where the logits are in half precision.
    temporary = dtype == torch.bfloat16
    assert large_buffers(step, large_bytes=172 * 900 * dtype.itemsize) == 3 + temporary
    assert large_buffers(step, large_bytes=513 * 900 * dtype.itemsize) == temporary
    assert table.grad is not None
    assert head.grad is not None


@pytest.mark.parametrize("vocab", [61, 64, 130])  # padded to 64, as it is, padded to 192
@pytest.mark.parametrize("first_weight", [0.0, 0.4])
def test_the_row_pass_made_for_gpus_gives_the_same(vocab: int, first_weight: float) -> None:
    """Its plain code, uncompiled: padding columns neither count nor get a gradient."""
    generator = torch.Generator().manual_seed(6)
    rows = torch.randn(40, 16, generator=generator, requires_grad=True)
    weight = torch.randn(vocab, 16, generator=generator, requires_grad=True)
    targets = torch.randint(0, vocab, (40,), generator=generator)
    upstream = torch.rand(40, generator=generator)
    upstream[0] = first_weight
    found = []
    with torch.compiler.set_stance("force_eager"):
        for fused in (True, False):
            losses = _LateHead.apply(rows, weight, targets, fused)
            found.append((losses, *torch.autograd.grad(losses, (rows, weight), upstream)))
    for fused, chunked in zip(*found, strict=True):
        assert fused.shape == chunked.shape
        assert (fused - chunked).abs().max() <= 2e-6 * chunked.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_compiled_row_pass_is_one_graph_right_and_in_place(dtype: torch.dtype) -> None:
    from torch._dynamo.utils import counters
    from torch._inductor.utils import run_and_get_code

    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(203, 32, generator=generator).to(dtype)

    def check(rows_n: int, run: Callable[..., Tensor]) -> None:
        rows = torch.randn(rows_n, 32, generator=generator).to(dtype)
        targets = torch.randint(0, 203, (rows_n,), generator=generator)
        logits = rows @ _aligned(weight).T
        exact = logits[:, :203].double()
        losses = [_fused(_losses, logits, targets, 203), run(_gradient_in_place, logits, targets, 203)]
        gradient = torch.softmax(exact, 1) - torch.nn.functional.one_hot(targets, 203)
        # bf16 rounds to 8 bits, by at most 2^-9 of a number up to 1.
        assert (logits[:, :203].double() - gradient).abs().max() < (1e-6 if dtype == torch.float32 else 2**-8)
        assert (logits[:, 203:] == 0).all()
        right = torch.nn.functional.cross_entropy(exact, targets, reduction="none")
        for found in losses:
            assert found.dtype == torch.float32
            assert (found.double() - right).abs().max() < 2e-6 * right.max()

    def with_code(*arguments: object) -> Tensor:
        losses, code = run_and_get_code(_fused, *arguments)
        # All it allocates has one number a row: the gradient is written over the logits.
        allocated = [line for line in "".join(code).splitlines() if "= empty_strided_" in line]
        assert allocated
        assert not [line for line in allocated if "256" in line]
        return losses

    check(700, with_code)
    check(700, _fused)
    compiled = counters["stats"]["unique_graphs"]
    check(300, _fused)  # another number of rows needs no new code
    assert counters["stats"]["unique_graphs"] == compiled > 0


@pytest.mark.slow
def test_the_whole_head_compiles_in_one_graph() -> None:
    generator = torch.Generator().manual_seed(8)
    hidden = torch.randn(4, 20, 16, generator=generator, requires_grad=True)
    weight = torch.randn(50, 16, generator=generator, requires_grad=True)
    labels = torch.randint(0, 50, (4, 20), generator=generator)
    sample = torch.tensor([0.0, 0.6, 0.3, 5.0])
    found = []
    for head in (head_losses, torch.compile(head_losses, fullgraph=True)):
        losses = head(hidden, weight, labels)
        found.append((losses, *torch.autograd.grad((sample * losses).sum(), (hidden, weight))))
    for eager, compiled in zip(*found, strict=True):
        assert (eager - compiled).abs().max() <= 2e-6 * eager.abs().max()

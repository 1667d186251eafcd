"""Per-sample losses against an independent formula, and the head's gradients against float64 autograd."""

import math

import pytest
import torch

from reproduce.method import head_losses, sample_losses


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

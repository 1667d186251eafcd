"""Theorem 4's network: gradients and smoothness against autograd; checks that hold, and that must fail."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from reproduce.studies.nonconvex import (
    TANH_CURVATURE,
    Network,
    NonConvexTrace,
    draw_network,
    hold_nonconvex,
    per_sample,
    train,
)
from reproduce.studies.problems import minibatches
from reproduce.studies.settings import Method

METHODS = [
    Method(strategy=name, r=0.4) for name in ("uniform", "linupper", "extremes", "dro_kl", "capped_softmax")
]


@pytest.fixture(scope="module")
def network() -> Network:
    return draw_network(range(3), 12, 3, 4)


@pytest.fixture(scope="module")
def trace(network: Network) -> NonConvexTrace:
    return train(network, METHODS, "gradient norm", minibatches(range(3), 40, 12, 5))


def loss(network: Network, seed: int, sample: int, v: Tensor) -> Tensor:
    p = (network.output * torch.tanh(v @ network.inputs[seed, sample])).sum()
    return (p - network.targets[seed, sample]) ** 2 / 2


def test_gradients_of_single_samples_are_autograds(network: Network) -> None:
    theta = network.start.unsqueeze(1) + torch.tensor([0.0, 0.3], dtype=torch.float64).view(1, 2, 1, 1)
    found = per_sample(theta, network.inputs, network.targets, network.output)
    direction = torch.sin(torch.arange(theta.numel(), dtype=torch.float64)).view(theta.shape)
    distances = found.square_distances(direction)
    for seed, k, sample in ((0, 0, 0), (1, 1, 7), (2, 0, 11)):
        v = theta[seed, k].clone().requires_grad_()
        value = loss(network, seed, sample, v)
        (gradient,) = torch.autograd.grad(value, v)
        assert found.losses[seed, k, sample].item() == pytest.approx(value.item(), rel=1e-12)
        assert found.square_norms()[seed, k, sample].item() == pytest.approx(gradient.square().sum().item())
        one = torch.zeros(3, 2, 12, dtype=torch.float64)
        one[seed, k, sample] = 1.0
        assert torch.allclose(found.gradient(one)[seed, k], gradient, rtol=1e-10, atol=1e-14)
        away = (gradient - direction[seed, k]).square().sum().item()
        assert distances[seed, k, sample].item() == pytest.approx(away, rel=1e-10)


def test_the_largest_curvature_of_tanh() -> None:
    t = torch.linspace(-1, 1, 200001, dtype=torch.float64)
    assert (2 * t * (1 - t.square())).max().item() == pytest.approx(TANH_CURVATURE, rel=1e-9)
    assert pytest.approx(2 / math.sqrt(3) * (2 / 3)) == TANH_CURVATURE


def one_sample(x: list[float], y: float, a: list[float]) -> Network:
    return Network(
        inputs=torch.tensor([[x]], dtype=torch.float64),
        targets=torch.tensor([[y]], dtype=torch.float64),
        output=torch.tensor(a, dtype=torch.float64),
        start=torch.zeros(1, len(a), len(x), dtype=torch.float64),
    )


def hessian_norm(network: Network, seed: int, sample: int, v: Tensor) -> float:
    found = torch.autograd.functional.hessian(lambda each: loss(network, seed, sample, each), v)
    return torch.linalg.matrix_norm(found.reshape(v.numel(), v.numel()), ord=2).item()


def test_the_smoothness_constant_by_hand() -> None:
    # ||x||^2 = 25, ||a||_2^2 = 5, ||a||_1 = 3, |y| = 2, max |a| = 2: 25 (5 + 5 x 2 x 0.769800) = 317.450.
    assert one_sample([3.0, 4.0], -2.0, [2.0, -1.0]).smoothness.item() == pytest.approx(317.450, abs=1e-3)


def test_no_hessian_exceeds_the_smoothness_constant(network: Network) -> None:
    generator = torch.Generator().manual_seed(1)
    for seed in range(3):
        sample = int(network.inputs[seed].square().sum(dim=-1).argmax())
        for scale in (0.0, 0.05, 0.3, 1.0, 3.0):
            v = scale * torch.randn(4, 3, generator=generator, dtype=torch.float64)
            assert hessian_norm(network, seed, sample, v) <= network.smoothness[seed].item()


def test_the_smoothness_constant_is_nearly_reached() -> None:
    """One unit, a target far away, v where tanh bends most: tanh v = -1/sqrt(3)."""
    far = one_sample([1.0], -100.0, [1.0])
    v = torch.full((1, 1), math.atanh(-1 / math.sqrt(3)), dtype=torch.float64)
    assert 0.97 < hessian_norm(far, 0, 0, v) / far.smoothness.item() <= 1


def test_a_step_goes_down_the_weighted_gradient(network: Network) -> None:
    drawn = minibatches(range(3), 1, 12, 5)
    uniform = train(network, METHODS[:1], "loss", drawn)
    v = network.start[1].clone().requires_grad_()
    mean = torch.stack([loss(network, 1, int(i), v) for i in drawn[1, 0]]).mean()
    (gradient,) = torch.autograd.grad(mean, v)
    after = v.detach() - gradient / (2 * network.smoothness[1])
    expected = torch.stack([loss(network, 1, i, after) for i in range(12)]).mean()
    assert uniform.loss[1, 1, 0].item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_theorem_holds_with_either_weighting(network: Network, trace: NonConvexTrace) -> None:
    by_loss = train(network, METHODS, "loss", minibatches(range(3), 40, 12, 5))
    for each in (trace, by_loss):
        held = hold_nonconvex(each)
        assert held.violations.sum() == held.step_violations.sum() == 0
        assert torch.all(held.gradient < held.bound)
    assert torch.equal(trace.gradient[:, :, 0], by_loss.gradient[:, :, 0])  # uniform knows neither
    assert not torch.equal(trace.gradient[-1], by_loss.gradient[-1])


def test_the_bound_is_the_sum_of_its_terms(trace: NonConvexTrace) -> None:
    held = hold_nonconvex(trace)
    # Step 1/(2L): 1 - L eta = 1/2, and 2 F(0) / (eta T) = 4 L F(0) / 40.
    expected = (
        4 * trace.smoothness * trace.loss[0] / 40 + trace.widest.amax(0) - trace.weighted_norms.mean(0) / 2
    )
    assert torch.allclose(held.bound, expected, rtol=1e-12)
    assert torch.allclose(held.first, trace.gradient[0])
    assert held.delta[:, 0].abs().max() < 1e-12


@pytest.mark.parametrize(("gradient", "fails"), [(0.999, 0), (1.001, 1)])
def test_a_steps_inequality_by_hand(gradient: float, fails: int) -> None:
    # Step 0.1, L = 5: 2 (1.0 - 0.9) / 0.1 + spread 1 - (1 - 0.5) x 4 = 1. With sigma^2 = 9 it is far off.
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    hand = NonConvexTrace(
        eta=one[0] * 0.1,
        smoothness=one[0] * 5,
        loss=torch.tensor([1.0, 0.9], dtype=torch.float64).view(2, 1, 1),
        gradient=one * gradient,
        weighted_norms=one * 4,
        mean_norms=one * 3,
        weighted_spread=one,
        widest=one * 9,
        delta_by_norm=-one,
        delta_by_loss=-one,
    )
    held = hold_nonconvex(hand)
    assert (held.step_violations.item(), held.violations.item()) == (fails, 0)
    # 2 x 1.0 / 0.1 = 20, 9, -(1/2) 3, (1/2)(3 - 4).
    assert [side.item() for side in (held.start, held.sigma, held.norms, held.delta)] == [
        20.0,
        9.0,
        -1.5,
        -0.5,
    ]


def test_a_spread_that_is_left_out_is_noticed(trace: NonConvexTrace) -> None:
    broken = hold_nonconvex(replace(trace, weighted_spread=torch.zeros_like(trace.widest)))
    assert broken.step_violations.sum() > 0


def test_gradients_above_the_bound_are_noticed(trace: NonConvexTrace) -> None:
    slow = trace.gradient.clone()
    slow[-1] += 2 * 40 * hold_nonconvex(trace).bound  # from the last step on only
    assert hold_nonconvex(replace(trace, gradient=slow)).violations.tolist() == [3] * len(METHODS)
    broken = hold_nonconvex(replace(trace, gradient=trace.gradient * math.nan))
    assert broken.violations.tolist() == [3 * 40] * len(METHODS)


def test_a_loss_that_rises_is_noticed(trace: NonConvexTrace) -> None:
    rising = trace.loss.flip(0) * 100
    assert hold_nonconvex(replace(trace, loss=rising)).step_violations.min() > 0


def test_signs_are_compared_step_by_step(trace: NonConvexTrace) -> None:
    one = torch.ones_like(trace.delta_by_norm)
    half = one.clone()
    half[:10] = -1.0
    held = hold_nonconvex(replace(trace, delta_by_norm=one, delta_by_loss=half))
    assert held.agreement.tolist() == [0.75] * len(METHODS)
    assert held.helps.tolist() == [0.25] * len(METHODS)

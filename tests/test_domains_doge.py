"""DoGE's step: scores against finite differences and autograd, the target's weight, the step's gradient."""

import math
from typing import Any

import pytest
import torch
from device_watch import DeviceWatch
from domain_worlds import Unigram, plan, start, work
from torch import Tensor, nn

from reproduce.domains.doge import DoGE, alignment_scores, clip_factors
from reproduce.domains.gradients import DomainGradients
from reproduce.recipe.schema import DomainsSpec

LR = 0.05


def doge(model: nn.Module, domains: tuple[str, ...], **spec: Any) -> DoGE:
    made = DomainsSpec(algorithm="doge", **{"smoothing": 0.0, **spec})
    rule = DoGE(start(made, domains), model)  # type: ignore[arg-type]
    rule.module()
    return rule


def take(
    rule: DoGE, tokens: Tensor, domains: list[int], micro_batch: int | None = None, lr: float = LR
) -> Tensor:
    todo = work(rule.model, tokens, micro_batch)
    return rule.passes(1, plan(domains), lr)(todo).weights_M


class Linear(nn.Module):
    """Linear regression: a sample's tokens are its features, the last one its target."""

    def __init__(self, features: int) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.weight = nn.Parameter(torch.randn(features))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        values = tokens_BT.float() / 10
        return 0.5 * (values[:, :-1] @ self.weight - values[:, -1]).square()


class Blocks(nn.Module):
    """Two parameters; a sample's first token says which one its loss is of: orthogonal gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        one = 0.5 * (self.first - 1).square().sum()
        other = 0.5 * (self.second + 2).square().sum()
        return torch.where(tokens_BT[:, 0] == 0, one, other)


@pytest.mark.parametrize("target", [None, "c"])
def test_scores_are_minus_the_change_of_the_targets_loss_a_unit_step(target: str | None) -> None:
    """Along -g_j the target's loss falls by <g_j, G> to first order: checked by central differences."""
    torch.manual_seed(0)
    tokens, domains = torch.randint(-20, 20, (9, 6)), [0, 1, 2, 0, 1, 2, 0, 1, 2]
    model = Linear(5)
    rule = doge(model, ("a", "b", "c"), scores="paper", clip_norm=1e9, target=target)
    take(rule, tokens, domains)
    weight = model.weight.detach().double()
    samples = [[i for i, d in enumerate(domains) if d == k] for k in range(3)]

    def loss(at: Tensor, k: int) -> Tensor:
        values = tokens[samples[k]].double() / 10
        return (0.5 * (values[:, :-1] @ at - values[:, -1]).square()).mean()

    def gradient(k: int) -> Tensor:
        at = weight.clone().requires_grad_()
        (found,) = torch.autograd.grad(loss(at, k), at)
        return found

    aims = [2] if target else [0, 1, 2]
    h = 1e-4
    for j in [0, 1] if target else [0, 1, 2]:
        ahead, behind = (
            sum(float(loss(weight - sign * h * gradient(j), k)) for k in aims) for sign in (1, -1)
        )
        assert float(rule.scores_K[j]) == pytest.approx(-LR * (ahead - behind) / (2 * h), rel=1e-4)
    if target:
        assert (float(rule.scores_K[2]), float(rule.alpha_K[2])) == (0.0, 0.0)


def test_released_scores_by_hand() -> None:
    # g_1 = (3, 0), g_2 = (3, 4), g_3 = (-6, 0): norms 3, 5, 6, mean 14/3; G = (0, 4).
    g = torch.tensor([[3.0, 0.0], [3.0, 4.0], [-6.0, 0.0]], dtype=torch.float64)
    everyone = torch.tensor([True, True, True])
    scores = alignment_scores(g @ g.T, 0.1, everyone, target=None, released=True)
    # W = (0, 16, 0) -> 0.1 x 16 / (14/3) = 0.342857; the limit is 0.5.
    assert scores.tolist() == pytest.approx([0.0, 0.1 * 16 * 3 / 14, 0.0], abs=1e-6)
    # Without the third G = (6, 4), W = (18, 34, .), mean norm 4: 0.45 and 0.85, clamped to 5 x 0.1.
    known = torch.tensor([True, True, False])
    scores = alignment_scores(g @ g.T, 0.1, known, target=None, released=True)
    assert scores[:2].tolist() == pytest.approx([0.45, 0.5], abs=1e-6)
    assert alignment_scores(g @ g.T, 0.1, known, target=None, released=False)[:2].tolist() == pytest.approx(
        [1.8, 3.4]
    )
    # Toward the third, <g_1, g_3> = -18: clamped at 0; the paper's score may be negative.
    assert alignment_scores(g @ g.T, 0.1, known, target=2, released=True)[:2].tolist() == [0.0, 0.0]
    assert alignment_scores(g @ g.T, 0.1, known, target=2, released=False)[0] == pytest.approx(-1.8)


def test_gradients_are_clipped_each_by_its_own_norm() -> None:
    gram = torch.diag(torch.tensor([100.0, 4.0, 0.0], dtype=torch.float64))
    assert clip_factors(gram, 5.0).tolist() == pytest.approx([0.5, 1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("scores", ["paper", "released"])
def test_the_targets_like_rises_and_an_orthogonal_domain_falls_in_every_step(scores: str) -> None:
    """`wanted` has the target's gradient, `other` an orthogonal one; nothing trains on `goal` itself."""
    model = Blocks()
    rule = doge(model, ("wanted", "other", "goal"), scores=scores, target="goal")
    tokens = torch.tensor([[0, 0], [1, 0], [0, 0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    before = float(rule.alpha_K[0])
    assert rule.alpha_K.tolist() == [0.5, 0.5, 0.0]
    for _ in range(40):
        optimizer.zero_grad()
        take(rule, tokens, [0, 1, 2])
        optimizer.step()
        now = float(rule.alpha_K[0])
        assert now > before
        before = now
        assert float(rule.alpha_K[2]) == 0.0
        if now > 1 - 1e-9:
            break
    assert before > 0.99


def test_domains_of_the_same_text_get_the_same_weight() -> None:
    torch.manual_seed(2)
    text, other = torch.randint(0, 5, (4, 12)), torch.zeros(2, 12, dtype=torch.int64)
    model = Unigram([0.0] * 5)
    rule = doge(model, ("a", "b", "c"), mu=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        take(rule, torch.cat([text, other, text]), [0] * 4 + [1] * 2 + [2] * 4)
        optimizer.step()
        assert float(rule.alpha_K[0]) == pytest.approx(float(rule.alpha_K[2]), abs=1e-9)
    assert abs(float(rule.alpha_K[1]) - float(rule.alpha_K[0])) > 0.01


@pytest.mark.parametrize("micro_batch", [None, 1, 2])
def test_theta_steps_along_the_weighted_sum_of_the_clipped_gradients(micro_batch: int | None) -> None:
    torch.manual_seed(5)
    tokens, domains = torch.randint(-20, 20, (7, 6)), [2, 0, 0, 1, 2, 0, 1]
    model = Linear(5)
    rule = doge(model, ("a", "b", "c"), clip_norm=1.5)
    weights = take(rule, tokens, domains, micro_batch)
    expected = torch.zeros(5)
    for k in range(3):
        plain = Linear(5)
        plain(tokens[[i for i, d in enumerate(domains) if d == k]]).mean().backward()
        g = plain.weight.grad
        assert g is not None
        assert g.norm() > 1.5  # else the clip is not tried
        expected += float(rule.alpha_K[k]) * g * (1.5 / g.norm())
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert float(weights.sum()) == pytest.approx(1.0)


def test_a_missing_domain_keeps_its_score_and_a_missing_target_keeps_all() -> None:
    tokens = torch.tensor([[0, 0], [1, 0], [0, 0]])
    model = Blocks()
    rule = doge(model, ("wanted", "other", "goal"), target="goal", mu=1.0)
    take(rule, tokens, [0, 1, 2])
    first = rule.scores_K.tolist()
    assert first[0] > 0
    weights = take(rule, tokens, [1, 1, 1])  # the target is not there
    assert rule.scores_K.tolist() == first
    assert weights.tolist() == pytest.approx([1 / 3] * 3)
    model.first.data.fill_(0.5)  # a quarter of the squared gradient
    take(rule, tokens, [2, 1, 2])  # `wanted` is not there
    assert rule.scores_K.tolist()[0] == first[0]
    take(rule, tokens, [0, 1, 2])
    assert rule.scores_K.tolist()[0] < first[0]


def test_rows_hold_each_domains_gradient_and_their_products() -> None:
    torch.manual_seed(8)
    parameters = [nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(5))]
    rows = DomainGradients(parameters, 3, "device")
    wanted = torch.randn(3, 11)
    for k in range(3):
        with rows.collecting(k) as row:
            (parameters[0] * wanted[k, :6].view(3, 2)).sum().backward()
            (parameters[1] * wanted[k, 6:]).sum().backward()
        assert row.tolist() == pytest.approx(wanted[k].tolist())
    exact = wanted.double() @ wanted.double().T
    assert rows.gram().flatten().tolist() == pytest.approx(exact.flatten().tolist(), rel=1e-12)
    rows.combine(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    summed = wanted[0] - 2 * wanted[1] + 0.5 * wanted[2]
    found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    assert found.tolist() == pytest.approx(summed.tolist(), abs=1e-6)


@pytest.mark.parametrize("target", [None, "goal"])
def test_a_step_waits_for_no_device(target: str | None) -> None:
    rule = doge(Linear(5), ("a", "b", "goal"), target=target)
    todo = work(rule.model, torch.randint(-20, 20, (6, 6)), micro_batch=2)
    with DeviceWatch():
        rule.passes(1, plan([0, 1, 2, 0, 1, 2]), LR)(todo)


def test_weights_follow_the_scores_by_mu() -> None:
    tokens = torch.tensor([[0, 0], [1, 0], [0, 0]])
    rule = doge(Blocks(), ("wanted", "other", "goal"), target="goal", mu=0.2)
    take(rule, tokens, [0, 1, 2])
    # alpha_wanted / alpha_other = e^(score / mu), from 1.
    ratio = float(rule.alpha_K[0] / rule.alpha_K[1])
    assert math.log(ratio) == pytest.approx(float(rule.scores_K[0] - rule.scores_K[1]) / 0.2)

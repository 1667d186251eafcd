"""The step against Algorithm 1 done in one piece: micro-batches, dropout, uniform, non-finite numbers."""

from dataclasses import replace

import pytest
import torch

from reproduce.method import STRATEGIES, SampleReweighter, sample_losses, sample_weights
from reproduce.recipe import ModelSpec, OptimizerSpec
from reproduce.training.mesh import Mesh
from reproduce.training.model import LanguageModel, build_network
from reproduce.training.optimizer import build_optimizer, decay_groups, learning_rate
from reproduce.training.step import StepOutcome, StepSettings, train_step

CPU = Mesh(device=torch.device("cpu"), precision="fp32")
SPEC = ModelSpec(family="gpt2", layers=2, heads=2, width=16, context=12, vocab=40)
ADAM = OptimizerSpec(lr=1e-2, end_lr=1e-3, warmup_steps=2)


def one_step(
    strategy: str, micro_batch: int, *, dropout: float = 0.0, tokens: torch.Tensor, kept_graphs: int = 1
) -> tuple[LanguageModel, StepOutcome]:
    model = LanguageModel(build_network(replace(SPEC, dropout=dropout), seed=3, end_of_text=39))
    model.train()
    outcome = train_step(
        model,
        build_optimizer(model, ADAM),
        SampleReweighter(strategy, 0.4),
        tokens,
        step=5,
        lr=1e-2,
        broken=torch.zeros(()),
        mesh=CPU,
        settings=StepSettings(seed=7, micro_batch=micro_batch, clip_norm=1e9, kept_graphs=kept_graphs),
    )
    return model, outcome


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 40, (8, 12), generator=torch.Generator().manual_seed(4))


def gradients(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_gradient_is_algorithm_1_in_one_piece(strategy: str, tokens: torch.Tensor) -> None:
    model, outcome = one_step(strategy, 8, tokens=tokens)
    plain = build_network(SPEC, seed=3, end_of_text=39)
    losses = sample_losses(plain(input_ids=tokens).logits, tokens)
    weights = sample_weights(losses, strategy, 0.4)
    (weights * losses).sum().backward()
    expected = {f"network.{n}": p.grad for n, p in plain.named_parameters()}
    ours = gradients(model)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(ours[name], gradient, atol=1e-6), name
    assert torch.allclose(outcome.reweighted.weights_M, weights, atol=1e-6)
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    assert outcome.grad_norm.item() == pytest.approx(norm.item(), rel=1e-5)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_micro_batches_give_the_same_weights_and_gradient(
    strategy: str, micro_batch: int, tokens: torch.Tensor
) -> None:
    whole, one = one_step(strategy, 8, tokens=tokens)
    split, parts = one_step(strategy, micro_batch, tokens=tokens)
    assert torch.allclose(one.reweighted.weights_M, parts.reweighted.weights_M, atol=1e-6)
    for name, gradient in gradients(whole).items():
        assert torch.allclose(gradients(split)[name], gradient, atol=1e-6), name


def test_the_scoring_pass_drops_the_same_units(tokens: torch.Tensor) -> None:
    """With dropout, the losses that decide the weights are those that are back-propagated."""
    seen: list[torch.Tensor] = []
    forward = LanguageModel.forward

    def spy(self: LanguageModel, tokens_BT: torch.Tensor) -> torch.Tensor:
        losses = forward(self, tokens_BT)
        seen.append(losses.detach().clone())
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModel, "forward", spy)
        one_step("linupper", 2, dropout=0.3, tokens=tokens)
    scored, last, again = seen[:3], seen[3], seen[4:]
    assert len(again) == 3
    for first, second in zip(scored, again, strict=True):
        assert torch.allclose(first, second, atol=1e-6)
    assert not torch.allclose(scored[0], last)


@pytest.mark.parametrize(("kept", "forwards"), [(1, 7), (2, 6), (4, 4), (9, 4)])
def test_kept_graphs_spare_second_passes_and_change_no_gradient(
    tokens: torch.Tensor, kept: int, forwards: int
) -> None:
    """Four micro-batches: 4 forward passes, and one more for each whose graph is not kept."""
    calls = 0
    forward = LanguageModel.forward

    def count(self: LanguageModel, tokens_BT: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return forward(self, tokens_BT)

    plain, _ = one_step("linupper", 2, dropout=0.3, tokens=tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModel, "forward", count)
        ours, _ = one_step("linupper", 2, dropout=0.3, tokens=tokens, kept_graphs=kept)
    assert calls == forwards
    for name, gradient in gradients(plain).items():
        assert torch.allclose(gradients(ours)[name], gradient, atol=1e-6), name


def test_uniform_takes_one_forward_a_micro_batch(tokens: torch.Tensor) -> None:
    calls = 0
    forward = LanguageModel.forward

    def count(self: LanguageModel, tokens_BT: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return forward(self, tokens_BT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageModel, "forward", count)
        one_step("uniform", 2, tokens=tokens)
        assert calls == 4
        calls = 0
        one_step("linupper", 2, tokens=tokens)
        assert calls == 4 + 3


def test_a_number_that_is_not_finite_changes_nothing(tokens: torch.Tensor) -> None:
    model = LanguageModel(build_network(SPEC, seed=3, end_of_text=39))
    with torch.no_grad():
        model.network.transformer.h[1].mlp.c_fc.bias[3] = float("nan")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer, broken = build_optimizer(model, ADAM), torch.zeros(())
    for step in (1, 2):
        outcome = train_step(
            model,
            optimizer,
            SampleReweighter("linupper", 0.4),
            tokens,
            step=step,
            lr=1e-2,
            broken=broken,
            mesh=CPU,
            settings=StepSettings(seed=7, micro_batch=8, clip_norm=1.0),
        )
        broken = outcome.broken
        assert broken.item() == 1.0
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) or "c_fc.bias" in name
        assert torch.equal(parameter.nan_to_num(9.0), before[name].nan_to_num(9.0))


@pytest.mark.parametrize("samples", [1, 3, 7, 8])
def test_a_uniform_step_is_bit_equal_to_the_plain_mean(samples: int) -> None:
    tokens = torch.randint(0, 40, (samples, 12), generator=torch.Generator().manual_seed(samples))
    ours, outcome = one_step("uniform", samples, tokens=tokens)
    plain = LanguageModel(build_network(SPEC, seed=3, end_of_text=39)).train()
    plain(tokens).mean().backward()
    for name, parameter in plain.named_parameters():
        assert torch.equal(gradients(ours)[name], parameter.grad), name
    assert torch.equal(outcome.reweighted.own_weights_B, torch.full((samples,), 1 / samples))


def test_learning_rate_by_hand() -> None:
    spec = OptimizerSpec(lr=5e-4, end_lr=1e-4, warmup_steps=500, warmup_start_lr=1e-7)
    # Half of the warm-up: half way from 1e-7 to 5e-4. Its end: the peak. Half of the cosine: the middle.
    assert learning_rate(spec, 20_000, 250) == pytest.approx((1e-7 + 5e-4) / 2)
    assert learning_rate(spec, 20_000, 500) == 5e-4
    assert learning_rate(spec, 20_000, 500 + 19_500 // 2) == pytest.approx(3e-4)
    assert learning_rate(spec, 20_000, 20_000) == pytest.approx(1e-4)


def test_biases_and_norms_do_not_decay() -> None:
    network = build_network(SPEC, seed=0, end_of_text=39)
    names = {id(p): name for name, p in network.named_parameters()}
    matrices, vectors = decay_groups(network.named_parameters(), 0.01)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.01, 0.0)
    decayed = {names[id(p)] for p in matrices["params"]}
    spared = {names[id(p)] for p in vectors["params"]}
    assert all(name.endswith("weight") and ".ln_" not in name for name in decayed)
    assert all(name.endswith("bias") or ".ln_" in name for name in spared)
    assert "transformer.wte.weight" in decayed
    assert "transformer.ln_f.weight" in spared
    assert len(decayed) + len(spared) == len(names)

"""The training benchmark: its peers compute what they should, its ratios are what the seconds say."""

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from reproduce.cli.bench import REFERENCE_RECIPE, REFERENCE_SHAPE
from reproduce.errors import RecipeError
from reproduce.method import SampleReweighter
from reproduce.recipe import Recipe, load_recipe
from reproduce.training import bench
from reproduce.training.bench_peers import (
    PlainGPT,
    TrainerPeer,
    eager_loop,
    huggingface_loss,
    released_loss,
    untouched,
)
from reproduce.training.bench_ratios import (
    COMPARISONS,
    EXACT,
    ONE_PASS,
    OURS,
    PLAIN,
    UNIFORM,
    Seconds,
    median_interval,
    ratios,
    speeds,
    turns,
)
from reproduce.training.mesh import Mesh
from reproduce.training.model import LanguageModel, build_network

CPU = Mesh(device=torch.device("cpu"), precision="fp32")
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recipe(recipe_path: Path) -> Recipe:
    return load_recipe(str(recipe_path), ["train.global_batch=8", "optimizer.lr=1e-3"])


@pytest.fixture
def network(recipe: Recipe) -> PreTrainedModel:
    """Weights far from the initial ones' zeros and ones, so that a forgotten bias or gain shows."""
    network = build_network(recipe.model, 5, 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return network


def steps_of(
    model: torch.nn.Module, loss: Callable[[torch.Tensor], torch.Tensor], recipe: Recipe
) -> list[float]:
    """Losses before each of four steps of a plain loop."""
    seen: list[float] = []

    def noted(tokens: torch.Tensor) -> torch.Tensor:
        value = loss(tokens)
        seen.append(value.item())
        return value

    step = eager_loop(model, noted, bench.random_tokens(recipe), recipe, CPU)
    for _ in range(4):
        step()
    return seen


def test_the_plain_gpt_is_hugging_faces_gpt2(recipe: Recipe, network: PreTrainedModel) -> None:
    tokens = bench.random_tokens(recipe)
    plain = PlainGPT(network)
    loss, theirs = plain(tokens), huggingface_loss(network)(tokens)
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    loss.backward()
    theirs.backward()
    body = network.transformer
    assert torch.allclose(plain.tokens.weight.grad, body.wte.weight.grad, atol=1e-6)
    assert torch.allclose(plain.blocks[0].qkv.weight.grad, body.h[0].attn.c_attn.weight.grad.T, atol=1e-6)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in network.parameters())


def test_peers_with_the_mean_loss_train_alike(recipe: Recipe, network: PreTrainedModel) -> None:
    """Four steps: the same losses from the plain GPT, Hugging Face's network, its Trainer, and ours."""
    copies = [untouched(network) for _ in range(3)]
    plain = PlainGPT(network)
    expected = steps_of(plain, plain, recipe)
    assert expected[0] - expected[3] > 0.01, "training changes the loss by more than the tolerance"
    library = copies[0]
    assert steps_of(library, huggingface_loss(library), recipe) == pytest.approx(expected, abs=1e-5)

    ours = LanguageModel(copies[1])
    assert steps_of(ours, lambda tokens: ours(tokens).mean(), recipe) == pytest.approx(expected, abs=1e-5)

    # One uncounted step and one counted, twice; the moments of AdamW last from call to call.
    trainer = TrainerPeer(copies[2], bench.random_tokens(recipe), recipe, CPU)
    for pair in (expected[:2], expected[2:]):
        took = trainer(1)
        assert trainer.loss == pytest.approx(sum(pair) / 2, abs=1e-5)
        assert 0 < took.wall < 60
    for own, theirs in zip(copies[2].parameters(), library.parameters(), strict=True):
        assert torch.allclose(own, theirs, atol=1e-5)


def test_the_released_procedure_has_our_gradient(recipe: Recipe, network: PreTrainedModel) -> None:
    tokens = bench.random_tokens(recipe)
    theirs = untouched(network)
    ours = LanguageModel(network)
    released_loss(theirs, 0.4)(tokens).backward()
    reweighted = SampleReweighter("linupper", 0.4).weigh(ours(tokens), 1)
    assert reweighted.weights_M.max() > 2 * reweighted.weights_M.min(), "not a uniform batch"
    SampleReweighter("linupper", 0.4)(ours(tokens), 1).backward()
    for own, other in zip(network.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(own.grad, other.grad, atol=1e-6)


def test_untouched_shares_nothing_and_computes_the_same(recipe: Recipe, network: PreTrainedModel) -> None:
    copy = untouched(network)
    tokens = bench.random_tokens(recipe)
    assert type(copy.transformer.h[0].mlp.act).__module__.startswith("transformers.")
    assert torch.allclose(copy(input_ids=tokens).logits, network(input_ids=tokens).logits, atol=1e-5)
    own = {p.data_ptr() for p in copy.parameters()}
    assert own.isdisjoint({p.data_ptr() for p in network.parameters()})


def test_exact_accumulation_repeats_all_forward_passes_but_one(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[int] = []
    forward = LanguageModel.forward

    def spy(self: LanguageModel, tokens_BT: torch.Tensor) -> torch.Tensor:
        shapes.append(len(tokens_BT))
        return forward(self, tokens_BT)

    monkeypatch.setattr(LanguageModel, "forward", spy)
    variants = bench.build_variants(recipe, ["accumulation"], CPU)
    assert set(variants) == {ONE_PASS, EXACT}
    variants[ONE_PASS](1)
    assert shapes == [2] * 4
    shapes.clear()
    variants[EXACT](2)
    assert shapes == [2] * 2 * (4 + 3)


def test_recipes_that_do_not_go_with_a_variant(recipe: Recipe) -> None:
    for change, keys, says in (
        ({"dropout": 0.1}, ["uniform"], "model.dropout"),
        ({"family": "llama", "feed_forward": 32}, ["plain"], "GPT-2"),
    ):
        with pytest.raises(RecipeError, match=says):
            bench.build_variants(replace(recipe, model=replace(recipe.model, **change)), keys, CPU)
    six = replace(recipe, train=replace(recipe.train, global_batch=6))
    with pytest.raises(RecipeError, match="global_batch: 6"):
        bench.build_variants(six, ["accumulation"], CPU)


def test_the_interval_of_a_median_by_hand() -> None:
    # Five values: P(all above the median) = 1/32 > 2.5%. Six: 1/64, so the extremes. Nine: P(B < 2) =
    # 10/512 = 1.95%, P(B < 3) = 46/512, so the 2nd and the 8th. Twenty: the tables' 6th and 15th.
    assert median_interval(range(5)) is None
    assert median_interval([3, 1, 2, 6, 5, 4]) == (1, 6)
    assert median_interval(range(1, 10)) == (2, 8)
    assert median_interval(range(1, 21)) == (6, 15)


@pytest.mark.parametrize("keys", [["uniform"], ["plain", "trainer"], ["accumulation"], list(COMPARISONS)])
def test_turns_balance(keys: list[str]) -> None:
    """Every round holds the same turns, and a steady drift leaves mirrored pairs at 1."""
    first, second = turns(keys, 0), turns(keys, 1)
    assert sorted(first) == sorted(second)
    assert first != second
    for key in keys:
        pair = COMPARISONS[key]
        assert {pair.of, pair.over} <= set(first)
    rounds: list[dict[str, list[Seconds]]] = [{}, {}]
    for order, took in zip((first, second), rounds, strict=True):
        # A machine that slows from turn to turn: 1.0, 1.1, 1.2 ... seconds.
        for turn, name in enumerate(order):
            took.setdefault(name, []).append(Seconds(1 + 0.1 * turn, 1 + 0.1 * turn))
    for ratio in ratios(keys, rounds, "cpu", False):
        mirrored = COMPARISONS[ratio.key].mirrored
        assert len(ratio.values) == 2 * max(mirrored, 1)
        if mirrored:
            assert ratio.values == pytest.approx([1.0] * 2 * mirrored)


def fake_rounds(ours: float, uniform: float, plain: float, count: int) -> list[dict[str, list[Seconds]]]:
    """Rounds whose wall clock runs twice as long as the CPU's, and ten times for the uniform variant."""
    return [
        {
            OURS: [Seconds(2 * ours, ours)] * 6,
            UNIFORM: [Seconds(10 * uniform, uniform)] * 6,
            PLAIN: [Seconds(2 * plain, plain)],
        }
    ] * count


def test_ratios_and_verdicts_by_hand() -> None:
    uniform, plain = ratios(["plain", "uniform"], fake_rounds(1.0, 1.0, 1.3, 6), "cpu", True)
    assert (uniform.median, uniform.wall_median, uniform.verdict) == (1.0, 0.2, "met")
    assert (plain.median, plain.verdict) == (1.3, "met")
    assert (plain.ci_low, plain.ci_high, plain.values) == (1.3, 1.3, (1.3,) * 6)
    slow, too = ratios(["plain", "uniform"], fake_rounds(1.02, 1.0, 1.1, 6), "cpu", True)
    assert (slow.verdict, too.verdict) == ("missed", "missed")
    # Five rounds: five values of the plain peer, too few for an interval, and 15 of the mirrored pair. A mix
    # of rounds that straddles the target decides nothing.
    same, few = ratios(["plain", "uniform"], fake_rounds(1.0, 1.0, 1.3, 5), "cpu", True)
    assert (few.ci_low, few.verdict) == (None, "unresolved")
    assert (len(same.values), same.verdict) == (15, "met")
    mixed = fake_rounds(1.0, 1.0, 1.0, 4) + fake_rounds(1.0, 1.0, 1.3, 4)
    assert ratios(["plain"], mixed, "cpu", True)[0].verdict == "unresolved"
    assert ratios(["plain"], mixed, "wall", False)[0].verdict is None
    # 100 tokens a turn of 2 and of 10 seconds.
    found = {s.variant: s.tokens_per_s for s in speeds(fake_rounds(1.0, 1.0, 1.0, 2), 100)}
    assert found == {OURS: 50.0, UNIFORM: 10.0, PLAIN: 50.0}


def test_targets_are_for_the_reference_shape_alone() -> None:
    assert bench.is_reference(load_recipe(REFERENCE_RECIPE, REFERENCE_SHAPE))
    assert not bench.is_reference(load_recipe(REFERENCE_RECIPE))


def test_bench_train_prints_one_document(reweight: Cli, recipe_path: Path) -> None:
    arguments = ("bench", "train", "--recipe", recipe_path, "--rounds", 2, "--variants", "uniform,plain")
    code, out, err = reweight(*arguments, "--json")
    assert code == 0, err
    document = json.loads(out)
    uniform, plain = document["ratios"]
    assert (uniform["key"], plain["key"]) == ("uniform", "plain")
    assert uniform["verdict"] is None, "the tiny recipe has no target"
    seconds = {v["variant"]: v["seconds"] for v in document["variants"]}
    for index in range(2):
        ours, other = ([wall_cpu[1] for wall_cpu in seconds[name][index]] for name in (OURS, UNIFORM))
        assert (len(ours), len(other)) == (6, 6)
        assert plain["values"][index] == pytest.approx(seconds[PLAIN][index][0][1] / statistics.median(ours))
        for part in range(3):
            pair = slice(2 * part, 2 * part + 2)
            expected = sum(ours[pair]) / sum(other[pair])
            assert uniform["values"][3 * index + part] == pytest.approx(expected)
    assert document["clock"] == "cpu"
    code, out, _ = reweight(*arguments, "--clock", "wall")
    assert code == 0
    assert "wall clock" in out
    assert "\x1b" not in out


def test_an_interrupt_keeps_the_rounds_done(
    reweight: Cli, recipe_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(count: int) -> Callable[..., Iterator[object]]:
        def measure(*arguments: object) -> Iterator[object]:
            yield from fake_rounds(1.0, 1.0, 1.2, count)
            raise KeyboardInterrupt

        return measure

    arguments = ("bench", "train", "--recipe", recipe_path, "--variants", "plain", "--json")
    monkeypatch.setattr(bench, "measure", interrupted(2))
    code, out, err = reweight(*arguments)
    assert (code, "interrupted" in err) == (130, True)
    assert json.loads(out)["ratios"][0]["values"] == pytest.approx([1.2, 1.2])
    monkeypatch.setattr(bench, "measure", interrupted(0))
    assert reweight(*arguments)[:2] == (130, "")


def test_what_the_command_refuses(reweight: Cli) -> None:
    code, out, err = reweight("bench", "train", "--variants", "uniform,plane")
    assert (code, out) == (2, "")
    assert "no variant 'plane'; there is uniform, plain" in err
    # The reference shape gives way to what the user sets: one complaint, and not "set twice".
    code, _, err = reweight("bench", "train", "--set", "train.global_batch=6", "--variants", "accumulation")
    assert code == 2
    assert "global_batch: 6 does not split" in err

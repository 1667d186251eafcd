"""Networks are Hugging Face's own, counted right without torch, and come back from disk with equal logits."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from device_watch import DeviceWatch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import AutoModelForCausalLM

from reproduce.method import HEADS, SampleReweighter, sample_losses
from reproduce.recipe import ModelSpec, OptimizerSpec
from reproduce.recipe.estimate import parameter_count
from reproduce.training.mesh import Mesh
from reproduce.training.model import (
    LanguageModel,
    blocks,
    build_network,
    compile_blocks,
    export,
    recompute_blocks,
)
from reproduce.training.optimizer import build_optimizer
from reproduce.training.step import StepSettings, train_step

GPT2 = ModelSpec(family="gpt2", layers=3, heads=2, width=24, context=20, vocab=70, dropout=0.1)
UNTIED = ModelSpec(
    family="gpt2", layers=2, heads=2, width=16, feed_forward=40, context=9, vocab=30, tie_embeddings=False
)
LLAMA = ModelSpec(family="llama", layers=2, heads=4, width=32, feed_forward=88, context=16, vocab=50)
SPECS = {
    "gpt2": GPT2,
    "gpt2 untied": UNTIED,
    "llama": replace(LLAMA, tie_embeddings=False),
    "llama tied": LLAMA,
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_parameter_count_equals_the_network_s(spec: ModelSpec) -> None:
    network = build_network(spec, seed=0, end_of_text=0)
    assert parameter_count(spec) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_losses_are_those_of_the_network_s_logits(spec: ModelSpec) -> None:
    network = build_network(spec, seed=0, end_of_text=0).eval()
    tokens = torch.randint(0, spec.vocab, (3, 9), generator=torch.Generator().manual_seed(0))
    expected = sample_losses(network(input_ids=tokens).logits, tokens)
    assert torch.allclose(LanguageModel(network)(tokens), expected, rtol=1e-5)
    # Hugging Face's own loss is the mean over all tokens, here of equally long samples.
    assert network(input_ids=tokens, labels=tokens).loss.item() == pytest.approx(
        expected.mean().item(), rel=1e-5
    )


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_exported_folder_loads_with_equal_logits(spec: ModelSpec, tmp_path: Path) -> None:
    network = build_network(spec, seed=5, end_of_text=1).eval()
    export(network, tmp_path / "model", tokenizer=None)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", local_files_only=True).eval()
    tokens = torch.randint(0, spec.vocab, (2, 9), generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded(input_ids=tokens).logits, network(input_ids=tokens).logits)


def test_the_seed_decides_the_weights() -> None:
    one, same, other = (build_network(GPT2, seed=s, end_of_text=0).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["transformer.wte.weight"], other["transformer.wte.weight"])


def test_gpt2_has_the_paper_s_shape() -> None:
    config = build_network(GPT2, seed=0, end_of_text=7).config
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.1, 0.1, 0.1)
    assert config.tie_word_embeddings
    assert config.eos_token_id == 7


DROPPING = {"gpt2 with dropout": GPT2, "gpt2": replace(GPT2, dropout=0.0), "llama": LLAMA}
SAMPLE = torch.tensor([0.0, 0.7, 2.0])
"""Weights of the samples, strongly unequal."""


def tokens_of(spec: ModelSpec) -> torch.Tensor:
    return torch.randint(0, spec.vocab, (len(SAMPLE), 9), generator=torch.Generator().manual_seed(0))


def model_of(
    spec: ModelSpec, *changes: Callable[[torch.nn.Module], None], head: str = "late"
) -> LanguageModel:
    model = LanguageModel(build_network(spec, seed=0, end_of_text=0), HEADS[head]).train()
    for change in changes:
        change(model.network)
    return model


def losses_and_gradients(model: torch.nn.Module, spec: ModelSpec) -> dict[str, torch.Tensor]:
    torch.manual_seed(11)  # of dropout
    losses = model(tokens_of(spec))
    (SAMPLE * losses).sum().backward()
    return {"losses": losses.detach(), **{name: p.grad for name, p in model.named_parameters()}}


@pytest.mark.parametrize("spec", DROPPING.values(), ids=DROPPING.keys())
def test_a_pass_forward_and_backward_never_waits_for_the_device(spec: ModelSpec) -> None:
    model = model_of(spec)
    with DeviceWatch():
        losses_and_gradients(model, spec)
    # The library's own forward pass does, which shows that the watch sees it.
    untouched = build_network(spec, seed=0, end_of_text=0)
    with DeviceWatch(), pytest.raises(AssertionError, match="waits for the device"):
        untouched(input_ids=tokens_of(spec), use_cache=False)


@pytest.mark.parametrize("micro_batch", [3, 1])
def test_a_training_step_never_waits_for_the_device(micro_batch: int) -> None:
    model = model_of(GPT2)
    optimizer = build_optimizer(model, OptimizerSpec(lr=1e-3, end_lr=0.0, warmup_steps=1))
    with DeviceWatch():
        for step in (1, 2):  # the optimizer's first step makes its state
            train_step(
                model,
                optimizer,
                SampleReweighter("linupper", r=0.4),
                tokens_of(GPT2),
                step=step,
                lr=1e-3,
                broken=torch.zeros(()),
                mesh=Mesh(device=torch.device("cpu"), precision="fp32"),
                settings=StepSettings(seed=0, micro_batch=micro_batch, clip_norm=1.0),
            )


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_logits_stay_those_of_the_untouched_network(spec: ModelSpec) -> None:
    ours = model_of(spec, recompute_blocks).eval().network
    untouched = build_network(spec, seed=0, end_of_text=0).eval()
    tokens = tokens_of(spec)
    # One fused GELU instead of the library's eight operations: the last bits may differ.
    assert torch.allclose(ours(input_ids=tokens).logits, untouched(input_ids=tokens).logits, atol=1e-6)
    assert ours.train()(input_ids=tokens).logits.shape == (len(SAMPLE), 9, spec.vocab)


def test_an_exported_folder_does_not_know_how_it_was_trained(tmp_path: Path) -> None:
    export(build_network(GPT2, seed=0, end_of_text=0), tmp_path / "plain", tokenizer=None)
    export(model_of(GPT2, recompute_blocks).network, tmp_path / "trained", tokenizer=None)
    plain, trained = (json.loads((tmp_path / n / "config.json").read_text()) for n in ("plain", "trained"))
    assert trained == plain


@pytest.mark.parametrize("spec", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_blocks_hold_every_parameter_but_embeddings_and_the_last_normalisation(spec: ModelSpec) -> None:
    network = build_network(spec, seed=0, end_of_text=0)
    assert len(blocks(network)) == spec.layers
    ends = spec.vocab * spec.width + (
        spec.context * spec.width + 2 * spec.width if spec.family == "gpt2" else spec.width
    )
    assert sum(p.numel() for p in blocks(network).parameters()) == parameter_count(spec) - ends


@pytest.mark.parametrize("spec", DROPPING.values(), ids=DROPPING.keys())
def test_recomputed_blocks_give_the_same_gradients_and_keep_less(spec: ModelSpec) -> None:
    plain, recomputed = model_of(spec), model_of(spec, recompute_blocks)
    assert list(recomputed.state_dict()) == list(plain.state_dict())
    expected, found = (losses_and_gradients(model, spec) for model in (plain, recomputed))
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    def kept(model: LanguageModel) -> int:
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        seen = []  # holds them, so that no address is used twice
        with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
            model(tokens_of(spec))
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in seen}
        return sum(size for place, size in storages.items() if place not in own)

    # Of a block's 15 and more tensors of a row's width only the input is left; embeddings and head remain.
    assert kept(recomputed) < 0.4 * kept(plain)


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("head", ["late", "chunked"])
@pytest.mark.parametrize("spec", [GPT2, SPECS["llama"]], ids=["gpt2 tied", "llama untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_heads_and_recomputation_work_on_sharded_parameters(
    spec: ModelSpec, head: str, dtype: torch.dtype
) -> None:
    expected = losses_and_gradients(model_of(spec), spec)
    model = model_of(spec, recompute_blocks, head=head)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    mesh = init_device_mesh("cpu", (1,))
    for module in (*blocks(model.network), model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    assert isinstance(blocks(model.network)[0], FSDPModule)
    found = losses_and_gradients(model, spec)
    assert found["losses"].dtype == torch.float32
    for name in expected:
        ours = found[name] if name == "losses" else found[name].full_tensor()
        error = (ours - expected[name]).norm() / expected[name].norm()
        assert error < (2e-6 if dtype == torch.float32 else 0.05), name


@pytest.mark.slow
@pytest.mark.parametrize("changes", [(compile_blocks,), (recompute_blocks, compile_blocks)])
@pytest.mark.parametrize("spec", [replace(GPT2, dropout=0.0), LLAMA], ids=["gpt2", "llama"])
def test_compiled_blocks_give_the_same(spec: ModelSpec, changes: tuple[Callable[..., None], ...]) -> None:
    from torch._dynamo.utils import counters

    expected = losses_and_gradients(model_of(spec), spec)
    torch._dynamo.reset()
    counters.clear()
    model = model_of(spec, *changes)
    found = losses_and_gradients(model, spec)
    assert counters["stats"]["unique_graphs"] == 1  # for all blocks
    assert not counters["graph_break"]
    for name in expected:
        assert (found[name] - expected[name]).abs().max() <= 1e-5 * expected[name].abs().max(), name
    untouched = build_network(spec, seed=0, end_of_text=0).eval()
    tokens = tokens_of(spec)
    with torch.no_grad():
        ours = model.eval().network(input_ids=tokens, use_cache=False).logits
        assert torch.allclose(ours, untouched(input_ids=tokens).logits, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [(compile_blocks,), (recompute_blocks, compile_blocks)])
def test_compiled_dropout_is_the_same_with_and_without_a_graph(
    changes: tuple[Callable[..., None], ...],
) -> None:
    """The losses that decide the weights and those that back-propagate come from two passes."""
    model = model_of(GPT2, *changes)

    def losses(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(tokens_of(GPT2))

    with torch.no_grad():
        scored = losses(seed=3)
    assert torch.allclose(losses(seed=3), scored, rtol=1e-6)
    assert not torch.allclose(losses(seed=4), scored, rtol=1e-4)

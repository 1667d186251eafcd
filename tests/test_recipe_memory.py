"""The estimated peak memory against allocations of whole training steps, counted as they are made."""

import math
import weakref
from contextlib import nullcontext
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.activations import NewGELUActivation

from reproduce.method import HEADS
from reproduce.recipe import Recipe, load_recipe
from reproduce.recipe.memory import ADAM_BYTES_A_PARAMETER, Layout, peak_memory
from reproduce.training.model import LanguageModel, build_network, recompute_blocks
from reproduce.training.optimizer import build_optimizer

Mode = Literal["fp32", "autocast", "policy"]
"""The rows of the table in memory.py. policy: what a block computes under FSDP2, parameters in bf16."""

NO_DROPOUT = "model.dropout=0"  # on a CPU it takes another attention kernel than on a GPU


class Allocations(TorchDispatchMode):
    """Bytes of all tensors alive that were made or registered under it, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self.now = self.peak = 0

    def register(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def freed(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.register(leaf)
        return out


def measured(recipe: Recipe, mode: Mode, *, real: bool) -> int:
    """Peak bytes of the second of two steps, whose moments exist; of more than two passes two are run."""
    rows = recipe.train.micro_batch or recipe.train.global_batch
    with nullcontext() if real else FakeTensorMode(allow_non_fake_inputs=True):
        torch.set_default_dtype(torch.bfloat16 if mode == "policy" else torch.float32)
        try:
            network = build_network(recipe.model, 0, 0)
        finally:
            torch.set_default_dtype(torch.float32)
        model = LanguageModel(network, HEADS[recipe.parallel.head]).train()
        if recipe.parallel.recompute == "blocks":
            recompute_blocks(network)
        optimizer = build_optimizer(model, recipe.optimizer)
        tokens = torch.randint(0, recipe.model.vocab, (rows, recipe.train.sequence))
        kept = recipe.parallel.kept_graphs if recipe.weighs_twice else 1
        count = Allocations()
        for parameter in model.parameters():
            count.register(parameter)
        with count:
            for _ in range(2):
                count.peak = 0
                optimizer.zero_grad(set_to_none=True)
                for _ in range(min(2, recipe.micro_batches())):
                    half = torch.autocast("cpu", dtype=torch.bfloat16)
                    with half if mode == "autocast" else nullcontext():
                        losses = [model(tokens).mean() for _ in range(kept)]
                    (losses[0] if kept == 1 else torch.stack(losses).sum()).backward()
                    del losses
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
    return count.peak


def check(name: str, overrides: list[str], mode: Mode = "fp32", *, real: bool = False) -> None:
    recipe = load_recipe(name, [*overrides, "evaluation.batch=1"])
    found = measured(recipe, mode, real=real)
    if mode == "policy":
        # The estimate of sharded parameters needs two ranks. Here they are whole and bf16: 2 bytes of weight,
        # 4 of moments, 2 of the earlier passes' gradient; what they take where sharded is below, by hand.
        memory = peak_memory(recipe, "bf16", Layout(ranks=2, ranks_a_node=2), "cpu")
        found -= (8 if recipe.micro_batches() > 1 else 6) * _parameters(recipe)
        expected = memory.activations + memory.logits + memory.working
    else:
        expected = peak_memory(recipe, "fp32" if mode == "fp32" else "bf16", Layout(), "cpu").total
    assert expected == pytest.approx(found, rel=0.15), f"{expected / found:.3f} of {found:,}"


def _parameters(recipe: Recipe) -> int:
    with FakeTensorMode():
        return sum(p.numel() for p in build_network(recipe.model, 0, 0).parameters())


LLAMA_PASS = ["train.micro_batch=4"]


@pytest.mark.parametrize(
    ("name", "overrides", "mode"),
    [
        ("gpt2_nano_uniform", [], "autocast"),
        ("gpt2_nano_uniform", ["parallel.recompute=blocks", "train.micro_batch=16"], "fp32"),
        ("gpt2_nano_linupper", ["parallel.kept_graphs=2", "train.micro_batch=8"], "fp32"),
        ("llama_nano_linupper", ["parallel.kept_graphs=3", "train.micro_batch=4"], "autocast"),
        ("llama_nano_uniform", LLAMA_PASS, "autocast"),
        ("llama_nano_uniform", [*LLAMA_PASS, "parallel.sharding=full"], "policy"),
        ("llama_nano_uniform", [*LLAMA_PASS, "parallel.recompute=blocks"], "fp32"),
        ("llama_nano_uniform", [*LLAMA_PASS, "parallel.head=chunked"], "fp32"),
    ],
)
def test_peak_of_small_shapes(name: str, overrides: list[str], mode: Mode) -> None:
    check(name, overrides, mode)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("gpt2_nano_uniform", ["train.micro_batch=8", "model.dropout=0.1"]),
        ("llama_nano_uniform", LLAMA_PASS),
    ],
)
def test_peak_of_real_steps(name: str, overrides: list[str]) -> None:
    check(name, overrides, real=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides", "mode"),
    [
        ("gpt2_nano_uniform", ["train.sequence=16", "train.micro_batch=2"], "fp32"),
        ("gpt2_nano_uniform", ["parallel.sharding=full", "train.micro_batch=16"], "policy"),
        ("gpt2_mini_uniform", [NO_DROPOUT], "fp32"),
        ("gpt2_mini_uniform", [NO_DROPOUT, "parallel.sharding=full", "train.micro_batch=16"], "policy"),
        ("gpt2_medium_uniform", [NO_DROPOUT], "fp32"),
        ("llama1b_uniform", ["parallel.sharding=full"], "policy"),
        ("llama1b_uniform", [], "autocast"),
        ("llama1b_uniform", ["parallel.recompute=blocks", "parallel.head=chunked"], "fp32"),
        ("llama7b_uniform", ["parallel.sharding=full"], "policy"),
        ("llama7b_uniform", [], "autocast"),
    ],
)
def test_peak_of_the_papers_shapes(name: str, overrides: list[str], mode: Mode) -> None:
    check(name, overrides, mode)


@pytest.mark.slow
def test_peak_of_gpt2_under_a_gpus_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast on a GPU takes `pow` in float32, on a CPU not; everything after it in the GELU follows."""

    def gelu(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        cube = torch.pow(x.float(), 3.0)
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * cube)))

    monkeypatch.setattr(NewGELUActivation, "forward", gelu)
    recipe = load_recipe("gpt2_mini_uniform", [NO_DROPOUT])
    found = measured(recipe, "autocast", real=False)
    assert peak_memory(recipe, "bf16", Layout(), "cuda").total == pytest.approx(found, rel=0.15)


def test_shards_and_copies_by_hand() -> None:
    recipe = load_recipe("llama1b_linupper")
    parameters = 1_364_297_728
    alone = peak_memory(recipe, "fp32", Layout(), "cuda")
    assert alone.weights + alone.gradients + alone.moments == ADAM_BYTES_A_PARAMETER * parameters
    # hybrid: over the 8 ranks of a node, however many nodes; one pass leaves no earlier gradients.
    node = peak_memory(recipe, "bf16", Layout(ranks=64, ranks_a_node=8), "cuda")
    assert (node.weights, node.moments, node.gradients) == (parameters // 2, parameters, 0)
    # One node takes 8 passes, whose gradients are summed up in the shards.
    alone_node = peak_memory(recipe, "bf16", Layout(ranks=8, ranks_a_node=8), "cuda")
    assert alone_node.gradients == parameters // 2
    assert alone_node.activations == node.activations
    # full: over all 64.
    full = load_recipe("llama1b_linupper", ["parallel.sharding=full"])
    assert peak_memory(full, "bf16", Layout(ranks=64, ranks_a_node=8), "cuda").moments == parameters // 8
    # none (DDP): whole on every rank, buckets of gradients from the first step on.
    copies = load_recipe("llama1b_linupper", ["parallel.sharding=none"])
    ddp = peak_memory(copies, "bf16", Layout(ranks=64, ranks_a_node=8), "cuda")
    assert (ddp.weights, ddp.gradients) == (4 * parameters, 4 * parameters)

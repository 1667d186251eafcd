"""Networks are Hugging Face's own, counted right without torch, and come back from disk with equal logits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from reproduce.method import sample_losses
from reproduce.recipe import ModelSpec
from reproduce.recipe.estimate import parameter_count
from reproduce.training.model import LanguageModel, build_network, export

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
    export(network, tmp_path / "model", tokenizer_json=None)
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

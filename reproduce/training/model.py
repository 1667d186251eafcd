"""A recipe's model: Hugging Face's GPT-2 or Llama, built from its configuration, with per-sample losses.

Shapes: B samples, T tokens, V vocabulary, D width.
"""

import functools
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.utils import logging

from data_prep.errors import DataError, StorageError
from reproduce.method import Head, head_losses, head_token_losses
from reproduce.recipe import ModelSpec

RETRAIN = "restore it, or delete it with status.json and run the same `reweight train` again"


WHOLE_SEQUENCES = "sdpa_whole_sequences"
"""The library's own sdpa attention under a name for which it builds no mask.

Before it builds one it looks whether sequences are packed, and reads the answer from the device: a
synchronisation every forward pass. Without a mask attention is causal all the same.
"""
AttentionInterface.register(WHOLE_SEQUENCES, sdpa_attention_forward)


class LanguageModel(nn.Module):
    """Token ids in, per-sample losses out."""

    def __init__(self, network: PreTrainedModel, head: Head = head_losses) -> None:
        """Wrap a network, whose attention is set to causal over whole sequences (no padding).

        Args:
            network: a Hugging Face causal model with sdpa attention whose head is one matrix without a bias.
            head: from its hidden states to losses; one of `HEADS`.
        """
        super().__init__()
        self.network = network
        self._head = head
        network.set_attn_implementation(WHOLE_SEQUENCES)
        if network.config.model_type == "gpt2" and network.config.activation_function == "gelu_new":
            for block in blocks(network):
                # The same function in one kernel: the library composes it of eight, a fifth of a CPU step.
                block.get_submodule("mlp").act = nn.GELU(approximate="tanh")

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Losses (B,) float32, nats a token, of sequences of token ids (B, T)."""
        return self._head(self._hidden(tokens_BT), self.network.get_output_embeddings().weight, tokens_BT)

    def token_losses(self, tokens_BT: Tensor) -> Tensor:
        """Losses (B, T - 1) float32, nats, of every token but the first, by the late head."""
        weight = self.network.get_output_embeddings().weight
        return head_token_losses(self._hidden(tokens_BT), weight, tokens_BT)

    def _hidden(self, tokens_BT: Tensor) -> Tensor:
        hidden: Tensor = self.network.base_model(input_ids=tokens_BT, use_cache=False).last_hidden_state
        return hidden


def blocks(network: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks, first to last: what is sharded, recomputed and compiled one by one."""
    body = network.base_model
    layers = body.h if network.config.model_type == "gpt2" else body.layers
    assert isinstance(layers, nn.ModuleList)
    return layers


def recompute_blocks(network: PreTrainedModel) -> None:
    """Keep only every block's input for the backward pass and run the block again there.

    Names of parameters stay, and dropout drops the same units again. Call it before `compile_blocks`.
    """
    # torch's own, not the library's switch, whose name and reach change between its releases. `forward` and
    # not the module is wrapped: hooks, such as those that gather sharded parameters, run once.
    for block in blocks(network):
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(network: PreTrainedModel) -> None:
    """Compile every block by torch.compile, each in one graph; equal blocks share the compiled code."""
    for block in blocks(network):
        block.forward = torch.compile(block.forward, fullgraph=True)


def build_network(spec: ModelSpec, seed: int, end_of_text: int) -> PreTrainedModel:
    """The untrained network; the seed decides every weight.

    Args:
        spec: architecture.
        seed: of torch's generator while the weights are drawn.
        end_of_text: id of the end-of-text token, written into the configuration.
    """
    torch.manual_seed(seed)
    return _gpt2(spec, end_of_text) if spec.family == "gpt2" else _llama(spec, end_of_text)


def _gpt2(spec: ModelSpec, end_of_text: int) -> PreTrainedModel:
    config = GPT2Config(
        n_layer=spec.layers,
        n_head=spec.heads,
        n_embd=spec.width,
        n_inner=spec.feed_forward,
        n_positions=spec.context,
        vocab_size=spec.vocab,
        resid_pdrop=spec.dropout,
        embd_pdrop=spec.dropout,
        attn_pdrop=spec.dropout,
        tie_word_embeddings=spec.tie_embeddings,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        attn_implementation="sdpa",
    )
    return GPT2LMHeadModel(config)


def _llama(spec: ModelSpec, end_of_text: int) -> PreTrainedModel:
    config = LlamaConfig(
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        hidden_size=spec.width,
        intermediate_size=spec.inner,
        max_position_embeddings=spec.context,
        vocab_size=spec.vocab,
        tie_word_embeddings=spec.tie_embeddings,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def load_network(folder: Path) -> PreTrainedModel:
    """An exported network in float32. Nothing is fetched and no code of the folder's is run.

    Raises:
        DataError: files that are missing, damaged, or do not hold every tensor of the network.
    """
    logging.disable_progress_bar()
    network: PreTrainedModel
    try:
        network, report = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # the libraries raise a dozen kinds for a damaged folder
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"{folder}: not a model that can be loaded ({why}); {RETRAIN}") from None
    # Without this the library fills what is missing with random numbers and goes on.
    wrong = [*report["missing_keys"], *report["mismatched_keys"], *report["unexpected_keys"]]
    if wrong:
        raise DataError(f"{folder}: missing, misshapen or foreign tensors: {str(wrong)[:200]}; {RETRAIN}")
    return network


def plain_copy(network: PreTrainedModel, parameters: Iterable[tuple[str, Tensor]]) -> PreTrainedModel:
    """A network as the library itself makes it, of the same architecture: for prompts of uneven length.

    The original may be set up for whole sequences, sharded, compiled. No generator's state changes.

    Args:
        network: the original.
        parameters: its parameters by name, whole; a leading `network.` is dropped.
    """
    with torch.random.fork_rng():
        copy: PreTrainedModel = AutoModelForCausalLM.from_config(network.config, attn_implementation="sdpa")
    own = dict(copy.named_parameters())
    with torch.no_grad():
        for name, value in parameters:
            own.pop(name.removeprefix("network.")).copy_(value)
    assert not own, list(own)
    return copy.eval()


def store_tokenizer(tokenizer_json: Path, end_of_text: int, context: int) -> PreTrainedTokenizerFast:
    """A token store's tokenizer as the library has it.

    Args:
        tokenizer_json: of the store.
        end_of_text: id of the token that ends every document there; also the first of a prompt without one.
        context: tokens that the model takes.

    Raises:
        DataError: the file is damaged, or has no such token.
    """
    try:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_json), model_max_length=context)
        token = tokenizer.convert_ids_to_tokens(end_of_text)
    except Exception as error:  # the tokenizers library raises plain Exception
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"{tokenizer_json}: not a tokenizer ({why}); prepare the data again") from None
    if not isinstance(token, str):
        raise DataError(f"{tokenizer_json}: has no token {end_of_text}; prepare the data again")
    for name in ("bos_token", "eos_token", "unk_token"):
        setattr(tokenizer, name, token)
    return tokenizer


def export(network: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerFast | None) -> None:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads, and the tokenizer if there is one."""
    logging.disable_progress_bar()  # progress is the caller's to show
    try:
        network.save_pretrained(folder)
    except SafetensorError as error:  # its own error for every failed write
        raise StorageError(
            f"cannot write {folder}: {error}; free space, then run the same command again"
        ) from None
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)

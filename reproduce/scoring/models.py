"""What is scored: a run's exported model, one of its checkpoints, any Hugging Face folder, a living network.

The digest of a model stands for everything that decides its answers: weights, shape, tokenizer.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from data_prep.errors import DataError, StorageError
from data_prep.files import sha256_file
from reproduce.recipe import Recipe
from reproduce.training import checkpoint
from reproduce.training.data import check_tokenizer, open_store
from reproduce.training.model import LanguageModel, build_network, plain_copy, store_tokenizer
from reproduce.training.recorded import recorded_store

LEAST_SHARE = 0.9
"""A vocabulary may be padded, by some percent; a tokenizer much smaller is another model's."""

DECIDES = ("*.safetensors", "*.json", "*.model", "merges.txt", "vocab.txt", "vocab.bpe")
"""Files of a Hugging Face folder that decide what the model answers."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
ITS_FILES_ONLY = {"local_files_only": True, "trust_remote_code": False}
"""Without the second the library asks on the terminal whether to run a model's own code."""
ROUNDINGS = 16
"""Rounding errors that the same number may differ by when it is computed twice."""
NOT_OF_THE_MODEL = {"results.json", "trainer_state.json", "training_args.json"}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model on its device, and what its records say about it."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sha256: str
    """Digest of everything that decides its answers."""

    @property
    def dtype(self) -> str:
        """Of its weights."""
        return str(self.network.dtype).removeprefix("torch.")


class FolderModel:
    """A Hugging Face folder: config.json, safetensors and a tokenizer."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Look at the folder, without loading the model.

        Raises:
            DataError: it lacks a configuration or safetensors.
        """
        if not (folder / "config.json").is_file():
            raise DataError(f"{folder} has no config.json; name a folder that save_pretrained has written")
        if not any(folder.glob("*.safetensors")):
            raise DataError(
                f"{folder} has no *.safetensors; load it and save it anew with "
                "save_pretrained(safe_serialization=True): pickles are not read here"
            )
        self._folder, self._device = folder, device
        self._sha256: str | None = None

    @property
    def sha256(self) -> str:
        """Digest of the files that decide its answers."""
        if self._sha256 is None:
            names = {path for pattern in DECIDES for path in self._folder.glob(pattern)}
            try:
                lines = [
                    f"{path.name} {sha256_file(path)}\n"
                    for path in sorted(names)
                    if path.is_file() and path.name not in NOT_OF_THE_MODEL
                ]
            except OSError as error:
                raise DataError(
                    f"{error.filename or self._folder}: cannot be read ({error.strerror}); mend its "
                    "permissions, or restore it"
                ) from None
            self._sha256 = hashlib.sha256("".join(lines).encode()).hexdigest()
        return self._sha256

    def load(self) -> Loaded:
        """The model as it was saved, in its own dtype.

        Raises:
            DataError: damaged, no causal language model, without a tokenizer, or with one of another
                vocabulary.
            StorageError: it does not fit into memory.
        """
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            AutoConfig.from_pretrained(self._folder, **ITS_FILES_ONLY)
        except Exception as error:
            raise DataError(
                f"{self._folder / 'config.json'}: not a model's configuration ({_said(error)}); restore it"
            ) from None
        tokenizer = _tokenizer(self._folder)
        try:
            network, report = AutoModelForCausalLM.from_pretrained(
                self._folder, **ITS_FILES_ONLY, use_safetensors=True, dtype="auto", output_loading_info=True
            )
        except Exception as error:  # the libraries raise a dozen kinds for a damaged folder
            raise _not_loaded(self._folder, error) from None
        # Without this the library fills what is missing with random numbers and goes on.
        wrong = [*report["missing_keys"], *report["mismatched_keys"]]
        if wrong:
            raise DataError(f"{self._folder}: missing or misshapen tensors: {str(wrong)[:200]}; restore it")
        check_vocabulary(network, tokenizer, str(self._folder))
        try:
            network.to(self._device)
        except RuntimeError as error:
            raise _not_loaded(self._folder, error) from None
        check_causal(network, str(self._folder))
        return _loaded(network, tokenizer, self.sha256)


class CheckpointModel:
    """A checkpoint of a run."""

    def __init__(
        self, found: checkpoint.Checkpoint, recipe: Recipe, run: Path, data: Path | None, device: torch.device
    ) -> None:
        """Load it: the digest is of its parameters.

        Raises:
            DataError: the checkpoint is damaged, or there is neither a model/ nor a token store with its
                tokenizer.
        """
        wrong = checkpoint.damage(found)
        if wrong is not None:
            raise DataError(f"{wrong}; evaluate another checkpoint")
        model = LanguageModel(build_network(recipe.model, recipe.seed, end_of_text=0))
        checkpoint.load_parameters(found, model)
        tokenizer = run_tokenizer(recipe, run, data)
        self._loaded = living_model(model.network, model.named_parameters(), tokenizer, device)

    @property
    def sha256(self) -> str:
        """Digest of parameters, shape and tokenizer."""
        return self._loaded.sha256

    def load(self) -> Loaded:
        """What was loaded."""
        return self._loaded


def living_model(
    network: PreTrainedModel,
    parameters: Iterable[tuple[str, Tensor]],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
) -> Loaded:
    """A copy of a network, as training has it, fit for prompts.

    Args:
        network: of any set-up; only its configuration is used.
        parameters: its parameters by name, whole.
        tokenizer: of the run.
        device: where the copy goes.
    """
    copy = plain_copy(network, parameters)
    copy.config.bos_token_id = tokenizer.bos_token_id
    copy.config.eos_token_id = tokenizer.eos_token_id
    check_vocabulary(copy, tokenizer, "the run")
    digest = hashlib.sha256(_shape(copy, tokenizer).encode())
    for name, value in sorted(copy.named_parameters()):
        host = value.detach().cpu().contiguous()
        digest.update(f"{name} {host.dtype} {tuple(host.shape)}\n".encode())
        digest.update(host.view(torch.uint8).numpy().data)
    return _loaded(copy.to(device), tokenizer, digest.hexdigest())


def run_tokenizer(recipe: Recipe, run: Path, data: Path | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a run: of its model/ if there is one, else of the token store it was trained on.

    Raises:
        DataError: neither has one.
    """
    if (run / "model" / "tokenizer.json").is_file():
        return _tokenizer(run / "model")
    store = open_store(recipe, data or recorded_store(run))
    check_tokenizer(store, run)
    file = store.path / "tokenizer.json"
    if not file.is_file():
        raise DataError(f"{store.path} has no tokenizer.json; prepare the data again with `reweight prep`")
    return store_tokenizer(file, store.manifest.tokenizer.end_of_text, recipe.model.context)


def check_vocabulary(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Refuse a tokenizer of another model: ids that the network lacks, or has far more of (DataError)."""
    rows = network.get_input_embeddings().weight.shape[0]
    ids = tokenizer.get_vocab().values()
    most = max(ids, default=-1)
    if most >= rows or len(ids) < LEAST_SHARE * rows:
        raise DataError(
            f"{where}: the tokenizer has {len(ids)} tokens (largest id {most}) and the model {rows}; put the "
            "model's own tokenizer files into the folder"
        )


def check_causal(network: PreTrainedModel, where: str) -> None:
    """Refuse a network whose logits depend on later tokens, as BERT's do: it reads the answer (DataError)."""
    rows = network.get_input_embeddings().weight.shape[0]
    if rows < 3 or getattr(network.config, "max_position_embeddings", 2) < 2:
        return  # too small to ask
    with torch.inference_mode():
        one_V, other_V = (
            network(torch.tensor([[0, last]], device=network.device)).logits[0, 0].float() for last in (1, 2)
        )
    noise = ROUNDINGS * torch.finfo(network.dtype).eps * float(one_V.abs().max())
    if float((one_V - other_V).abs().max()) > noise:
        raise DataError(
            f"{where}: its predictions depend on the tokens that follow, so it is no causal language model "
            f"(model_type {network.config.model_type}); score another"
        )


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    remedy = "copy the tokenizer files that the model was trained with into it"
    # Without any the library makes an empty one.
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise DataError(f"{folder}: has no tokenizer; {remedy}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **ITS_FILES_ONLY)
    except Exception as error:
        raise DataError(f"{folder}: no tokenizer that can be loaded ({_said(error)}); {remedy}") from None
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise DataError(f"{folder}: its tokenizer names no end-of-text token; {remedy}")
    return tokenizer


def _shape(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    config: dict[str, Any] = network.config.to_dict()
    for name in ("transformers_version", "_name_or_path"):
        config.pop(name, None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return json.dumps(config, sort_keys=True, default=str) + "\n" + words


def _loaded(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sha256: str) -> Loaded:
    return Loaded(network=network.eval(), tokenizer=tokenizer, sha256=sha256)


def _not_loaded(folder: Path, error: Exception) -> DataError | StorageError:
    """What the libraries say of a folder, in one line."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        return StorageError(f"{folder}: the model does not fit into memory; score it on a larger machine")
    said, remedy = _said(error), "restore it"
    if "ignore_mismatched_sizes" in said:
        said = "its tensors have other shapes than its config.json states"
    elif isinstance(error, ImportError):
        remedy = "install that here, or save the model in another form"
    return DataError(f"{folder}: not a model that can be loaded ({said}); {remedy}")


def _said(error: BaseException) -> str:
    if "custom code" in str(error):
        return "it asks for code of its own to be run, which is not done here"
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]

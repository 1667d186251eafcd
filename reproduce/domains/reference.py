"""DoReMi's reference: a finished run, that it fits the proxy, and a digest of its weights."""

import hashlib
from pathlib import Path

from data_prep.files import sha256_file
from data_prep.token_store import TokenStore
from reproduce.errors import DataError, RecipeError
from reproduce.recipe import Recipe
from reproduce.training.data import check_tokenizer
from reproduce.training.model import LanguageModel, load_network
from reproduce.training.recorded import recorded_recipe, recorded_tokenizer
from reproduce.training.run_dir import RunDir


def check_reference(reference: Path, recipe: Recipe, store: TokenStore) -> None:
    """Refuse a reference that cannot judge the proxy's tokens.

    Raises:
        DataError: no finished run, or one that does not say which tokenizer it was trained with.
        RecipeError: trained with another tokenizer, or for shorter sequences.
    """
    if not RunDir(reference).complete:
        raise DataError(
            f"{reference}: no finished run of `reweight train`; finish it, or leave --reference out to have "
            "one trained"
        )
    model = recorded_recipe(reference).model
    if recorded_tokenizer(reference) is None:
        raise DataError(
            f"{reference / 'provenance.json'}: does not say which tokenizer the reference was trained with; "
            "restore it, or leave --reference out to have one trained"
        )
    check_tokenizer(store, reference)
    if model.vocab != recipe.model.vocab:
        raise RecipeError(
            f"{reference} was trained with a vocabulary of {model.vocab}, the proxy's is "
            f"{recipe.model.vocab}; train a reference on {store.path}, or leave --reference out"
        )
    if model.context < recipe.train.sequence:
        raise RecipeError(
            f"{reference} takes {model.context} tokens, the proxy's sequences have {recipe.train.sequence}; "
            "name another --reference, or shorten train.sequence"
        )


def load_reference(reference: Path, recipe: Recipe) -> LanguageModel:
    """The model of a run folder, for scoring only, on the host.

    Raises:
        DataError: damaged, or of another vocabulary or context than its run's recipe says: tokens would index
            beyond its tables.
    """
    network = load_network(reference / "model")
    found = getattr(network.config, "vocab_size", 0), getattr(network.config, "max_position_embeddings", 0)
    wanted = recipe.model.vocab, recipe.train.sequence
    if found[0] != wanted[0] or found[1] < wanted[1]:
        raise DataError(
            f"{reference / 'model'}: is no model of this run: it takes {found[1]} tokens of {found[0]}, and "
            f"{wanted[1]} of {wanted[0]} are needed; restore it, or name another --reference"
        )
    return LanguageModel(network).requires_grad_(False).eval()


def reference_sha256(reference: Path) -> str:
    """A digest of the weights in a run's model folder."""
    digest = hashlib.sha256()
    for file in sorted((reference / "model").glob("*.safetensors")):
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()

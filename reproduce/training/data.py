"""The token store of a recipe: that it fits, the batches of every step, the fixed evaluation set."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data_prep.batches import Batches
from data_prep.errors import DataError
from data_prep.token_store import TokenStore
from eval.perplexity import EvaluationSet, spread
from reproduce.errors import RecipeError
from reproduce.recipe import Recipe
from reproduce.training.recorded import recorded_tokenizer

OTHER_WEIGHTS = (
    "learn weights on this store with `reweight domains`, or use the numbers all the same with "
    "--set data.weights_tokenizer_sha256=null"
)


def open_store(recipe: Recipe, data: Path | None) -> TokenStore:
    """The store at `data`, or where `reweight prep` puts this recipe's; it must fit the model.

    Raises:
        DataError: missing or damaged.
        RecipeError: made with another tokenizer than the recipe's, or than its domain weights were learned
            with, or of another vocabulary than the model's.
    """
    path = data or recipe.data.default_path
    if data is None and not path.exists():
        raise DataError(
            f"no token store at {path}; make it with `reweight prep {recipe.data.dataset} "
            f"--tokenizer {recipe.data.tokenizer}`, or name another with --data DIR"
        )
    store = TokenStore.open(path)
    tokenizer = store.manifest.tokenizer
    if tokenizer.name != recipe.data.tokenizer:
        raise RecipeError(
            f"{path} was made with tokenizer {tokenizer.name}, not data.tokenizer {recipe.data.tokenizer}; "
            f"use another --data, or --set data.tokenizer={tokenizer.name} "
            f"--set model.vocab={tokenizer.vocab_size}"
        )
    if tokenizer.vocab_size != recipe.model.vocab:
        raise RecipeError(
            f"{path} has a vocabulary of {tokenizer.vocab_size}, and model.vocab is {recipe.model.vocab}; "
            f"use another --data, or --set model.vocab={tokenizer.vocab_size}"
        )
    if recipe.data.weights_tokenizer_sha256 not in (None, tokenizer.sha256):
        raise RecipeError(
            f"{path} was made with another tokenizer than data.domain_weights were learned with, though both "
            f"are called {tokenizer.name}; {OTHER_WEIGHTS}"
        )
    return store


def check_tokenizer(store: TokenStore, run: Path) -> None:
    """Refuse a store whose ids mean other text than those a run was trained on, whatever its name says.

    Raises:
        RecipeError: another vocabulary of the same name.
    """
    if recorded_tokenizer(run) not in (None, store.manifest.tokenizer.sha256):
        raise RecipeError(
            f"{store.path} was made with another tokenizer than {run} was trained on, though both are called "
            f"{store.manifest.tokenizer.name}; use another --data"
        )


def verify_store(
    store: TokenStore, splits: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> None:
    """Read some splits of a store, and its tokenizer, against their digests.

    Raises:
        DataError: naming the first damaged shard and the command that mends it.
    """
    problems = store.verify(progress, splits=splits)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0].path}: {problems[0].what}{more}; {problems[0].remedy}")


def training_batches(store: TokenStore, recipe: Recipe) -> Batches:
    """The batches of every step; enough tokens for all of them unless the recipe allows epochs.

    Raises:
        RecipeError: domain weights of a set that was learned on other domains.
        UserError: too few tokens, or weights that name a domain the store does not have.
    """
    _check_domains(store, recipe)
    batches = Batches(
        store,
        split=recipe.data.train_split,
        domain_weights=recipe.data.domain_weights,
        global_batch=recipe.train.global_batch,
        sequence=recipe.train.sequence,
        seed=recipe.seed,
        order=recipe.data.order,
    )
    if not recipe.data.repeat:
        batches.check_enough(recipe.train.steps)
    return batches


def _check_domains(store: TokenStore, recipe: Recipe) -> None:
    """A set of weights is for the domains it was learned on: one more would silently never be drawn."""
    weights, split = recipe.data.domain_weights, recipe.data.train_split
    if recipe.data.weights_tokenizer_sha256 is None or not isinstance(weights, Mapping):
        return
    domains = store.domains(split)
    if set(weights) != set(domains):
        raise RecipeError(
            f"data.domain_weights were learned on the domains {', '.join(sorted(weights))}, and "
            f"{store.path}/{split} has {', '.join(domains)}; {OTHER_WEIGHTS}"
        )


def evaluation_set(store: TokenStore, recipe: Recipe) -> EvaluationSet:
    """Windows of the evaluation split, spread evenly; the same for every run on this store and length.

    No seed takes part: the released code draws a fresh random set in each run.
    """
    split, length = recipe.data.eval_split, recipe.train.sequence
    domains = store.domains(split)
    share = max(1, recipe.evaluation.samples // len(domains))
    windows = {}
    for domain in domains:
        chosen = spread(share, store.windows(split, domain, length))
        if len(chosen) == 0:
            raise DataError(
                f"{store.path}/{split}/{domain} has not one window of {length} tokens to evaluate on; "
                "prepare more data, or shorten train.sequence"
            )
        windows[domain] = store.read_windows(split, domain, chosen, length)
    return EvaluationSet(windows=windows)

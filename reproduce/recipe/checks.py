"""Combinations of settings that cannot work, each with its remedy. Pure functions of the recipe.

What depends on the token store as well (its vocabulary, domains, tokens) is in data_checks.
"""

import difflib
import math
from collections.abc import Callable, Iterator, Mapping

from data_prep.files import is_safe_name
from reproduce.errors import RecipeError
from reproduce.recipe.schema import Recipe
from reproduce.recipe.weight_set import SUM_TOLERANCE

Found = tuple[str, str]
"""(dotted path, what is wrong and what to do)"""

STRATEGY_NAMES: tuple[str, ...] = (
    "uniform",
    "linupper",
    "quadratic",
    "extremes",
    "linear",
    "dro_kl",
    "capped_softmax",
    "readme_uniform",
)
"""Keys of reproduce.method.STRATEGIES, which needs torch and so cannot be imported here; a test compares."""

OTHER_NAMES = {
    "mid": "quadratic",
    "upper": "linear in the GPT-2 code, linupper in the Llama code",
    "dro": "dro_kl",
}
"""The released codes' names -> ours."""

LEAST_LAGGED_R = 0.05
"""e^(-2 delta/r) is a float32 above this r at delta = 1."""

VOCABULARIES = {"gpt2": 50257}

KNOWN_DOMAINS = {
    "slimpajama": ("arxiv", "book", "c4", "cc", "github", "stackexchange", "wikipedia"),
    "slimpajama-627b": ("arxiv", "book", "c4", "cc", "github", "stackexchange", "wikipedia"),
    "fineweb": ("fineweb",),
}


def impossible(recipe: Recipe) -> list[Found]:
    """Every impossible combination in a recipe, in the order of its sections."""
    return [found for rule in RULES for found in rule(recipe)]


def impossible_layout(recipe: Recipe, ranks: int, ranks_a_node: int) -> list[Found]:
    """Why a possible recipe cannot run on this many ranks, with the remedy; empty where it can."""
    found, parallel, samples = [], recipe.parallel, recipe.train.global_batch
    if samples < ranks:
        found.append(
            (
                "train.global_batch",
                f"{samples} samples leave some of {ranks} ranks without any; start at most {samples}",
            )
        )
    group = parallel.shard_ranks or ranks_a_node
    if parallel.sharding == "hybrid" and ranks > 1 and ranks % group:
        found.append(
            (
                "parallel.shard_ranks",
                f"groups of {group} do not divide {ranks} ranks; set it to a divisor, e.g. "
                f"{_divisor(ranks, group)}",
            )
        )
    return found


def refuse_learning(recipe: Recipe) -> None:
    """Refuse a recipe whose weights of domains are to be learned: it is no plain run (RecipeError)."""
    if recipe.domains is not None:
        raise RecipeError(
            f"recipe {recipe.name} learns domain weights; start it with `reweight domains "
            f"{recipe.domains.algorithm} --recipe {recipe.name}`"
        )


def _divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is not above a limit."""
    return max(d for d in range(1, min(number, limit) + 1) if number % d == 0)


def _names(recipe: Recipe) -> Iterator[Found]:
    """Names that become folders must stay inside theirs."""
    data = recipe.data
    named = {
        "name": recipe.name,
        "data.dataset": data.dataset,
        "data.train_split": data.train_split,
        "data.eval_split": data.eval_split,
    }
    for path, name in named.items():
        if not is_safe_name(name):
            remedy = "; give the recipe one with `name:`" if path == "name" else ""
            yield path, f"{name!r:.60} is not a name: use 1 to 96 of A-Z a-z 0-9 . _ -{remedy}"


def _model(recipe: Recipe) -> Iterator[Found]:
    model = recipe.model
    if model.width % model.heads:
        yield "model.heads", f"{model.heads} heads do not divide width {model.width}; change one of them"
    if model.family == "llama" and model.feed_forward is None:
        yield "model.feed_forward", "missing; a llama model names its feed-forward width, e.g. 5632 for 2048"
    if model.family == "llama" and model.dropout:
        yield "model.dropout", "Llama has no dropout; set it to 0"


def _sequence(recipe: Recipe) -> Iterator[Found]:
    if recipe.train.sequence > recipe.model.context:
        yield (
            "train.sequence",
            f"{recipe.train.sequence} tokens do not fit model.context {recipe.model.context}; "
            "shorten the sequence or lengthen the context",
        )


def _batch(recipe: Recipe) -> Iterator[Found]:
    train = recipe.train
    if train.micro_batch and train.global_batch % train.micro_batch:
        near = _divisor(train.global_batch, train.micro_batch)
        yield (
            "train.micro_batch",
            f"global_batch {train.global_batch} is not divisible by {train.micro_batch}; try {near}",
        )


def _strategy(recipe: Recipe) -> Iterator[Found]:
    name, samples = recipe.reweighting.strategy, recipe.train.global_batch
    path = "reweighting.strategy"
    if name not in STRATEGY_NAMES:
        near = difflib.get_close_matches(name, STRATEGY_NAMES, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(STRATEGY_NAMES)}"
        if name in OTHER_NAMES:
            hint = f"; the released codes' '{name}' is {OTHER_NAMES[name]}"
        yield path, f"unknown strategy '{name}'{hint}"
    elif name != "uniform" and samples == 1:
        yield (
            path,
            f"'{name}' weighs samples against each other, and train.global_batch is 1; "
            "use a larger global batch or strategy uniform",
        )
    elif name in ("quadratic", "extremes") and samples == 2:
        yield path, f"with train.global_batch 2 '{name}' is exactly uniform; use a larger global batch"


def _scope(recipe: Recipe) -> Iterator[Found]:
    reweighting, path = recipe.reweighting, "reweighting.scope"
    if reweighting.scope == "lagged" and reweighting.strategy == "capped_softmax":
        yield path, "capped_softmax needs every loss of the batch at once; use scope global"
    if reweighting.scope == "lagged" and reweighting.r < LEAST_LAGGED_R:
        yield path, f"with r below {LEAST_LAGGED_R:g} unnormalised weights underflow; use scope global"
    if reweighting.scope == "lagged" and recipe.train.nonfinite == "drop_sample":
        yield "train.nonfinite", "drop_sample needs the losses before the backward pass; use scope global"


def _compatibility(recipe: Recipe) -> Iterator[Found]:
    samples, path = recipe.compatibility.first_node_weights, "compatibility.first_node_weights"
    if samples is not None and recipe.train.global_batch % samples:
        yield path, f"{samples} samples a node do not divide global_batch {recipe.train.global_batch}"
    if samples is not None and recipe.reweighting.scope != "global":
        yield path, "the released Llama code weighs the whole step; use reweighting.scope global"
    if samples is not None and recipe.reweighting.strategy == "uniform":
        yield path, "uniform weights are the same on every node; use another strategy or leave it out"
    if recipe.compatibility.bf16_losses and recipe.parallel.head != "late":
        yield "compatibility.bf16_losses", "is a head of its own; leave parallel.head out"


def _parallel(recipe: Recipe) -> Iterator[Found]:
    parallel = recipe.parallel
    if parallel.shard_ranks is not None and parallel.sharding != "hybrid":
        yield (
            "parallel.shard_ranks",
            f"only sharding hybrid has groups, and parallel.sharding is {parallel.sharding}; leave it out",
        )


def _schedule(recipe: Recipe) -> Iterator[Found]:
    steps, optimizer, reweighting = recipe.train.steps, recipe.optimizer, recipe.reweighting
    if optimizer.warmup_steps >= steps:
        yield (
            "optimizer.warmup_steps",
            f"{optimizer.warmup_steps} is past the end of train.steps {steps}; lower it",
        )
    if reweighting.strategy != "uniform" and reweighting.warmup_steps >= steps:
        yield (
            "reweighting.warmup_steps",
            f"{reweighting.warmup_steps} is past the end of train.steps {steps}: r is never used; lower it",
        )
    if optimizer.end_lr > optimizer.lr:
        yield "optimizer.end_lr", f"{optimizer.end_lr:g} is above the peak optimizer.lr {optimizer.lr:g}"
    if optimizer.warmup_start_lr > optimizer.lr:
        yield "optimizer.warmup_start_lr", f"{optimizer.warmup_start_lr:g} is above the peak {optimizer.lr:g}"
    for name, beta in (("beta1", optimizer.beta1), ("beta2", optimizer.beta2)):
        if beta == 1:
            yield f"optimizer.{name}", "1 never forgets; AdamW needs a value below 1"


def _vocabulary(recipe: Recipe) -> Iterator[Found]:
    tokenizer, vocab = recipe.data.tokenizer, recipe.model.vocab
    expected = VOCABULARIES.get(tokenizer)
    if tokenizer.startswith("bpe:"):
        size = tokenizer.removeprefix("bpe:")
        if not size.isdecimal():
            yield "data.tokenizer", f"'{tokenizer}' names no size; write bpe:4096"
            return
        expected = int(size)
    if expected is not None and expected != vocab:
        yield (
            "model.vocab",
            f"{vocab} differs from tokenizer {tokenizer}'s {expected}; set model.vocab={expected}",
        )


def _weights(recipe: Recipe) -> Iterator[Found]:
    weights, bound = recipe.data.domain_weights, recipe.data.weights_tokenizer_sha256
    path = "data.domain_weights"
    of_a_set = isinstance(weights, Mapping) and abs(sum(weights.values()) - 1) <= SUM_TOLERANCE
    if bound is not None and not of_a_set:
        yield (
            "data.weights_tokenizer_sha256",
            f"comes with a set of weights, which {path} no longer is; set it to null",
        )
    if not isinstance(weights, Mapping):
        return
    known = KNOWN_DOMAINS.get(recipe.data.dataset, ())
    for name, weight in weights.items():
        if known and name not in known:
            near = difflib.get_close_matches(name, known, n=1) or known
            yield f"{path}.{name}", f"{recipe.data.dataset} has no such domain; there is {', '.join(near)}"
        if weight < 0:
            yield f"{path}.{name}", f"{weight:g} is negative"
    if not math.isfinite(sum(weights.values())):
        yield path, "the weights' sum is not a finite number; give shares, as 0.2"
    if sum(weights.values()) <= 0:
        yield path, "the weights sum to zero; give at least one domain a positive weight"


def _learned_weights(recipe: Recipe) -> Iterator[Found]:
    """What learning domain weights excludes: the proxy's samples are weighed by their domain, once."""
    domains = recipe.domains
    if domains is None:
        return
    algorithm = domains.algorithm
    if recipe.reweighting.strategy != "uniform":
        yield (
            "reweighting.strategy",
            f"a {algorithm} proxy's samples are weighed by their domain, not by "
            f"'{recipe.reweighting.strategy}'; set it to uniform",
        )
    if recipe.train.nonfinite != "halt":
        yield "train.nonfinite", f"{algorithm} cannot drop samples of a domain; set it to halt"
    if recipe.train.global_batch < 2:
        yield "train.global_batch", f"1 sample is one domain, and {algorithm} compares domains; use a larger"
    if recipe.compatibility.first_node_weights is not None or recipe.compatibility.bf16_losses:
        yield "compatibility", f"its switches change sample weights, and {algorithm} has none; leave it out"
    if recipe.parallel.sharding != "none":
        yield "parallel.sharding", f"a {algorithm} proxy is whole on every rank; set it to none"
    if recipe.parallel.head != "late":
        yield "parallel.head", f"{algorithm} averages losses by domain with the plain head; leave it out"
    if domains.target is not None and algorithm != "doge":
        yield "domains.target", f"only doge has a target, and domains.algorithm is {algorithm}; leave it out"
    known = KNOWN_DOMAINS.get(recipe.data.dataset, ())
    if domains.target is not None and known and domains.target not in known:
        near = difflib.get_close_matches(domains.target, known, n=1) or known
        yield (
            "domains.target",
            f"{recipe.data.dataset} has no domain '{domains.target}'; there is " + ", ".join(near),
        )
    if len(known) == 1:
        yield "domains.algorithm", f"{recipe.data.dataset} is one domain; there is no weight to learn"


RULES: tuple[Callable[[Recipe], Iterator[Found]], ...] = (
    _names,
    _model,
    _vocabulary,
    _weights,
    _sequence,
    _batch,
    _schedule,
    _strategy,
    _scope,
    _compatibility,
    _parallel,
    _learned_weights,
)

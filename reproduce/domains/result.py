"""The set of domain weights that learning leaves: its fields, and that its file reads back. No torch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.files import is_safe_name
from data_prep.token_store import TokenStore
from reproduce.domains.history import thinned
from reproduce.errors import RecipeError, ResumeError
from reproduce.recipe import Recipe
from reproduce.recipe.weight_set import Round, WeightSet
from reproduce.recipe.weight_sets import weight_set_text

WEIGHTS = "weights.yaml"

HISTORY_NUMBERS = 16_000
"""Weights of all points of all histories, at most: 25 letters each, of the million that a file may have."""

ROUND_WEIGHTS = 1500
"""Domains x rounds, at most, of which a file tells; the last ones, and all of them stay in their runs."""

LONGEST_SUFFIX = "_round100_reference"


def learned_set(recipe: Recipe, store: TokenStore, rounds: Sequence[Round]) -> WeightSet:
    """What the rounds of a proxy's recipe on a store found; `rounds` has at least one."""
    spec, tokenizer = recipe.domains, store.manifest.tokenizer
    assert spec is not None
    return WeightSet(
        name=recipe.name,
        weights=rounds[-1].weights,
        algorithm=spec.algorithm,
        source=f"learned by `reweight domains {spec.algorithm} --recipe {recipe.name}`, seed {recipe.seed}",
        tokenizer=tokenizer.name,
        tokenizer_sha256=tokenizer.sha256,
        data_fingerprint=store.fingerprint,
        recipe=recipe.name,
        seeds=(recipe.seed,),
        steps=recipe.train.steps,
        settings=settings_of(recipe),
        rounds=_as_a_file_holds(rounds),
    )


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What of a proxy's recipe decides its weights, by dotted name."""
    assert recipe.domains is not None
    doremi = ("eta", "smoothing")
    doge = ("mu", "smoothing", "target", "scores", "clip_norm")
    used = doremi if recipe.domains.algorithm == "doremi" else doge
    model = {name: getattr(recipe.model, name) for name in ("family", "layers", "heads", "width", "context")}
    return {
        **{f"domains.{name}": getattr(recipe.domains, name) for name in used},
        **{f"model.{name}": value for name, value in model.items()},
        "train.global_batch": recipe.train.global_batch,
        "train.sequence": recipe.train.sequence,
        "optimizer.lr": recipe.optimizer.lr,
    }


def check_result(recipe: Recipe, store: TokenStore, domains: Sequence[str], folder: Path) -> None:
    """Refuse before the first step what could not be written after the last.

    Raises:
        RecipeError: a name that leaves no room for the phases' own; more domains than a file of weights
            takes, or a tokenizer's name that it does not.
        ResumeError: the folder's weights.yaml is of no run in it, and would be lost.
    """
    if not is_safe_name(recipe.name + LONGEST_SUFFIX):
        raise RecipeError(
            f"recipe {recipe.name}: its runs are called by its name and up to '{LONGEST_SUFFIX}', too long "
            f"together; give it a `name:` of at most {96 - len(LONGEST_SUFFIX)} letters"
        )
    even = dict.fromkeys(domains, 1 / len(domains))
    try:
        weight_set_text(learned_set(recipe, store, [Round(reference_weights=even, weights=even)]))
    except ValueError as error:
        raise RecipeError(
            f"weights of {store.path} could not be written: {error}; prepare it otherwise"
        ) from None
    if (folder / WEIGHTS).exists() and not (folder / "round-1").exists():
        raise ResumeError(
            f"{folder / WEIGHTS} is there without the runs that it came from, and would be overwritten; "
            "choose another --out"
        )


def _as_a_file_holds(rounds: Sequence[Round]) -> tuple[Round, ...]:
    domains = len(rounds[-1].weights)
    kept = rounds[-max(1, ROUND_WEIGHTS // domains) :]
    points = HISTORY_NUMBERS // (domains * len(kept)) - 1
    return tuple(replace(each, history=tuple(thinned(each.history, points))) for each in kept)

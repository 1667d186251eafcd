"""Which settings do not decide a run's result, and what a recipe that lacks a setting means by it."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from reproduce.recipe.schema import Recipe
from reproduce.recipe.typed import section_of

RESULT_NEUTRAL = (
    "parallel.",
    "train.checkpoint_async",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "train.log_every_steps",
    "data.weights_tokenizer_sha256",
    "data.repeat",
    "domains.gradients_on",
)
"""Fields of a recipe that decide speed, memory and what is kept, not the result: a resume may change them.
What data is used is the identity's to say, not the digest's that a set of weights asks for; whether windows
may be read again only refuses, and changes no draw."""


def is_neutral(path: str, scope: object) -> bool:
    """Whether a setting, by its dotted path, leaves the result alone; `scope`: of the run's reweighting."""
    if path == "train.micro_batch":
        return scope != "micro"
    return path.startswith(RESULT_NEUTRAL)


@cache
def default_settings() -> Mapping[str, Any]:
    """Dotted path -> default of every setting that has one: what a recipe from before the setting meant."""
    return dict(_defaults(Recipe, ""))


def _defaults(cls: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(cls):
        path = prefix + field.name
        section = section_of(cls, field.name)
        if section is not None and field.default is not None:
            yield from _defaults(section, f"{path}.")
        elif field.default is not dataclasses.MISSING:
            yield path, field.default

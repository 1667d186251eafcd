"""Which runs, task scores or toy study each table and figure of the paper takes. No torch, no look at a disk.

At the paper's scale, and by their twins at reduced scale, which show a sign at most.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from reproduce.errors import UserError
from reproduce.paper.tables import load_tables

NeedsScale = Literal["paper", "nano"]
ToyStudy = Literal["regression", "dro"]

STRATEGIES = ("uniform", "linupper", "quadratic", "extremes")
LAMBDAS = ("0.4", "1", "2", "5", "10")
NANO_DRO = tuple("gpt2_nano_dro_kl" if lam == "1" else f"gpt2_nano_dro_{lam}" for lam in LAMBDAS)
NO_SHOTS = "a context of 128 tokens does not hold the paper's prompts: nano is compared by log-perplexity"
NO_VALUES = "the paper's values of r are lost from its text, and it names no model: both are ours"
LLAMA_RANKS = 64
"""The paper's H100s: cost is of that layout, which weighs in one pass."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a table or figure takes."""

    recipes: tuple[str, ...] = ()
    """Shipped recipes to train; each of several seeds."""

    suites: tuple[str, ...] = ()
    """Question tasks to score every run on."""

    study: ToyStudy | None = None
    """The toy study that it is, in place of runs."""

    ranks: int = 1
    """GPUs that its cost is worked out for."""

    note: str = ""
    """What the reader should know beforehand."""


def _gpt2(model: str) -> tuple[str, ...]:
    return tuple(f"gpt2_{model}_{strategy}" for strategy in STRATEGIES)


def _llama(size: str, *suites: str) -> Needs:
    recipes = (f"llama{size}_uniform", f"llama{size}_linupper")
    return Needs(recipes=recipes, suites=suites, ranks=LLAMA_RANKS)


DRO_MEDIUM = tuple(f"gpt2_medium_dro_{lam}" for lam in LAMBDAS)
NANO_7B = Needs(recipes=("llama_nano_uniform", "llama_nano_linupper_r2"), note=NO_SHOTS)
NANO_1B = Needs(recipes=("llama_nano_uniform", "llama_nano_linupper"), note=NO_SHOTS)
NANO_TABLE_1 = Needs(recipes=_gpt2("nano"))
LUR, QA = "llama_lur", "llama_qa"

PAPER: Mapping[str, Needs] = {
    "table1": Needs(recipes=(*_gpt2("mini"), *_gpt2("small"), *_gpt2("medium"))),
    "table2": Needs(recipes=_gpt2("medium"), suites=("gpt2_qa",)),
    "table3": Needs(
        recipes=tuple(f"gpt2_medium_{w}{s}" for w in ("doge", "doremi") for s in ("", "_linupper")),
        suites=("gpt2_qa",),
    ),
    "llama1b_average": _llama("1b", LUR, QA),
    "llama1b_lur": _llama("1b", LUR),
    "llama1b_qa": _llama("1b", QA),
    "llama7b_average": _llama("7b", LUR, QA),
    "llama7b_lur": _llama("7b", LUR),
    "llama7b_qa": _llama("7b", QA),
    "table12": Needs(
        recipes=("gpt2_medium_uniform", "gpt2_medium_linupper", *DRO_MEDIUM), suites=("gpt2_qa",)
    ),
    "figure1": Needs(),
    "figure2": Needs(recipes=_gpt2("medium")),
    "figure3": Needs(recipes=_gpt2("mini")),
    "figure4": Needs(recipes=_gpt2("small")),
    "figure5": Needs(
        recipes=(
            *("gpt2_mini_uniform", "gpt2_mini_linupper"),
            *(f"gpt2_mini_linupper_r{r}" for r in ("0.1", "2", "100")),
        ),
        note=NO_VALUES,
    ),
    "figure6": Needs(recipes=("llama7b_linupper",), ranks=LLAMA_RANKS),
    "figure7": Needs(study="regression"),
    "figure8": Needs(study="dro"),
}
"""Table or figure -> what it takes at the paper's scale."""

NANO: Mapping[str, Needs] = {
    "table1": NANO_TABLE_1,
    "table2": Needs(recipes=_gpt2("nano"), note=NO_SHOTS),
    "table3": Needs(
        recipes=(
            "gpt2_nano_uniform",
            *(f"gpt2_nano_published_{w}{s}" for w in ("doge", "doremi") for s in ("", "_linupper")),
        ),
        note=NO_SHOTS,
    ),
    "llama1b_average": NANO_1B,
    "llama1b_lur": NANO_1B,
    "llama1b_qa": NANO_1B,
    "llama7b_average": NANO_7B,
    "llama7b_lur": NANO_7B,
    "llama7b_qa": NANO_7B,
    "table12": Needs(recipes=("gpt2_nano_uniform", "gpt2_nano_linupper", *NANO_DRO), note=NO_SHOTS),
    "figure1": Needs(),
    "figure2": NANO_TABLE_1,
    "figure3": NANO_TABLE_1,
    "figure4": NANO_TABLE_1,
    "figure5": Needs(
        recipes=(
            *("gpt2_nano_uniform", "gpt2_nano_linupper"),
            *(f"gpt2_nano_linupper_r{r}" for r in ("0.1", "2", "100")),
        ),
        note=NO_VALUES,
    ),
    "figure6": Needs(recipes=("llama_nano_linupper_r2",)),
    "figure7": Needs(study="regression"),
    "figure8": Needs(study="dro"),
}
"""The same at reduced scale."""

FIGURES: Mapping[str, str] = {
    "figure1": "the strategies' curves and the weights they give, from formulas",
    "figure2": "log-perplexity by domain while GPT2-medium trains",
    "figure3": "log-perplexity by domain while GPT2-mini trains",
    "figure4": "log-perplexity by domain while GPT2-small trains",
    "figure5": "LinUpper at several temperatures r, beside uniform",
    "figure6": "the largest weight of each step of Llama 7B, beside the bound 2/M",
    "figure7": "toy regression with outliers: which strategy converges first",
    "figure8": "toy regression with 25% outliers: where DRO-KL diverges",
}
"""Figure -> what it shows, in our words."""


def what_it_shows(name: str) -> str:
    """One line about a table or figure."""
    return FIGURES[name] if name in FIGURES else load_tables()[name].caption


def needs(name: str, scale: NeedsScale) -> Needs:
    """What a table or figure takes.

    Raises:
        UserError: there is none of that name; says the nearest.
    """
    known = PAPER if scale == "paper" else NANO
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower().replace(" ", ""), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(known)}"
    raise UserError(f"no table or figure '{name[:60]}'; {hint}")

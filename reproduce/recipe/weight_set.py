"""A set of domain weights, as values: what the numbers are, and what they were learned with. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Setting = str | int | float | bool | None

SUM_TOLERANCE = 1e-3
"""How far the weights may sum from one: published weights are printed with three to five digits."""


@dataclass(frozen=True, kw_only=True)
class HistoryPoint:
    """The weights at one step of a round."""

    step: int
    """Optimizer steps taken; 0 is before the first."""
    weights: tuple[float, ...]
    """The weights at that step, not their mean so far, in the order of `WeightSet.weights`."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One proxy's training. DoReMi may take several, each with the weights of the one before as reference."""

    reference_weights: Mapping[str, float]
    """doremi: what the reference model was trained with. doge: what the proxy drew by."""
    weights: Mapping[str, float]
    """What the round learned."""
    history: tuple[HistoryPoint, ...] = ()
    """In the order of steps, a few hundred of them: a file holds some 5,000 rows of all rounds together."""


@dataclass(frozen=True, kw_only=True)
class WeightSet:
    """Domain weights and where they come from. Every field but the weights may be unknown."""

    name: str
    """What it is called; of a shipped set its file's stem."""
    weights: Mapping[str, float]
    """Domain -> weight, of sum 1 within the digits printed; a domain that is never trained on has 0."""
    algorithm: str = "given"
    """What made them: doremi, doge, published, mean ..."""
    source: str = "given by hand"
    """One sentence: where the numbers come from."""
    tokenizer: str | None = None
    """Name of the tokenizer they were learned with; null: bound to none."""
    tokenizer_sha256: str | None = None
    """Its digest as a token store's manifest has it."""
    data_fingerprint: str | None = None
    """Fingerprint of the token store they were learned on."""
    recipe: str | None = None
    """The proxy's recipe."""
    seeds: tuple[int, ...] = ()
    """Seeds of the proxies, over which the weights are a mean."""
    steps: int | None = None
    """Optimizer steps of a proxy."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Further settings they were learned with, by dotted name."""
    rounds: tuple[Round, ...] = ()
    """How they came about, where that is known."""

"""What learning domain weights costs beyond plain training, from the recipe alone. No torch.

DoReMi's step adds the reference's forward pass, a third of a step, and its weights. DoGE's splits one batch
by domain: the same arithmetic, and a gradient of the whole model for each domain.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from reproduce.recipe import Recipe
from reproduce.recipe.estimate import Estimate, Layout, estimate, flops_a_token, parameter_count
from reproduce.recipe.memory import Device, Precision

SCORED_ROWS = 4096
"""Rows of the reference's logits at a time."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One run of the command."""

    name: str
    plain: Estimate
    """What the same model costs to train plainly."""
    flops: float
    device_bytes: int
    """Peak of one rank's device."""
    added: str
    """What of that is the algorithm's, in words."""
    added_bytes: int
    host_bytes: int
    """Kept in host memory instead."""


def phases(
    recipe: Recipe,
    *,
    rounds: int,
    reference_given: bool,
    domains: int,
    precision: Precision,
    layout: Layout,
    device: Device,
) -> list[Phase]:
    """Every run that the command would make at most, in order."""
    assert recipe.domains is not None
    plain = estimate(replace(recipe, domains=None), precision, layout, device)
    proxy = _doge(recipe, plain, domains) if recipe.domains.algorithm == "doge" else _doremi(recipe, plain)
    return list(_in_order(plain, proxy, recipe.domains.algorithm == "doremi", rounds, reference_given))


def _in_order(
    plain: Estimate, proxy: Phase, doremi: bool, rounds: int, reference_given: bool
) -> Iterator[Phase]:
    for number in range(1, (rounds if doremi else 1) + 1):
        if doremi and not (reference_given and number == 1):
            yield Phase(
                name=f"round {number}: reference",
                plain=plain,
                flops=plain.flops,
                device_bytes=plain.memory_bytes,
                added="",
                added_bytes=0,
                host_bytes=0,
            )
        yield replace(proxy, name=f"round {number}: proxy")


def _doremi(recipe: Recipe, plain: Estimate) -> Phase:
    model, train = recipe.model, recipe.train
    passes = plain.micro_batches
    scored = max(passes - recipe.parallel.kept_graphs, 0) / passes
    share = -(-train.global_batch // plain.layout.ranks)
    rows = min(train.micro_batch or share, share) * train.sequence
    weights = 4 * parameter_count(model)
    # As in an evaluation: a block's working set, and some rows of logits with their float32 copy.
    working = rows * 12 * (model.inner + model.width) + 12 * min(rows, SCORED_ROWS) * model.vocab
    added = weights + working
    return Phase(
        name="proxy",
        plain=plain,
        flops=plain.flops + train.tokens * flops_a_token(model, train.sequence) * (1 + scored) / 3,
        device_bytes=plain.memory_bytes + added,
        added="the reference and its forward pass",
        added_bytes=added,
        host_bytes=0,
    )


def _doge(recipe: Recipe, plain: Estimate, domains: int) -> Phase:
    assert recipe.domains is not None
    gradients = 4 * domains * parameter_count(recipe.model)
    on_host = recipe.domains.gradients_on == "host"
    return Phase(
        name="proxy",
        plain=plain,
        flops=plain.flops,
        device_bytes=plain.memory_bytes + (0 if on_host else gradients),
        added=f"{domains} gradients" + (", kept on the host" if on_host else ""),
        added_bytes=0 if on_host else gradients,
        host_bytes=gradients if on_host else 0,
    )

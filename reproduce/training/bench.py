"""What reweighting costs: our step against a plain loop around the same model, alternated in one process.

Timings on a shared machine drift; only the ratios of one round, taken side by side, are kept.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from reproduce.method import SampleReweighter, weight_statistics
from reproduce.recipe import Recipe
from reproduce.training.mesh import Mesh, make_mesh
from reproduce.training.model import LanguageModel, build_network
from reproduce.training.optimizer import build_optimizer
from reproduce.training.step import StepSettings, train_step

PLAIN = "plain loop, mean loss"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One variant's speed."""

    name: str
    tokens_per_s: float
    """Median over the rounds."""
    ratio: float
    """Median over the rounds of its speed over the plain loop's in the same round."""
    low: float
    high: float
    """Smallest and largest ratio of a round."""


def compare_steps(
    recipe: Recipe, rounds: int, steps: int, advance: Callable[[int], None] | None = None
) -> list[Timing]:
    """Time a recipe's model and batch: plain, ours uniform, ours with the recipe's strategy.

    Args:
        recipe: model, batch, sequence and strategy come from it; tokens are random.
        rounds: every variant runs once a round, in turning order.
        steps: training steps a variant takes in a round.
        advance: told the number of rounds done.
    """
    mesh = make_mesh(recipe.train.precision)
    variants = {
        PLAIN: _plain(recipe, mesh),
        "ours, uniform": _ours(recipe, "uniform", mesh),
        f"ours, {recipe.reweighting.strategy}": _ours(recipe, recipe.reweighting.strategy, mesh),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for take_step in variants.values():
        take_step()
    names = list(variants)
    for done in range(rounds):
        turn = done % len(names)
        for name in names[turn:] + names[:turn]:
            seconds[name].append(_time(variants[name], steps, mesh))
        if advance is not None:
            advance(done + 1)
    return [_timing(name, seconds, recipe.train.tokens_a_step * steps) for name in names]


def _time(take_step: Callable[[], None], steps: int, mesh: Mesh) -> float:
    if mesh.waits_for_device:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        take_step()
    if mesh.waits_for_device:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _timing(name: str, seconds: dict[str, list[float]], tokens: int) -> Timing:
    ratios = [plain / own for own, plain in zip(seconds[name], seconds[PLAIN], strict=True)]
    return Timing(
        name=name,
        tokens_per_s=tokens / statistics.median(seconds[name]),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
    )


def _tokens(recipe: Recipe, mesh: Mesh) -> Tensor:
    shape = (recipe.train.global_batch, recipe.train.sequence)
    return torch.randint(0, recipe.model.vocab, shape, generator=torch.Generator().manual_seed(0)).to(
        mesh.device
    )


def _plain(recipe: Recipe, mesh: Mesh) -> Callable[[], None]:
    """The same network, optimizer, clipping and precision with Hugging Face's own mean loss."""
    network: nn.Module = build_network(recipe.model, recipe.seed, 0).to(mesh.device).train()
    optimizer = build_optimizer(network, recipe.optimizer)
    tokens = _tokens(recipe, mesh)
    micro_batches: Sequence[Tensor] = torch.split(tokens, recipe.train.micro_batch or len(tokens))

    def take_step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for part in micro_batches:
            with mesh.autocast():
                loss = network(input_ids=part, labels=part, use_cache=False).loss
            (loss / len(micro_batches)).backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.train.clip_norm)
        optimizer.step()

    return take_step


def _ours(recipe: Recipe, strategy: str, mesh: Mesh) -> Callable[[], None]:
    """The training step as the loop runs it, with the numbers that it logs."""
    spec = replace(recipe.reweighting, strategy=strategy)
    model = LanguageModel(build_network(recipe.model, recipe.seed, 0)).to(mesh.device).train()
    optimizer = build_optimizer(model, recipe.optimizer)
    reweighter = SampleReweighter(spec.strategy, spec.r, delta=spec.delta)
    tokens = _tokens(recipe, mesh)
    settings = StepSettings(
        seed=recipe.seed,
        micro_batch=recipe.train.micro_batch or len(tokens),
        clip_norm=recipe.train.clip_norm,
    )
    broken = torch.zeros((), device=mesh.device)
    step = 0

    def take_step() -> None:
        nonlocal step
        step += 1
        outcome = train_step(
            model,
            optimizer,
            reweighter,
            tokens,
            step=step,
            lr=recipe.optimizer.lr,
            broken=broken,
            mesh=mesh,
            settings=settings,
        )
        if step % recipe.train.log_every_steps == 0:
            weight_statistics(outcome.reweighted.losses_M, outcome.reweighted.weights_M)

    return take_step

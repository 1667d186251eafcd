"""What reweighting costs: our step and its peers in turn, in one process, a round at a time.

Timings on a shared machine drift by more than what is to be measured; only variants that ran side by side are
held against each other. Which are, and how sure a ratio is: bench_ratios.py. What the peers are:
bench_peers.py.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from reproduce.errors import RecipeError
from reproduce.method import SampleReweighter, weight_statistics
from reproduce.recipe import Recipe
from reproduce.training.bench_peers import (
    PlainGPT,
    TrainerPeer,
    eager_loop,
    huggingface_loss,
    released_loss,
    untouched,
    wait,
)
from reproduce.training.bench_ratios import (
    EXACT,
    HUGGING_FACE,
    KEPT,
    ONE_PASS,
    ONE_PASS_AGAIN,
    OURS,
    PARTS,
    PLAIN,
    RELEASED,
    TRAINER,
    UNIFORM,
    Round,
    Seconds,
    now,
    turns,
)
from reproduce.training.mesh import Mesh, make_mesh
from reproduce.training.model import LanguageModel, build_network
from reproduce.training.optimizer import build_optimizer
from reproduce.training.step import StepSettings, train_step

Variant = Callable[[int], Seconds]
"""A number of steps -> what they took."""


def is_reference(recipe: Recipe) -> bool:
    """Whether the targets are meant for this run: the reference shape in fp32, one thread, CPU."""
    model, train = recipe.model, recipe.train
    shape = (model.family, model.layers, model.width, model.heads, model.inner, model.vocab)
    batch = (train.sequence, train.global_batch, train.precision)
    return one_cpu_thread() and shape == ("gpt2", 4, 128, 4, 512, 4096) and batch == (256, 16, "fp32")


def one_cpu_thread() -> bool:
    """Whether all work is one thread's of this process, so that its CPU seconds are the whole of it."""
    return not torch.cuda.is_available() and torch.get_num_threads() == 1


def measure(
    recipe: Recipe,
    keys: Sequence[str],
    rounds: int,
    steps: int,
    advance: Callable[[int, str], None] | None = None,
) -> Iterator[Round]:
    """Time the variants that the chosen comparisons need.

    Args:
        recipe: model, batch, optimizer and strategy come from it; tokens are random. Every variant but the
            accumulation pair takes the global batch in one forward pass, whatever train.micro_batch says.
        keys: of `COMPARISONS`.
        rounds: how many to yield.
        steps: training steps of a turn.
        advance: told the turns done, of rounds * len(turns(keys, 0)), and the variant that comes next.

    Raises:
        RecipeError: the recipe and a chosen comparison do not go together.
    """
    tell = advance or (lambda done, next_one: None)
    mesh = make_mesh(recipe.train.precision)
    variants = build_variants(recipe, keys, mesh)
    for name, variant in variants.items():
        tell(0, f"first step: {name}")
        variant(1)
    for done in range(rounds):
        order = turns(keys, done)
        took: dict[str, list[Seconds]] = {name: [] for name in variants}
        for turn, name in enumerate(order):
            tell(done * len(order) + turn, name)
            took[name].append(variants[name](steps))
        yield took
    tell(rounds * len(turns(keys, 0)), "")


def build_variants(recipe: Recipe, keys: Sequence[str], mesh: Mesh) -> dict[str, Variant]:
    """What the chosen comparisons need, each with a model of its own; all start from the same weights."""
    whole = recipe.train.global_batch
    if recipe.model.dropout:
        raise RecipeError("model.dropout: the variants would drop different units; --set model.dropout=0")
    if "plain" in keys and recipe.model.family != "gpt2":
        raise RecipeError(f"{recipe.name}: the plain peer is a GPT-2; leave it out with --variants")
    if {"accumulation", "kept"} & set(keys) and whole % PARTS:
        raise RecipeError(
            f"train.global_batch: {whole} does not split into the {PARTS} parts of accumulation"
        )
    tokens_BT = random_tokens(recipe).to(mesh.device)

    def network() -> PreTrainedModel:
        return untouched(build_network(recipe.model, recipe.seed, 0)).to(mesh.device)

    def ours(strategy: str, micro_batch: int, kept_graphs: int = 1) -> Variant:
        return timed(our_step(recipe, strategy, micro_batch, tokens_BT, mesh, kept_graphs), mesh)

    def plain() -> Variant:
        model = PlainGPT(network()).to(mesh.device)
        return timed(eager_loop(model, model, tokens_BT, recipe, mesh), mesh)

    def hugging_face() -> Variant:
        model = network()
        return timed(eager_loop(model, huggingface_loss(model), tokens_BT, recipe, mesh), mesh)

    def released() -> Variant:
        model = network()
        loss = released_loss(model, recipe.reweighting.r)
        return timed(eager_loop(model, loss, tokens_BT, recipe, mesh), mesh)

    strategy = recipe.reweighting.strategy
    builders: dict[str, Callable[[], Variant]] = {
        OURS: lambda: ours(strategy, whole),
        UNIFORM: lambda: ours("uniform", whole),
        PLAIN: plain,
        HUGGING_FACE: hugging_face,
        TRAINER: lambda: TrainerPeer(network(), tokens_BT, recipe, mesh),
        RELEASED: released,
        # Uniform weights wait for no other loss: the same micro-batches in one pass.
        ONE_PASS: lambda: ours("uniform", whole // PARTS),
        ONE_PASS_AGAIN: lambda: ours("uniform", whole // PARTS),
        EXACT: lambda: ours(strategy, whole // PARTS),
        KEPT: lambda: ours(strategy, whole // PARTS, 2),
    }
    needed = turns(keys, 0)
    return {name: build() for name, build in builders.items() if name in needed}


def random_tokens(recipe: Recipe) -> Tensor:
    """Token ids (B, T) of one global batch, always the same ones."""
    shape = (recipe.train.global_batch, recipe.train.sequence)
    return torch.randint(0, recipe.model.vocab, shape, generator=torch.Generator().manual_seed(0))


def our_step(
    recipe: Recipe, strategy: str, micro_batch: int, tokens_BT: Tensor, mesh: Mesh, kept_graphs: int = 1
) -> Callable[[], None]:
    """The training step as the loop runs it, with the numbers that it logs as often as it logs."""
    spec = replace(recipe.reweighting, strategy=strategy)
    model = LanguageModel(build_network(recipe.model, recipe.seed, 0)).to(mesh.device).train()
    optimizer = build_optimizer(model, recipe.optimizer)
    reweighter = SampleReweighter(spec.strategy, spec.r, delta=spec.delta)
    settings = StepSettings(
        seed=recipe.seed,
        micro_batch=micro_batch,
        clip_norm=recipe.train.clip_norm,
        kept_graphs=kept_graphs,
    )
    broken = torch.zeros((), device=mesh.device)
    step = 0

    def take_step() -> None:
        nonlocal step, broken
        step += 1
        outcome = train_step(
            model,
            optimizer,
            reweighter,
            tokens_BT,
            step=step,
            lr=recipe.optimizer.lr,
            broken=broken,
            mesh=mesh,
            settings=settings,
        )
        broken = outcome.broken
        if step % recipe.train.log_every_steps == 0:
            weight_statistics(outcome.reweighted.losses_M, outcome.reweighted.weights_M)

    return take_step


def timed(take_step: Callable[[], None], mesh: Mesh) -> Variant:
    """A step as something to be timed: so many of them, until the device has caught up."""

    def variant(steps: int) -> Seconds:
        wait(mesh)
        start = now()
        for _ in range(steps):
            take_step()
        wait(mesh)
        return now().since(start)

    return variant

"""What a step of DoReMi and of DoGE costs, in turn with what it is held against, in one process.

    doremi            DoReMi's step / a plain step of the same proxy
    doge              DoGE's step / a plain step of the same proxy
    doge-backwards    DoGE's step / k forward and backward passes over the same samples, a domain at a time

All take the same batch, whose samples are spread evenly over the domains, from the same weights; none drops
anything. How turns become ratios: reproduce.training.bench_ratios.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from data_prep.batches import BatchPlan
from reproduce.domains.doge import DoGE
from reproduce.domains.doremi import DoReMi
from reproduce.errors import RecipeError
from reproduce.method import SampleReweighter
from reproduce.recipe import Recipe
from reproduce.recipe.schema import DomainsSpec
from reproduce.training.bench import Variant, random_tokens, timed
from reproduce.training.bench_ratios import Comparison, Round, Seconds
from reproduce.training.mesh import Mesh, make_mesh
from reproduce.training.model import LanguageModel, build_network
from reproduce.training.optimizer import build_optimizer
from reproduce.training.rule import StepRule
from reproduce.training.start import Start
from reproduce.training.step import StepSettings, train_step

DOREMI, DOREMI_PLAIN = "DoReMi's step", "plain step"
DOGE, DOGE_PLAIN = "DoGE's step", "plain step, again"
DOGE_AGAIN, BACKWARDS = "DoGE's step, again", "k backward passes"

COMPARISONS: Mapping[str, Comparison] = {
    "doremi": Comparison(of=DOREMI, over=DOREMI_PLAIN, at_most=1.6, mirrored=1),
    "doge": Comparison(of=DOGE, over=DOGE_PLAIN, mirrored=1),
    "doge-backwards": Comparison(of=DOGE_AGAIN, over=BACKWARDS, at_most=1.3, mirrored=1),
}


def measure(
    recipe: Recipe, domains: int, rounds: int, advance: Callable[[int, str], None]
) -> Iterator[Round]:
    """Time every variant once a turn.

    Args:
        recipe: model, batch and optimizer come from it; tokens are random.
        domains: k.
        rounds: how many to yield.
        advance: told the rounds done, and the variant that comes next.

    Raises:
        RecipeError: a batch of fewer samples than domains, or a model with dropout.
    """
    if recipe.train.global_batch < domains:
        raise RecipeError(
            f"train.global_batch: {recipe.train.global_batch} samples leave some of {domains} domains "
            "without any; raise it or lower --domains"
        )
    if recipe.model.dropout:
        raise RecipeError("model.dropout: the variants would drop other units; --set model.dropout=0")
    variants = _Variants(recipe, domains, make_mesh(recipe.train.precision)).all()
    for name, variant in variants.items():
        advance(0, f"first step: {name}")
        variant(1)
    for done in range(rounds):
        took: dict[str, list[Seconds]] = {name: [] for name in variants}
        for pair in COMPARISONS.values():
            first, second = (pair.over, pair.of) if done % 2 else (pair.of, pair.over)
            for name in (first, second, second, first):
                advance(done, name)
                took[name].append(variants[name](1))
        yield took
    advance(rounds, "")


class _Variants:
    """Each with a model of its own, all from the same weights."""

    def __init__(self, recipe: Recipe, domains: int, mesh: Mesh) -> None:
        self._recipe, self._mesh = recipe, mesh
        self._names = tuple(f"domain {k}" for k in range(domains))
        self._tokens_BT = random_tokens(recipe).to(mesh.device)
        samples = recipe.train.global_batch
        self._plan = BatchPlan(
            domains_M=np.arange(samples) % domains, windows_M=np.zeros(samples, dtype=np.int64)
        )

    def all(self) -> dict[str, Variant]:
        """By name."""
        reference = self._model().requires_grad_(False).eval()
        doremi = DomainsSpec(algorithm="doremi")
        doge = self._recipe.domains or DomainsSpec(algorithm="doge", smoothing=0.0)
        steps = {
            DOREMI: lambda: self._ruled(lambda model: DoReMi(self._start(doremi), model, reference)),
            DOREMI_PLAIN: lambda: self._ruled(None),
            DOGE: lambda: self._ruled(lambda model: DoGE(self._start(doge), model)),
            DOGE_PLAIN: lambda: self._ruled(None),
            DOGE_AGAIN: lambda: self._ruled(lambda model: DoGE(self._start(doge), model)),
            BACKWARDS: self._backwards,
        }
        return {name: timed(make(), self._mesh) for name, make in steps.items()}

    def _model(self) -> LanguageModel:
        network = build_network(self._recipe.model, self._recipe.seed, 0)
        return LanguageModel(network).to(self._mesh.device).train()

    def _start(self, spec: DomainsSpec) -> Start:
        """As much of a run as a rule looks at."""
        return cast(
            Start,
            SimpleNamespace(
                recipe=SimpleNamespace(domains=spec, parallel=self._recipe.parallel),
                mesh=self._mesh,
                batches=SimpleNamespace(
                    domains=self._names, probabilities_K=np.full(len(self._names), 1 / len(self._names))
                ),
                store=SimpleNamespace(path=Path("random tokens")),
                events=SimpleNamespace(warn=lambda message: None),
            ),
        )

    def _ruled(self, make: Callable[[LanguageModel], StepRule] | None) -> Callable[[], None]:
        """A step as the loop takes it, plain or by a rule."""
        recipe, model = self._recipe, self._model()
        rule = None if make is None else make(model)
        module = model if rule is None else rule.module()
        optimizer = build_optimizer(model, recipe.optimizer)
        reweighter = SampleReweighter("uniform")
        settings = StepSettings(
            seed=recipe.seed,
            micro_batch=recipe.train.micro_batch or recipe.train.global_batch,
            clip_norm=recipe.train.clip_norm,
        )
        broken = torch.zeros((), device=self._mesh.device)
        step = 0

        def take_step() -> None:
            nonlocal step
            step += 1
            train_step(
                module,
                optimizer,
                reweighter,
                self._tokens_BT,
                step=step,
                lr=recipe.optimizer.lr,
                broken=broken,
                mesh=self._mesh,
                settings=settings,
                passes=None if rule is None else rule.passes(step, self._plan, recipe.optimizer.lr),
            )

        return take_step

    def _backwards(self) -> Callable[[], None]:
        """Forward and backward over each domain's samples, and nothing else."""
        model = self._model()
        size = self._recipe.train.micro_batch or self._recipe.train.global_batch
        parts: list[list[Tensor]] = [
            list(
                torch.split(
                    self._tokens_BT[torch.from_numpy(np.flatnonzero(self._plan.domains_M == k))], size
                )
            )
            for k in range(len(self._names))
        ]

        def take_step() -> None:
            for chunks in parts:
                model.zero_grad(set_to_none=True)
                for tokens_BT in chunks:
                    with self._mesh.autocast():
                        losses = model(tokens_BT)
                    losses.mean().backward()

        return take_step

"""Domain weights from beginning to end: reference and proxy of every round, each a run of the one loop.

Every phase is a run folder below the command's, with its own checkpoints: begun again, the command skips what
is complete and continues what is not. All phases share the ranks that met once.

    doremi    OUT/round-1/reference  OUT/round-1/proxy  OUT/round-2/...
    doge      OUT/round-1/proxy
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_prep.token_store import TokenStore
from reproduce.domains.doge import DoGEMaker
from reproduce.domains.doremi import DoReMiMaker
from reproduce.domains.history import proxy_history
from reproduce.domains.learner import trained
from reproduce.domains.reference import check_reference
from reproduce.errors import ExitCode, ResumeError
from reproduce.recipe import Recipe
from reproduce.recipe.schema import DomainsSpec
from reproduce.recipe.weight_set import Round, WeightSet
from reproduce.training.data import open_store, training_batches
from reproduce.training.loop import Events, Options, run_on
from reproduce.training.mesh import Mesh, joined
from reproduce.training.rule import RuleMaker
from reproduce.training.run_dir import RunDir, recorded_identity

CONVERGED = 1e-3
"""Rounds end once no weight is further than this from the reference's (Xie et al. 2023, iterated DoReMi)."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to learn."""

    recipe: Recipe
    """The proxy's, with a `domains` section."""
    path: Path
    """Folder of all phases."""
    data: Path | None
    """Token store; None is the recipe's default place."""
    rounds: int = 1
    """doremi: at most so many."""
    reference: Path | None = None
    """doremi: a finished run that is the first round's reference; None has one trained."""

    @property
    def spec(self) -> DomainsSpec:
        """How weights are learned."""
        assert self.recipe.domains is not None
        return self.recipe.domains


@dataclass(frozen=True, kw_only=True)
class Learned:
    """How it ended."""

    exit_code: int
    weights: WeightSet | None
    """None where a signal stopped it before the end."""
    leads: bool
    """Whether this rank writes and prints."""


EventsOf = Callable[[Recipe], Events]
"""Callbacks of a phase, from its recipe."""


def learn(request: Request, events: EventsOf) -> Learned:
    """Run every phase that is not complete; called on every rank.

    Raises:
        UserError: with the exit code of its kind.
    """
    with joined(request.recipe.train.precision, request.recipe.parallel) as mesh:
        return _Learning(request, mesh, events).run()


def check_request(request: Request) -> TokenStore:
    """The token store, once it and the request are known to go together.

    Raises:
        UserError: one domain only, a target that the data lacks, a reference that does not fit.
    """
    store = open_store(request.recipe, request.data)
    for recipe in reversed(_recipes_of_round(request, 1, request.recipe.data.domain_weights)):
        batches = training_batches(store, recipe)
        trained(batches, request.spec, str(store.path))
    if request.reference is not None:
        check_reference(request.reference, request.recipe, store)
    return store


def reference_recipe(recipe: Recipe, number: int, weights: str | Mapping[str, float]) -> Recipe:
    """The reference of a round: the proxy's model, plainly trained on the given weights."""
    return replace(
        recipe,
        name=f"{recipe.name}_round{number}_reference",
        domains=None,
        data=replace(recipe.data, domain_weights=weights),
    )


def proxy_recipe(recipe: Recipe, number: int) -> Recipe:
    """The proxy of a round; DoReMi's draws all domains alike."""
    assert recipe.domains is not None
    uniform = replace(recipe.data, domain_weights="uniform", weights_tokenizer_sha256=None)
    data = uniform if recipe.domains.algorithm == "doremi" else recipe.data
    return replace(recipe, name=f"{recipe.name}_round{number}_proxy", data=data)


def _recipes_of_round(request: Request, number: int, weights: str | Mapping[str, float]) -> list[Recipe]:
    proxy = proxy_recipe(request.recipe, number)
    if request.spec.algorithm == "doge" or (request.reference is not None and number == 1):
        return [proxy]
    return [reference_recipe(request.recipe, number, weights), proxy]


class _Learning:
    """One command, on one rank."""

    def __init__(self, request: Request, mesh: Mesh, events: EventsOf) -> None:
        self._request, self._mesh, self._events = request, mesh, events
        self._store = mesh.together(lambda: check_request(request))

    def run(self) -> Learned:
        request = self._request
        rounds: list[Round] = []
        weights = request.recipe.data.domain_weights
        for number in range(1, (request.rounds if request.spec.algorithm == "doremi" else 1) + 1):
            code, found = self._round(number, weights)
            if found is None:
                return Learned(exit_code=code, weights=None, leads=self._mesh.leads)
            rounds.append(found)
            weights = found.weights
            if shift(found.weights, found.reference_weights) < CONVERGED:
                break
        return Learned(exit_code=ExitCode.DONE, weights=self._set(rounds), leads=self._mesh.leads)

    def _round(self, number: int, weights: str | Mapping[str, float]) -> tuple[int, Round | None]:
        """Reference, if the algorithm has one, then the proxy; None where a phase was stopped."""
        request, folder = self._request, self._request.path / f"round-{number}"
        maker: RuleMaker = DoGEMaker()
        if request.spec.algorithm == "doremi":
            given = request.reference if number == 1 else None
            reference = given or folder / "reference"
            if given is None:
                code = self._train(
                    reference_recipe(request.recipe, number, weights), folder / "reference", None
                )
                if code != ExitCode.DONE:
                    return code, None
            maker = DoReMiMaker(reference=reference)
        proxy = folder / "proxy"
        code = self._train(proxy_recipe(request.recipe, number), proxy, maker)
        if code != ExitCode.DONE:
            return code, None
        learned, history = proxy_history(self._from_first(proxy / "metrics.jsonl"), proxy)
        before = self._named(weights)
        return code, Round(reference_weights=before, weights=learned, history=history)

    def _train(self, recipe: Recipe, folder: Path, maker: RuleMaker | None) -> int:
        """A phase's exit code; of a complete one nothing is done again."""
        run = RunDir(folder)
        if json.loads(self._mesh.exchange(json.dumps(run.complete))[0]):
            self._mesh.together(lambda: self._check_complete(run, recipe, maker))
            self._events(recipe).warn(f"{folder} is already complete")
            return ExitCode.DONE
        options = Options(rule=maker)
        return run_on(self._mesh, recipe, folder, self._request.data, self._events(recipe), options).exit_code

    def _check_complete(self, run: RunDir, recipe: Recipe, maker: RuleMaker | None) -> None:
        """Refuse a finished phase of other settings, data or reference."""
        if not self._mesh.leads:
            return
        run.check_recipe(recipe)
        now = {"data_fingerprint": self._store.fingerprint, **({} if maker is None else maker.identity)}
        before = recorded_identity(run.path)
        for name, value in now.items():
            if before.get(name) != value:
                raise ResumeError(
                    f"{run.path} was trained with another {name} ({before.get(name)!s:.16} there, "
                    f"{value:.16} now); undo the change, or choose another --out"
                )

    def _from_first(self, path: Path) -> str:
        """A file as rank 0 reads it: others may not see its disk."""

        def read() -> str:
            return path.read_text(encoding="utf-8") if self._mesh.leads else ""

        return self._mesh.exchange(self._mesh.together(read))[0]

    def _named(self, weights: str | Mapping[str, float]) -> dict[str, float]:
        """Weights of a recipe as a share for every domain."""
        recipe = reference_recipe(self._request.recipe, 1, weights)
        batches = training_batches(self._store, replace(recipe, data=replace(recipe.data, repeat=True)))
        return dict(zip(batches.domains, batches.probabilities_K.tolist(), strict=True))

    def _set(self, rounds: list[Round]) -> WeightSet:
        recipe, spec = self._request.recipe, self._request.spec
        tokenizer = self._store.manifest.tokenizer
        return WeightSet(
            name=recipe.name,
            weights=rounds[-1].weights,
            algorithm=spec.algorithm,
            source=f"learned by `reweight domains {spec.algorithm} --recipe {recipe.name}`, "
            f"seed {recipe.seed}",
            tokenizer=tokenizer.name,
            tokenizer_sha256=tokenizer.sha256,
            data_fingerprint=self._store.fingerprint,
            recipe=recipe.name,
            seeds=(recipe.seed,),
            steps=recipe.train.steps,
            settings=settings_of(recipe),
            rounds=tuple(rounds),
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


def shift(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Largest difference of a weight between two sets over the same domains."""
    return max(abs(one[name] - other[name]) for name in one)

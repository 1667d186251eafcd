"""Domain weights from beginning to end: reference and proxy of every round, each a run of the one loop.

Every phase is a run folder below the command's, with its own checkpoints: begun again, the command skips what
is complete and continues what is not. All phases share the ranks that met once.

    doremi    OUT/round-1/reference  OUT/round-1/proxy  OUT/round-2/...
    doge      OUT/round-1/proxy
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.files import read_ordinary_file
from data_prep.token_store import TokenStore
from reproduce.domains.doge import DoGEMaker
from reproduce.domains.doremi import DoReMiMaker
from reproduce.domains.history import proxy_history
from reproduce.domains.learner import trained
from reproduce.domains.reference import check_reference
from reproduce.domains.result import WEIGHTS, check_result, learned_set
from reproduce.errors import DataError, ExitCode, RecipeError, ResumeError
from reproduce.recipe import Recipe
from reproduce.recipe.schema import DomainsSpec
from reproduce.recipe.weight_set import HistoryPoint, Round, WeightSet
from reproduce.recipe.weight_sets import read_weight_set
from reproduce.training.data import open_store, training_batches
from reproduce.training.loop import Events, Options, run_on
from reproduce.training.lost import lost_ranks_named
from reproduce.training.mesh import Mesh, joined
from reproduce.training.recorded import recorded_identity, recorded_recipe
from reproduce.training.rule import RuleMaker
from reproduce.training.run_dir import RunDir

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
    with joined(request.recipe.train.precision, request.recipe.parallel) as mesh, lost_ranks_named(mesh):
        return _Learning(request, mesh, events).run()


def check_request(request: Request) -> TokenStore:
    """The token store, once it and the request are known to go together.

    Raises:
        UserError: one domain only, a target that the data lacks, a reference that does not fit, a result that
            could not be written.
    """
    store = open_store(request.recipe, request.data)
    for recipe in reversed(_recipes_of_round(request, 1, request.recipe.data.domain_weights)):
        batches = training_batches(store, recipe)
        trained(batches, request.spec, str(store.path))
    check_result(request.recipe, store, batches.domains, request.path)
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
        learned = learned_set(request.recipe, self._store, rounds)
        return Learned(exit_code=ExitCode.DONE, weights=learned, leads=self._mesh.leads)

    def _round(self, number: int, weights: str | Mapping[str, float]) -> tuple[int, Round | None]:
        """Reference, if the algorithm has one, then the proxy; None where a phase was stopped."""
        request, folder = self._request, self._request.path / f"round-{number}"
        proxy, own = folder / "proxy", folder / "reference"
        recipe = proxy_recipe(request.recipe, number)
        given = request.reference if number == 1 else None
        before = self._named(weights if given is None else recorded_recipe(given).data.domain_weights)
        maker: RuleMaker | None = DoGEMaker()
        if request.spec.algorithm == "doremi":
            maker = DoReMiMaker(reference=given or own)
            if given is None and self._judged(proxy, own, number, before):
                self._events(recipe).warn(f"{own} is gone, and not needed again: {proxy} is complete")
                maker = None
            elif given is None:
                code = self._train(reference_recipe(request.recipe, number, weights), own, None)
                if code != ExitCode.DONE:
                    return code, None
        code = self._train(recipe, proxy, maker)
        if code != ExitCode.DONE:
            return code, None
        learned, history = self._history(proxy, tuple(before), recipe.train.steps)
        return code, Round(reference_weights=before, weights=learned, history=history)

    def _history(
        self, proxy: Path, domains: Sequence[str], steps: int
    ) -> tuple[dict[str, float], tuple[HistoryPoint, ...]]:
        """What a finished proxy learned; where it cannot be read, rank 0 alone says why."""

        def look() -> str:
            text = _text(proxy / "metrics.jsonl")
            proxy_history(text, proxy, domains=domains, steps=steps)
            return text

        return proxy_history(self._from_first(look), proxy, domains=domains, steps=steps)

    def _judged(self, proxy: Path, reference: Path, number: int, before: Mapping[str, float]) -> bool:
        """Whether a proxy is finished whose reference is gone, which was the one asked for by weights.yaml.

        It is as large as its proxy, and of no use after it; to train it again could take days.
        """

        def look() -> str:
            if RunDir(reference).complete or not RunDir(proxy).complete:
                return ""
            try:
                rounds = read_weight_set(self._request.path / WEIGHTS).rounds
            except RecipeError:
                return ""
            found = [each.reference_weights for each in rounds[number - 1 : number]]
            return "yes" if found == [before] else ""

        return self._from_first(look) == "yes"

    def _train(self, recipe: Recipe, folder: Path, maker: RuleMaker | None) -> int:
        """A phase's exit code; of a complete one nothing is done again, and none begins after a signal."""
        run = RunDir(folder)
        if self._from_first(lambda: "yes" if run.complete else ""):
            self._mesh.together(lambda: self._check_complete(run, recipe, maker))
            self._events(recipe).warn(f"{folder} is already complete")
            return ExitCode.DONE
        events = self._events(recipe)
        asked = max(map(int, self._mesh.exchange(str(events.stop() or 0))))
        if asked:
            return asked
        options = Options(rule=maker, allow_drift=None)
        return run_on(self._mesh, recipe, folder, self._request.data, events, options).exit_code

    def _check_complete(self, run: RunDir, recipe: Recipe, maker: RuleMaker | None) -> None:
        """Refuse a finished phase of other settings, data or reference."""
        if not self._mesh.leads:
            return
        run.check_recipe(recipe, None)
        now = {"data_fingerprint": self._store.fingerprint, **({} if maker is None else maker.identity)}
        before = recorded_identity(run.path)
        for name, value in now.items():
            if before.get(name) != value:
                raise ResumeError(
                    f"{run.path} was trained with another {name} ({before.get(name)!s:.16} there, "
                    f"{value:.16} now); undo the change, or choose another --out"
                )

    def _from_first(self, look: Callable[[], str]) -> str:
        """What rank 0 finds: others may not see its disk."""
        return self._mesh.exchange(self._mesh.together(lambda: look() if self._mesh.leads else ""))[0]

    def _named(self, weights: str | Mapping[str, float]) -> dict[str, float]:
        """Weights of a recipe as a share for every domain."""
        recipe = self._request.recipe
        data = replace(recipe.data, domain_weights=weights, weights_tokenizer_sha256=None, repeat=True)
        batches = training_batches(self._store, replace(recipe, data=data))
        return dict(zip(batches.domains, batches.probabilities_K.tolist(), strict=True))


def shift(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Largest difference of a weight between two sets over the same domains."""
    return max(abs(one[name] - other[name]) for name in one)


def _text(path: Path) -> str:
    try:
        return read_ordinary_file(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(
            f"{path}: cannot be read ({reason}); restore it, or delete {path.parent} and run the same "
            "command again"
        ) from None

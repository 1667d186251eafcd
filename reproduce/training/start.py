"""What a run is made of, opened and checked before anything is written or trained."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from data_prep.batches import Batches
from data_prep.files import sha256_text
from data_prep.token_store import TokenStore
from eval.perplexity import EvaluationSet
from reproduce.errors import RecipeError
from reproduce.recipe import Recipe, recipe_as_yaml
from reproduce.recipe.checks import impossible_layout, refuse_learning
from reproduce.recipe.estimate import estimate
from reproduce.training.checkpoint import check_space
from reproduce.training.data import evaluation_set, open_store, training_batches
from reproduce.training.mesh import Mesh, check_memory
from reproduce.training.peer_dir import PeerRunDir
from reproduce.training.provenance import provenance, versions
from reproduce.training.run_dir import RunDir

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from reproduce.training.rule import RuleMaker


@dataclass(frozen=True, kw_only=True)
class Events:
    """Who is told what while a run goes on, and who may ask for what."""

    warn: Callable[[str], None]
    """One line worth reading now."""
    advance: Callable[[int, dict[str, Any]], None]
    """(step, the line just logged)"""
    verifying: Callable[[int, int], None] | None = None
    """(bytes read, bytes in all) while the store is checked."""
    stop: Callable[[], int | None] = lambda: None
    """Exit code to leave with after this step, once a signal asked for it; else None."""
    saves: Callable[[], int] = lambda: 0
    """How often a signal asked for a checkpoint since the start."""


class Scorer(Protocol):
    """Scores tasks while a run goes on. Comes from outside: training itself knows no harness."""

    def prepare(self, start: "Start") -> None:
        """Find out before the first step what could not be scored; all ranks call it."""

    def due(self, step: int, steps: int) -> bool:
        """Whether the model after this step, of so many, is to be scored."""

    def __call__(
        self,
        start: "Start",
        step: int,
        network: "PreTrainedModel",
        parameters: "Iterable[tuple[str, Tensor]]",
    ) -> Mapping[str, Any]:
        """Score the network with these parameters, whole, by name; all ranks call it. A line of metrics."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a start may ask for besides the recipe."""

    allow_drift: tuple[str, ...] | None = ()
    """Fields of the recipe, or of the run's identity, that may differ from the folder's; put on record. None:
    the command offers no such option."""
    strict_resume: bool = False
    """Refuse to fall back on an older checkpoint where the newest is damaged."""
    trackers: tuple[str, ...] = ()
    """accelerate's names of experiment trackers."""
    scorer: Scorer | None = None
    """Asked after every step whether the model is to be scored on tasks."""
    rule: "RuleMaker | None" = None
    """Weighs samples in place of the recipe's strategy."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Everything a run is made of, open and checked."""

    recipe: Recipe
    folder: RunDir
    store: TokenStore
    batches: Batches
    evaluation: EvaluationSet
    mesh: Mesh
    events: Events
    options: Options
    digest: str
    """Of recipe and data: equal on all ranks."""


def open_run(
    recipe: Recipe,
    path: Path,
    data: Path | None,
    events: Events,
    options: Options,
    mesh: Mesh,
    stack: ExitStack,
) -> Start:
    """Open data and run folder; what one rank refuses, all refuse."""

    def look() -> tuple[TokenStore, Batches, EvaluationSet]:
        if options.rule is None:
            refuse_learning(recipe)
        problems = impossible_layout(recipe, mesh.world, mesh.local_world)
        if problems:
            raise RecipeError(
                f"recipe {recipe.name} on {mesh.world} ranks",
                [f"{where}: {what}" for where, what in problems],
            )
        check_memory(recipe, mesh)
        store = open_store(recipe, data)
        return store, training_batches(store, recipe), evaluation_set(store, recipe)

    store, batches, evaluation = mesh.together(look)
    folder = RunDir(path) if mesh.leads else PeerRunDir(path, mesh.rank)
    identity = {"data_fingerprint": store.fingerprint, "eval_set_sha256": evaluation.sha256}
    rule = options.rule
    if rule is not None:
        identity |= mesh.together(lambda: rule.identity)
    digest = sha256_text(recipe_as_yaml(recipe) + "".join(identity.values()))
    mesh.require_equal(
        {"recipe": sha256_text(recipe_as_yaml(recipe)), "precision": mesh.precision, **identity, **versions()}
    )

    def claim() -> None:
        stack.enter_context(folder)
        if mesh.leads:
            check_space(path, estimate(recipe, "fp32").disk_bytes)
        now = provenance(mesh, identity, store)
        _warn_of_changes(folder.claim(recipe, now, options.allow_drift), now, events)

    mesh.together(claim)
    return Start(
        recipe=recipe,
        folder=folder,
        store=store,
        batches=batches,
        evaluation=evaluation,
        mesh=mesh,
        events=events,
        options=options,
        digest=digest,
    )


def _warn_of_changes(first: Mapping[str, Any], now: Mapping[str, Any], events: Events) -> None:
    for fact in ("threads", "world", "precision"):
        before = first.get(fact, now[fact])
        if before != now[fact]:
            remedy = "; set OMP_NUM_THREADS for the same ones" if fact == "threads" else ""
            events.warn(
                f"begun with {fact} {before}, continued with {now[fact]}: losses may differ in their last "
                f"bits{remedy}"
            )

"""The training loop: batches in, metrics, checkpoints, evaluations and a model folder out.

One loop for every strategy. What a step does is step.py's business, what is on disk run_dir.py's and
checkpoint.py's; printing is the caller's, through `Events`.
"""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.batches import Batches, BatchPlan
from data_prep.token_store import TokenStore
from eval.perplexity import EvaluationSet, LogPerplexity, log_perplexity
from eval.results import Results, write_results
from reproduce.errors import ExitCode, NonFiniteError
from reproduce.method import SampleReweighter, weight_statistics
from reproduce.recipe import Recipe
from reproduce.training import checkpoint
from reproduce.training.clock import Clock
from reproduce.training.data import evaluation_set, open_store, training_batches, verify_store
from reproduce.training.evaluate import Losses, as_scores
from reproduce.training.mesh import Mesh, check_memory, make_mesh, named_memory_errors
from reproduce.training.model import LanguageModel, build_network, export
from reproduce.training.optimizer import build_optimizer, learning_rate
from reproduce.training.provenance import provenance, versions
from reproduce.training.run_dir import COMPLETE, RunDir, write_json
from reproduce.training.step import StepOutcome, StepSettings, train_step


@dataclass(frozen=True, kw_only=True)
class Events:
    """Who is told what while a run goes on."""

    warn: Callable[[str], None]
    """One line worth reading now."""
    advance: Callable[[int, dict[str, Any]], None]
    """(step, the line just logged)"""
    verifying: Callable[[int, int], None] | None = None
    """(bytes read, bytes in all) while the store is checked."""
    stop: Callable[[], int | None] = lambda: None
    """Exit code to leave with after this step, once a signal asked for it; else None."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a run ended."""

    step: int
    exit_code: int
    scores: dict[str, LogPerplexity] | None
    """Final log-perplexity by domain and `mean`; None where the run stopped early."""


def run(recipe: Recipe, path: Path, data: Path | None, events: Events) -> Finished:
    """Train a recipe in a run folder, from its newest checkpoint if there is one.

    Args:
        recipe: resolved.
        path: run folder.
        data: token store; None is the recipe's default place.
        events: callbacks.

    Raises:
        UserError: with the exit code of its kind; status.json says the same.
    """
    mesh = make_mesh(recipe.train.precision)
    check_memory(recipe, mesh)
    store = open_store(recipe, data)
    with RunDir(path) as folder:
        batches = training_batches(store, recipe)
        evaluation = evaluation_set(store, recipe)
        identity = {"data_fingerprint": store.fingerprint, "eval_set_sha256": evaluation.sha256}
        now = provenance(mesh, identity, store)
        first = folder.claim(recipe, now)
        if first.get("threads") != now["threads"]:
            events.warn(
                f"begun with {first.get('threads')} threads, continued with {now['threads']}: losses may "
                "differ in their last bits; set OMP_NUM_THREADS for the same ones"
            )
        with folder.failures_recorded():
            verify_store(store, [recipe.data.train_split, recipe.data.eval_split], events.verifying)
            with named_memory_errors():
                trainer = _Trainer(recipe, folder, store, batches, evaluation, mesh, events)
                return trainer.run()


class _Trainer:
    """The state of one run between its steps."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunDir,
        store: TokenStore,
        batches: Batches,
        evaluation: EvaluationSet,
        mesh: Mesh,
        events: Events,
    ) -> None:
        self._recipe, self._folder, self._store = recipe, folder, store
        self._batches, self._evaluation = batches, evaluation
        self._mesh, self._events = mesh, events
        network = build_network(recipe.model, recipe.seed, store.manifest.tokenizer.end_of_text)
        self._model = LanguageModel(network).to(mesh.device)
        self._optimizer = build_optimizer(self._model, recipe.optimizer)
        spec = recipe.reweighting
        self._reweighter = SampleReweighter(
            spec.strategy, spec.r, spec.warmup_steps, warmup=spec.warmup, delta=spec.delta
        )
        self._settings = StepSettings(
            seed=recipe.seed,
            micro_batch=recipe.train.micro_batch or recipe.train.global_batch,
            clip_norm=recipe.train.clip_norm,
        )
        self._broken = torch.zeros((), device=mesh.device)
        self._clock = Clock()

    def run(self) -> Finished:
        done = self._restore()
        steps = self._recipe.train.steps
        scores = None if done else self._evaluate(0)
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            ahead = pool.submit(self._read, done + 1)
            for step in range(done + 1, steps + 1):
                plan, tokens_MT = ahead.result()
                if step < steps:
                    ahead = pool.submit(self._read, step + 1)
                scores = self._one_step(step, plan, tokens_MT)
                code = self._events.stop()
                if code is not None and step < steps:
                    return self._leave(step, code)
        if scores is None:
            # Stopped between the last checkpoint and the model: its evaluation is in metrics.jsonl already.
            scores = self._score()
        self._finish(scores)
        return Finished(step=steps, exit_code=ExitCode.DONE, scores=scores)

    def _restore(self) -> int:
        """Steps already behind us, with everything as it was after the last of them."""
        checkpoint.discard_temporaries(self._folder.checkpoints)
        found = checkpoint.latest(self._folder.checkpoints, self._events.warn)
        done = 0
        if found is not None:
            checkpoint.load(found, self._model, self._optimizer)
            done = found.step
        self._folder.rewind_metrics(done if found is not None else -1)
        self._folder.set_status("running", ExitCode.DONE, done)
        return done

    def _read(self, step: int) -> tuple[BatchPlan, NDArray[np.int32]]:
        plan = self._batches.plan(step)
        return plan, self._batches.tokens(plan)

    def _one_step(
        self, step: int, plan: BatchPlan, tokens_MT: NDArray[np.int32]
    ) -> dict[str, LogPerplexity] | None:
        train = self._recipe.train
        self._model.train()
        outcome = train_step(
            self._model,
            self._optimizer,
            self._reweighter,
            self._mesh.place(tokens_MT),
            step=step,
            lr=learning_rate(self._recipe.optimizer, train.steps, step),
            broken=self._broken,
            mesh=self._mesh,
            settings=self._settings,
        )
        self._broken = outcome.broken
        self._clock.step(train.tokens_a_step)
        last = step == train.steps
        logs = step == 1 or last or step % train.log_every_steps == 0
        saves = last or step % train.checkpoint_every_steps == 0
        # On a CPU reading the flag is free; on a GPU it waits for a step that reads numbers anyway.
        if logs or saves or not self._mesh.waits_for_device:
            self._check_finite(step, plan, outcome)
        if logs:
            self._log(step, plan, outcome)
        scores = self._evaluate(step) if last or step % self._recipe.evaluation.every_steps == 0 else None
        if saves:
            self._save(step)
        return scores

    def _log(self, step: int, plan: BatchPlan, outcome: StepOutcome) -> None:
        reweighted = outcome.reweighted
        statistics = weight_statistics(reweighted.losses_M, reweighted.weights_M)
        line: dict[str, Any] = {
            "kind": "train",
            "step": step,
            "tokens": step * self._recipe.train.tokens_a_step,
            "loss": statistics.loss,
            "weighted_loss": statistics.weighted_loss,
            "lr": self._optimizer.param_groups[0]["lr"],
            "r": reweighted.r,
            "grad_norm": outcome.grad_norm.item(),
            "max_weight": statistics.max_weight,
            "min_weight": statistics.min_weight,
            "ess": statistics.ess,
            "entropy": statistics.entropy,
            "weight_share": self._weight_share(plan, reweighted.weights_M),
            "tokens_per_s": self._clock.tokens_per_s(),
        }
        self._folder.log(**line)
        self._events.advance(step, line)

    def _weight_share(self, plan: BatchPlan, weights_M: Tensor) -> dict[str, float]:
        shares_K = np.bincount(
            plan.domains_M, weights=weights_M.double().cpu().numpy(), minlength=len(self._batches.domains)
        )
        return dict(zip(self._batches.domains, shares_K.tolist(), strict=True))

    def _check_finite(self, step: int, plan: BatchPlan, outcome: StepOutcome) -> None:
        """Stop before a number that is not finite reaches a checkpoint; the update was already left out."""
        if not outcome.broken.item():
            return
        losses = outcome.reweighted.losses_M.cpu().tolist()
        crash = self._folder.path / "crash" / f"step-{step:07d}.json"
        crash.parent.mkdir(exist_ok=True)
        samples = [
            {"domain": self._batches.domains[d], "window": int(w), "loss": repr(loss)}
            for d, w, loss in zip(plan.domains_M, plan.windows_M, losses, strict=True)
        ]
        write_json(crash, {"step": step, "grad_norm": repr(outcome.grad_norm.item()), "samples": samples})
        raise NonFiniteError(
            f"a loss or gradient is not finite at step {step} (or since the last logged step); "
            f"the update was left out and the samples are in {crash}. Lower optimizer.lr or check the data"
        )

    def _score(self) -> dict[str, LogPerplexity]:
        losses = Losses(self._model, self._mesh)
        return log_perplexity(self._evaluation, losses, self._recipe.evaluation.batch)

    def _evaluate(self, step: int) -> dict[str, LogPerplexity]:
        scores = self._score()
        self._folder.log(
            kind="eval",
            step=step,
            tokens=step * self._recipe.train.tokens_a_step,
            log_perplexity={name: score.value for name, score in scores.items()},
            n={name: score.n for name, score in scores.items()},
            eval_set_sha256=self._evaluation.sha256,
        )
        self._clock.skip()
        return scores

    def _save(self, step: int) -> None:
        checkpoint.save(
            self._folder.checkpoints,
            step,
            self._model,
            self._optimizer,
            keep=self._recipe.train.keep_checkpoints,
        )
        self._folder.set_status("running", ExitCode.DONE, step)
        self._clock.skip()

    def _leave(self, step: int, code: int) -> Finished:
        """Save and stop between two steps, because a signal asked for it."""
        self._save(step)
        state = "interrupted" if code == ExitCode.INTERRUPTED else "preempted"
        self._folder.set_status(state, code, step, "run the same command again to continue")
        return Finished(step=step, exit_code=code, scores=None)

    def _finish(self, scores: dict[str, LogPerplexity]) -> None:
        temporary = self._folder.path / ".tmp-model"
        shutil.rmtree(temporary, ignore_errors=True)
        tokenizer = self._store.path / "tokenizer.json"
        try:
            export(self._model.network, temporary, tokenizer if tokenizer.is_file() else None)
            shutil.rmtree(self._folder.model, ignore_errors=True)
            temporary.rename(self._folder.model)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        steps = self._recipe.train.steps
        write_results(
            self._folder.results,
            Results(
                recipe=self._recipe.name,
                seed=self._recipe.seed,
                step=steps,
                scores=as_scores(scores),
                eval_set_sha256=self._evaluation.sha256,
                versions=versions(),
            ),
        )
        self._folder.set_status(COMPLETE, ExitCode.DONE, steps)

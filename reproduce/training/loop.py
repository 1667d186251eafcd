"""The training loop: batches in, metrics, checkpoints, evaluations and a model folder out.

One loop for every strategy and any number of ranks. What a step does is step.py's business, what is on disk
run_dir.py's and checkpoint.py's, what a line of metrics holds telemetry.py's; printing is the caller's,
through `Events`.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.batches import BatchPlan
from eval.perplexity import LogPerplexity, log_perplexity
from reproduce.errors import ExitCode
from reproduce.method import LaggedRange, SampleReweighter, sample_slices
from reproduce.method.heads import accepted_head
from reproduce.recipe import Recipe
from reproduce.recipe.loader import recipe_as_dict
from reproduce.training import checkpoint
from reproduce.training.agreement import Requests, fingerprint, make_note
from reproduce.training.clock import NO_TIMER, Clock, PhaseTimer
from reproduce.training.data import verify_store
from reproduce.training.evaluate import Losses
from reproduce.training.judge import Judge
from reproduce.training.lost import lost_ranks_named
from reproduce.training.mesh import Mesh, joined, named_memory_errors
from reproduce.training.model import LanguageModel, build_network
from reproduce.training.optimizer import build_optimizer, learning_rate
from reproduce.training.products import write_model, write_scores
from reproduce.training.resume import newest_checkpoint
from reproduce.training.run_dir import COMPLETE
from reproduce.training.sharding import check_replicas, full_parameters, share_model
from reproduce.training.start import Events, Options, Start, open_run
from reproduce.training.step import StepOutcome, StepSettings, train_step
from reproduce.training.telemetry import Telemetry
from reproduce.training.trackers import Trackers

__all__ = ["Events", "Finished", "Options", "run", "run_on"]

RANGE = "reweighting/range"
"""Name of the lagged range among a checkpoint's further tensors."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a run ended."""

    step: int
    exit_code: int
    scores: dict[str, LogPerplexity] | None
    """Final log-perplexity by domain and `mean`; None where the run stopped early."""


def run(
    recipe: Recipe, path: Path, data: Path | None, events: Events, options: Options | None = None
) -> Finished:
    """Train a recipe in a run folder, from its newest checkpoint if there is one.

    Started by a launcher, every rank calls this; rank 0 writes what is written once.

    Args:
        recipe: resolved.
        path: run folder.
        data: token store; None is the recipe's default place.
        events: callbacks.
        options: of this start; None is the defaults.

    Raises:
        UserError: with the exit code of its kind; status.json says the same.
    """
    with joined(recipe.train.precision, recipe.parallel) as mesh:
        return run_on(mesh, recipe, path, data, events, options or Options())


def run_on(
    mesh: Mesh, recipe: Recipe, path: Path, data: Path | None, events: Events, options: Options
) -> Finished:
    """`run` on ranks that have met already."""
    with lost_ranks_named(mesh), ExitStack() as stack:
        start = open_run(recipe, path, data, events, options, mesh, stack)
        # Inside the folder's record of failures, so that it is the named error that is written down.
        with start.folder.failures_recorded(), lost_ranks_named(mesh):

            def verify() -> None:
                if mesh.local_rank == 0:  # each node may have a copy of its own
                    splits = [recipe.data.train_split, recipe.data.eval_split]
                    verify_store(start.store, splits, events.verifying)

            mesh.together(verify)
            with named_memory_errors():
                trainer = mesh.together(lambda: _Trainer(start))
                return trainer.run()


class _Trainer:
    """The state of one run between its steps."""

    def __init__(self, start: Start) -> None:
        recipe, mesh = start.recipe, start.mesh
        self._start, self._recipe, self._mesh, self._events = start, recipe, mesh, start.events
        self._folder, self._batches = start.folder, start.batches
        network = build_network(recipe.model, recipe.seed, start.store.manifest.tokenizer.end_of_text)
        head = "released_bf16" if recipe.compatibility.bf16_losses else recipe.parallel.head
        self._model = LanguageModel(network, accepted_head(head, mesh.device))
        maker = start.options.rule
        self._rule = None if maker is None else maker(start, self._model)
        self._shared = self._rule.module() if self._rule else share_model(self._model, mesh, recipe.parallel)
        self._optimizer = build_optimizer(self._model, recipe.optimizer)
        spec = recipe.reweighting
        self._reweighter = SampleReweighter(
            spec.strategy,
            spec.r,
            spec.warmup_steps,
            warmup=spec.warmup,
            delta=spec.delta,
            first_node_weights=recipe.compatibility.first_node_weights,
        )
        lagged = spec.scope == "lagged" and spec.strategy != "uniform"
        self._lagged = LaggedRange(spec.strategy, spec.r, spec.delta) if lagged else None
        own = mesh.shares(recipe.train.global_batch)
        self._settings = StepSettings(
            seed=recipe.seed,
            micro_batch=recipe.train.micro_batch or max(own),
            clip_norm=recipe.train.clip_norm,
            scope=spec.scope,
            global_batch=recipe.train.global_batch,
            kept_graphs=recipe.parallel.kept_graphs,
            drop_nonfinite=recipe.train.nonfinite == "drop_sample",
        )
        # Every rank reads equally many samples: the last one again where the shares are uneven.
        place = sample_slices(own)[mesh.rank]
        self._own = np.minimum(place.start + np.arange(max(own)), place.stop - 1)
        self._saver = checkpoint.Saver(
            start.folder.checkpoints,
            keep=recipe.train.keep_checkpoints,
            ranks=self._ranks,
            background=recipe.train.checkpoint_async,
            warn=start.events.warn,
        )
        self._broken = torch.zeros((), device=mesh.device)
        self._judge = Judge(start)
        self._resumed = 0
        self._saves_asked = 0
        self._clock = Clock()
        self._telemetry = Telemetry(recipe, mesh, start.batches.domains, self._reweighter)
        names = start.options.trackers if mesh.leads else ()
        if start.options.scorer is not None:
            start.options.scorer.prepare(start)
        self._trackers = Trackers(names, start.folder.path, recipe_as_dict(recipe), start.events.warn)

    @property
    def _ranks(self) -> checkpoint.Ranks:
        return checkpoint.Ranks(rank=self._mesh.rank, world=self._mesh.world, exchange=self._mesh.exchange)

    def run(self) -> Finished:
        try:
            return self._run()
        finally:
            self._saver.close()

    def _run(self) -> Finished:
        done = self._restore()
        steps = self._recipe.train.steps
        scores = None if done else self._evaluate(0)
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            ahead = pool.submit(self._read, done + 1)
            for step in range(done + 1, steps + 1):
                phases = PhaseTimer(self._mesh.device) if self._logs(step) else NO_TIMER
                plan, tokens_BT = ahead.result()
                phases.mark("data")
                if step < steps:
                    ahead = pool.submit(self._read, step + 1)
                scores, asked = self._one_step(step, plan, tokens_BT, phases)
                if asked.stop and step < steps:
                    return self._leave(step, asked.stop)
                if asked.saves > self._saves_asked:
                    self._saves_asked = asked.saves
                    if not self._saves(step):
                        self._save(step)
        self._saver.settle()
        if scores is None:
            # Stopped between the last checkpoint and the model: its evaluation is in metrics.jsonl already.
            scores = self._score()
        self._finish(scores)
        self._trackers.finish()
        return Finished(step=steps, exit_code=ExitCode.DONE, scores=scores)

    def _restore(self) -> int:
        """Steps already behind us, with everything as it was after the last of them."""
        found = newest_checkpoint(
            self._folder.checkpoints,
            self._ranks,
            self._events.warn,
            strict=self._start.options.strict_resume,
        )
        done = 0
        if found is not None:
            extra = checkpoint.load(found, self._model, self._optimizer)
            done = found.step
            if self._lagged is not None and RANGE in extra:
                self._lagged.range = extra[RANGE].to(self._mesh.device)
            if self._rule is not None:
                self._rule.restore(extra)
        self._resumed = done
        self._folder.rewind_metrics(done if found is not None else -1)
        self._folder.set_status("running", ExitCode.DONE, done)
        return done

    def _read(self, step: int) -> tuple[BatchPlan, NDArray[np.int32]]:
        """The step's global batch, and the tokens of this rank's samples."""
        plan = self._batches.plan(step)
        return plan, self._batches.tokens(plan.part(self._own))

    def _logs(self, step: int) -> bool:
        train = self._recipe.train
        return step in (1, train.steps) or step % train.log_every_steps == 0

    def _saves(self, step: int) -> bool:
        train = self._recipe.train
        return step == train.steps or step % train.checkpoint_every_steps == 0

    def _one_step(
        self, step: int, plan: BatchPlan, tokens_BT: NDArray[np.int32], phases: PhaseTimer
    ) -> tuple[dict[str, LogPerplexity] | None, Requests]:
        train = self._recipe.train
        note = None
        if self._mesh.world > 1:
            note = make_note(self._mesh, fingerprint(self._start.digest, step, plan), self._asked())
        lr = learning_rate(self._recipe.optimizer, train.steps, step)
        self._model.train()
        outcome = train_step(
            self._shared,
            self._optimizer,
            self._reweighter,
            self._mesh.place(tokens_BT),
            step=step,
            lr=lr,
            broken=self._broken,
            mesh=self._mesh,
            settings=self._settings,
            lagged=self._lagged,
            passes=None if self._rule is None else self._rule.passes(step, plan, lr),
            note=note,
            timer=phases,
        )
        self._broken = outcome.broken
        self._clock.step(train.tokens_a_step)
        evaluates = step == train.steps or step % self._recipe.evaluation.every_steps == 0
        now = self._logs(step) or self._saves(step) or evaluates
        asked = self._judge.after(step, plan, outcome, now=now)
        if self._logs(step):
            self._log(step, plan, outcome, phases)
        if self._mesh.world > 1 and step % self._recipe.parallel.check_replicas_every_steps == 0:
            check_replicas(self._model, self._mesh, step)
        scores = self._evaluate(step) if evaluates else None
        if self._saves(step):
            self._save(step)
        self._score_tasks(step)
        return scores, asked if self._mesh.world > 1 else self._asked()

    def _asked(self) -> Requests:
        """What signals have asked of this process."""
        return Requests(stop=self._events.stop() or 0, saves=self._events.saves())

    def _log(self, step: int, plan: BatchPlan, outcome: StepOutcome, phases: PhaseTimer) -> None:
        lr = self._optimizer.param_groups[0]["lr"]
        line = self._telemetry.line(step, plan, outcome, lr, self._clock, phases)
        if self._rule is not None:
            line |= self._rule.line(step)
        self._folder.log(**line)
        self._trackers.log(line)
        self._events.advance(step, line)

    def _score(self) -> dict[str, LogPerplexity]:
        batch = self._recipe.evaluation.batch * self._mesh.world
        return log_perplexity(self._start.evaluation, Losses(self._model, self._mesh), batch)

    def _evaluate(self, step: int) -> dict[str, LogPerplexity]:
        scores = self._score()
        line = {
            "kind": "eval",
            "step": step,
            "tokens": step * self._recipe.train.tokens_a_step,
            "log_perplexity": {name: score.value for name, score in scores.items()},
            "n": {name: score.n for name, score in scores.items()},
            "eval_set_sha256": self._start.evaluation.sha256,
        }
        self._folder.log(**line)
        self._trackers.log(line)
        self._clock.skip()
        return scores

    def _score_tasks(self, step: int) -> None:
        scorer = self._start.options.scorer
        if scorer is None or not scorer.due(step, self._recipe.train.steps):
            return
        line = scorer(self._start, step, self._model.network, full_parameters(self._model))
        self._folder.log(**line)
        self._trackers.log(line)
        self._clock.skip()

    def _save(self, step: int, *, final: bool = False) -> None:
        extra: dict[str, Tensor] = {}
        if self._lagged is not None and self._lagged.range is not None:
            extra[RANGE] = self._lagged.range
        if self._rule is not None:
            extra |= self._rule.state()
        final = final or step == self._recipe.train.steps
        self._saver.save(step, self._model, self._optimizer, extra, final=final)
        # One that failed was a warning; one in the background is not there yet.
        self._folder.set_status("running", ExitCode.DONE, self._saver.committed or self._resumed)
        self._clock.skip()

    def _leave(self, step: int, code: int) -> Finished:
        """Save and stop between two steps, because a signal asked for it."""
        self._saver.settle()
        if self._saver.committed != step:
            self._save(step, final=True)
        state = "interrupted" if code == ExitCode.INTERRUPTED else "preempted"
        self._folder.set_status(state, code, step, "run the same command again to continue")
        self._trackers.finish()
        # A scheduler may end everyone when the first one leaves.
        self._mesh.exchange("status.json is written")
        return Finished(step=step, exit_code=code, scores=None)

    def _finish(self, scores: dict[str, LogPerplexity]) -> None:
        full = dict(full_parameters(self._model)) if self._mesh.sharded else None

        def write() -> None:
            if self._mesh.leads:
                write_model(self._start, self._model, full)
                write_scores(self._start, scores)
                self._folder.set_status(COMPLETE, ExitCode.DONE, self._recipe.train.steps)

        self._mesh.together(write)

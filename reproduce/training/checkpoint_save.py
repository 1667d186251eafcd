"""Saving: all ranks write, all learn how it went, and none waits for one that failed."""

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from reproduce.errors import StorageError
from reproduce.training.checkpoint_files import TEMPORARY_PREFIX
from reproduce.training.checkpoint_job import Job, Verdict
from reproduce.training.checkpoint_ranks import ALONE, Ranks, make_folder
from reproduce.training.checkpoint_tensors import held, held_by_model, held_by_optimizer, on_host


class Saver:
    """Writes the checkpoints of a run. `save` and `settle` are collectives: all ranks call them in one order.

    Each rank writes the rows it holds into one temporary folder; when all have, rank 0 adds the manifest and
    renames the folder into place. In the background rank 0 sees by the part files of the others that they
    have written, so a checkpoint is complete before the next collective.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        warn: Callable[[str], None],
        ranks: Ranks = ALONE,
        background: bool = False,
    ) -> None:
        """A saver into `folder`.

        Args:
            folder: of all checkpoints of the run, shared by all ranks.
            keep: newest checkpoints that stay, at least 1; others go once a newer one is complete.
            warn: told on every rank of a save that failed, in one line.
            ranks: who trains together.
            background: write beside the following steps, from a copy in host memory.
        """
        if keep < 1:
            raise ValueError(f"keep = {keep}: at least the newest checkpoint must stay")
        self.committed: int | None = None
        """Step of the newest checkpoint written here that is known to be complete."""
        self._folder, self._keep, self._ranks = folder, keep, ranks
        self._background, self._warn = background, warn
        self._job: Job | None = None
        self._failures = 0

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        extra: Mapping[str, Tensor],
        *,
        final: bool = False,
    ) -> None:
        """Write the checkpoint of a step; with `background` only begin to, after the one before is settled.

        A save that fails leaves nothing behind and older checkpoints untouched; it is a warning, and the
        second in a row an error.

        Args:
            step: just taken.
            model: with plain parameters, alike on all ranks, or cut by `fully_shard`.
            optimizer: AdamW over them.
            extra: other tensors that the run needs, alike on all ranks (rank 0's are kept).
            final: there is no later save: not in the background, and a failure is an error.

        Raises:
            StorageError: on all ranks.
        """
        self.settle()
        rank = self._ranks.rank
        everything = {
            **held_by_model(model, rank),
            **held_by_optimizer(model, optimizer, rank),
            **{f"extra/{name}": held(tensor, rank) for name, tensor in extra.items()},
        }
        background = self._background and not final
        tensors = on_host(everything, copy=background)
        temporary, writers, verdict = self._open(step, holds=bool(tensors))
        if verdict.failure:
            self._judge(step, verdict, final)
            return
        self._job = Job(
            temporary, step, tensors, self._ranks, keep=self._keep, writers=writers, background=background
        )
        if not background:
            self._settle(final)

    def settle(self) -> None:
        """Wait until a save in the background is complete, or has failed, on all ranks.

        Raises:
            StorageError: as in `save`.
        """
        self._settle(final=False)

    def close(self, seconds: float = 20.0) -> None:
        """Where a run breaks off: give a save in the background some time to end, without a collective."""
        if self._job is not None:
            self._job.wait(seconds)

    def _open(self, step: int, *, holds: bool) -> tuple[Path, list[int], Verdict]:
        """Make the temporary folder on rank 0; all learn its name and which ranks will write into it."""
        name, failure = f"{TEMPORARY_PREFIX}{step}-{uuid.uuid4().hex}", ""
        if self._ranks.rank == 0:
            try:
                make_folder(self._folder)
                (self._folder / name).mkdir()
            except OSError as error:
                failure = str(error)
        answers = [json.loads(text) for text in self._ranks.exchange(json.dumps([holds, name, failure]))]
        writers = [rank for rank, (writes, _, _) in enumerate(answers) if writes]
        _, name, failure = answers[0]
        return self._folder / name, writers, Verdict(failure=failure)

    def _settle(self, final: bool) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        job.written.wait()
        verdict = self._agree(job.own)
        if self._ranks.rank == 0:
            job.finish(wanted=not verdict.failure)
            if verdict.failure or job.commit.failure:
                shutil.rmtree(job.temporary, ignore_errors=True)
            if job.notice:
                self._warn(job.notice)
        if not verdict.failure:
            verdict = self._agree(job.commit)
        if job.bug is not None:
            raise job.bug
        self._judge(job.step, verdict, final)

    def _agree(self, own: Verdict) -> Verdict:
        """The first failure in the order of ranks, a hopeless one before others."""
        texts = self._ranks.exchange(json.dumps([own.failure, own.hopeless]))
        verdicts = [
            Verdict(failure=failure, hopeless=hopeless) for failure, hopeless in map(json.loads, texts)
        ]
        failed = [verdict for verdict in verdicts if verdict.failure]
        return max(failed, key=lambda verdict: verdict.hopeless, default=Verdict())

    def _judge(self, step: int, verdict: Verdict, final: bool) -> None:
        if not verdict.failure:
            self._failures, self.committed = 0, step
            return
        self._failures += 1
        what = f"the checkpoint of step {step} was not written: {verdict.failure}"
        if verdict.hopeless:
            raise StorageError(what)
        if final or self._failures > 1:
            raise StorageError(f"{what}; free space, then run the same command again")
        self._warn(f"{what}; older ones are untouched, and the run goes on to its next save")

"""Whether a run goes on after a step: numbers that are not finite, ranks that differ, requests to stop."""

from data_prep.batches import BatchPlan
from reproduce.errors import NonFiniteError, RankError
from reproduce.training.agreement import Requests, Verdict, Verdicts
from reproduce.training.start import Start
from reproduce.training.step import StepOutcome
from reproduce.training.telemetry import crash_facts, samples_of

DROPS_IN_A_ROW = 3
"""So many steps in a row with samples left out end a run."""


class Judge:
    """Reads what is known about the steps of one run."""

    def __init__(self, start: Start) -> None:
        """No step has been taken."""
        self._start = start
        self._verdicts = Verdicts(start.mesh)
        self._recent: dict[int, tuple[BatchPlan, StepOutcome]] = {}
        self._drops = 0

    def after(self, step: int, plan: BatchPlan, outcome: StepOutcome, *, now: bool) -> Requests:
        """Stop where a verdict is bad, before anything of it is saved; else what any rank was asked for.

        Args:
            step: just queued.
            plan: its global batch.
            outcome: what happened.
            now: wait for this step's verdict too.

        Raises:
            NonFiniteError, RankError: with the update left out and the samples on record.
        """
        self._count_drops(step, plan, outcome)
        self._recent[step] = plan, outcome
        asked = Requests()
        for verdict in self._verdicts.after(step, outcome.broken, outcome.notes, now=now):
            if verdict.strangers:
                raise RankError(
                    f"in step {verdict.step} rank {', '.join(map(str, verdict.strangers))} did not compute "
                    "the batch that rank 0 did; nothing was updated. Start all ranks with the same command, "
                    "code and data"
                )
            if verdict.broken:
                self._halt(verdict)
            asked = verdict.requests  # the newest: none is withdrawn
        for old in [known for known in self._recent if known < step]:
            del self._recent[old]
        return asked

    def _halt(self, verdict: Verdict) -> None:
        """Record a number that is not finite, and stop; the update was already left out."""
        plan, outcome = self._recent[verdict.step]
        facts = crash_facts(
            self._start.recipe, self._start.mesh, self._start.batches.domains, verdict.step, plan, outcome
        )
        crash = self._start.folder.record_crash(verdict.step, facts)
        raise NonFiniteError(
            f"a loss or gradient is not finite at step {verdict.step}; the update was left out and the "
            f"samples are in {crash}. Lower optimizer.lr or check the data"
        )

    def _count_drops(self, step: int, plan: BatchPlan, outcome: StepOutcome) -> None:
        self._drops = self._drops + 1 if outcome.dropped else 0
        if not outcome.dropped:
            return
        samples = samples_of(plan, self._start.batches.domains, outcome.dropped)
        self._start.folder.log(kind="dropped", step=step, samples=samples)
        self._start.events.warn(f"step {step}: {len(samples)} samples left out, their loss is not finite")
        if self._drops == DROPS_IN_A_ROW:
            crash = self._start.folder.record_crash(step, {"step": step, "dropped": samples})
            raise NonFiniteError(
                f"samples with a loss that is not finite in {DROPS_IN_A_ROW} steps in a row, up to step "
                f"{step}; the last are in {crash}. Lower optimizer.lr or check the data"
            )

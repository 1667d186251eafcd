"""What ranks tell each other within a step, in the same collective as the losses: no traffic of its own.

Each rank's note holds a fingerprint of what it is computing and the signals it has received. A step whose
notes disagree, like one with a number that is not finite, leaves its update out on the device itself; the
host reads the verdict at once on a CPU, and on a GPU one step later, so that it never waits for the step
that it has just queued.

Shapes: B own samples, W ranks.
"""

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from data_prep.batches import BatchPlan
from reproduce.method import gather_losses
from reproduce.training.mesh import Mesh

NOTE = 3
"""int32 numbers in a note: fingerprint, exit code asked for, checkpoints asked for."""


@dataclass(frozen=True, kw_only=True)
class Requests:
    """What signals have asked of a rank, or of any; all ranks do it after the same step."""

    stop: int = 0
    """Exit code to leave with; 0: go on."""
    saves: int = 0
    """How often a checkpoint was asked for since the start. A count: a signal that reaches two ranks in two
    steps asks once."""


def fingerprint(run: str, step: int, plan: BatchPlan) -> int:
    """31 bits that differ where ranks are at another step, run or batch.

    Args:
        run: digest of recipe and data.
        step: about to be taken.
        plan: its global batch.
    """
    content = f"{run}/{step}".encode() + plan.domains_M.tobytes() + plan.windows_M.tobytes()
    return zlib.crc32(content) >> 1


class NotedGather:
    """The losses' gather, with every rank's note on board."""

    def __init__(self, note: Tensor) -> None:
        """`note` is (NOTE,) int32 on the device."""
        self._note = note
        self.notes: Tensor | None = None
        """(W, NOTE) of the last gather."""

    def __call__(self, own_B: Tensor) -> Tensor:
        """(B,) float32 of this rank -> (W * B,) of all; the bits travel as int32, untouched."""
        everybody = gather_losses(torch.cat([own_B.view(torch.int32), self._note]))
        rows = everybody.view(-1, len(own_B) + NOTE)
        self.notes = rows[:, len(own_B) :]
        return rows[:, : len(own_B)].contiguous().view(torch.float32).flatten()

    def disagreement(self) -> Tensor:
        """1.0 where a rank's fingerprint is not rank 0's, else 0.0; a scalar on the device."""
        assert self.notes is not None, "nothing was gathered"
        return (self.notes[:, 0] != self.notes[0, 0]).any().float()


def make_note(mesh: Mesh, number: int, requests: Requests) -> Tensor:
    """This rank's note of a step."""
    return mesh.put(torch.tensor([number, requests.stop, requests.saves], dtype=torch.int32))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the host has learnt about a step."""

    step: int
    broken: bool
    """A number was not finite, in this step or one before, or ranks disagreed; the update was left out."""
    strangers: tuple[int, ...]
    """Ranks whose fingerprint is not rank 0's."""
    requests: Requests
    """Of all ranks."""


class Verdicts:
    """Reads verdicts off the device: at once on a CPU, one step behind on a GPU."""

    def __init__(self, mesh: Mesh) -> None:
        """Nothing is pending."""
        self._mesh = mesh
        self._pending: tuple[int, Tensor, torch.cuda.Event] | None = None

    def after(self, step: int, broken: Tensor, notes: Tensor | None, *, now: bool) -> list[Verdict]:
        """The verdicts that are known after a step was queued, oldest first.

        Args:
            step: the step.
            broken: scalar flag on the device.
            notes: (W, NOTE) int32, or None where one process computes alone.
            now: wait for this step's too.
        """
        report = broken.to(torch.int32).reshape(1)
        if notes is not None:
            report = torch.cat([report, notes.flatten()])
        if not self._mesh.waits_for_device:
            return [_verdict(step, report)]
        known = []
        if self._pending is not None:
            before, host, event = self._pending
            event.synchronize()
            known.append(_verdict(before, host))
            self._pending = None
        if now:
            return [*known, _verdict(step, report.cpu())]
        host = torch.empty(report.shape, dtype=report.dtype, pin_memory=True)
        host.copy_(report, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending = (step, host, event)
        return known


def _verdict(step: int, report: Tensor) -> Verdict:
    broken, *rest = report.tolist()
    fingerprints, stops, saves = (rest[place::NOTE] for place in range(NOTE))
    return Verdict(
        step=step,
        broken=bool(broken),
        strangers=tuple(rank for rank, found in enumerate(fingerprints) if found != fingerprints[0]),
        requests=Requests(stop=max(stops, default=0), saves=max(saves, default=0)),
    )

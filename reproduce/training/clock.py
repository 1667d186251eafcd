"""How fast a run is, and what its time goes to."""

import time

import torch


class Clock:
    """Tokens a second over the steps since the last reading, evaluations and saves left out."""

    def __init__(self) -> None:
        """The first step starts now."""
        self._tokens, self._seconds, self._since = 0, 0.0, time.perf_counter()

    def step(self, tokens: int) -> None:
        """A step of this many tokens has ended."""
        now = time.perf_counter()
        self._tokens += tokens
        self._seconds += now - self._since
        self._since = now

    def skip(self) -> None:
        """What happened since the last step was no step."""
        self._since = time.perf_counter()

    def tokens_per_s(self) -> float:
        """The rate, and start anew."""
        rate = self._tokens / self._seconds if self._seconds else 0.0
        self._tokens, self._seconds = 0, 0.0
        return rate


class PhaseTimer:
    """Seconds of one step by phase: data, forward, weights, backward, optimizer.

    On a GPU the marks are events in the stream, read only after the step: they stall nothing.
    """

    def __init__(self, device: torch.device) -> None:
        """The step starts now."""
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = [("", self._now())]

    def mark(self, phase: str) -> None:
        """What ran since the last mark was `phase`."""
        self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """Phase -> seconds. Waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
        found: dict[str, float] = {}
        for (_, before), (phase, after) in zip(self._marks, self._marks[1:], strict=False):
            found[phase] = found.get(phase, 0.0) + _between(before, after)
        return found

    def _now(self) -> "float | torch.cuda.Event":
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


class _NoTimer(PhaseTimer):
    def __init__(self) -> None:
        pass

    def mark(self, phase: str) -> None:
        pass

    def seconds(self) -> dict[str, float]:
        return {}


NO_TIMER: PhaseTimer = _NoTimer()
"""Takes no time and tells none."""


def _between(before: "float | torch.cuda.Event", after: "float | torch.cuda.Event") -> float:
    if isinstance(before, float) and isinstance(after, float):
        return after - before
    assert isinstance(before, torch.cuda.Event)
    assert isinstance(after, torch.cuda.Event)
    milliseconds: float = before.elapsed_time(after)
    return milliseconds / 1e3

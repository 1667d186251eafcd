"""How fast a run is: tokens a second over its steps alone."""

import time


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

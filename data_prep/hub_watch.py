"""A watch on one call of the hub's client: what it has brought, and how much patience is left.

The hooks of the client show it every request, every answer's head and every block of a body. It raises
where the hub has yielded nothing new for PATIENCE_S, over all attempts together, where it asks to wait
longer than that, and where it sends what no hub sends.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

# The client's own HTTP library: its successor has another name.
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

PATIENCE_S = 35.0
"""Longest time in which the hub may yield nothing new."""
PROGRESS_BYTES = 64 << 10
"""So much of a body is something new; less than this in PATIENCE_S is a trickle."""
ANSWER_S = 10.0
"""Longest wait for the next byte, where the client itself sets no limit."""
ANSWER_BYTES = 64 << 20
"""Largest answer that is not a file: a page of a listing has a thousand entries."""
IDLE_REQUESTS = 100
"""Requests without anything new: pages without entries could go on for ever."""
RETRIED = (408, 429, 500, 502, 503, 504)
"""Answers after which the client waits as long as the hub asks."""
PACKED = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd"})
"""Encodings of an answer that the client undoes."""


class GaveUpError(Exception):
    """Patience is at an end, or an answer is refused. Of no class that the client retries."""


@dataclass
class Watch:
    """What one call has brought so far, and how much patience is left."""

    commit: str | None = None
    """What an answer that names a commit must name."""
    most_bytes: int | None = ANSWER_BYTES
    """Longest body of an answer; None for a file of unknown size."""
    etag: str | None = None
    """How the hub identifies the file: sha256, or git's object id for a small one."""
    requests: Counter[str] = field(default_factory=Counter)
    """Requests by method and address since there was something new."""
    trouble: str = ""
    """What the hub last complained of."""
    asked_to_wait_s: int | None = None
    new_at: float = field(default_factory=time.monotonic)
    """When there was last something new: data never seen before, or what the caller calls new."""
    _moved_at: float = 0.0
    """When the present answer last moved: it may repeat what is known, after a lost connection."""
    _furthest: int = 0
    _new_bytes: int = 0
    _moved_bytes: int = 0

    def something_new(self) -> None:
        """Patience begins anew."""
        self.new_at = time.monotonic()
        self.requests.clear()
        self._new_bytes = 0

    def start_over(self) -> None:
        """The file is to be fetched once more, from its first byte."""
        self._furthest = 0
        self.something_new()

    def left_s(self) -> float:
        """Seconds of patience that are left."""
        return max(self.new_at, self._moved_at) + PATIENCE_S - time.monotonic()

    def check(self) -> None:
        """GaveUpError when patience is at an end."""
        if self.left_s() <= 0:
            raise GaveUpError(self.at_an_end())

    def at_an_end(self) -> str:
        """What to say when patience is at an end."""
        why = f"; {self.trouble}" if self.trouble else ""
        return f"less than {PROGRESS_BYTES >> 10} KiB of anything new in {PATIENCE_S:.0f} s{why}"

    def request(self, request: httpx.Request) -> None:
        """Hook: before each request, the client's own repetitions and redirects included."""
        # Whatever the answer before this one repeated was in vain.
        self._moved_at = 0.0
        self.check()
        self.requests[f"{request.method} {request.url}"] += 1
        if self.requests.total() > IDLE_REQUESTS:
            raise GaveUpError(f"{IDLE_REQUESTS} answers of the hub without anything new")
        limits = request.extensions.get("timeout") or {}
        longest = max(self.left_s(), 1.0)
        request.extensions["timeout"] = {
            phase: min(limits.get(phase) or ANSWER_S, longest)
            for phase in ("connect", "read", "write", "pool")
        }
        # Sizes and positions are those of the file, and no small answer unpacks to a large one.
        request.headers["Accept-Encoding"] = "identity"

    def response(self, response: httpx.Response) -> None:
        """Hook: the head of each answer, before the client looks at it."""
        status = response.status_code
        if status >= 400:
            self.trouble = f"it answers HTTP {status}"
        self.asked_to_wait_s = _asked_to_wait(response.headers) if status in RETRIED else None
        if self.asked_to_wait_s is not None and self.asked_to_wait_s + 1 > self.left_s():
            raise GaveUpError(f"the hub asks to wait {self.asked_to_wait_s:,} s (HTTP {status})")
        if PACKED.intersection(re.split(r"[\s,]+", response.headers.get("Content-Encoding", "").lower())):
            raise GaveUpError("the hub sends a compressed answer that nobody asked for")
        start = 0
        if status < 400:
            self._look_at(response.headers)
            if status == 206:
                start = _first_number(response.headers.get("Content-Range", ""))
        most = self.most_bytes if status in (200, 206) else ANSWER_BYTES
        if not isinstance(response.stream, httpx.SyncByteStream):
            raise AssertionError("the client's calls that we make are not asynchronous")
        response.stream = _WatchedBody(response.stream, self, start, most)

    def _look_at(self, headers: httpx.Headers) -> None:
        """Refuse what the client would turn into names of files; remember what the file should be."""
        commit = headers.get("X-Repo-Commit")
        if commit is not None and not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise GaveUpError("the hub names a commit that is none")
        if commit is not None and self.commit is not None and commit != self.commit:
            raise GaveUpError(f"the hub answers for another commit, {commit}")
        etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
        if not re.fullmatch(r"[A-Za-z0-9_-]{0,128}(\.[A-Za-z0-9_-]{1,64})?", etag):
            raise GaveUpError("the hub gives the file an identity (ETag) that is none")
        if commit is None:
            return
        self.etag = etag or self.etag
        size = headers.get("X-Linked-Size", "")
        if self.most_bytes is None and size.isascii() and size.isdigit():
            self.most_bytes = int(size)

    def received(self, position: int, count: int) -> None:
        """Count a block of a body that ends at `position`; GaveUpError at the end of patience."""
        new = max(0, position - max(self._furthest, position - count))
        self._furthest = max(self._furthest, position)
        self._new_bytes += new
        self._moved_bytes += count
        if self._new_bytes >= PROGRESS_BYTES:
            self.something_new()
        if self._moved_bytes >= PROGRESS_BYTES:
            self._moved_at, self._moved_bytes = time.monotonic(), 0
        self.check()


class _WatchedBody(httpx.SyncByteStream):
    """The body of an answer, every block of which is counted."""

    def __init__(self, body: httpx.SyncByteStream, watch: Watch, start: int, most: int | None) -> None:
        self._body, self._watch, self._position, self._most = body, watch, start, most

    def __iter__(self) -> Iterator[bytes]:
        try:
            for block in self._body:
                self._position += len(block)
                if self._most is not None and self._position > self._most:
                    raise GaveUpError("the hub sends more than it announced")
                self._watch.received(self._position, len(block))
                yield block
        except httpx.ReadError as error:
            # The client resumes after an orderly end that comes too early, but not after a reset.
            raise httpx.RemoteProtocolError("the connection was reset") from error

    def close(self) -> None:
        self._body.close()


def _asked_to_wait(headers: httpx.Headers) -> int | None:
    """Seconds, as the client reads them: the rate limit's reset first, then Retry-After."""
    limit = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})", headers.get("ratelimit", ""))
    text = limit[1] if limit else headers.get("Retry-After", "").strip()
    return min(int(text), 10**9) if text.isascii() and text.isdigit() else None


def _first_number(text: str) -> int:
    found = re.search(r"\d{1,18}", text)
    return int(found[0]) if found else 0

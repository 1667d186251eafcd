"""The hub's own client, watched: it may take as long as it likes while something new arrives, and no longer.

`huggingface_hub` retries some failures for up to half a minute, others not at all, waits as long as a hub
asks it to, and never ends while a byte trickles in. `ask` runs one of its calls under a `Watch` and says in
one line what went wrong. Loading this module loads the client.
"""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from huggingface_hub import constants, errors, get_token, set_client_factory
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported, but not to type checkers
    _http,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    httpx,
)
from huggingface_hub.utils import logging as client_logging

from data_prep.errors import HubError, RevisionError, UserError
from data_prep.hub_watch import RETRIED, GaveUpError, Watch

__all__ = ["Watch", "ask", "offline"]

T = TypeVar("T")

ATTEMPTS = 3
"""How often one request is made without anything new, in all: where the client repeats it, not once more."""
WAIT_S = 2.0
"""First pause between attempts; doubled each time."""
GUARD_S = 3.0
"""So long after the end of patience the connections are closed under a client that has not noticed."""

_ONE_AT_A_TIME = threading.Lock()
"""The client's factory of connections is one for the whole process."""


@contextlib.contextmanager
def _watched_client(watch: Watch) -> Iterator[None]:
    """Let the client of this process work under `watch`, and quietly, for as long as this lasts."""
    before = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)
    made: list[httpx.Client] = []

    def make() -> httpx.Client:
        client = before()
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], watch.request],
            "response": [*hooks["response"], watch.response],
        }
        made.append(client)
        return client

    verbosity, xet = client_logging.get_verbosity(), constants.HF_HUB_DISABLE_XET
    bars = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    set_client_factory(make)
    client_logging.set_verbosity(logging.ERROR)
    # Xet has its own connections, which nothing here can watch or end; the hub serves each file both ways.
    constants.HF_HUB_DISABLE_XET = True
    if bars:
        disable_progress_bars()
    try:
        with _guard(watch, made):
            yield
    finally:
        if bars:
            enable_progress_bars()
        constants.HF_HUB_DISABLE_XET = xet
        client_logging.set_verbosity(verbosity)
        set_client_factory(before)


@contextlib.contextmanager
def _guard(watch: Watch, clients: list[httpx.Client]) -> Iterator[None]:
    """End what no hook sees, as the head of an answer that comes a byte at a time."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(1.0):
            if watch.left_s() < -GUARD_S:
                for client in clients:
                    client.close()
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def offline() -> bool:
    """Whether the user has told the client to stay off the network."""
    return bool(constants.HF_HUB_OFFLINE)


def ask(action: Callable[[], T], watch: Watch, at: str, remedy: str) -> T:
    """What `action`, a call of the client, returns; tried again where that may help.

    Raises HubError, of which RevisionError is one: "`at`: cause; `remedy`". Errors that are not the hub's,
    as a full disk, go through.
    """
    _check_token()
    pause = WAIT_S
    while True:
        with _ONE_AT_A_TIME, _watched_client(watch):
            try:
                return action()
            except Exception as error:
                failure = _judge(error, watch)
                if failure is None:
                    raise
        # Out here the client's error is gone, with the request and the token that hang on it.
        wait = max(pause, (watch.asked_to_wait_s or 0) + 1.0)
        made = max(watch.requests.values(), default=0)
        if not failure.again or made >= ATTEMPTS or wait >= watch.left_s():
            raise failure.error(f"{at}: {failure.cause}; {remedy}")
        time.sleep(wait)
        pause *= 2


def _check_token() -> None:
    token = get_token()
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UserError(
            "the hub token (HF_TOKEN, or the login) holds characters that no token has; set it anew"
        )


@dataclass(frozen=True, kw_only=True)
class _Failure:
    cause: str
    again: bool = False
    error: type[HubError] = HubError


def _judge(error: BaseException, watch: Watch) -> _Failure | None:
    """What an error of the client means; None for one that is not the hub's. Never quotes its message.

    Messages of the client may quote addresses and headers.
    """
    if isinstance(error, GaveUpError):
        return _Failure(cause=str(error))
    if isinstance(error, errors.OfflineModeIsEnabled):
        return _Failure(cause="offline mode is on (HF_HUB_OFFLINE)")
    if isinstance(error, errors.HfHubHTTPError):
        return _judge_answer(error)
    wrapped = isinstance(error, errors.LocalEntryNotFoundError) or "Force download failed" in str(error)
    if wrapped and error.__cause__ is not None:
        return _judge(error.__cause__, watch)
    if isinstance(error, (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError)):
        return _judge_connection(error, watch)
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _Failure(cause="the hub cannot be reached", again=True)
    if isinstance(error, RuntimeError) and watch.left_s() <= 0:
        return _Failure(cause=watch.at_an_end())
    if isinstance(error, errors.FileMetadataError):
        return _Failure(cause="the answer lacks what a hub says of a file; check HF_ENDPOINT and the proxy")
    if isinstance(error, OSError):
        short = "Consistency check" in str(error)
        return _Failure(cause="a file arrives incomplete", again=True) if short else None
    if isinstance(error, (ValueError, LookupError, TypeError, AttributeError, RecursionError)):
        return _Failure(cause=f"the hub sends an answer that no hub gives ({type(error).__name__})")
    return None


def _judge_answer(error: errors.HfHubHTTPError) -> _Failure:
    status = error.response.status_code
    # GatedRepoError is a RepositoryNotFoundError, so it comes first.
    if isinstance(error, errors.GatedRepoError):
        how = "and wait until access is granted" if status == 403 else "and log in with `hf auth login`"
        return _Failure(cause=f"gated: accept its terms on the hub, {how}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return _Failure(cause="no such repository, or it is private: `hf auth login` logs in")
    if isinstance(error, errors.RevisionNotFoundError):
        return _Failure(cause="no such revision", error=RevisionError)
    if isinstance(error, errors.EntryNotFoundError):
        return _Failure(cause="no such file or folder at this revision")
    if status == 401:
        return _Failure(cause="the hub refuses the token (HTTP 401): `hf auth login` sets another")
    # Where files lie, a signed address that has grown old is forbidden; another attempt gets a new one.
    elsewhere = not str(error.response.request.url).startswith(constants.ENDPOINT)
    return _Failure(
        cause=f"the hub answers HTTP {status}", again=status in RETRIED or (status == 403 and elsewhere)
    )


def _judge_connection(error: Exception, watch: Watch) -> _Failure:
    if watch.left_s() <= 0:
        return _Failure(cause=watch.at_an_end())
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol)):
        return _Failure(cause="an address is none: check HF_ENDPOINT")
    if isinstance(error, httpx.ConnectError):
        # The operating system's words: nothing of the request is in them.
        return _Failure(cause=f"the hub cannot be reached ({str(error)[:200]})", again=True)
    again = isinstance(error, httpx.TransportError)
    what = "breaks the connection off" if again else "leads nowhere"
    if isinstance(error, httpx.TimeoutException):
        what = "does not answer"
    return _Failure(cause=f"the hub {what} ({type(error).__name__})", again=again)

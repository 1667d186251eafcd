"""Ends a process by SIGKILL at its k-th change of the file system: for the tests of interrupted preparations.

In a forked child: `arm(k)`. As a program, with the arguments of `reweight`:

    CRASH_AT=k CRASH_ROLE=parent|worker CRASH_ON='rename|link' python crash_point.py prep ...

It kills its whole process group.
"""

import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

CHANGES = "open|rename|remove|link|mkdir|rmdir|fsync"
WRITING = os.O_WRONLY | os.O_RDWR


def arm(at: int, on: str = CHANGES, below: str = "", die: Callable[[], None] | None = None) -> list[str]:
    """Die just before the `at`-th change (from 1) of the kinds `on` whose path holds `below`; 0: never.

    Returns the list that the changes are noted in as they come.
    """
    seen: list[str] = []
    kinds = re.compile(on)

    def note(kind: str, path: object) -> None:
        if kinds.fullmatch(kind) is None or below not in str(path):
            return
        seen.append(f"{kind} {path}")
        if len(seen) == at:
            (die or (lambda: os.kill(os.getpid(), signal.SIGKILL)))()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and (flags or 0) & WRITING:
                note("open", path)
        elif event in ("os.rename", "os.link"):
            note(event[3:], arguments[1])
        elif event in ("os.remove", "os.mkdir", "os.rmdir"):
            note(event[3:], arguments[0])

    sync = os.fsync

    def fsync(descriptor: Any) -> None:
        note("fsync", below)  # the one change that Python does not announce
        sync(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)
    return seen


def _arm_from_environment(role: str) -> None:
    if os.environ.get("CRASH_ROLE") == role:
        arm(
            int(os.environ["CRASH_AT"]),
            os.environ.get("CRASH_ON", CHANGES),
            os.environ["CRASH_BELOW"],
            lambda: os.killpg(0, signal.SIGKILL),
        )


if __name__ == "__main__":
    from reproduce.cli import main

    _arm_from_environment("parent")
    main()
elif __name__ == "__mp_main__":
    # How a spawned worker sees this program.
    _arm_from_environment("worker")

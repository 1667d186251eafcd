"""Calls of tests/task_calls.py in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hub_place import Place

SCRIPT = Path(__file__).with_name("task_calls.py")


def call_tasks(
    place: Place,
    calls: Sequence[Mapping[str, Any]],
    *,
    constants: Mapping[str, float] | None = None,
    **environment: str,
) -> list[dict[str, Any]]:
    """The outcome of each call, made one after the other in one process; `name` is the task if not given."""
    made = [{"name": call["task"], **call} for call in calls]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps({"constants": constants or {}, "calls": made})],
        env={**place.environment, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]

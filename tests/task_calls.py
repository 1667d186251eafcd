"""Run by tests in a process of its own: the real client reads its environment when it is imported.

    python task_calls.py SETTINGS

SETTINGS is JSON: {"constants": {"hub_watch.PATIENCE_S": 4}, "calls": [{"name": ..., "task": ..., ...}]}.
Prints a line of JSON for each call: where a task's data was found, what was read, or what went wrong.
"""

import hashlib
import importlib
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.errors import EvaluationError
from eval.suites import DataSource, EvalTask, load_suites
from eval.task_data import fetch, locate
from eval.task_prepare import prepare
from reproduce.scoring.hub import ClientHub


def the_task(call: dict[str, Any]) -> EvalTask:
    """A task of the suites, of these configurations and sources only if the call names some."""
    every = {task.name: task for suite in load_suites().values() for task in suite.tasks}
    task = every[call["task"]]
    if "sources" in call:
        sources = tuple(DataSource(repository=r, revision=v, configured=c) for r, v, c in call["sources"])
        task = replace(task, sources=sources)
    return replace(task, configs=tuple(call["configs"])) if "configs" in call else task


@contextmanager
def deaf() -> Iterator[None]:
    """No connection may be opened."""

    def refuse(*_: object) -> None:
        raise AssertionError("a request is made")

    connect, look_up = socket.socket.connect, socket.getaddrinfo
    socket.socket.connect, socket.getaddrinfo = refuse, refuse  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        socket.socket.connect, socket.getaddrinfo = connect, look_up  # type: ignore[method-assign]


def seen(loaded: Any) -> dict[str, Any]:
    """What a data set shows: order of splits, columns with their types, rows."""
    return {
        split: {
            "features": repr(data.features),
            "rows": len(data),
            "sha256": hashlib.sha256(json.dumps(data[:]).encode()).hexdigest(),
        }
        for split, data in loaded.items()
    }


@contextmanager
def offline() -> Iterator[None]:
    """As HF_HUB_OFFLINE=1, which is read once a process; and no connection may be opened."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True
    try:
        with deaf():
            yield
    finally:
        constants.HF_HUB_OFFLINE = False


def flip(path: Path) -> None:
    """Change one byte of a file."""
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])


def outcome(call: dict[str, Any]) -> dict[str, Any]:
    """What comes of one call: `fill` and `flip` prepare the cache, `offline` cuts the network off."""
    import datasets

    if "fill" in call:
        repository, config, revision = call["fill"]
        datasets.load_dataset(repository, config, revision=revision)
        return {"name": call["name"]}
    if "flip" in call:
        (found,) = Path(os.environ["HF_HOME"]).glob(call["flip"])
        flip(found.resolve())
    with offline() if call.get("offline") else nullcontext():
        return scored(call)


def scored(call: dict[str, Any]) -> dict[str, Any]:
    """Locate, fetch, prepare and load, as far as the call asks; what went wrong is part of the outcome."""
    import datasets

    started = time.monotonic()
    result: dict[str, Any] = {"name": call["name"], "error": None}
    steps = call.get("steps", ["locate", "fetch", "load"])
    try:
        task, client = the_task(call), ClientHub()
        located = locate(task, client)
        result |= {"dataset": located.dataset, "revision": located.note.revision, "bytes": located.bytes}
        result |= {"paths": [file.path for file in located.files], "missing": located.missing(client)}
        result["located_s"] = time.monotonic() - started
        if "fetch" in steps:
            told: list[int] = []
            folders = fetch(located, client, told.append)
            result |= {"folders": {str(name): str(each) for name, each in folders.items()}, "told": sum(told)}
            result |= {"left": located.missing(client), "fetched_s": time.monotonic() - started}
        if "load" in steps:
            with deaf():
                prepare(located.at, folders)
                loaded = {name: datasets.load_dataset(str(each), name=name) for name, each in folders.items()}
            result["loaded"] = {str(name): seen(each) for name, each in loaded.items()}
        if "reference" in steps:
            datasets.disable_progress_bars()
            source = next(each for each in task.sources if each.revision == located.note.revision)
            revision = {} if source.revision == "main" else {"revision": source.revision}
            result["reference"] = {
                str(name): seen(
                    datasets.load_dataset(
                        source.repository,
                        name if source.configured else None,
                        cache_dir=call["reference_cache"],
                        **revision,
                    )
                )
                for name in task.configs
            }
    except EvaluationError as error:
        result |= {"error": str(error), "exit_code": error.exit_code}
    except Exception:
        result |= {"error": f"a bug: {traceback.format_exc()[-2500:]}", "exit_code": 1}
    return {**result, "seconds": time.monotonic() - started}


def main() -> None:
    """Make the calls one after the other."""
    settings = json.loads(sys.argv[1])
    for name, value in settings.get("constants", {}).items():
        module, constant = name.split(".")
        setattr(importlib.import_module(f"data_prep.{module}"), constant, value)
    for call in settings["calls"]:
        print(json.dumps(outcome(call)), flush=True)


if __name__ == "__main__":
    main()

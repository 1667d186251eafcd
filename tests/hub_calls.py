"""Run by tests in a process of its own: the real client reads its environment when it is imported.

    python hub_calls.py SETTINGS

SETTINGS is JSON: {"constants": {"hub_watch.PATIENCE_S": 4}, "calls": [{"name": ..., "steps": ..., ...}]}.
Prints a line of JSON for each call: what came of it, how long it took, what lies in its folder.
"""

import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from data_prep import hub
from data_prep.errors import UserError

REMEDY = "then do this"


def outcome(call: dict[str, Any]) -> dict[str, Any]:
    """Resolve, list and download as a preparation does; what went wrong is part of the outcome."""
    started, folder = time.monotonic(), Path(call["folder"])
    result: dict[str, Any] = {"name": call["name"], "error": None}
    try:
        commit = hub.resolve_commit(call["repository"], call.get("revision"), REMEDY)
        files = hub.list_files(call["repository"], commit, call.get("below"), REMEDY)
        result |= {"commit": commit, "listed": [[each.path, each.bytes, each.sha256] for each in files]}
        for each in files:
            if call.get("only") in (None, each.path):
                digest = None if call.get("blind") else each.sha256
                path = hub.download(
                    call["repository"],
                    "dataset",
                    commit,
                    each.path,
                    REMEDY,
                    folder=None if call.get("cached") else folder,
                    sha256=digest,
                    size=None if call.get("blind") else each.bytes,
                    keep=call.get("keep", False),
                )
                result.setdefault("paths", []).append(str(path))
    except UserError as error:
        text = "".join(traceback.format_exception(error))
        chain = [repr(each) for each in (error.__cause__, error.__context__) if each is not None]
        result |= {"error": str(error), "exit_code": error.exit_code, "traceback": text, "chain": chain}
    except Exception as error:
        result |= {
            "error": f"a bug: {error!r}",
            "exit_code": 1,
            "traceback": traceback.format_exc()[-1500:],
            "chain": [],
        }
    held = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    seconds = time.monotonic() - started
    return {**result, "held": [path.relative_to(folder).as_posix() for path in held], "seconds": seconds}


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

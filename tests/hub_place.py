"""Where the tests of the hub layer happen: a stand-in of the hub, and calls in processes of their own."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_stand_in import TOKEN, HubStandIn

SCRIPT = Path(__file__).with_name("hub_calls.py")
SMALL = random.Random(1).randbytes(200_000)
LARGE = random.Random(2).randbytes(12_000_000)
"""More than the client's chunk of 10 MiB and than what sockets hold."""
DATA, README = "data/train-00000.parquet", "README.md"


QUICK: dict[str, float] = {
    "hub_watch.PATIENCE_S": 4.0,
    "hub_watch.ANSWER_S": 1.2,
    "hub_client.WAIT_S": 0.1,
    "hub_client.GUARD_S": 0.5,
}
"""Patience for a test: what is waited for is the same, only less of it."""


@dataclass(frozen=True)
class Place:
    """Where a test's hub, downloads and cache are."""

    hub: HubStandIn
    root: Path

    @property
    def environment(self) -> dict[str, str]:
        ours = {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.root / "hf_home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            # To load every authority's certificate takes a client 50 ms, and loopback needs none.
            "SSL_CERT_DIR": str(self.root),
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        }
        other = ("HF_", "HUGGING", "SSL_CERT_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(other)}
        return {**kept, **ours}

    def add(self, name: str, files: Mapping[str, bytes]) -> str:
        for path, data in files.items():
            file = self.hub.root / "datasets" / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        return self.hub.commit("datasets", name)

    def call(self, calls: list[dict[str, object]], **more: Any) -> list[dict[str, Any]]:
        """The outcome of each call, made one after the other in one process."""
        made = [
            {"name": str(n), "folder": str(self.root / f"out-{n}"), **call} for n, call in enumerate(calls)
        ]
        settings = json.dumps({"constants": more.get("constants", {}), "calls": made})
        done = subprocess.run(
            [sys.executable, str(SCRIPT), settings],
            env={**self.environment, **more.get("environment", {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        # Neither progress bars nor the client's own complaints: the error line is ours alone.
        assert done.stderr == ""
        assert TOKEN not in done.stdout
        return [json.loads(line) for line in done.stdout.splitlines()]

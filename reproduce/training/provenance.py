"""Where a run's numbers come from: code, packages, hardware, data, command. No secrets: an allow-list."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import reproduce
from data_prep.token_store import TokenStore
from reproduce.training.mesh import Mesh

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "accelerate")


def versions() -> dict[str, str]:
    """Package -> installed version, of those that decide numbers."""
    found = {"reweight": reproduce.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a training node needs no more than it uses
    return found


def provenance(mesh: Mesh, identity: dict[str, str], store: TokenStore) -> dict[str, Any]:
    """Facts of this start.

    Args:
        mesh: where it runs.
        identity: what decides the result besides the recipe.
        store: the data.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "identity": identity,
        "data": str(store.path),
        "tokenizer_sha256": store.manifest.tokenizer.sha256,
        "git": _git(),
        "versions": versions(),
        "hardware": _hardware(mesh),
        "precision": mesh.precision,
        "threads": torch.get_num_threads(),
        "world": mesh.world,
        "ranks_a_node": mesh.local_world,
    }


def _hardware(mesh: Mesh) -> dict[str, Any]:
    found: dict[str, Any] = {"machine": platform.machine(), "cpu": _cpu_name(), "cores": os.cpu_count()}
    if mesh.device.type == "cuda":
        properties = torch.cuda.get_device_properties(mesh.device)
        found |= {"gpu": properties.name, "gpu_bytes": properties.total_memory, "cuda": torch.version.cuda}
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _git() -> dict[str, Any] | None:
    """Commit of the code that runs and whether it was changed since; None outside a checkout."""
    here = Path(reproduce.__file__).resolve().parent
    try:
        top = _git_output(here, "rev-parse", "--show-toplevel")
        if Path(top) != here.parent:
            return None  # installed somewhere below an unrelated checkout
        commit = _git_output(here, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git_output(here, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git_output(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()

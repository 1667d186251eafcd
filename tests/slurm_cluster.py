"""Slurm as two nodes on loopback, one cluster for all tests of a session.

A test module has these fixtures by `pytest_plugins = ["tests.slurm_cluster"]`.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm import HELPERS, ROOT, check, needs


@pytest.fixture(scope="session")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH with a `reweight` that is this tree's."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "reweight"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m reproduce.cli "$@"\n')
    script.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def environ(bin_folder: Path) -> dict[str, str]:
    """The environment of every command here: no launcher's, no GPU."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
    paths = [str(bin_folder), str(Path(sys.executable).parent), os.environ["PATH"]]
    return kept | {
        "PATH": os.pathsep.join(paths),
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def slurm(environ: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment with a cluster of two nodes, both this machine."""
    needs("munged", "slurmctld", "slurmd", "srun", "setpriv")
    # Short: it holds a socket, whose path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    try:
        check([HELPERS / "slurm.sh", "start", folder], environ)
        yield environ | {"SLURM_CONF": str(folder / "slurm.conf"), "MASTER_ADDR": "127.0.0.1"}
    finally:
        check([HELPERS / "slurm.sh", "stop", folder], environ)
        shutil.rmtree(folder)

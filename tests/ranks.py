"""Real ranks for tests: one process each, gloo on loopback, every one as if on a node of its own."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def rank_environment(world: int, rank: int, port: int) -> dict[str, str]:
    """LOCAL_RANK is 0 on all: what goes by it instead of RANK is found out."""
    return {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


def start_ranks(world: int, arguments: list[str]) -> list["subprocess.Popen[str]"]:
    """`python ARGUMENTS` once a rank."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=rank_environment(world, rank, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(world)
    ]


def finish(ranks: list["subprocess.Popen[str]"], timeout: float = 240) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each; nothing is left running."""
    try:
        ended = [rank.communicate(timeout=timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, out, err) for rank, (out, err) in zip(ranks, ended, strict=True)]


def run_ranks(world: int, arguments: list[str], timeout: float = 240) -> None:
    """Run a program on all ranks; every one must succeed."""
    ended = finish(start_ranks(world, arguments), timeout)
    assert [code for code, _, _ in ended] == [0] * world, "\n".join(err for _, _, err in ended)

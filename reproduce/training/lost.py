"""A rank that died or hangs: the others notice in a collective, call the roll, and say who is missing."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist

from reproduce.errors import RankError
from reproduce.training.mesh import Mesh

ROLL_CALL_S = 5.0
"""Seconds that survivors give each other to answer: they notice within a moment of each other."""

SIGNS = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|timed? ?out|broken pipe|socket|peer", re.IGNORECASE
)
"""What torch's errors say of a collective that could not finish; they have no class of their own on gloo."""


@contextmanager
def lost_ranks_named(mesh: Mesh) -> Iterator[None]:
    """Turn a collective that failed because of another rank into a RankError that names who is missing."""
    try:
        yield
    except RuntimeError as error:
        if mesh.world == 1 or not (isinstance(error, dist.DistError) or SIGNS.search(str(error))):
            raise
        missing = _missing(mesh)
        why = " ".join(str(error).split())[:160]
        who = f"rank {', '.join(map(str, missing))}" if missing else "a rank"
        raise RankError(
            f"rank {mesh.rank} of {mesh.world} lost {who} ({why}); run the same command again to continue "
            "from the last checkpoint, and see that rank's own output for the cause"
        ) from error


def _missing(mesh: Mesh) -> list[int]:
    """Ranks that do not answer the roll call; the store's own host where the store is gone too."""
    store = mesh.store
    if store is None:
        return []
    try:
        store.set(f"alive/{mesh.rank}", "")
        waiting = set(range(mesh.world)) - {mesh.rank}
        deadline = time.monotonic() + ROLL_CALL_S
        while waiting and time.monotonic() < deadline:
            waiting = {rank for rank in waiting if not store.check([f"alive/{rank}"])}
            time.sleep(0.05)
        with suppress(RuntimeError):
            # Whoever hosts the store stays until the others have read it.
            store.set(f"read/{mesh.rank}", "")
            while mesh.leads and time.monotonic() < deadline:
                if all(store.check([f"read/{r}"]) for r in range(mesh.world) if r not in waiting):
                    break
                time.sleep(0.05)
        return sorted(waiting)
    except RuntimeError:
        return [0]

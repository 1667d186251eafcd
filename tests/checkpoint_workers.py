"""Real gloo ranks for the tests of checkpoints: processes of a fork server that has torch loaded."""

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path

import torch
import torch._dynamo  # which the first optimizer of a process imports: seconds, so once, in the server
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from reproduce.training.checkpoint import Ranks
from tests.checkpoint_net import Net, optimizer_of

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.checkpoint_workers"])


def launch(world: int, job: Callable[..., None], folder: Path, *arguments: object) -> None:
    """Run job(ranks, folder, *arguments) on `world` ranks; an assertion that fails on one of them fails here.

    The job is a function of a module.
    """
    (folder / "meeting").unlink(missing_ok=True)
    workers = [
        SERVER.Process(target=_work, args=(rank, world, job, folder, arguments)) for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    while all(worker.exitcode in (None, 0) for worker in workers) and any(
        w.exitcode is None for w in workers
    ):
        wait([worker.sentinel for worker in workers if worker.exitcode is None], timeout=1)
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    assert codes == [0] * world, "see the traceback of the rank above"


def _work(
    rank: int, world: int, job: Callable[..., None], folder: Path, arguments: tuple[object, ...]
) -> None:
    store = dist.FileStore(str(folder / "meeting"), world)
    store.set_timeout(timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    texts = dist.PrefixStore("texts", store)
    count = 0

    def exchange(text: str) -> list[str]:
        nonlocal count
        count += 1
        texts.set(f"{count}/{rank}", text)
        return [texts.get(f"{count}/{other}").decode() for other in range(world)]

    job(Ranks(rank=rank, world=world, exchange=exchange), folder, *arguments)
    sys.stderr.flush()
    dist.barrier()
    dist.destroy_process_group()


def sharded(seed: int, shape: Sequence[int]) -> tuple[Net, torch.optim.AdamW]:
    """The network cut over all ranks (one number), or in groups that are copies (groups, ranks in each)."""
    net = Net(seed)
    axes = ("shard",) if len(shape) == 1 else ("replicate", "shard")
    mesh = init_device_mesh("cpu", tuple(shape), mesh_dim_names=axes)
    blocks: list[nn.Module] = [net.inner, net]
    for block in blocks:
        fully_shard(block, mesh=mesh)
    return net, optimizer_of(net)

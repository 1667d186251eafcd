"""What the launcher of this process says: which rank it is, of how many, and where the others are.

torchrun and `accelerate launch` say it in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; srun says
it in SLURM_* and is translated here. Starting ranks is supervisor.py's business.
"""

import re
import shlex
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

from reproduce.errors import UserError

PORTS = range(15_000, 32_000)
"""Below the range from which Linux hands out ports by itself."""

GPU_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
ACCELERATE = "ACCELERATE_MIXED_PRECISION"
"""Always set by `accelerate launch`, also for one process, which gets no RANK."""


def launched(environ: Mapping[str, str]) -> bool:
    """Whether a launcher already decided how many processes there are: torchrun, accelerate, or srun -n 2.

    A batch script, an salloc shell and srun with one task are no launchers: each holds one process, which may
    start its own ranks.
    """
    return "RANK" in environ or ACCELERATE in environ or _slurm_tasks(environ) > 1


def adopt_scheduler(environ: MutableMapping[str, str]) -> None:
    """Under srun, set what torchrun would have set; under every launcher, check it.

    Sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT from SLURM_* where there
    are several tasks and no RANK. What is already set stays: MASTER_ADDR, say, where the first node's name
    does not resolve.

    Raises:
        UserError: values are missing, are no numbers, or contradict each other.
    """
    if "RANK" not in environ and _slurm_tasks(environ) > 1:
        for name, value in _from_slurm(environ).items():
            environ.setdefault(name, value)
    world = _number(environ, "WORLD_SIZE", default=1)
    if "RANK" not in environ and world == 1:
        # With `--cpu --num_processes 2` accelerate sets up a meeting point, and starts one process.
        if ACCELERATE in environ and "MASTER_PORT" in environ:
            raise UserError(
                "accelerate launch was asked for several processes and started one; "
                "give it --multi_gpu, also without GPUs, or start with --nproc or torchrun"
            )
        return
    rank, local = _number(environ, "RANK"), _number(environ, "LOCAL_RANK")
    world = _number(environ, "WORLD_SIZE")
    here = _number(environ, "LOCAL_WORLD_SIZE", default=world)
    if not (0 <= rank < world and 0 <= local < here <= world):
        raise _bad(f"RANK={rank} of WORLD_SIZE={world}, LOCAL_RANK={local} of LOCAL_WORLD_SIZE={here}")
    if world > 1:
        if not environ.get("MASTER_ADDR"):
            raise _bad("MASTER_ADDR is not set")
        _number(environ, "MASTER_PORT")


def local_ranks(nproc: int | None) -> int:
    """Ranks to start on this machine: `nproc`, else one for each visible GPU, and one without a GPU.

    Raises:
        UserError: more ranks asked for than the GPUs that are there.
    """
    gpus = _visible_gpus()
    if nproc is None:
        return max(1, gpus)
    if nproc > gpus > 0:
        raise UserError(
            f"--nproc {nproc}: {gpus} GPUs are visible here and each takes one rank; lower --nproc"
        )
    return nproc


def command_line(nproc: int, nodes: int, arguments: Sequence[str]) -> str:
    """The shell command that starts the same ranks through torchrun; on several nodes, run it on each.

    Args:
        nproc: ranks a node.
        nodes: with more than one, HEAD in the command stands for the name of one of them.
        arguments: of `reweight train`.
    """
    train = shlex.join(["reweight", "train", *arguments])
    if nodes > 1:
        where = f'--nnodes {nodes} --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" --rdzv-id reweight'
    elif nproc > 1:
        where = "--standalone"
    else:
        return train
    return f"torchrun {where} --nproc-per-node {nproc} --no-python {train}"


def first_host(nodelist: str) -> str:
    """The first host of a Slurm node list: gpu[03-07,9],big1 is gpu03."""
    first = re.split(r",(?![^\[]*\])", nodelist, maxsplit=1)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def _from_slurm(environ: Mapping[str, str]) -> dict[str, str]:
    nodes = _number(environ, "SLURM_STEP_NUM_NODES", default=1)
    found = {
        "RANK": environ.get("SLURM_PROCID", ""),
        "WORLD_SIZE": str(_slurm_tasks(environ)),
        "LOCAL_RANK": environ.get("SLURM_LOCALID", ""),
        "MASTER_ADDR": "127.0.0.1" if nodes == 1 else first_host(environ.get("SLURM_STEP_NODELIST", "")),
        "MASTER_PORT": str(_port(environ)),
    }
    if layout := environ.get("SLURM_STEP_TASKS_PER_NODE"):
        found["LOCAL_WORLD_SIZE"] = str(_tasks_on_node(layout, _number(environ, "SLURM_NODEID", default=0)))
    return found


def _port(environ: Mapping[str, str]) -> int:
    """The same on every task of a step; another one for the steps and jobs beside it on a node."""
    job, step = (_number(environ, name, default=0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return PORTS[(job * 31 + step) % len(PORTS)]


def _tasks_on_node(layout: str, node: int) -> int:
    """Slurm's `8(x2),4` is 8, 8, 4."""
    counts: list[int] = []
    for part in layout.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise _bad(f"SLURM_STEP_TASKS_PER_NODE={layout} cannot be read")
        counts += [int(match[1])] * int(match[2] or 1)
    if node >= len(counts):
        raise _bad(f"SLURM_NODEID={node}, but SLURM_STEP_TASKS_PER_NODE={layout}")
    return counts[node]


def _slurm_tasks(environ: Mapping[str, str]) -> int:
    return _number(environ, "SLURM_STEP_NUM_TASKS", default=1)


def _visible_gpus() -> int:
    if not any(Path(driver).exists() for driver in GPU_DRIVERS):
        return 0
    import torch  # three seconds, spared where there is no driver

    return torch.cuda.device_count()


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"[0-9]{1,9}", text):
        raise _bad(f"{name} is not set" if text is None else f"{name}={text} is no number")
    return int(text)


def _bad(problem: str) -> UserError:
    return UserError(
        f"several processes announced, but {problem}; start with torchrun, accelerate launch or srun, "
        "or unset RANK and WORLD_SIZE for one process"
    )

"""What a rank computes on, as far as a plan needs to know: memory, precision, arithmetic."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reproduce.recipe import Recipe
    from reproduce.recipe.estimate import Layout
    from reproduce.recipe.memory import Device, Precision

GPU_SHARE = 0.4
"""Model FLOPs over the matrix-product FLOPs measured on a GPU that is here; assumed."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What each rank would compute on."""

    name: str
    device: "Device"
    precision: "Precision"
    memory_bytes: int
    """Of a GPU; of a CPU's whole node."""
    flops: float
    """Model FLOP/s that a training step reaches: of one GPU, or of a CPU's whole node."""
    basis: str
    """Where `flops` comes from."""

    def seconds(self, flops: float, layout: "Layout") -> float:
        """Time of a run of so many FLOPs on all ranks; ranks on a CPU share it."""
        return flops / (self.flops * (layout.ranks if self.device == "cuda" else layout.nodes))


def catalogued(recipe: "Recipe", on: str) -> Machine:
    """A GPU that is not here, by its name in `DEVICES`."""
    from reproduce.recipe.estimate import DEVICES

    accelerator = DEVICES[on]
    precision: Precision = "fp32" if recipe.train.precision == "fp32" else "bf16"
    compiled = recipe.parallel.compile
    return Machine(
        name=on.upper(),
        device="cuda",
        precision=precision,
        memory_bytes=accelerator.memory_bytes,
        flops=accelerator.sustained(precision, compiled),
        basis="assumed" if precision == "fp32" else f"assumed {'with' if compiled else 'without'} compile",
    )


def this_machine(recipe: "Recipe") -> Machine:
    """This machine's GPU, or its CPU; torch is asked only where there is a GPU driver."""
    from reproduce.recipe.estimate import CPU_SHARE, measure_flops

    wanted = recipe.train.precision
    if Path("/proc/driver/nvidia").exists():
        import torch

        if torch.cuda.is_available():
            precision: Precision = "fp32" if wanted == "fp32" else "bf16"
            return Machine(
                name=torch.cuda.get_device_name(),
                device="cuda",
                precision=precision,
                memory_bytes=torch.cuda.get_device_properties(0).total_memory,
                flops=GPU_SHARE * _gpu_flops(precision),
                basis="from matrix products measured now",
            )
    return Machine(
        name="this CPU",
        device="cpu",
        precision="bf16" if wanted == "bf16" else "fp32",
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        flops=CPU_SHARE * measure_flops(),
        basis="from float32 matrix products measured now",
    )


def _gpu_flops(precision: "Precision") -> float:
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 4096
    left = torch.ones(size, size, device="cuda", dtype=dtype)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    for _ in range(3):
        left @ left
    start.record()
    for _ in range(10):
        left @ left
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return 10 * 2.0 * size**3 / (milliseconds / 1e3)

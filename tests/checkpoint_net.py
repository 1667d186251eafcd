"""A small network with every awkward shape, trained a little, for the tests of checkpoints."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from reproduce.training.checkpoint import Checkpoint, Saver, checkpoints, load

SIZES = 7, 4


class Net(nn.Module):
    """Rows that divide by no number of ranks, one row only, vectors, and a tied pair."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(*SIZES)
        self.inner = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 1, bias=False))
        self.out = nn.Linear(1, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden: Tensor = self.embedding(ids)
        logits: Tensor = self.head(hidden + self.out(torch.tanh(self.inner(hidden))))
        return logits


def optimizer_of(net: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(net.parameters(), lr=0.05, fused=True)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1, seed: int = 0) -> None:
    for step in range(steps):
        ids = torch.randint(0, 7, (6,), generator=torch.Generator().manual_seed(100 * seed + step))
        loss = nn.functional.cross_entropy(net(ids), ids.roll(1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def trained(seed: int, steps: int = 1) -> tuple[Net, torch.optim.AdamW]:
    net = Net(seed)
    optimizer = optimizer_of(net)
    train(net, optimizer, steps, seed)
    return net, optimizer


def state(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything that training goes on from, as whole tensors; a collective where they are cut."""
    tensors = {}
    for name, parameter in net.named_parameters():
        tensors[name] = parameter.detach()
        for key in ("step", "exp_avg", "exp_avg_sq"):
            tensors[f"{name}/{key}"] = optimizer.state[parameter][key].detach()
    return {
        name: (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()
        for name, tensor in tensors.items()
    }


def digest(tensors: dict[str, Tensor]) -> str:
    """Of names, shapes and bits."""
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        content.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def loaded(checkpoint: Checkpoint) -> str:
    """Digest of the state that a checkpoint gives to a network of other weights."""
    net = Net(seed=999)
    optimizer = optimizer_of(net)
    load(checkpoint, net, optimizer)
    return digest(state(net, optimizer))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def newest(folder: Path) -> Checkpoint:
    return checkpoints(folder)[-1]


def silent(line: str) -> None:
    raise AssertionError(f"no warning was expected: {line}")


def write(folder: Path, step: int, *, keep: int = 2, seed: int | None = None) -> str:
    """Save a network that only this step has; returns the digest of its state."""
    net, optimizer = trained(seed=step if seed is None else seed)
    Saver(folder, keep=keep, warn=silent).save(step, net, optimizer, {})
    return digest(state(net, optimizer))


def flip(path: Path, position: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)

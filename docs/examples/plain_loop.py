"""The method in a plain PyTorch loop: weights exact over the optimizer step, all ranks, all micro-batches.

    python docs/examples/plain_loop.py
    torchrun --nproc-per-node 2 docs/examples/plain_loop.py

Shapes: B own samples of a step, T tokens, V vocabulary.
"""

import contextlib
import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reproduce.method import SampleReweighter, gather_losses, sample_losses, sample_slices

VOCAB, TOKENS = 64, 16


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    reweighter: SampleReweighter,
    micro_batches: Sequence[Tensor],
    step: int,
) -> Tensor:
    """One update from all micro-batches (b, T) of this rank. Returns the unweighted losses (B,), to log."""
    parts = sample_slices([len(tokens) for tokens in micro_batches])
    optimizer.zero_grad(set_to_none=True)

    # Score: weights need every loss of the step first. The first micro-batch keeps its graph.
    first, *rest = micro_batches
    with gradients_travel(model, last=not rest):
        first_B = sample_losses(model(first), first)
    if reweighter.is_uniform(step):
        scored = [first.new_zeros(len(tokens), dtype=torch.float32) for tokens in rest]  # not looked at
    else:
        # Forked, so that the training pass below draws the same dropout masks again.
        with torch.no_grad(), torch.random.fork_rng([first.device] if first.is_cuda else []):
            scored = [sample_losses(model(tokens), tokens) for tokens in rest]
    reweighted = reweighter.weigh(torch.cat([first_B.detach(), *scored]), step)

    # Train: the parts' scalars add up to the weighted sum over the global batch.
    seen = []
    for tokens, part in zip(micro_batches, parts, strict=True):
        with gradients_travel(model, last=part is parts[-1]):
            losses_B = first_B if part is parts[0] else sample_losses(model(tokens), tokens)
            reweighted.loss(losses_B, part).backward()
        seen.append(losses_B.detach())
    optimizer.step()
    return torch.cat(seen)


def gradients_travel(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Under DistributedDataParallel: gradients are averaged over ranks once a step, with the last part."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return contextlib.nullcontext()


class TinyModel(nn.Module):
    """Token ids (B, T) to logits (B, T, V)."""

    def __init__(self, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, width)
        self.body = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) -> logits (B, T, V)."""
        hidden: Tensor = self.body(self.embedding(tokens))[0]
        logits: Tensor = self.head(self.dropout(hidden))
        return logits


def main(steps: int = 20, micro_batch: int = 4, accumulation: int = 4) -> list[float]:
    """Train a tiny model on random tokens; returns the mean unweighted loss of every step."""
    launched = "RANK" in os.environ  # by torchrun or srun
    use_gpu = torch.cuda.is_available()
    if launched:
        dist.init_process_group("nccl" if use_gpu else "gloo")
    rank, world = (dist.get_rank(), dist.get_world_size()) if launched else (0, 1)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if use_gpu else torch.device("cpu")

    torch.manual_seed(0)
    model: nn.Module = TinyModel().to(device)
    if launched:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reweighter = SampleReweighter("linupper", r=0.4, warmup_steps=5)
    data = torch.randint(VOCAB, (world * accumulation * micro_batch, TOKENS)).to(device)
    micro_batches = data.chunk(world)[rank].split(micro_batch)

    history = []
    for step in range(1, steps + 1):
        losses_B = train_step(model, optimizer, reweighter, micro_batches, step)
        history.append(gather_losses(losses_B).mean().item() if launched else losses_B.mean().item())
        if rank == 0:
            print(f"step {step}  loss {history[-1]:.4f}")
    if launched:
        dist.destroy_process_group()
    return history


if __name__ == "__main__":
    main()

"""The method in an accelerate loop: weights exact over the optimizer step, all ranks, all micro-batches.

    python docs/examples/accelerate_loop.py
    accelerate launch --num_processes 2 docs/examples/accelerate_loop.py

Shapes: B own samples of a step, T tokens.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from reproduce.method import SampleReweighter, sample_losses, sample_slices

VOCAB, TOKENS = 64, 16


def train_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    reweighter: SampleReweighter,
    micro_batches: Sequence[Tensor],
    step: int,
) -> Tensor:
    """One update from all micro-batches (b, T) of this rank. Returns the unweighted losses (B,), to log."""
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError("Accelerator(gradient_accumulation_steps=1): backward would divide the loss again")
    parts = sample_slices([len(tokens) for tokens in micro_batches])
    optimizer.zero_grad()

    # Score: weights need every loss of the step first. The first micro-batch keeps its graph.
    first, *rest = micro_batches
    with gradients_travel(accelerator, model, last=not rest):
        first_B = sample_losses(model(first).logits, first)
    if reweighter.is_uniform(step):
        scored = [first.new_zeros(len(tokens), dtype=torch.float32) for tokens in rest]  # not looked at
    else:
        # Forked, so that the training pass below draws the same dropout masks again.
        with torch.no_grad(), torch.random.fork_rng([first.device] if first.is_cuda else []):
            scored = [sample_losses(model(tokens).logits, tokens) for tokens in rest]
    reweighted = reweighter.weigh(torch.cat([first_B.detach(), *scored]), step)

    # Train: the parts' scalars add up to the weighted sum over the global batch.
    seen = []
    for tokens, part in zip(micro_batches, parts, strict=True):
        with gradients_travel(accelerator, model, last=part is parts[-1]):
            losses_B = first_B if part is parts[0] else sample_losses(model(tokens).logits, tokens)
            accelerator.backward(reweighted.loss(losses_B, part))
        seen.append(losses_B.detach())
    optimizer.step()
    return torch.cat(seen)


def gradients_travel(
    accelerator: Accelerator, model: nn.Module, last: bool
) -> contextlib.AbstractContextManager[None]:
    """Gradients are averaged over ranks once a step, with the last part.

    `accelerator.accumulate` cannot decide that here: it syncs and updates at every micro-batch once the
    loader has handed out its last batch, and a step's batches are all fetched before the first is used.
    """
    return contextlib.nullcontext() if last else accelerator.no_sync(model)


def steps_of(loader: Iterable[Tensor], accumulation: int) -> Iterator[list[Tensor]]:
    """The micro-batches of every optimizer step; the last step of an epoch may have fewer."""
    batches = iter(loader)
    while group := list(itertools.islice(batches, accumulation)):
        yield group


def main(epochs: int = 20, micro_batch: int = 4, accumulation: int = 4) -> list[float]:
    """Train a tiny model on random tokens; returns the mean unweighted loss of every step."""
    accelerator = Accelerator()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    samples = accelerator.num_processes * accumulation * micro_batch
    loader = DataLoader(torch.randint(VOCAB, (samples, TOKENS)), batch_size=micro_batch, shuffle=True)
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    reweighter = SampleReweighter("linupper", r=0.4, warmup_steps=5)

    history: list[float] = []
    for _ in range(epochs):
        for micro_batches in steps_of(loader, accumulation):
            step = len(history) + 1
            losses_B = train_step(accelerator, model, optimizer, reweighter, micro_batches, step)
            history.append(accelerator.gather(losses_B).mean().item())
            accelerator.print(f"step {step}  loss {history[-1]:.4f}")
    accelerator.end_training()
    return history


if __name__ == "__main__":
    main()

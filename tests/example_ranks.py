"""What tests/test_docs_examples.py compares: the examples and their vanilla twins, on one rank or several.

Run as a script, one process a rank, it writes rank 0's results to the path given.
Shapes: M samples of the global batch, T tokens.
"""

import gc
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from reproduce.method import SampleReweighter

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
SAMPLES_A_RANK = 12
STEPS = 3
VOCAB, TOKENS = 64, 16

ADAM_EPSILON = 1e-4
"""With the usual 1e-8 Adam would divide a gradient near 0 by itself: the order of a sum, which differs from
processor to processor, would then decide digits that the trainers are compared in."""

Parameters = dict[str, Tensor]


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tokens_of(samples: int) -> Tensor:
    """Rows that differ in how predictable they are, so that weights matter."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(VOCAB, (samples, TOKENS), generator=generator)
    for row in range(samples):
        tokens[row] %= 1 + 4 * (row % 16)
    return tokens


def llama(dropout: float = 0.0) -> LlamaForCausalLM:
    torch.manual_seed(3)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.2,  # losses far enough apart for the weights to differ
            attention_dropout=dropout,
        )
    )


def gru(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    model: nn.Module = example("plain_loop").TinyModel(dropout=dropout)
    return model


def values(model: nn.Module) -> Parameters:
    return {name.removeprefix("module."): p.detach().clone() for name, p in model.named_parameters()}


def gradients(model: nn.Module) -> Parameters:
    return {name.removeprefix("module."): p.grad.detach().clone() for name, p in model.named_parameters()}


def token_mean(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def plain(
    strategy: str | None,
    accumulation: int,
    rank: int,
    world: int,
    steps: int,
    take: Callable[..., Parameters],
) -> Parameters:
    """strategy None: the vanilla loop."""
    model: nn.Module = gru(dropout=0.1 if steps > 1 else 0.0)
    if world > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=ADAM_EPSILON)
    module = example("plain_loop")
    data = tokens_of(steps * world * SAMPLES_A_RANK).chunk(steps)
    torch.manual_seed(rank)
    for step, tokens_MT in enumerate(data, start=1):
        micro_batches = tokens_MT.chunk(world)[rank].split(SAMPLES_A_RANK // accumulation)
        if strategy is None:
            optimizer.zero_grad()
            for tokens in micro_batches:
                (token_mean(model(tokens), tokens) / accumulation).backward()
            optimizer.step()
        else:
            module.train_step(model, optimizer, SampleReweighter(strategy, 0.4), micro_batches, step)
    return take(model)


def accelerate(
    strategy: str | None,
    accumulation: int,
    rank: int,
    world: int,
    steps: int,
    take: Callable[..., Parameters],
) -> Parameters:
    """strategy None: the loop of accelerate's documentation."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1 if strategy else accumulation)
    model = llama(dropout=0.1 if steps > 1 else 0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=ADAM_EPSILON)
    data = tokens_of(steps * world * SAMPLES_A_RANK)
    loader = DataLoader(data, batch_size=SAMPLES_A_RANK // accumulation, shuffle=False)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    torch.manual_seed(rank)
    if strategy is None:
        for tokens in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(tokens, labels=tokens).loss)
                optimizer.step()
                optimizer.zero_grad()
    else:
        module = example("accelerate_loop")
        reweighter = SampleReweighter(strategy, 0.4)
        for step, micro_batches in enumerate(module.steps_of(loader, accumulation), start=1):
            module.train_step(accelerator, model, optimizer, reweighter, micro_batches, step)
    return take(model)


class KeepGradients(TrainerCallback):
    """The gradients that reach the first update."""

    def __init__(self) -> None:
        self.gradients: Parameters = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
        self.gradients = gradients(objects["model"])


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def trainer_of(
    kind: str, strategy: str, accumulation: int, tokens: Tensor, dropout: float, folder: str, **more: Any
) -> Trainer:
    """kind: vanilla, global or micro."""
    settings: dict[str, Any] = {
        "model": llama(dropout=dropout),
        "train_dataset": Rows(tokens),
        "args": TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            num_train_epochs=1,
            per_device_train_batch_size=SAMPLES_A_RANK // accumulation,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-2,
            adam_epsilon=ADAM_EPSILON,
            max_grad_norm=0.0,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **more,
        ),
    }
    module = example("hf_trainer")
    reweighter = SampleReweighter(strategy, 0.4)
    if kind == "global":
        made: Trainer = module.ReweightingTrainer(reweighter, **settings)
    elif kind == "micro":
        loss = module.MicroBatchLoss(reweighter)
        made = Trainer(**settings, compute_loss_func=loss)
        loss.trainer = made
    else:
        made = Trainer(**settings)
    return made


def hugging_face(
    kind: str, strategy: str, accumulation: int, world: int, steps: float, **more: Any
) -> Parameters:
    """Parameters after several steps; gradients where it is one. steps 2.5: the third is a shorter one."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = tokens_of(int(steps * world * SAMPLES_A_RANK))
        dropout = 0.1 if steps > 1 else 0.0
        trainer = trainer_of(kind, strategy, accumulation, tokens, dropout, folder, **more)
        kept = KeepGradients()
        trainer.add_callback(kept)
        trainer.train()
        return kept.gradients if steps == 1 else values(trainer.model)


def forget_accelerator() -> None:
    """Accelerators of one process share their device and accumulation steps until this."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


TRAINERS = (
    ("vanilla", "uniform"),
    ("global", "uniform"),
    ("micro", "uniform"),
    ("global", "linupper"),
    ("micro", "linupper"),
)


def results(world: int, rank: int) -> dict[str, Parameters]:
    """`<example> <strategy> <accumulation>` -> parameters (uniform, vanilla) or gradients (linupper).

    `<example>_local`: tokens counted on each rank alone, where Trainer multiplies by no number of ranks.
    """
    gc.collect()
    gc.freeze()  # Trainer collects garbage after every run: a third of a second over all that is imported
    found = {}
    for accumulation in (1, 4):
        for name, run in (("plain", plain), ("accelerate", accelerate)):
            where = (accumulation, rank, world)
            found[f"{name} vanilla {accumulation}"] = run(None, *where, STEPS, values)
            found[f"{name} uniform {accumulation}"] = run("uniform", *where, STEPS, values)
            found[f"{name} linupper {accumulation}"] = run("linupper", *where, 1, gradients)
        for kind, strategy in TRAINERS:
            steps = 1 if strategy == "linupper" else 2.5
            found[f"{kind} {strategy} {accumulation}"] = hugging_face(
                kind, strategy, accumulation, world, steps
            )
            if world > 1 and accumulation > 1 and kind != "vanilla":
                local = hugging_face(
                    kind, strategy, accumulation, world, steps, average_tokens_across_devices=False
                )
                found[f"{kind}_local {strategy} {accumulation}"] = local
    gc.unfreeze()
    forget_accelerator()
    return found


def main(out: str) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    found = results(torch.distributed.get_world_size(), rank)
    if rank == 0:
        torch.save(found, out)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])

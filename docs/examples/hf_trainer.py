"""The method in Hugging Face Trainer: weights of one micro-batch, or exact over the whole optimizer step.

    python docs/examples/hf_trainer.py
    torchrun --nproc-per-node 2 docs/examples/hf_trainer.py

Shapes: B samples of one micro-batch, T tokens, V vocabulary.
"""

import argparse
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from reproduce.method import Reweighted, SampleReweighter, sample_losses, sample_slices

VOCAB, TOKENS = 64, 16


class MicroBatchLoss:
    """A `compute_loss_func`: weights over one micro-batch of all ranks, as the released GPT-2 code has them.

    loss = MicroBatchLoss(SampleReweighter("linupper", r=0.4, warmup_steps=1000))
    trainer = Trainer(model, arguments, train_dataset=data, compute_loss_func=loss)
    loss.trainer = trainer
    """

    def __init__(self, reweighter: SampleReweighter) -> None:
        self.reweighter = reweighter
        self.trainer: Trainer

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
        """The loss of one micro-batch, already divided by the accumulation steps: Trainer does not."""
        losses_B = sample_losses(outputs.logits, labels)
        if not self.trainer.model.training:
            loss, ranks = losses_B.mean(), self.trainer.accelerator.num_processes
        else:
            reweighted = self.reweighter.weigh(losses_B, self.trainer.state.global_step + 1)
            loss, ranks = reweighted.loss(losses_B), reweighted.world
            loss = loss / self.trainer.current_gradient_accumulation_steps
        # Trainer multiplies by the ranks where it has counted tokens over all of them; here that is done.
        counted = self.trainer.args.average_tokens_across_devices and num_items_in_batch is not None
        return loss / ranks if counted else loss


class ReweightingTrainer(Trainer):
    """A Trainer whose weights are exact over the optimizer step: all ranks, all micro-batches."""

    loss_is_scaled_for_ga = True  # weights sum to 1 over the step: nothing is left to divide

    def __init__(self, reweighter: SampleReweighter, **settings: Any) -> None:
        super().__init__(**settings)
        self.reweighter = reweighter
        self._reweighted: Reweighted | None = None
        self._parts: Iterator[slice] = iter(())
        self._seen = torch.zeros(
            2, device=self.args.device
        )  # sum and number of the losses since the last log

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Any]:
        """The micro-batches of one optimizer step, whose weights are known before the first is trained on."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._reweighted = self._weigh(batches) if len(batches) > 1 else None
        self._parts = iter(sample_slices([len(batch["labels"]) for batch in batches]))
        return batches, num_items

    def _weigh(self, batches: list[dict[str, Tensor]]) -> Reweighted:
        step = self.state.global_step + 1
        if self.reweighter.is_uniform(step):
            own = sum(len(batch["labels"]) for batch in batches)
            return self.reweighter.weigh(torch.zeros(own, device=self.args.device), step)  # not looked at
        self.model_wrapped.train()
        # Forked, so that the training pass draws the same dropout masks again.
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices), self.compute_loss_context_manager():
            scored = [self._losses(self.model_wrapped, self._prepare_inputs(batch))[0] for batch in batches]
        return self.reweighter.weigh(torch.cat(scored), step)

    @staticmethod
    def _losses(model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Any]:
        # Without labels the model computes no loss of its own, and a fused one cannot hide the logits.
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        return sample_losses(outputs.logits, inputs["labels"]), outputs

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """This micro-batch's part of the weighted sum; the plain mean in evaluation."""
        losses_B, outputs = self._losses(model, inputs)
        if model.training:
            if self._reweighted is None:  # one micro-batch a step: its own forward serves
                self._reweighted = self.reweighter.weigh(losses_B, self.state.global_step + 1)
            loss = self._reweighted.loss(losses_B, next(self._parts))
            self._seen += torch.stack([losses_B.detach().sum(), losses_B.new_tensor(float(len(losses_B)))])
        else:
            loss = losses_B.mean()
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the unweighted loss as `loss`, comparable across strategies, and the other beside it."""
        if "loss" in logs:
            total, count = self.accelerator.reduce(self._seen, "sum").tolist()
            logs["weighted_loss"], logs["loss"] = logs["loss"], total / count
            self._seen = torch.zeros_like(self._seen)
        super().log(logs, start_time)


class RandomTokens(Dataset[dict[str, Tensor]]):
    """Samples of random tokens, each its own labels."""

    def __init__(self, samples: int) -> None:
        self.tokens = torch.randint(VOCAB, (samples, TOKENS), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def main(scope: str = "global", steps: int = 20, micro_batch: int = 4, accumulation: int = 4) -> list[float]:
    """Train a tiny model on random tokens; returns the logged losses (scope global: the unweighted ones)."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    reweighter = SampleReweighter("linupper", r=0.4, warmup_steps=5)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-2,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
        )
        settings: dict[str, Any] = {
            "model": LlamaForCausalLM(config),
            "args": arguments,
            "train_dataset": RandomTokens(32),
        }
        if scope == "global":
            trainer: Trainer = ReweightingTrainer(reweighter, **settings)
        else:
            loss = MicroBatchLoss(reweighter)
            trainer = Trainer(**settings, compute_loss_func=loss)
            loss.trainer = trainer
        trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scope", choices=("global", "micro"), default="global")
    main(parser.parse_args().scope)

"""What our step is measured against: a plain GPT, Hugging Face's loss, its Trainer, the released procedure.

Each peer is written as its users write it, trains the same shape from the same weights on the same tokens
with the same AdamW and clipping, and takes the global batch in one forward pass.

Shapes: B samples, T tokens, V vocabulary, D width, H heads.
"""

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from reproduce.recipe import Recipe
from reproduce.training.bench_ratios import Seconds, now
from reproduce.training.mesh import Mesh
from reproduce.training.optimizer import build_optimizer

Loss = Callable[[Tensor], Tensor]
"""Token ids (B, T) -> the scalar to back-propagate."""


def wait(mesh: Mesh) -> None:
    """Let the device catch up, so that a clock sees its work."""
    if mesh.waits_for_device:
        torch.cuda.synchronize(mesh.device)


class PlainBlock(nn.Module):
    """A pre-norm GPT-2 block: fused query, key and value; fused attention; GELU."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        samples, tokens, width = x_BTD.shape
        qkv = self.qkv(self.norm_1(x_BTD)).split(width, dim=2)
        q, k, v = (part.view(samples, tokens, self.heads, -1).transpose(1, 2) for part in qkv)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.out(mixed.transpose(1, 2).reshape(samples, tokens, width))
        hidden: Tensor = self.down(F.gelu(self.up(self.norm_2(x_BTD)), approximate="tanh"))
        return x_BTD + hidden


class PlainGPT(nn.Module):
    """GPT-2 as people write it for themselves, with a tied head and the mean loss."""

    def __init__(self, network: PreTrainedModel) -> None:
        """The shape and a copy of the weights of a Hugging Face GPT-2 without dropout."""
        super().__init__()
        config = network.config
        width = config.n_embd
        self.tokens = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.n_positions, width)
        inner = config.n_inner or 4 * width
        self.blocks = nn.ModuleList(PlainBlock(width, config.n_head, inner) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(width)
        self._copy(network)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Mean cross entropy, nats a token, of predicting each next token."""
        count = tokens_BT.shape[1]
        x_BTD = self.tokens(tokens_BT) + self.positions(torch.arange(count, device=tokens_BT.device))
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits_BTV = F.linear(self.norm(x_BTD), self.tokens.weight)
        # The last position has no target; one view of all rows spares a copy of the logits.
        targets_BT = F.pad(tokens_BT[:, 1:], (0, 1), value=-1)
        return F.cross_entropy(
            logits_BTV.view(-1, logits_BTV.shape[-1]), targets_BT.view(-1), ignore_index=-1
        )

    @torch.no_grad()
    def _copy(self, network: PreTrainedModel) -> None:
        body = network.transformer
        self.tokens.weight.copy_(body.wte.weight)
        self.positions.weight.copy_(body.wpe.weight)
        pairs: list[tuple[Any, Any]] = [(self.norm, body.ln_f)]
        for block, theirs in zip(self.blocks, body.h, strict=True):
            assert isinstance(block, PlainBlock)
            pairs += [(block.norm_1, theirs.ln_1), (block.norm_2, theirs.ln_2)]
            pairs += [(block.qkv, theirs.attn.c_attn), (block.out, theirs.attn.c_proj)]
            pairs += [(block.up, theirs.mlp.c_fc), (block.down, theirs.mlp.c_proj)]
        for own, source in pairs:
            # Hugging Face's GPT-2 stores its matrices (in, out).
            own.weight.copy_(source.weight.T if isinstance(own, nn.Linear) else source.weight)
            own.bias.copy_(source.bias)


def untouched(network: PreTrainedModel) -> PreTrainedModel:
    """The same weights in the library's own module, whatever ours replaced inside `network` for speed."""
    fresh = type(network)(copy.deepcopy(network.config))
    fresh.set_attn_implementation("sdpa")
    fresh.load_state_dict(network.state_dict())
    return fresh


def huggingface_loss(network: PreTrainedModel) -> Loss:
    """The library's own mean loss."""

    def loss(tokens_BT: Tensor) -> Tensor:
        mean: Tensor = network(input_ids=tokens_BT, labels=tokens_BT, use_cache=False).loss
        return mean

    return loss


def released_loss(network: PreTrainedModel, r: float) -> Loss:
    """The released GPT-2 procedure with LinUpper, written from a description of it, not from its code.

    The library's loss is computed and thrown away, per-sample losses come from a second cross entropy on a
    copy of the logits, and three numbers are fetched from the device before the weights are known.
    """

    def loss(tokens_BT: Tensor) -> Tensor:
        output = network(input_ids=tokens_BT, labels=tokens_BT, use_cache=False)
        logits = output.logits[:, :-1].contiguous()
        labels = tokens_BT[:, 1:].contiguous()
        token_losses = F.cross_entropy(
            logits.view(-1, logits.shape[-1]).float(), labels.view(-1), reduction="none"
        )
        losses_B = token_losses.view(labels.shape).mean(dim=1)
        with torch.no_grad():
            low, high = losses_B.min().item(), losses_B.max().item()
            h_B = 2 * (losses_B - low) / max(high - low, 1e-6) - 1
            score_B = (h_B + 1).clamp(max=1)
            raw_B = torch.exp((score_B - score_B.max().item()) / r)
            weights_B = raw_B / raw_B.sum()
        return (weights_B * losses_B).sum()

    return loss


def eager_loop(
    model: nn.Module, loss: Loss, tokens_BT: Tensor, recipe: Recipe, mesh: Mesh
) -> Callable[[], None]:
    """One step of a plain training loop: loss, backward, clip, AdamW."""
    model.train()
    optimizer = build_optimizer(model, recipe.optimizer)

    def take_step() -> None:
        with mesh.autocast():
            scalar = loss(tokens_BT)
        scalar.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), recipe.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return take_step


class _Rows(Dataset[dict[str, Tensor]]):
    """The same batch over and over, as samples."""

    def __init__(self, tokens_BT: Tensor, steps: int) -> None:
        self._tokens_BT, self._length = tokens_BT, steps * len(tokens_BT)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self._tokens_BT[index % len(self._tokens_BT)]
        labels = row.clone()
        # Never a target. Unless it is marked so, Trainer divides GPT-2's sum of losses by T, not T - 1.
        labels[0] = -100
        return {"input_ids": row, "labels": labels}


class TrainerPeer:
    """Hugging Face's Trainer, with logging, saving and evaluation off.

    Weights and AdamW's moments stay from call to call; the clock starts at the end of a first step, so
    that neither its start-up nor that step is counted.
    """

    def __init__(self, network: PreTrainedModel, tokens_BT: Tensor, recipe: Recipe, mesh: Mesh) -> None:
        self._network, self._tokens_BT, self._recipe, self._mesh = network, tokens_BT.cpu(), recipe, mesh
        self._optimizer = build_optimizer(network, recipe.optimizer)
        self.loss = float("nan")
        """Mean over the steps of the last call, the uncounted one included."""

    def __call__(self, steps: int) -> Seconds:
        """What `steps` steps take, fetching their batches included."""
        # Here, not above: it imports libraries that training does without.
        from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

        mesh = self._mesh
        ends: list[Seconds] = []

        class Stamps(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *arguments: object, **settings: object) -> None:
                wait(mesh)
                ends.append(now())

        with tempfile.TemporaryDirectory(prefix="reweight-bench-") as scratch:
            trainer = Trainer(
                model=self._network,
                args=TrainingArguments(
                    output_dir=scratch,
                    per_device_train_batch_size=len(self._tokens_BT),
                    max_steps=steps + 1,
                    learning_rate=self._recipe.optimizer.lr,
                    lr_scheduler_type="constant",
                    max_grad_norm=self._recipe.train.clip_norm,
                    bf16=mesh.precision == "bf16",
                    use_cpu=mesh.device.type == "cpu",
                    dataloader_pin_memory=mesh.device.type != "cpu",
                    train_sampling_strategy="sequential",
                    logging_strategy="no",
                    save_strategy="no",
                    eval_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                ),
                train_dataset=_Rows(self._tokens_BT, steps + 1),
                optimizers=(self._optimizer, None),
                callbacks=[Stamps()],
            )
            trainer.remove_callback(PrinterCallback)
            self.loss = trainer.train().training_loss
        return ends[-1].since(ends[0])

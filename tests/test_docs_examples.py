"""The method in three trainers: uniform is the vanilla one, linupper is one big batch, on 1 and 2 ranks."""

import ast
import itertools
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import example_ranks as ranks
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reproduce.method import SampleReweighter, sample_weights

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "method-alone.md").read_text(encoding="utf-8")
EXAMPLES = ("plain_loop", "hf_trainer", "accelerate_loop")

Results = Callable[[int], dict[str, ranks.Parameters]]


def run_ranks(world: int, out: Path) -> dict[str, ranks.Parameters]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # LOCAL_RANK 0 everywhere, as on machines of one process each: nothing may take it for the rank.
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": "0",
        "PYTHONPATH": str(ROOT),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, ranks.__file__, str(out)],
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world, "\n".join(errors)
    found: dict[str, ranks.Parameters] = torch.load(out)
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    found: dict[int, dict[str, ranks.Parameters]] = {}

    def of(world: int) -> dict[str, ranks.Parameters]:
        if world not in found:
            out = tmp_path_factory.mktemp("ranks") / "rank0.pt"
            found[world] = ranks.results(1, 0) if world == 1 else run_ranks(world, out)
        return found[world]

    return of


@pytest.fixture(autouse=True)
def _own_accelerator() -> Iterator[None]:
    yield
    ranks.forget_accelerator()


def distance(a: ranks.Parameters, b: ranks.Parameters) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def losses_by_hand(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean token loss of every row, one row at a time."""
    return torch.stack([F.cross_entropy(logits[i, :-1], tokens[i, 1:]) for i in range(len(tokens))])


def one_big_batch(model: nn.Module, tokens: Tensor, groups: int = 1) -> ranks.Parameters:
    """Gradient of the weighted loss from one forward; `groups` > 1: weights within each run of samples."""
    out = model(tokens)
    losses_M = losses_by_hand(out if isinstance(out, Tensor) else out.logits, tokens)
    weights_M = torch.cat([sample_weights(part, "linupper", 0.4) / groups for part in losses_M.chunk(groups)])
    (weights_M * losses_M).sum().backward()
    return ranks.gradients(model)


CASES = [
    *itertools.product(("plain", "accelerate", "global", "micro"), (1, 2), (1, 4)),
    ("global_local", 2, 4),
    ("micro_local", 2, 4),
]


@pytest.mark.parametrize(("name", "world", "accumulation"), CASES)
def test_uniform_is_the_vanilla_trainer(results: Results, name: str, world: int, accumulation: int) -> None:
    found = results(world)
    of_trainer = name not in ("plain", "accelerate")
    vanilla = found[f"vanilla uniform {accumulation}" if of_trainer else f"{name} vanilla {accumulation}"]
    assert distance(found[f"{name} uniform {accumulation}"], vanilla) < 1e-6
    start = ranks.gru() if name == "plain" else ranks.llama()
    assert distance(vanilla, ranks.values(start)) > 1e-2  # it has been trained


@pytest.mark.parametrize(("name", "world", "accumulation"), CASES)
def test_linupper_is_one_big_batch(results: Results, name: str, world: int, accumulation: int) -> None:
    tokens_MT = ranks.tokens_of(world * ranks.SAMPLES_A_RANK)
    make = ranks.gru if name == "plain" else ranks.llama
    # The micro scope weighs one micro-batch of all ranks: with samples in order, that many in a row.
    expected = one_big_batch(make(), tokens_MT, groups=accumulation if name.startswith("micro") else 1)
    assert distance(results(world)[f"{name} linupper {accumulation}"], expected) < 1e-6
    other = one_big_batch(make(), tokens_MT, groups=1 if name.startswith("micro") and accumulation > 1 else 4)
    assert distance(other, expected) > 1e-4  # the two scopes are told apart


def calls_of_losses(module: Any, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    seen: list[Tensor] = []
    original = module.sample_losses

    def recorded(logits: Tensor, labels: Tensor) -> Tensor:
        losses: Tensor = original(logits, labels)
        seen.append(losses.detach().clone())
        return losses

    monkeypatch.setattr(module, "sample_losses", recorded)
    return seen


@pytest.mark.parametrize(
    ("name", "strategy", "accumulation", "forwards"),
    [
        # Exact weights: every micro-batch but the first runs twice; Trainer's runs them all twice.
        ("plain_loop", "linupper", 4, 7),
        ("accelerate_loop", "linupper", 4, 7),
        ("hf_trainer", "linupper", 4, 8),
        ("plain_loop", "linupper", 1, 1),
        ("accelerate_loop", "linupper", 1, 1),
        ("hf_trainer", "linupper", 1, 1),
        # Where no weight depends on a loss, nothing runs twice.
        ("plain_loop", "uniform", 4, 4),
        ("accelerate_loop", "uniform", 4, 4),
        ("hf_trainer", "uniform", 4, 4),
    ],
)
def test_forward_passes_and_their_dropout_masks(
    name: str,
    strategy: str,
    accumulation: int,
    forwards: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    module = ranks.example(name)
    seen = calls_of_losses(module, monkeypatch)
    monkeypatch.setattr(ranks, "example", lambda _: module)
    tokens = ranks.tokens_of(ranks.SAMPLES_A_RANK)
    micro_batches = tokens.chunk(accumulation)
    reweighter = SampleReweighter(strategy, 0.4)
    if name == "hf_trainer":
        trainer = ranks.trainer_of("global", strategy, accumulation, tokens, 0.5, str(tmp_path))
        trainer.train()
    elif name == "plain_loop":
        model = module.TinyModel(dropout=0.5)
        module.train_step(model, torch.optim.SGD(model.parameters(), lr=1.0), reweighter, micro_batches, 1)
    else:
        accelerator = ranks.Accelerator(cpu=True)
        model = ranks.llama(dropout=0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        module.train_step(accelerator, model, optimizer, reweighter, micro_batches, 1)
    assert len(seen) == forwards
    if forwards > accumulation:
        # Scored and trained on under the same masks: the same losses, bit for bit.
        trained = seen[-accumulation:] if name == "hf_trainer" else [seen[0], *seen[accumulation:]]
        assert torch.equal(torch.cat(seen[:accumulation]), torch.cat(trained))


def test_trainer_logs_the_unweighted_loss_and_evaluates_without_weights(tmp_path: Path) -> None:
    tokens = ranks.tokens_of(ranks.SAMPLES_A_RANK)
    trainer = ranks.trainer_of("global", "linupper", 4, tokens, 0.0, str(tmp_path))
    losses = losses_by_hand(trainer.model(tokens).logits.detach(), tokens)
    before = trainer.evaluate(ranks.Rows(tokens))
    trainer.train()
    line = next(entry for entry in trainer.state.log_history if "weighted_loss" in entry)
    weighted = (sample_weights(losses, "linupper", 0.4) * losses).sum().item()
    assert before["eval_loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert line["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert line["weighted_loss"] == pytest.approx(weighted, rel=1e-5)
    assert weighted > losses.mean().item() + 0.01


def test_padding_is_where_a_mean_over_tokens_and_a_mean_over_samples_part() -> None:
    """The page says so: Trainer's own loss is a mean over tokens, the method's uniform one over samples."""
    tokens = ranks.tokens_of(4)
    labels = tokens.clone()
    labels[0, 4:] = -100  # 3 targets instead of 15
    outputs = ranks.llama()(tokens, labels=labels)
    rows = torch.stack(
        [F.cross_entropy(outputs.logits[i, :-1], labels[i, 1:], ignore_index=-100) for i in range(4)]
    )
    targets = torch.tensor([3.0, 15.0, 15.0, 15.0])
    assert outputs.loss.item() == pytest.approx((rows * targets).sum().item() / 48, rel=1e-5)
    trainer_loss, _ = ranks.example("hf_trainer").ReweightingTrainer._losses(
        ranks.llama(), {"input_ids": tokens, "labels": labels}
    )
    ours = SampleReweighter("uniform")(trainer_loss, 1)
    assert ours.item() == pytest.approx(rows.mean().item(), rel=1e-5)
    assert abs(ours.item() - outputs.loss.item()) > 1e-3


def test_an_accelerator_that_divides_on_its_own_is_refused() -> None:
    accelerator = ranks.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = ranks.llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ValueError, match="divide the loss again"):
        ranks.example("accelerate_loop").train_step(
            accelerator, model, optimizer, SampleReweighter(), [ranks.tokens_of(2)], 1
        )


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_runs_and_learns(name: str) -> None:
    history = ranks.example(name).main()
    assert len(history) == 20
    assert history[-1] < history[0] - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_runs_under_torchrun(name: str) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    done = subprocess.run(
        [*launch, str(ranks.EXAMPLES / f"{name}.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr


def lines_of(code: str) -> list[str]:
    return [line.strip() for line in code.splitlines() if line.strip()]


PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
SOURCES = [lines_of((ranks.EXAMPLES / f"{name}.py").read_text(encoding="utf-8")) for name in EXAMPLES]


def test_the_page_has_the_examples_code() -> None:
    assert len(PYTHON_BLOCKS) >= 4
    assert all(f"{name}.py" in PAGE for name in EXAMPLES)


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: block.splitlines()[0][:40])
def test_a_block_of_the_page_is_an_example_s_own_lines_or_runs(block: str) -> None:
    wanted = lines_of(block)
    windows = (lines[i : i + len(wanted)] for lines in SOURCES for i in range(len(lines)))
    if any(window == wanted for window in windows):
        return
    assert "import" in {type(node).__name__.lower()[:6] for node in ast.parse(block).body}, "a fragment"
    exec(compile(block, "docs/method-alone.md", "exec"), {})

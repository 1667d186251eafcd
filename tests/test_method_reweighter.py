"""The reweighter in a loop: bit-equal uniform, warm-up styles, two ranks, statistics by hand."""

import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reproduce.method import SampleReweighter, Temperature, sample_weights, weight_statistics


@pytest.mark.parametrize("count", [1, 3, 7, 32, 48, 49])
def test_uniform_is_bit_equal_to_the_plain_mean_and_its_gradient(count: int) -> None:
    values = torch.rand(count, generator=torch.Generator().manual_seed(count)) * 9
    ours, plain = values.clone().requires_grad_(), values.clone().requires_grad_()
    loss, mean = SampleReweighter("uniform")(ours, 1), plain.mean()
    loss.backward()
    mean.backward()
    assert torch.equal(loss, mean)
    assert torch.equal(ours.grad, plain.grad)


def test_uniform_warmup_is_the_plain_mean_then_r() -> None:
    reweighter = SampleReweighter("linupper", 0.4, 10, warmup="uniform")
    losses = torch.tensor([1.0, 2.0, 4.0])
    assert torch.equal(reweighter(losses, 10), losses.mean())
    expected = (sample_weights(losses, "linupper", 0.4) * losses).sum()
    assert torch.equal(reweighter(losses, 11), expected)


def test_temperature_schedules() -> None:
    # Released GPT-2 code: exactly uniform for the first 1,000 steps. Paper and Llama code: r = 100.
    released = Temperature(r=0.4, warmup_steps=1000, warmup="uniform")
    paper = Temperature(r=1.0, warmup_steps=2000, warmup="large_r")
    assert [released.at(s) for s in (1, 1000, 1001)] == [None, None, 0.4]
    assert [paper.at(s) for s in (1, 2000, 2001)] == [100.0, 100.0, 1.0]
    with pytest.raises(ValueError, match="positive"):
        Temperature(r=0.0)
    with pytest.raises(ValueError, match="warmup must be one of"):
        Temperature(r=1.0, warmup="cosine")  # type: ignore[arg-type]


def test_parts_add_up_to_the_whole() -> None:
    losses = torch.rand(12, requires_grad=True)
    for strategy in ("uniform", "linupper", "dro_kl"):
        reweighted = SampleReweighter(strategy, 0.4).weigh(losses, 5)
        whole = reweighted.loss(losses)
        parts = sum(reweighted.loss(losses[i : i + 4], slice(i, i + 4)) for i in (0, 4, 8))
        assert torch.allclose(whole, parts, rtol=1e-6)


def test_statistics_by_hand() -> None:
    # w = 1/2, 1/4, 1/4: 1/sum w^2 = 1/(1/4 + 1/16 + 1/16) = 8/3; entropy = (1/2 + 1/2 + 1/2) ln 2.
    statistics = weight_statistics(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0.5, 0.25, 0.25]))
    assert statistics.loss == pytest.approx(3.0)
    assert statistics.weighted_loss == pytest.approx(2.5)
    assert statistics.max_weight == pytest.approx(1.5)
    assert statistics.min_weight == pytest.approx(0.75)
    assert statistics.ess == pytest.approx(8 / 3)
    assert statistics.entropy == pytest.approx(1.5 * math.log(2))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown strategy"):
        SampleReweighter("upper")
    with pytest.raises(ValueError, match="delta"):
        SampleReweighter("linupper", delta=0.0)


TWO_RANKS = """
import os, sys, torch, torch.distributed as dist
from reproduce.method import SampleReweighter, sample_weights
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
everybody = torch.tensor([1.0, 2.5, 3.0, 7.0, 0.5, 2.0])
for strategy in ("uniform", "linupper", "quadratic", "extremes", "dro_kl", "capped_softmax"):
    own = everybody[3 * rank : 3 * rank + 3].clone().requires_grad_()
    reweighter = SampleReweighter(strategy, 0.4)
    reweighted = reweighter.weigh(own, 1)
    expected = sample_weights(everybody, strategy, 0.4)
    assert torch.equal(reweighted.weights_M, expected), strategy
    # LOCAL_RANK is 0 on both, as on two machines: the slice must follow the global rank.
    assert torch.equal(reweighted.own_weights_B, expected[3 * rank : 3 * rank + 3]), strategy
    reweighter(own, 1).backward()
    # Data-parallel averaging divides by 2 ranks what each multiplied by 2.
    assert torch.allclose(own.grad / 2, expected[3 * rank : 3 * rank + 3], atol=1e-7), strategy
dist.destroy_process_group()
"""


def test_two_ranks_share_one_global_batch() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_RANKS],
            env={**environment, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)

"""The reweighter in a loop: bit-equal uniform, warm-up styles, one to four ranks, statistics by hand."""

import contextlib
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reproduce.method import (
    STRATEGIES,
    SampleReweighter,
    Temperature,
    normalise,
    sample_slices,
    sample_weights,
    shares,
    weight_statistics,
)


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


RANKS = """
import datetime, os, sys
import torch, torch.distributed as dist, torch.multiprocessing as mp
from reproduce.method import STRATEGIES, SampleReweighter, gather_losses, sample_weights, shares

def check(counts, fill, world, rank):
    samples, start, own = sum(counts), sum(counts[:rank]), counts[rank]
    everybody = torch.randn(samples, generator=torch.Generator().manual_seed(samples)) + 3
    size = max(counts) if fill else own
    for strategy in STRATEGIES:
        losses = torch.full((size,), 1e9)  # what fills up the shape may hold anything
        losses[:own] = everybody[start : start + own]
        losses.requires_grad_()
        reweighter = SampleReweighter(strategy, 0.4)
        reweighted = reweighter.weigh(losses, 1, counts if fill else None)
        where = (world, counts, fill, strategy)
        expected = sample_weights(everybody, strategy, 0.4)
        assert torch.equal(reweighted.losses_M, everybody), where
        assert torch.allclose(reweighted.weights_M, expected, rtol=0, atol=1e-7), where
        own_expected = torch.zeros(size)
        own_expected[:own] = expected[start : start + own]
        assert torch.allclose(reweighted.own_weights_B, own_expected, rtol=0, atol=1e-7), where
        # Averaging over ranks divides by the world what each rank multiplied by it.
        reweighted.loss(losses).backward()
        assert torch.allclose(losses.grad / world, own_expected, rtol=0, atol=1e-7), where

def work(rank, world, port):
    # LOCAL_RANK is 0 on all, as on machines of one process each: the slice must follow the global rank.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK="0",
                      WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    uneven = [[0] * (world - 1) + [3], [2] + [0] * (world - 1), list(range(world, 0, -1))]
    for counts in [shares(6 * world + remainder, world) for remainder in range(4)] + uneven:
        for fill in (False, True):
            check(counts, fill, world, rank)
    assert torch.equal(gather_losses(torch.tensor([rank, -rank])),
                       torch.tensor([x for r in range(world) for x in (r, -r)]))
    for bad in ([1] * (world + 1), [3] * world):
        try:
            SampleReweighter().weigh(torch.ones(2), 1, bad)
        except ValueError as error:
            assert "do not fit" in str(error)
        else:
            raise AssertionError(bad)
    try:
        SampleReweighter().weigh(torch.ones(0), 1)
    except ValueError as error:
        assert "no rank brings a sample" in str(error)
    else:
        raise AssertionError("an empty global batch")
    dist.destroy_process_group()

if __name__ == "__main__":
    for world, port in enumerate(sys.argv[1:], start=1):
        mp.start_processes(work, (world, int(port)), nprocs=world, start_method="fork")
        print("world", world)
"""


def test_ranks_share_one_global_batch_even_uneven_and_empty() -> None:
    """World 1 to 4 x remainders 0 to 3, and ranks with nothing: the weights of one process, and no hang."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        ports = [str(free.getsockname()[1]) for free in sockets]
    done = subprocess.run(
        [sys.executable, "-c", RANKS, *ports],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:-1] == [f"world {world}" for world in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("samples", "world", "expected"),
    [(6, 2, [3, 3]), (7, 2, [4, 3]), (5, 3, [2, 2, 1]), (2, 4, [1, 1, 0, 0]), (0, 2, [0, 0])],
)
def test_shares(samples: int, world: int, expected: list[int]) -> None:
    assert shares(samples, world) == expected
    places = sample_slices(expected)
    assert [place.stop - place.start for place in places] == expected
    assert [i for place in places for i in range(samples)[place]] == list(range(samples))


def released_local_rank_weights(weights_M: torch.Tensor, nodes: int, gpus: int) -> torch.Tensor:
    """What every sample gets from the released Llama code: its rank reads the row of its local rank."""
    world = nodes * gpus
    rows = weights_M.view(world, -1)
    return torch.cat([rows[rank % gpus] for rank in range(world)])


@pytest.mark.parametrize(("nodes", "gpus", "own"), [(4, 2, 2), (8, 8, 2), (1, 8, 2)])
def test_first_node_weights_is_the_released_indexing(nodes: int, gpus: int, own: int) -> None:
    losses_M = torch.rand(nodes * gpus * own, generator=torch.Generator().manual_seed(0)) * 3
    right = SampleReweighter("linupper", 1.0).weigh(losses_M, 1)
    wrong = SampleReweighter("linupper", 1.0, first_node_weights=gpus * own).weigh(losses_M, 1)
    assert torch.equal(wrong.weights_M, released_local_rank_weights(right.weights_M, nodes, gpus))
    # On the first node local and global rank agree; elsewhere a rank has another sample's weights (56 of 64).
    differ = (wrong.weights_M != right.weights_M).view(nodes * gpus, own).any(dim=1)
    assert differ.sum().item() == (nodes - 1) * gpus
    # Back-propagated as it is: no weight is put right by dividing by the new sum.
    assert wrong.loss(losses_M).item() == pytest.approx((wrong.weights_M * losses_M).sum().item())


def test_first_node_weights_leaves_uniform_and_a_cut_batch_alone() -> None:
    losses_M = torch.tensor([1.0, 2.0, 4.0, 8.0, 3.0])
    uniform = SampleReweighter("uniform", first_node_weights=2).weigh(losses_M, 1)
    assert torch.equal(uniform.weights_M, torch.full((5,), 0.2))
    warm_up = SampleReweighter("linupper", 0.4, 10, warmup="uniform", first_node_weights=2)
    assert torch.equal(warm_up(losses_M, 10), losses_M.mean())
    cut = SampleReweighter("linupper", 0.4, first_node_weights=2).weigh(losses_M, 1).weights_M
    a, b = sample_weights(losses_M, "linupper", 0.4)[:2]
    assert torch.equal(cut, torch.stack([a, b, a, b, a]))


@pytest.mark.parametrize(("r", "ratio"), [(0.4, 148.413), (1.0, 7.389)])  # e^5, e^2
def test_readme_uniform_is_normalised_dro_kl(r: float, ratio: float) -> None:
    losses_M = torch.tensor([2.0, 2.3, 4.0, 3.1, 2.9])
    weights_M = sample_weights(losses_M, "readme_uniform", r)
    assert torch.allclose(weights_M, sample_weights(normalise(losses_M), "dro_kl", r), atol=1e-7)
    assert (weights_M.max() / weights_M.min()).item() == pytest.approx(ratio, rel=1e-4)
    assert not SampleReweighter("readme_uniform", r).is_uniform(1)


def test_micro_batches_of_different_sizes_and_what_fills_up_add_up() -> None:
    losses_B = torch.tensor([3.0, 2.0, 5.0, 4.0, 1e9], requires_grad=True)
    for strategy in STRATEGIES:
        reweighted = SampleReweighter(strategy, 0.4).weigh(losses_B, 1, counts=[4])
        parts = [slice(0, 3), slice(3, 4), slice(4, 5)]
        losses_B.grad = None
        for part in parts:
            reweighted.loss(losses_B[part], part).backward()
        expected = sample_weights(losses_B[:4], strategy, 0.4)
        assert torch.allclose(losses_B.grad, torch.cat([expected, torch.zeros(1)]), atol=1e-7), strategy


def test_losses_travel_by_the_gather_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reproduce.method.reweighter._world_and_rank", lambda: (2, 1))
    sent = []

    def gather(own_B: torch.Tensor) -> torch.Tensor:
        sent.append(own_B)
        return torch.cat([torch.tensor([9.0, 8.0]), own_B])

    losses_B = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    reweighted = SampleReweighter("linupper", 0.4).weigh(losses_B, 1, [2, 2], gather)
    assert [(s.dtype, s.requires_grad) for s in sent] == [(torch.float32, False)]
    expected = sample_weights(torch.tensor([9.0, 8.0, 1.0, 2.0]), "linupper", 0.4)
    assert torch.equal(reweighted.own_weights_B, expected[2:])
    assert torch.allclose(reweighted.loss(losses_B), 2 * (expected[2:] * losses_B).sum())

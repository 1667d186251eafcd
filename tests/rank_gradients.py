"""Program of one rank: the step's gradient against Algorithm 1 done in one piece, in every layout.

Usage: python -m tests.rank_gradients SAMPLES MICRO_BATCH SHARDING...
"""

import sys

import torch
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from reproduce.method import (
    STRATEGIES,
    LaggedRange,
    SampleReweighter,
    sample_losses,
    sample_slices,
    sample_weights,
)
from reproduce.recipe import ModelSpec, OptimizerSpec, ParallelSpec, Recipe, TrainSpec
from reproduce.training.agreement import Requests, make_note
from reproduce.training.mesh import Mesh, joined
from reproduce.training.model import LanguageModel, build_network
from reproduce.training.optimizer import build_optimizer
from reproduce.training.sharding import share_model
from reproduce.training.step import StepOutcome, StepSettings, train_step

SPECS = {
    "gpt2": ModelSpec(family="gpt2", layers=2, heads=2, width=16, context=12, vocab=41),
    "llama": ModelSpec(
        family="llama",
        layers=2,
        heads=2,
        width=16,
        feed_forward=24,
        context=12,
        vocab=41,
        tie_embeddings=False,
    ),
}
ADAM = OptimizerSpec(lr=1e-2, end_lr=1e-3, warmup_steps=2)


def recipe_of(sharding: str, samples: int) -> Recipe:
    return Recipe(
        name="ranks",
        model=SPECS["gpt2"],
        train=TrainSpec(steps=1, global_batch=samples, sequence=12),
        optimizer=ADAM,
        parallel=ParallelSpec(sharding=sharding),
    )


def network_of(family: str) -> PreTrainedModel:
    """Large weights: losses that differ by much more than rounding does, which normalisation magnifies."""
    network = build_network(SPECS[family], seed=3, end_of_text=40)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    return network


def tokens_of(samples: int) -> torch.Tensor:
    return torch.randint(0, 41, (samples, 12), generator=torch.Generator().manual_seed(4))


def own_tokens(mesh: Mesh, tokens_MT: torch.Tensor) -> torch.Tensor:
    shares = mesh.shares(len(tokens_MT))
    place = sample_slices(shares)[mesh.rank]
    return tokens_MT[[min(place.start + i, place.stop - 1) for i in range(max(shares))]]


def take_step(
    mesh: Mesh,
    model: LanguageModel,
    sharding: str,
    strategy: str,
    samples: int,
    micro_batch: int,
    **more: object,
) -> StepOutcome:
    spec = ParallelSpec(sharding=sharding, shard_ranks=2 if sharding == "hybrid" and mesh.world > 2 else None)
    shared = share_model(model, mesh, spec)
    expected = {"none": DistributedDataParallel, "full": LanguageModel, "hybrid": LanguageModel}[sharding]
    assert isinstance(shared, expected)
    assert isinstance(next(model.parameters()), DTensor) == (sharding != "none")
    return train_step(
        shared,
        build_optimizer(model, ADAM),
        SampleReweighter(strategy, 0.4),
        own_tokens(mesh, tokens_of(samples)),
        step=5,
        lr=1e-2,
        broken=torch.zeros(()),
        mesh=mesh,
        settings=StepSettings(
            seed=7,
            micro_batch=micro_batch,
            clip_norm=1e9,
            global_batch=samples,
            scope=more.get("scope", "global"),
            kept_graphs=more.get("kept_graphs", 1),
        ),
        lagged=more.get("lagged"),
        note=make_note(mesh, 99, Requests()),
    )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def check(mesh: Mesh, family: str, sharding: str, strategy: str, samples: int, micro_batch: int) -> None:
    tokens_MT = tokens_of(samples)
    plain = network_of(family)
    losses_M = sample_losses(plain(input_ids=tokens_MT).logits, tokens_MT)
    weights_M = sample_weights(losses_M, strategy, 0.4)
    (weights_M * losses_M).sum().backward()
    expected = {f"network.{n}": p.grad for n, p in plain.named_parameters()}

    model = LanguageModel(network_of(family))
    outcome = take_step(mesh, model, sharding, strategy, samples, micro_batch)
    found = {name: whole(p.grad) for name, p in model.named_parameters()}
    assert found.keys() == expected.keys()
    where = f"{family} {sharding} {strategy} {samples}/{mesh.world} x {micro_batch}"
    assert torch.allclose(outcome.reweighted.weights_M, weights_M, atol=1e-6), where
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-6), f"{where}: {name}"
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    assert abs(outcome.grad_norm.item() / norm.item() - 1) < 1e-5, where
    assert outcome.broken.item() == 0.0, where


def check_scopes(mesh: Mesh, sharding: str, samples: int, micro_batch: int) -> None:
    """Micro: weights within each micro-batch of all ranks. Lagged with the true range: the exact weights."""
    tokens_MT = tokens_of(samples)
    losses_M = sample_losses(network_of("gpt2")(input_ids=tokens_MT).logits, tokens_MT).detach()
    lagged = LaggedRange("linupper", 0.4, 1.0)
    lagged.see(losses_M)
    model = LanguageModel(network_of("gpt2"))
    exact = take_step(mesh, model, sharding, "linupper", samples, micro_batch)
    model_of_lagged = LanguageModel(network_of("gpt2"))
    once = take_step(
        mesh, model_of_lagged, sharding, "linupper", samples, micro_batch, scope="lagged", lagged=lagged
    )
    assert torch.allclose(once.reweighted.weights_M, exact.reweighted.weights_M, atol=1e-6)
    for (name, one), two in zip(model.named_parameters(), model_of_lagged.parameters(), strict=True):
        assert torch.allclose(whole(one.grad), whole(two.grad), atol=1e-6), name

    model_of_kept = LanguageModel(network_of("gpt2"))
    kept = take_step(mesh, model_of_kept, sharding, "linupper", samples, micro_batch, kept_graphs=2)
    assert torch.allclose(kept.reweighted.weights_M, exact.reweighted.weights_M, atol=1e-6)
    for (name, one), two in zip(model.named_parameters(), model_of_kept.parameters(), strict=True):
        assert torch.allclose(whole(one.grad), whole(two.grad), atol=1e-6), name

    model_of_micro = LanguageModel(network_of("gpt2"))
    micro = take_step(mesh, model_of_micro, sharding, "linupper", samples, micro_batch, scope="micro")
    shares = mesh.shares(samples)
    weights_M = torch.zeros(samples)
    for start in range(0, max(shares), micro_batch):
        places = [
            place.start + sample
            for place, share in zip(sample_slices(shares), shares, strict=True)
            for sample in range(start, min(start + micro_batch, share))
        ]
        weights_M[places] = sample_weights(losses_M[places], "linupper", 0.4) * len(places) / samples
    assert torch.allclose(micro.reweighted.weights_M, weights_M, atol=1e-6)
    plain = network_of("gpt2")
    (weights_M * sample_losses(plain(input_ids=tokens_MT).logits, tokens_MT)).sum().backward()
    for name, p in plain.named_parameters():
        found = whole(dict(model_of_micro.named_parameters())[f"network.{name}"].grad)
        assert torch.allclose(found, p.grad, atol=1e-6), name


def main(samples: int, micro_batch: int, shardings: list[str]) -> None:
    torch.set_num_threads(1)
    first = recipe_of(shardings[0], samples)
    with joined(first.train.precision, first.parallel) as mesh:
        for sharding in shardings:
            placed = Mesh(**{**mesh.__dict__, "sharded": sharding != "none"})
            for strategy in STRATEGIES:
                for family in SPECS:
                    check(placed, family, sharding, strategy, samples, micro_batch)
            check_scopes(placed, sharding, samples, micro_batch)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])

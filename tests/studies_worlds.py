"""What the tests of the toy studies share: worlds made by hand, outcomes made up, one run written plainly."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reproduce.method import STRATEGIES
from reproduce.studies.contest import Contest
from reproduce.studies.ensemble import Outcome
from reproduce.studies.settings import DataSetup, Method
from reproduce.studies.setup import Worlds

SMALL = DataSetup(features=4, samples=40, test_samples=30, outlier_share=0.2, noise=0.1)


def held_out(setup: DataSetup, seed: int, truth: Tensor) -> tuple[Tensor, Tensor]:
    """A seed's held-out inputs (T, D + 1) and targets (T, Q): stream 2 of the seed, features then noise."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 2]))
    features = rng.standard_normal((setup.test_samples, setup.features))
    noise = rng.standard_normal((setup.test_samples, setup.outputs))
    inputs = torch.from_numpy(np.hstack([features, np.ones((setup.test_samples, 1))]))
    return inputs, inputs @ truth.T + setup.noise * torch.from_numpy(noise)


def plain_run(
    inputs: Tensor, targets: Tensor, batches: Tensor, method: Method, test: tuple[Tensor, Tensor]
) -> tuple[list[float], list[Tensor]]:
    """One run as PyTorch's users write it: held-out loss at the start and after every step, and weights."""
    model = torch.nn.Linear(inputs.shape[1] - 1, targets.shape[1], dtype=torch.float64)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=method.lr, momentum=method.momentum)

    def test_loss() -> float:
        with torch.no_grad():
            return float(torch.nn.functional.mse_loss(model(test[0][:, :-1]), test[1]))

    losses, weights = [test_loss()], []
    for rows in batches.long():
        each = (model(inputs[rows, :-1]) - targets[rows]).square().mean(dim=-1)
        weight = STRATEGIES[method.strategy](each.detach(), method.r, 1.0)
        optimizer.zero_grad()
        (weight * each).sum().backward()
        optimizer.step()
        losses.append(test_loss())
        weights.append(weight)
    return losses, weights


def bias_world(seeds: int = 1) -> Worlds:
    """One sample, features 0, target 1, and a held-out loss of (bias - 1)^2.

    A step multiplies the bias's error by 1 - 2 lr: after t steps the loss is (1 - 2 lr)^(2t), whatever the
    strategy.
    """
    gram = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    return Worlds(
        inputs=torch.tensor([0.0, 1.0], dtype=torch.float64).expand(seeds, 1, 2),
        targets=torch.ones(seeds, 1, 1, dtype=torch.float64),
        truth=torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(seeds, 1, 2),
        gram=gram.expand(seeds, 2, 2),
        noise_moment=torch.zeros(seeds, 1, 2, dtype=torch.float64),
        noise_power=torch.zeros(seeds, dtype=torch.float64),
        clean=torch.ones(seeds, dtype=torch.int64),
    )


def outcome(final: Tensor, reached: Tensor | None = None, diverged: Tensor | None = None) -> Outcome:
    """Made-up results: final losses (S, K), steps (S, K, H), divergence (S, K); every run began at 10."""
    S, K = final.shape
    return Outcome(
        curve=torch.zeros(S, K, 1, dtype=torch.float64),
        reached=torch.zeros(S, K, 0, dtype=torch.float64) if reached is None else reached.double(),
        final=final.double(),
        diverged=torch.isinf(final).long() if diverged is None else diverged,
        overflowed=torch.zeros(S, K, dtype=torch.bool),
        initial=torch.full((S,), 10.0, dtype=torch.float64),
        outlier_weight=torch.full((S, K), 0.25, dtype=torch.float64),
        outlier_share=torch.full((S,), 0.25, dtype=torch.float64),
    )


def contest(
    methods: Sequence[Method],
    final: Tensor,
    reached: Tensor | None = None,
    thresholds: tuple[float, ...] = (),
) -> Contest:
    """A contest with those results."""
    return Contest(methods=methods, outcome=outcome(final, reached), thresholds=thresholds)

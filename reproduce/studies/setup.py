"""The toy regression's data (Appendix B.1): clean samples of a linear model, outliers with random targets.

Shapes: S worlds (one a seed and setup), N training samples, D features and a constant 1, Q outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reproduce.studies.settings import DataSetup


@dataclass(frozen=True, kw_only=True)
class Worlds:
    """Training data of S worlds, float64, and what their held-out loss needs."""

    inputs: Tensor
    """(S, N, D + 1), the last column 1."""
    targets: Tensor
    """(S, N, Q)."""
    truth: Tensor
    """(S, Q, D + 1): true weights and bias."""
    gram: Tensor
    """(S, D + 1, D + 1): second moments of the held-out inputs."""
    noise_moment: Tensor
    """(S, Q, D + 1): mean of noise times input over the held-out samples."""
    noise_power: Tensor
    """(S,): mean squared noise of the held-out samples."""
    clean: Tensor
    """(S,) int64: training samples before the first outlier."""

    def test_loss(self, theta: Tensor) -> Tensor:
        """Mean squared error on the held-out samples (Appendix B.1): theta (S, K, Q, D + 1) -> (S, K).

        Exact, by the held-out samples' moments: with e = theta - truth, the error of a sample is e.x - noise.
        """
        S, K, Q, D1 = theta.shape
        e = theta - self.truth.unsqueeze(1)
        moved = torch.bmm(e.reshape(S, K * Q, D1), self.gram).view(S, K, Q, D1)
        square = (moved * e).sum(dim=-1) - 2 * (e * self.noise_moment.unsqueeze(1)).sum(dim=-1)
        return square.mean(dim=-1) + self.noise_power.unsqueeze(-1)

    def __getitem__(self, part: slice) -> "Worlds":
        """Some of the worlds."""
        return Worlds(
            inputs=self.inputs[part],
            targets=self.targets[part],
            truth=self.truth[part],
            gram=self.gram[part],
            noise_moment=self.noise_moment[part],
            noise_power=self.noise_power[part],
            clean=self.clean[part],
        )


def make_worlds(setups: Sequence[DataSetup], seeds: Sequence[int]) -> Worlds:
    """One world a setup and seed, setups outermost; they must agree in features and numbers of samples.

    A seed draws the same numbers whatever the share, scale and noise, so setups differ in nothing else.
    """
    worlds = [_world(setup, seed) for setup in setups for seed in seeds]
    return Worlds(
        **{
            name: torch.from_numpy(np.stack([world[index] for world in worlds]))
            for index, name in enumerate(
                ("inputs", "targets", "truth", "gram", "noise_moment", "noise_power", "clean")
            )
        }
    )


def _world(setup: DataSetup, seed: int) -> tuple[Any, ...]:
    """One world's arrays, in the order of the fields of Worlds."""
    truth, train, held_out, outlying = (
        np.random.Generator(np.random.Philox(key=[seed, stream])) for stream in range(4)
    )
    weights = truth.standard_normal((setup.outputs, setup.features + 1))
    inputs, noise = _clean(train, setup.samples, setup)
    targets = inputs @ weights.T + setup.noise * noise
    random_targets = outlying.standard_normal((setup.samples, setup.outputs))
    bad = slice(setup.samples - setup.outliers, None)
    inputs[bad, :-1] *= setup.outlier_scale
    targets[bad] = random_targets[bad]
    test_inputs, test_noise = _clean(held_out, setup.test_samples, setup)
    test_noise *= setup.noise
    return (
        inputs,
        targets,
        weights,
        test_inputs.T @ test_inputs / setup.test_samples,
        test_noise.T @ test_inputs / setup.test_samples,
        np.square(test_noise).mean(),
        np.int64(setup.samples - setup.outliers),
    )


def _clean(rng: np.random.Generator, count: int, setup: DataSetup) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal inputs with a column of ones, and standard normal noise."""
    inputs = np.ones((count, setup.features + 1))
    inputs[:, :-1] = rng.standard_normal((count, setup.features))
    return inputs, rng.standard_normal((count, setup.outputs))


def draw_batches(seeds: Sequence[int], samples: int, batch: int, steps: int) -> Tensor:
    """Which samples each step takes: (seeds, steps, batch) int32, drawn with replacement.

    A seed's draws do not depend on the other seeds, and every strategy of a seed sees the same ones.
    """
    drawn = [
        np.random.Generator(np.random.Philox(key=[seed, 4])).integers(
            0, samples, (steps, batch), dtype=np.int32
        )
        for seed in seeds
    ]
    return torch.from_numpy(np.stack(drawn))

"""The toy regression's data: what a seed draws, what an outlier is, and the held-out loss."""

import dataclasses

import numpy as np
import pytest
import torch
from studies_worlds import SMALL, held_out

from reproduce.errors import UserError
from reproduce.studies.settings import DataSetup
from reproduce.studies.setup import draw_batches, make_worlds


def test_the_held_out_loss_is_the_mean_squared_error_on_the_held_out_samples() -> None:
    setup = dataclasses.replace(SMALL, outputs=3, noise=0.7)
    seeds = [2, 11]
    worlds = make_worlds([setup], seeds)
    theta = torch.randn(2, 5, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    theta[0, 0], theta[1, 0] = worlds.truth[0], worlds.truth[1]
    found = worlds.test_loss(theta)
    for s, seed in enumerate(seeds):
        inputs, targets = held_out(setup, seed, worlds.truth[s])
        for k in range(5):
            direct = (inputs @ theta[s, k].T - targets).square().mean()
            assert float(found[s, k]) == pytest.approx(float(direct), rel=1e-12)


def test_a_seed_draws_the_same_whatever_the_share_scale_and_noise() -> None:
    base = make_worlds([dataclasses.replace(SMALL, outlier_share=0.0, noise=0.0)], [7])
    other = make_worlds([dataclasses.replace(SMALL, outlier_share=0.3, outlier_scale=5.0, noise=2.0)], [7])
    clean, outliers = 28, 12  # 0.3 x 40 = 12
    assert torch.equal(base.truth, other.truth)
    assert torch.equal(base.gram, other.gram)
    assert torch.equal(base.inputs[:, :clean], other.inputs[:, :clean])
    torch.testing.assert_close(5.0 * base.inputs[:, clean:, :-1], other.inputs[:, clean:, :-1])
    assert other.inputs[..., -1].eq(1).all()  # the constant is not scaled
    assert int(other.clean) == clean == 40 - outliers
    # Noise 0: the targets are the linear model's; at noise 2 they are off by twice a standard normal.
    torch.testing.assert_close(base.targets, base.inputs @ base.truth.mT)
    shift = (other.targets - base.targets)[:, :clean] / 2.0
    one = make_worlds([dataclasses.replace(SMALL, outlier_share=0.0, noise=1.0)], [7])
    torch.testing.assert_close(shift, (one.targets - base.targets)[:, :clean])


def test_outliers_have_random_targets_that_do_not_depend_on_the_share() -> None:
    few, many = (
        make_worlds([dataclasses.replace(SMALL, outlier_share=share)], [7]).targets for share in (0.1, 0.5)
    )
    assert torch.equal(few[:, -4:], many[:, -4:])
    none = make_worlds([dataclasses.replace(SMALL, outlier_share=0.0)], [7])
    assert int(none.clean) == 40
    assert not torch.isclose(none.targets[:, -4:], few[:, -4:]).any()
    # Standard normal, unlike the clean targets, whose variance is |truth|^2: 5,000 of them.
    big = DataSetup(features=4, samples=10_000, test_samples=1, outlier_share=0.5)
    drawn = make_worlds([big], [1]).targets[0, 5000:]
    assert float(drawn.mean()) == pytest.approx(0.0, abs=4 / 5000**0.5)
    assert float(drawn.var()) == pytest.approx(1.0, abs=4 * (2 / 5000) ** 0.5)


def test_streams_of_a_seed_and_seeds_are_apart() -> None:
    worlds = make_worlds([dataclasses.replace(SMALL, test_samples=40, noise=1.0)], [1, 2])
    assert not torch.isclose(worlds.inputs[0, :, :-1], worlds.inputs[1, :, :-1]).any()
    train_gram = worlds.inputs[0].T @ worlds.inputs[0] / 40
    assert not torch.allclose(train_gram, worlds.gram[0])


def test_worlds_are_setups_outermost_then_seeds() -> None:
    setups = [SMALL, dataclasses.replace(SMALL, noise=0.0)]
    worlds = make_worlds(setups, [1, 2])
    assert worlds.noise_power.gt(0).tolist() == [True, True, False, False]
    assert torch.equal(worlds.truth[0], worlds.truth[2])
    assert torch.equal(worlds[2:3].targets[0], worlds.targets[2])


def test_a_seeds_batches_do_not_depend_on_the_others() -> None:
    both = draw_batches([3, 4], 40, 8, 20)
    assert torch.equal(draw_batches([4], 40, 8, 20)[0], both[1])
    assert not torch.equal(both[0], both[1])
    assert (both.shape, both.dtype) == ((2, 20, 8), torch.int32)
    # With replacement, all samples alike: 200,000 draws of 40, 5,000 each, standard deviation about 70.
    counts = np.bincount(draw_batches([1], 40, 200, 1000).flatten().numpy(), minlength=40)
    assert counts.min() > 5000 - 5 * 70
    assert counts.max() < 5000 + 5 * 70


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("outlier_share", 1.0, "--outlier-share 1: "),
        ("outlier_share", -0.1, "--outlier-share -0.1: "),
        ("outlier_share", float("nan"), "--outlier-share nan: "),
        ("outlier_share", 0.999, "--outlier-share 0.999 of 40 samples leaves no clean one"),
        ("samples", 0, "--samples 0: "),
        ("test_samples", 0, "--test-samples 0: "),
        ("features", -1, "--features -1: "),
        ("outputs", 10**12, "--outputs 1000000000000: "),
        ("noise", -1.0, "--noise -1: "),
        ("noise", float("inf"), "--noise inf: "),
        ("outlier_scale", -2.0, "--outlier-scale -2: "),
    ],
)
def test_impossible_data_is_refused_in_one_line(setting: str, value: float, said: str) -> None:
    with pytest.raises(UserError) as caught:
        dataclasses.replace(SMALL, **{setting: value})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_no_outliers_are_allowed() -> None:
    assert dataclasses.replace(SMALL, outlier_share=0.0).outliers == 0

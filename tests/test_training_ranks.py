"""Several ranks: the same gradient, weights and losses as one process with one big batch."""

import pytest

from tests.ranks import run_ranks


@pytest.mark.parametrize(
    ("world", "samples", "micro_batch", "shardings"),
    [(2, 8, 4, "none full"), (2, 8, 2, "none full"), (3, 7, 3, "none full"), (4, 9, 2, "hybrid")],
    ids=["2x1", "2x2", "3x1 with remainder", "(2 copies of 2) x2 with remainder"],
)
def test_every_layout_has_the_gradient_of_one_big_batch(
    world: int, samples: int, micro_batch: int, shardings: str
) -> None:
    """Every strategy and family, DDP, full and hybrid shards; LOCAL_RANK is 0 on every rank."""
    run_ranks(world, ["-m", "tests.rank_gradients", str(samples), str(micro_batch), *shardings.split()])

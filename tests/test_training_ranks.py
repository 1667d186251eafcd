"""Several ranks: the same gradient, weights and losses as one process with one big batch."""

import json
from pathlib import Path

import pytest

from tests.ranks import free_port, run_ranks


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


@pytest.mark.slow
def test_compiled_recomputed_and_sharded_runs_have_the_losses_of_a_plain_one(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    layouts = {
        "plain": (1, ()),
        "recomputed": (2, ("parallel.sharding=full", "parallel.recompute=blocks", "train.micro_batch=2")),
        "compiled": (1, ("parallel.compile=true",)),
        "all": (2, ("parallel.sharding=full", "parallel.recompute=blocks", "parallel.compile=true")),
    }
    losses = {}
    for name, (world, changes) in layouts.items():
        arguments = ["--recipe", str(recipe_path), "--data", str(store_path), "--out", str(tmp_path / name)]
        for change in changes:
            arguments += ["--set", change]
        plan = tmp_path / "plan.json"
        plan.write_text(
            json.dumps([{"fault": "none", "rank": 0, "step": 0, "port": free_port(), "arguments": arguments}])
        )
        run_ranks(world, ["-m", "tests.rank_train", str(plan)])
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        losses[name] = {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}
    for name in layouts:
        assert losses[name] == pytest.approx(losses["plain"], abs=1e-5), name

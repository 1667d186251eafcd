"""What goes wrong on one of several ranks ends, or is seen by, all of them, and nothing is lost."""

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reproduce.training.checkpoint import checkpoints, damage
from tests.conftest import TINY_RECIPE
from tests.ranks import finish, free_port, start_ranks

# name -> (fault, rank, step, changes). All of one list run one after the other in the same two processes.
SCENARIOS: dict[str, tuple[str, int, int, tuple[str, ...]]] = {
    "whole": ("none", 0, 0, ()),
    "nan": ("nan", 1, 5, ()),
    "nan sharded": ("nan", 1, 5, ("parallel.sharding=full",)),
    "drop": ("nan", 1, 5, ("train.nonfinite=drop_sample",)),
    "other batch": ("other batch", 1, 4, ()),
    "ulp": ("ulp", 1, 4, ("parallel.check_replicas_every_steps=5",)),
    "term": ("term", 1, 5, ()),
    "term continued": ("none", 0, 0, ()),
    "int": ("int", 1, 5, ()),
    "save": ("save", 1, 3, ("train.keep_checkpoints=9",)),
    "async": ("int", 0, 6, ("train.checkpoint_async=true", "train.checkpoint_every_steps=2")),
    "async continued": ("none", 0, 0, ("train.checkpoint_async=true",)),
    "shards": ("int", 0, 4, ("parallel.sharding=full", "train.checkpoint_every_steps=2")),
    "raise": ("raise", 1, 5, ()),
    "raise continued": ("none", 0, 0, ()),
}


@dataclass(frozen=True)
class Ended:
    """How the scenarios ended."""

    root: Path
    codes: dict[str, list[int]]
    status: dict[str, dict[str, Any]]

    def run(self, name: str) -> Path:
        return folder_of(self.root, name)

    def lines(self, name: str, kind: str = "train") -> list[dict[str, Any]]:
        text = (self.run(name) / "metrics.jsonl").read_text()
        return [line for line in map(json.loads, text.splitlines()) if line["kind"] == kind]

    def losses(self, name: str) -> dict[int, float]:
        return {line["step"]: line["loss"] for line in self.lines(name)}


def folder_of(root: Path, name: str) -> Path:
    return root / name.removesuffix(" continued").replace(" ", "-")


def scenario(
    root: Path, store: Path, name: str, fault: str, rank: int, step: int, *changes: str
) -> dict[str, Any]:
    arguments = [
        "--recipe",
        str(root / "tiny.yaml"),
        "--data",
        str(store),
        "--out",
        str(folder_of(root, name)),
    ]
    for change in changes:
        arguments += ["--set", change]
    return {"fault": fault, "rank": rank, "step": step, "port": free_port(), "arguments": arguments}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faults")
    (path / "tiny.yaml").write_text(TINY_RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def ended(root: Path, store_path: Path) -> Ended:
    codes: dict[str, list[int]] = {}
    status = {}
    # A run and its continuation go to different processes: what the first left must be read from disk.
    for batch in ([n for n in SCENARIOS if "continued" not in n], [n for n in SCENARIOS if "continued" in n]):
        plan = root / "plan.json"
        plan.write_text(json.dumps([scenario(root, store_path, n, *_flat(SCENARIOS[n])) for n in batch]))
        ranks = finish(start_ranks(2, ["-m", "tests.rank_train", str(plan)]))
        assert [code for code, _, _ in ranks] == [0, 0], "\n".join(err for _, _, err in ranks)
        each = [json.loads(out.splitlines()[-1]) for _, out, _ in ranks]
        for place, name in enumerate(batch):
            codes[name] = [own[place] for own in each]
            status[name] = json.loads((folder_of(root, name) / "status.json").read_text())
    return Ended(root=root, codes=codes, status=status)


def _flat(entry: tuple[str, int, int, tuple[str, ...]]) -> tuple[Any, ...]:
    fault, rank, step, changes = entry
    return (fault, rank, step, *changes)


@pytest.mark.parametrize("name", ["nan", "nan sharded"])
def test_a_number_that_is_not_finite_on_one_rank_stops_all(ended: Ended, name: str) -> None:
    assert ended.codes[name] == [6, 6]
    crash = json.loads((ended.run(name) / "crash" / "step-0000005.json").read_text())
    # 6 samples on 2 ranks: rank 1's first is the fourth of the global batch.
    assert [s["loss"] == "nan" for s in crash["samples"]] == [False, False, False, True, False, False]
    assert [s["rank"] for s in crash["samples"]] == [0, 0, 0, 1, 1, 1]
    assert crash["r"] == 0.4
    assert ended.status[name]["exit_code"] == 6
    assert max(ended.losses(name)) == 4
    assert [c.step for c in checkpoints(ended.run(name) / "checkpoints")] == [3]


def test_a_sample_that_is_not_finite_can_be_left_out(ended: Ended) -> None:
    # Each step from 5 on has one: after three in a row the run ends.
    assert ended.codes["drop"] == [6, 6]
    dropped = ended.lines("drop", "dropped")
    assert [line["step"] for line in dropped] == [5, 6, 7]
    assert [[s["place"] for s in line["samples"]] for line in dropped] == [[3], [3], [3]]
    steps = {line["step"]: line for line in ended.lines("drop")}
    # Five samples are left, weighed among themselves.
    assert 1 <= steps[5]["ess"] <= 5
    assert sum(steps[5]["weight_share"].values()) == pytest.approx(1.0, abs=1e-6)


def test_ranks_that_compute_different_batches_stop_in_that_step(ended: Ended) -> None:
    assert ended.codes["other batch"] == [9, 9]
    assert "in step 4 rank 1 did not compute the batch" in ended.status["other batch"]["reason"]
    assert ended.status["other batch"]["exit_code"] == 9
    assert max(ended.losses("other batch")) == 3


def test_one_flipped_bit_in_a_replica_is_found_at_the_next_check(ended: Ended) -> None:
    assert ended.codes["ulp"] == [9, 9]
    assert "after step 5 the parameters of rank 1 are no longer" in ended.status["ulp"]["reason"]


@pytest.mark.parametrize(("name", "code", "state"), [("term", 75, "preempted"), ("int", 130, "interrupted")])
def test_a_signal_to_one_rank_stops_all_after_the_same_step(
    ended: Ended, name: str, code: int, state: str
) -> None:
    assert ended.codes[name] == [code, code]
    # Received in step 5, told to the others with the losses of step 6.
    expected = {
        "state": state,
        "exit_code": code,
        "step": 6,
        "reason": "run the same command again to continue",
    }
    assert ended.status[name] == expected


@pytest.mark.parametrize("name", ["term", "raise", "async"])
def test_the_same_command_continues_and_every_loss_is_equal(ended: Ended, name: str) -> None:
    assert ended.codes[f"{name} continued"] == [0, 0]
    assert ended.losses(name) == ended.losses("whole")
    assert ended.status[f"{name} continued"]["state"] == "complete"


@pytest.mark.parametrize("world", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_sharded_run_continues_on_another_number_of_ranks(
    ended: Ended, root: Path, store_path: Path, world: int
) -> None:
    """Same samples at every step (A8); losses differ by rounding only."""
    assert ended.codes["shards"] == [130, 130]
    name = f"shards on {world}"
    shutil.copytree(ended.run("shards"), folder_of(root, name))
    changes = ["parallel.sharding=full"] if world > 1 else []
    plan = root / f"{world}.json"
    plan.write_text(json.dumps([scenario(root, store_path, name, "none", 0, 0, *changes)]), encoding="utf-8")
    ranks = finish(start_ranks(world, ["-m", "tests.rank_train", str(plan)]))
    assert [code for code, _, _ in ranks] == [0] * world, ranks[0][2]
    assert f"begun with world 2, continued with {world}" in ranks[0][2]
    assert ended.losses(name) == pytest.approx(ended.losses("whole"), abs=1e-5)
    ours, theirs = (load_file(ended.run(each) / "model" / "model.safetensors") for each in (name, "whole"))
    assert ours.keys() == theirs.keys()
    for tensor in ours:
        assert torch.allclose(ours[tensor], theirs[tensor], atol=1e-5), tensor


def test_sigusr1_saves_and_goes_on(ended: Ended) -> None:
    assert ended.codes["save"] == [0, 0]
    assert [c.step for c in checkpoints(ended.run("save") / "checkpoints")] == [3, 4, 6, 8]
    assert ended.losses("save") == ended.losses("whole")


def test_a_rank_that_fails_says_why_and_the_others_stop(ended: Ended) -> None:
    assert ended.codes["raise"] == [9, 7]
    assert ended.status["raise"]["exit_code"] == 7
    assert ended.status["raise"]["reason"].startswith("rank 1: out of memory")


@pytest.mark.slow
def test_random_faults_on_random_ranks_lose_nothing(ended: Ended, root: Path, store_path: Path) -> None:
    """20 numbers that are not finite and 20 SIGTERMs, each on one of two ranks before one of the steps."""
    rng = random.Random(7)
    points = [(fault, i, rng.randrange(2), rng.randint(2, 6)) for fault in ("nan", "term") for i in range(20)]
    names = [f"{fault} {i}" for fault, i, _, _ in points]
    plan = root / "sweep.json"
    plan.write_text(
        json.dumps([scenario(root, store_path, f"{f} {i}", f, rank, step) for f, i, rank, step in points])
    )
    ranks = finish(start_ranks(2, ["-m", "tests.rank_train", str(plan)]), timeout=280)
    codes = [json.loads(out.splitlines()[-1]) for _, out, _ in ranks]
    for place, (name, (fault, _, rank, step)) in enumerate(zip(names, points, strict=True)):
        assert [own[place] for own in codes] == ([6, 6] if fault == "nan" else [75, 75]), name
        status = json.loads((ended.run(name) / "status.json").read_text())
        if fault == "nan":
            crash = json.loads((ended.run(name) / "crash" / f"step-{step:07d}.json").read_text())
            assert [s["place"] for s in crash["samples"] if s["loss"] == "nan"] == [3 * rank], name
            assert max(ended.losses(name)) == step - 1
        else:
            assert (status["state"], status["step"]) == ("preempted", step + 1), name
    stopped = [name for name in names if name.startswith("term")]
    plan.write_text(json.dumps([scenario(root, store_path, name, "none", 0, 0) for name in stopped]))
    ranks = finish(start_ranks(2, ["-m", "tests.rank_train", str(plan)]), timeout=280)
    assert [json.loads(out.splitlines()[-1]) for _, out, _ in ranks] == [[0] * 20] * 2
    for name in stopped:
        assert ended.losses(name) == ended.losses("whole"), name


@pytest.mark.parametrize("fault", ["die", pytest.param("hang", marks=pytest.mark.slow)])
def test_a_lost_rank_is_named_in_time_and_the_run_continues_exactly(
    ended: Ended, root: Path, store_path: Path, fault: str
) -> None:
    plan = root / f"{fault}.json"
    plan.write_text(
        json.dumps([scenario(root, store_path, fault, fault, 1, 5, "parallel.step_timeout_s=6")]),
        encoding="utf-8",
    )
    survivor, lost = start_ranks(2, ["-m", "tests.rank_train", str(plan)])
    try:
        codes = json.loads(survivor.communicate(timeout=200)[0].splitlines()[-1])
    finally:
        lost.kill()  # what hangs is left to the launcher
        lost.communicate()
    assert codes == [9]
    folder = folder_of(root, fault)
    # From the last step before the fault to the verdict.
    seconds = (folder / "status.json").stat().st_mtime - (folder / "metrics.jsonl").stat().st_mtime
    assert seconds < 60
    status = json.loads((folder / "status.json").read_text())
    assert status["exit_code"] == 9
    assert "rank 0 of 2 lost rank 1" in status["reason"]
    for checkpoint in checkpoints(folder / "checkpoints"):
        assert damage(checkpoint) is None
    plan.write_text(json.dumps([scenario(root, store_path, fault, "none", 0, 0)]), encoding="utf-8")
    assert [code for code, _, _ in finish(start_ranks(2, ["-m", "tests.rank_train", str(plan)]))] == [0, 0]
    again = Ended(root=root, codes={}, status={})
    assert again.losses(fault) == ended.losses("whole")

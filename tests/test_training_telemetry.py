"""What a logged step says, trackers that fail, and switches that reproduce the released code."""

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from data_prep.token_store import TokenStore
from reproduce.method import sample_losses, sample_weights
from reproduce.recipe import load_recipe
from reproduce.recipe.estimate import flops_a_token
from reproduce.training.data import training_batches
from reproduce.training.loop import Events, Options, run
from reproduce.training.model import build_network
from reproduce.training.telemetry import weight_by_loss

PHASES = {"data", "forward", "weights", "backward", "optimizer"}


def train(
    recipe: Path, out: Path, store: Path, *overrides: str, trackers: tuple[str, ...] = ()
) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of metrics.jsonl that tell of steps, and the warnings."""
    said: list[str] = []
    events = Events(warn=said.append, advance=lambda step, line: None)
    assert (
        run(load_recipe(str(recipe), overrides), out, store, events, Options(trackers=trackers)).exit_code
        == 0
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"], said


@pytest.mark.parametrize("scope", ["global", "micro", "lagged"])
def test_a_line_says_what_the_time_went_to(
    recipe_path: Path, store_path: Path, tmp_path: Path, scope: str
) -> None:
    recipe = load_recipe(str(recipe_path))
    lines, _ = train(
        recipe_path, tmp_path / "r", store_path, f"reweighting.scope={scope}", "train.micro_batch=2"
    )
    for line in lines:
        assert set(line["seconds"]) == PHASES
        assert all(seconds >= 0 for seconds in line["seconds"].values())
        assert line["model_flops_per_s"] == pytest.approx(
            line["tokens_per_s"] * flops_a_token(recipe.model, 32), rel=1e-6
        )
        assert line["mfu"] is None  # a CPU's peak is in no table
        assert line["memory_bytes"] > 10**8
        assert line["over_bound"] == (line["max_weight"] > 2)
        assert 1 <= line["ess"] <= 6 + 1e-6
        assert line["entropy"] <= math.log(6) + 1e-6
        by_loss = list(line["weight_by_loss"].values())  # one a sample: the batch has six
        assert sum(by_loss) == pytest.approx(6, abs=1e-5)
        assert max(by_loss) == pytest.approx(line["max_weight"], rel=1e-6)
        # LinUpper's weights rise with the loss, in what they are normalised over.
        assert scope == "micro" or by_loss == sorted(by_loss)


def test_weights_by_the_place_of_the_loss() -> None:
    # 20 samples, losses 0 to 19 in any order, weight of loss l is l/190: groups of two, whose mean is
    # (2g + 2g + 1)/2 / 190, times 20, in the middle of the g-th tenth.
    losses = np.random.default_rng(0).permutation(20).astype(np.float32)
    found = weight_by_loss(losses, (losses / 190).astype(np.float32))
    assert list(found) == [f"{0.05 + 0.1 * g:.3f}" for g in range(10)]
    assert list(found.values()) == pytest.approx([(2 * g + 0.5) / 190 * 20 for g in range(10)], rel=1e-6)
    # Three samples: a group each, at 1/6, 1/2 and 5/6.
    assert weight_by_loss(np.array([2.0, 1.0, 3.0]), np.array([0.5, 0.25, 0.25])) == pytest.approx(
        {"0.167": 0.75, "0.500": 1.5, "0.833": 0.75}
    )


def test_the_lagged_scope_tells_its_distance_from_the_exact_weights(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    settings = ("train.micro_batch=2", "reweighting.warmup_steps=0")
    lines, _ = train(recipe_path, tmp_path / "r", store_path, "reweighting.scope=lagged", *settings)
    # The first step has no step before it and is exact; the others are not, but are weights.
    assert lines[0]["weight_error"] == 0
    assert all(0 < line["weight_error"] < 1 for line in lines[1:])
    assert all(sum(line["weight_share"].values()) == pytest.approx(1, abs=1e-6) for line in lines)
    exact, _ = train(recipe_path, tmp_path / "e", store_path, *settings)
    assert "weight_error" not in exact[0]
    assert exact[0]["loss"] == lines[0]["loss"]
    assert exact[0]["grad_norm"] == lines[0]["grad_norm"]


def test_a_lagged_run_resumes_exactly(recipe_path: Path, store_path: Path, tmp_path: Path) -> None:
    """The range of the last step is part of the checkpoint."""
    recipe = load_recipe(str(recipe_path), ["reweighting.scope=lagged", "train.micro_batch=2"])
    seen: list[int] = []
    events = Events(
        warn=lambda line: None,
        advance=lambda step, line: seen.append(step),
        stop=lambda: 75 if seen and seen[-1] == 5 else None,
    )
    assert run(recipe, tmp_path / "cut", store_path, events).exit_code == 75
    losses = {}
    for out in ("cut", "whole"):
        lines, _ = train(
            recipe_path, tmp_path / out, store_path, "reweighting.scope=lagged", "train.micro_batch=2"
        )
        losses[out] = [(line["loss"], line["weighted_loss"], line["weight_error"]) for line in lines]
    assert losses["cut"] == losses["whole"]


class Recorder(GeneralTracker):
    """A tracker that keeps what it is given, or fails where it is told to."""

    name = "recorder"
    requires_logging_directory = False
    given: ClassVar[dict[str, Any]] = {}
    fails_at = ""

    def __init__(self, run_name: str) -> None:
        super().__init__()
        type(self).given = {"run": run_name, "lines": []}

    @property
    def tracker(self) -> None:
        return None

    def start(self) -> None:
        self._maybe_fail("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.given["settings"] = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._maybe_fail(f"log {step}")
        self.given["lines"].append((step, values))

    def finish(self) -> None:
        self._maybe_fail("finish")
        self.given["finished"] = True

    def _maybe_fail(self, where: str) -> None:
        if self.fails_at == where:
            raise ConnectionError("no network\nat all")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    monkeypatch.setattr(Recorder, "fails_at", "")
    return Recorder


def test_a_tracker_gets_every_line_and_the_settings(
    recipe_path: Path, store_path: Path, tmp_path: Path, recorder: type[Recorder]
) -> None:
    lines, said = train(recipe_path, tmp_path / "r", store_path, trackers=("recorder", "recorder"))
    assert said == []
    assert recorder.given["finished"]
    assert recorder.given["settings"]["optimizer.lr"] == 0.01
    steps = {step: values for step, values in recorder.given["lines"] if "train/loss" in values}
    assert list(steps) == list(range(1, 9))
    assert steps[3]["train/loss"] == lines[2]["loss"]
    assert steps[3]["train/weight_share.code"] == lines[2]["weight_share"]["code"]
    assert any("eval/log_perplexity.mean" in values for _, values in recorder.given["lines"])


@pytest.mark.parametrize("where", ["start", "log 4", "finish"])
def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(
    recipe_path: Path,
    store_path: Path,
    tmp_path: Path,
    recorder: type[Recorder],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    monkeypatch.setattr(recorder, "fails_at", where)
    _, said = train(recipe_path, tmp_path / "r", store_path, trackers=("recorder",))
    assert len(said) == 1
    assert "tracker recorder failed" in said[0]
    assert "\n" not in said[0]


def test_an_unknown_tracker_is_refused_before_anything_is_trained(
    recipe_path: Path, store_path: Path, tmp_path: Path, reweight: Any
) -> None:
    code, _, err = reweight(
        "train", "--recipe", recipe_path, "--data", store_path, "--out", tmp_path / "r", "--track", "wundb"
    )
    assert code == 2
    assert "--track wundb: no such tracker" in err
    assert "wandb" in err


def test_first_node_weights_train_on_other_samples_weights(
    recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    """Defect 1: with 3 nodes of 2 samples, every node's samples get the weights of node 0's."""
    changes = ("reweighting.warmup_steps=0", "compatibility.first_node_weights=2")
    released, _ = train(recipe_path, tmp_path / "released", store_path, *changes)
    right, _ = train(recipe_path, tmp_path / "right", store_path, changes[0])
    assert released[0]["loss"] == right[0]["loss"]
    recipe = load_recipe(str(recipe_path), changes)
    batches = training_batches(TokenStore.open(store_path), recipe)
    tokens_MT = torch.from_numpy(batches.tokens(batches.plan(1))).long()
    network = build_network(recipe.model, recipe.seed, end_of_text=63)
    losses_M = sample_losses(network(input_ids=tokens_MT).logits, tokens_MT).detach()
    weights_M = sample_weights(losses_M, "linupper", 0.4)
    expected = (weights_M[[0, 1, 0, 1, 0, 1]] * losses_M).sum()
    assert released[0]["weighted_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert right[0]["weighted_loss"] == pytest.approx((weights_M * losses_M).sum().item(), rel=1e-5)


def test_bf16_losses_fall_on_a_grid(recipe_path: Path, store_path: Path, tmp_path: Path) -> None:
    """Defect 2: between 4 and 8 nats bfloat16 has steps of 1/32, so few levels are left to normalise."""
    crashes = train(recipe_path, tmp_path / "r", store_path, "compatibility.bf16_losses=true")[0]
    exact = train(recipe_path, tmp_path / "e", store_path)[0]
    # The mean of 6 losses on a grid of 1/32, times 6 and 32, is a whole number.
    on_grid = crashes[0]["loss"] * 6 * 32
    assert on_grid == pytest.approx(round(on_grid), abs=1e-6)
    off_grid = exact[0]["loss"] * 6 * 32
    assert abs(off_grid - round(off_grid)) > 1e-3
    assert crashes[0]["loss"] == pytest.approx(exact[0]["loss"], abs=1 / 32)


def test_readme_uniform_is_not_uniform(recipe_path: Path, store_path: Path, tmp_path: Path) -> None:
    lines, _ = train(recipe_path, tmp_path / "r", store_path, "reweighting.strategy=readme_uniform")
    # Defect 3: the largest weight is e^(2/r) = e^5 = 148.4 times the smallest.
    assert lines[-1]["max_weight"] / lines[-1]["min_weight"] == pytest.approx(math.exp(5), rel=1e-4)

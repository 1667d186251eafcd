"""`reweight eval` in processes of its own, over the real client of the hub, beside lm-eval's own command."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hub_place import Place
from hub_stand_in import TOKEN, HubStandIn
from task_models import llama_folder, model_folder
from task_sets import add_all

from eval.suites import load_suites

SHARED = ("arc_easy", "winogrande", "lambada_openai")
"""Tasks of llama_lur that lm-eval's command loads as shipped."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("place")
    add_all(root / "hub")
    with HubStandIn(root / "hub") as hub:
        yield Place(hub, root)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("model") / "llama")


def ran(place: Place, command: Sequence[object], **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        env={**place.environment, **environment},
        cwd=place.root,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def ours(place: Place, model: Path, out: str, *options: object, **environment: str) -> dict[str, Any]:
    command = ("reproduce.cli", "eval", model, "--out", place.root / out, "--json", *options)
    done = ran(place, command, **environment)
    assert done.returncode == 0, done.stderr
    (document,) = json.loads(done.stdout)
    found: dict[str, Any] = document
    return found


def lm_eval(place: Place, model: Path, out: str, *options: object) -> dict[str, dict[str, Any]]:
    command = ("lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model}", "--device", "cpu")
    done = ran(place, (*command, "--batch_size", 8, "--output_path", place.root / out, *options))
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = (place.root / out).rglob("results_*.json")
    results: dict[str, dict[str, Any]] = json.loads(written.read_text(encoding="utf-8"))["results"]
    return results


def test_the_scores_are_those_of_lm_eval_s_command(place: Place, model: Path) -> None:
    """To the last digit, from the same folder and hub, with all three tasks in one call of each."""
    options = [word for task in SHARED for word in ("--task", task)]
    with ThreadPoolExecutor(2) as pool:
        theirs_later = pool.submit(lm_eval, place, model, "theirs", "--tasks", ",".join(SHARED))
        document = ours(place, model, "ours", "--suite", "llama_lur", *options)
        theirs = theirs_later.result()
    scores = document["scores"]
    assert {score["task"] for score in scores} == set(SHARED)
    for score in scores:
        expected = theirs[score["task"]]
        if score["metric"] == "perplexity":
            # Three tasks in one call of lm-eval share batches: sums of logarithms differ in their last bits.
            assert score["value"] == pytest.approx(expected["perplexity,none"], rel=1e-5)
        else:
            assert score["value"] == expected[f"{score['metric']},none"]
            assert score["stderr"] == expected[f"{score['metric']}_stderr,none"]
    assert document["failed"] == []


@pytest.mark.cluster
def test_two_processes_share_the_requests(place: Place, tmp_path: Path) -> None:
    short = model_folder(tmp_path / "short", context=300)
    options = ("--suite", "gpt2_qa", "--task", "sciq", "--task", "piqa")
    with ThreadPoolExecutor(2) as pool:
        alone_later = pool.submit(ours, place, short, "alone", *options)
        both = ours(place, short, "both", *options, "--nproc", 2)
        alone = alone_later.result()
    assert both["scores"] == alone["scores"]
    assert all(score["truncated"] for score in both["scores"])
    (record,) = (place.root / "both" / "evaluations" / "model").glob("sciq*")
    assert json.loads(record.read_text(encoding="utf-8"))["ranks"] == 2


@pytest.mark.slow
def test_faults_of_the_hub_offline_and_again(place: Place, model: Path) -> None:
    """One task's data set is refused: it fails (4), the other's score stays; offline both are there."""
    command = (
        "reproduce.cli",
        "eval",
        model,
        "--suite",
        "llama_qa",
        "--task",
        "boolq",
        "--task",
        "social_iqa",
    )
    out = ("--out", place.root / "faults")
    place.hub.refused.add("lighteval/siqa")
    refused = ran(place, (*command, *out), HF_TOKEN=TOKEN)
    place.hub.refused.discard("lighteval/siqa")
    assert refused.returncode == 4
    assert "social_iqa: hub repository lighteval/siqa" in refused.stderr
    assert "boolq" in refused.stdout
    assert TOKEN not in refused.stdout + refused.stderr
    again = ran(place, (*command, *out))
    assert again.returncode == 0, again.stderr
    assert "boolq: scored before, kept" in again.stderr
    requests = len(place.hub.log)
    elsewhere = ("--out", place.root / "offline")
    offline = ran(place, (*command, *elsewhere), HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert len(place.hub.log) == requests
    assert "\x1b" not in offline.stdout + offline.stderr


@pytest.mark.slow
@pytest.mark.parametrize("suite", list(load_suites()))
def test_every_task_runs_over_the_real_client(place: Place, model: Path, suite: str) -> None:
    document = ours(place, model, suite, "--suite", suite)
    assert {score["task"] for score in document["scores"]} == {t.name for t in load_suites()[suite].tasks}
    assert document["failed"] == []


@pytest.mark.slow
def test_a_task_alone_equals_lm_eval_s_command_in_every_bit(place: Place, model: Path) -> None:
    theirs = lm_eval(place, model, "alone-theirs", "--tasks", "lambada_openai")["lambada_openai"]
    document = ours(place, model, "alone-ours", "--suite", "llama_lur", "--task", "lambada_openai")
    found = {score["metric"]: score["value"] for score in document["scores"]}
    assert found == {"acc": theirs["acc,none"], "perplexity": theirs["perplexity,none"]}

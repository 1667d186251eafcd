"""Learning domain weights among damage and misuse: one line and an exit code, and nothing is lost."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DOMAINS, TINY_RECIPE
from domain_worlds import MESH, Unigram, plan, start, work
from transformers import GPT2Config, GPT2LMHeadModel

from reproduce.domains import doge
from reproduce.domains import learn as learning
from reproduce.domains.average import average
from reproduce.domains.doge import DoGE
from reproduce.domains.learn import Learned, Request, learn
from reproduce.domains.learner import DomainLearner
from reproduce.domains.output import write_learned
from reproduce.domains.result import learned_set
from reproduce.errors import RankError, ResumeError, StorageError
from reproduce.recipe import Recipe, load_recipe
from reproduce.recipe.schema import DomainsSpec
from reproduce.recipe.weight_set import HistoryPoint, Round, WeightSet
from reproduce.recipe.weight_sets import read_weight_set, weight_set_text
from reproduce.training.data import open_store
from reproduce.training.start import Events

Cli = Callable[..., tuple[int, str, str]]
SHORT = ("train.steps=2", "optimizer.warmup_steps=1", "evaluation.samples=3", "domains.algorithm=doremi")
SHARES = {"code": 0.5, "prose": 0.3, "tables": 0.2}
UNEVEN = [part for name, share in SHARES.items() for part in ("--set", f"data.domain_weights.{name}={share}")]
QUIET = Events(warn=lambda message: None, advance=lambda step, line: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, store_path: Path) -> Path:
    """proxy.yaml, and a whole DoReMi run of two steps in `o`."""
    place = tmp_path_factory.mktemp("finished")
    text = TINY_RECIPE.replace("strategy: linupper", "strategy: uniform")
    (place / "proxy.yaml").write_text(text, encoding="utf-8")
    recipe = load_recipe(str(place / "proxy.yaml"), SHORT)
    learned = learn(Request(recipe=recipe, path=place / "o", data=store_path), lambda phase: QUIET)
    assert learned.weights is not None
    write_learned(place / "o", learned.weights)
    return place


@pytest.fixture
def again(
    finished: Path, tmp_path: Path, store_path: Path, reweight: Cli
) -> Callable[..., tuple[int, str, str]]:
    """The same command on a copy of that run in tmp_path/o, with further arguments."""
    shutil.copytree(finished / "o", tmp_path / "o")

    def call(*arguments: object) -> tuple[int, str, str]:
        sets = [part for change in SHORT for part in ("--set", change)]
        base = ("domains", "doremi", "--recipe", finished / "proxy.yaml", "--data", store_path, *sets)
        return reweight(*base, "--out", tmp_path / "o", *arguments)

    return call


def refused(answer: tuple[int, str, str], code: int) -> str:
    """The line that says why; before it phases may have been named that are complete."""
    found, out, err = answer
    assert (found, out) == (code, ""), err
    *before, last = err.strip().splitlines()
    assert all(line.endswith("is already complete") for line in before), err
    return last


def changed(line: str, **fields: Any) -> str:
    return json.dumps({**json.loads(line), **fields})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: [*lines[:-1], changed(lines[-1], average_alpha={"code": 5, "prose": 0})], "other dom"),
        (
            lambda lines: [*lines[:-1], changed(lines[-1], average_alpha=dict.fromkeys(DOMAINS, 1))],
            "sum to 1",
        ),
        (lambda lines: [*lines[:-1], changed(lines[-1], average_alpha=7)], "no domain weights"),
        (
            lambda lines: [*lines[:-1], changed(lines[-1], alpha=dict.fromkeys(DOMAINS, 10**400))],
            "no domain w",
        ),
        (lambda lines: lines[:-1], "its last step is not 2"),  # a mean over fewer steps
        (lambda lines: [lines[1], lines[0]], "not in order"),
        (lambda lines: [*lines, changed(lines[-1], step=math.inf)], "no domain weights"),
        (lambda lines: [*lines, "3"], "no domain weights"),
    ],
    ids=range(8),
)
def test_metrics_that_are_damaged_are_no_bug(
    damage: Callable[[list[str]], list[str]], said: str, again: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "o/round-1/proxy/metrics.jsonl"
    lines = [line for line in path.read_text().splitlines() if json.loads(line)["kind"] == "train"]
    path.write_text("\n".join(damage(lines)) + "\n")
    assert said in refused(again(), 3)


def test_metrics_that_are_no_text_or_gone_or_a_pipe_are_no_bug(again: Cli, tmp_path: Path) -> None:
    path = tmp_path / "o/round-1/proxy/metrics.jsonl"
    path.write_bytes(b"\xff\xfe")
    assert "not UTF-8 text" in refused(again(), 3)
    path.unlink()
    assert "No such file" in refused(again(), 3)
    os.mkfifo(path)
    assert "not an ordinary file" in refused(again(), 3)


def test_a_reference_that_is_gone_is_not_trained_again(again: Cli, tmp_path: Path) -> None:
    before = (tmp_path / "o/weights.yaml").read_bytes()
    shutil.rmtree(tmp_path / "o/round-1/reference")
    code, _, err = again()
    assert code == 0, err
    assert "not needed again" in err
    assert not (tmp_path / "o/round-1/reference").exists()
    assert (tmp_path / "o/weights.yaml").read_bytes() == before
    # Of other weights it is another reference, and the proxy another's.
    code, _, err = again(*UNEVEN)
    assert (code, "reference_sha256" in err) == (5, True)
    assert (tmp_path / "o/weights.yaml").read_bytes() == before


def test_a_complete_folder_is_not_written_again(again: Cli, tmp_path: Path) -> None:
    """It may lie on a disk that takes no writes any more."""
    (tmp_path / "o/weights.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "o").glob("weights.*")}
    assert len(before) == 3
    assert again()[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "o/weights.png").exists()


def test_what_only_spares_memory_or_allows_epochs_may_change(again: Cli) -> None:
    """Else the remedy of a second round that runs out of tokens would be refused by the first."""
    code, _, err = again("--set", "data.repeat=true", "--set", "domains.gradients_on=host")
    assert code == 0, err


def test_a_refusal_offers_no_option_that_is_not_there(again: Cli) -> None:
    said = refused(again("--set", "domains.eta=0.5"), 5)
    assert "domains.eta" in said
    assert "allow-drift" not in said


def test_a_file_of_weights_that_is_not_ours_is_kept(again: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine/weights.yaml"
    mine.write_text("weights: {a: 1}\n")
    assert "would be overwritten" in refused(again("--out", tmp_path / "mine"), 5)
    assert [path.name for path in mine.parent.iterdir()] == ["weights.yaml"]


def test_a_name_that_leaves_no_room_for_the_phases_is_refused_first(again: Cli, tmp_path: Path) -> None:
    """Else the runs' own recipe.yaml could not be read back, and nothing be continued."""
    said = refused(again("--set", f"name={'n' * 90}", "--out", tmp_path / "long"), 2)
    assert "at most 77 letters" in said
    assert not (tmp_path / "long").exists()


def test_a_reference_must_say_its_tokenizer_and_be_its_recipes_model(again: Cli, tmp_path: Path) -> None:
    given = ("--reference", tmp_path / "o/round-1/reference", "--out", tmp_path / "new")
    # A sound model, of half the vocabulary: on a GPU its table would be read beyond its end.
    config = GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=32, vocab_size=32)
    shutil.rmtree(tmp_path / "o/round-1/reference/model")
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "o/round-1/reference/model")
    assert "it takes 32 tokens of 32, and 32 of 64 are needed" in refused(again(*given), 3)
    facts = tmp_path / "o/round-1/reference/provenance.json"
    facts.unlink()
    assert "does not say which tokenizer" in refused(again(*given), 3)


def test_a_given_reference_is_recorded_with_its_own_weights(
    again: Cli, finished: Path, tmp_path: Path, store_path: Path
) -> None:
    code, _, err = again(*UNEVEN, "--out", tmp_path / "one")
    assert code == 0, err
    given = ("--reference", tmp_path / "one/round-1/reference", "--out", tmp_path / "two")
    assert again(*given)[0] == 0
    one, two = (read_weight_set(tmp_path / name / "weights.yaml") for name in ("one", "two"))
    assert one.weights == two.weights
    assert dict(two.rounds[0].reference_weights) == pytest.approx(SHARES)


def test_no_phase_begins_after_a_signal(finished: Path, tmp_path: Path, store_path: Path) -> None:
    def events(phase: Recipe) -> Events:
        return replace(QUIET, stop=lambda: 75 if phase.name.endswith("proxy") else None)

    recipe = load_recipe(str(finished / "proxy.yaml"), SHORT)
    stopped = learn(Request(recipe=recipe, path=tmp_path / "o", data=store_path), events)
    assert (stopped.exit_code, stopped.weights) == (75, None)
    assert [path.name for path in (tmp_path / "o/round-1").iterdir()] == ["reference"]


def test_json_is_one_document_also_of_a_run_that_was_stopped(
    again: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = again("--json")
    assert (code, json.loads(out)["path"]) == (0, str(tmp_path / "o/weights.yaml"))
    stopped = Learned(exit_code=75, weights=None, leads=True)
    monkeypatch.setattr(learning, "learn", lambda request, events: stopped)
    code, out, _ = again("--json")
    assert (code, json.loads(out)["state"]) == (75, "stopped")


def test_a_rank_that_is_lost_between_two_phases_is_named(
    finished: Path, tmp_path: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lonely(type(MESH)):  # type: ignore[misc]
        def exchange(self, text: str) -> list[str]:
            raise RuntimeError("Connection closed by peer [127.0.0.1]:1")

    @contextmanager
    def joined(*_: object) -> Iterator[Lonely]:
        yield Lonely(device=MESH.device, precision="fp32", world=2)

    monkeypatch.setattr(learning, "joined", joined)
    request = Request(recipe=load_recipe(str(finished / "proxy.yaml"), SHORT), path=tmp_path, data=store_path)
    with pytest.raises(RankError, match="lost a rank"):
        learn(request, lambda phase: QUIET)


def test_a_batch_of_the_target_alone_trains_nothing_and_halts_nothing() -> None:
    model = Unigram([0.1, 0.2])
    rule = DoGE(start(DomainsSpec(algorithm="doge", target="c"), ("a", "b", "c")), model)  # type: ignore[arg-type]
    rule.module()
    weights = rule.passes(1, plan([2, 2]), 0.1)(work(model, torch.tensor([[0, 1], [1, 0]]))).weights_M
    assert weights.tolist() == [0.0, 0.0]
    assert model.logits.grad is not None
    assert model.logits.grad.tolist() == [0.0, 0.0]
    assert rule.alpha_K.tolist() == [0.5, 0.5, 0.0]


def test_gradients_that_do_not_fit_on_the_gpu_name_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(doge, "DomainGradients", full)
    rule = DoGE(start(DomainsSpec(algorithm="doge"), ("a", "b")), Unigram([0.0, 0.0]))  # type: ignore[arg-type]
    with pytest.raises(StorageError, match=r"2 gradients .* domains\.gradients_on=host"):
        rule.module()


def test_a_domain_that_is_never_drawn_is_not_weighed() -> None:
    made = start(DomainsSpec(algorithm="doge"), ("a", "b", "c"))
    made.batches.probabilities_K[1] = 0
    assert DomainLearner(made, None).alpha_K.tolist() == [0.5, 0.0, 0.5]  # type: ignore[arg-type]


def test_a_checkpoint_without_the_rules_state_is_refused() -> None:
    rule = DomainLearner(start(DomainsSpec(algorithm="doge"), ("a", "b")), None)  # type: ignore[arg-type]
    saved = {**rule.state(), "domains/alpha": torch.full((3,), 1 / 3, dtype=torch.float64)}
    for damaged in ({}, saved):
        with pytest.raises(ResumeError, match="no domains/alpha of 2 domains"):
            rule.restore(damaged)


def learned(name: str, **fields: Any) -> WeightSet:
    weights = {"a": 0.25, "b": 0.75}
    rounds = (Round(reference_weights={"a": 0.5, "b": 0.5}, weights=weights),)
    return replace(
        WeightSet(name=name, weights=weights, algorithm="doge", recipe="r", seeds=(1,), rounds=rounds),
        **fields,
    )


def test_a_mean_has_a_name_that_reads_back_and_counts_each_seed_once(reweight: Cli, tmp_path: Path) -> None:
    long = learned("one", source="x" * 2000)
    other = learned("two", seeds=(2, 3), source="x" * 2000, weights={"a": 0.55, "b": 0.45})
    for each in (long, other):
        (tmp_path / f"{each.name}.yaml").write_text(weight_set_text(each), encoding="utf-8")
    out = tmp_path / "the mean of \u00fc.yaml"
    code, _, err = reweight("domains", "average", tmp_path / "one.yaml", tmp_path / "two.yaml", "--out", out)
    assert code == 0, err
    mean = read_weight_set(out)
    assert (mean.name, mean.seeds) == ("the-mean-of--", (1, 2, 3))
    assert mean.weights["a"] == pytest.approx((0.25 + 2 * 0.55) / 3)
    for wrong, said in ((tmp_path / "mean", "call it .yaml"), (tmp_path / "one.yaml", "would be lost")):
        code, _, err = reweight(
            "domains", "average", tmp_path / "one.yaml", tmp_path / "two.yaml", "--out", wrong
        )
        assert (code, said in err) == (2, True)
    elsewhere = (Round(reference_weights={"a": 0.1, "b": 0.9}, weights={"a": 0.5, "b": 0.5}),)
    with pytest.raises(Exception, match="began with"):
        average([long, learned("three", seeds=(4,), rounds=elsewhere, source="x" * 2000)], "m")


def test_sets_of_one_recipe_over_other_domains_are_shown_without_a_mean(
    reweight: Cli, tmp_path: Path
) -> None:
    (tmp_path / "one.yaml").write_text(weight_set_text(learned("one")), encoding="utf-8")
    (tmp_path / "two.yaml").write_text(
        weight_set_text(learned("two", weights={"a": 0.5, "c": 0.5}, rounds=())), encoding="utf-8"
    )
    code, out, err = reweight("domains", "show", tmp_path / "one.yaml", tmp_path / "two.yaml")
    assert code == 0, err
    assert "std. dev." not in out


def test_many_rounds_and_domains_fit_into_a_file(finished: Path, store_path: Path) -> None:
    recipe = load_recipe(str(finished / "proxy.yaml"), SHORT)
    store = open_store(recipe, store_path)
    for rounds, domains in ((100, 7), (30, 22), (3, 900)):
        shares = {f"domain-{n}": 1 / domains for n in range(domains)}
        row = HistoryPoint(step=0, weights=tuple(shares.values()))
        history = tuple(replace(row, step=n) for n in range(101))
        many = [Round(reference_weights=shares, weights=shares, history=history)] * rounds
        made = learned_set(recipe, store, many)
        assert made.rounds[-1].history[-1].step == 100
        assert domains > 22 or len(made.rounds) == rounds
        text = "\n".join(
            [f"{name}: {share!r}" for name, share in shares.items()] * (2 * len(made.rounds) + 1)
            + [repr(point.weights) for each in made.rounds for point in each.history]
        )
        assert len(text) < 900_000
    weight_set_text(made)

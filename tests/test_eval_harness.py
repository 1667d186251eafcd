"""One task in, one record out: lm-eval's own numbers, on any number of ranks; what was cut is counted."""

import json
import math
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from task_models import FolderHub, model_folder
from task_sets import add_all
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.errors import EvaluationError
from eval.harness import TaskData, evaluate_task, task_manager
from eval.language_model import Alone, ScoringModel, share
from eval.records import Key, Seeds, TaskRecord
from eval.suites import EvalTask, load_suites
from eval.surroundings import quiet_libraries
from eval.task_data import fetch, locate

TASKS = {f"{suite.name}/{task.name}": task for suite in load_suites().values() for task in suite.tasks}
Loading = Callable[..., tuple[Any, Any]]


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every cache in a folder of its own."""
    from huggingface_hub import constants

    quiet_libraries()
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(home))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        yield home


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> FolderHub:
    root = tmp_path_factory.mktemp("hub")
    add_all(root)
    return FolderHub(root)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Loading:
    """Network and tokenizer of a context."""

    def load(context: int, spread: float = 0.2) -> tuple[Any, Any]:
        folder = model_folder(tmp_path_factory.mktemp("model") / "gpt2", context=context, spread=spread)
        return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    return load


def data_of(task: EvalTask, hub: FolderHub) -> TaskData:
    located = locate(task, hub)
    return TaskData(folders=fetch(located, hub), dataset=located.dataset)


def score(
    loaded: tuple[Any, Any], task: EvalTask, hub: FolderHub, *, ranks: Any = None, **more: Any
) -> TaskRecord:
    scoring = ScoringModel(*loaded, batch_size=4, ranks=ranks or Alone())
    manager = task_manager([task])
    return evaluate_task(
        scoring, task, data_of(task, hub), key_of(task, **more), manager=manager, dtype="float32"
    )


def key_of(task: EvalTask, limit: int | None = None, seeds: Seeds | None = None) -> Key:
    return Key(
        model_sha256="0" * 64,
        task=task.name,
        task_version=task.version,
        num_fewshot=task.num_fewshot,
        limit=limit,
        seeds=seeds or Seeds(),
    )


def lm_eval_says(loaded: tuple[Any, Any], task: EvalTask, hub: FolderHub) -> dict[str, Any]:
    """lm-eval's public entry point and its own model class on the same data."""
    data = data_of(task, hub)
    (folder,) = set(data.folders.values())
    member = {"task": task.name, "dataset_path": str(folder), "dataset_name": task.configs[0]}
    results = simple_evaluate(
        model=HFLM(pretrained=loaded[0], tokenizer=loaded[1], batch_size=4),
        tasks=[{"group": "one", "task": [member]}],
        task_manager=task_manager([task]),
        num_fewshot=task.num_fewshot or None,
        bootstrap_iters=1000,
    )
    assert results is not None
    return results


@pytest.mark.parametrize(
    "name",
    ["gpt2_qa/sciq", "gpt2_qa/piqa", "gpt2_qa/logiqa", "llama_lur/lambada_openai", "llama_lur/winogrande"],
)
def test_the_numbers_are_lm_eval_s(model: Loading, hub: FolderHub, name: str) -> None:
    task, loaded = TASKS[name], model(2048)
    record, theirs = score(loaded, task, hub), lm_eval_says(loaded, TASKS[name], hub)
    expected = theirs["results"][task.name]
    for metric in record.metrics:
        assert metric.value == expected[f"{metric.name},none"]
        if metric.name != "perplexity":
            assert metric.stderr == expected[f"{metric.name}_stderr,none"]
    assert record.n == len(theirs["samples"][task.name]) == 8
    samples = sorted(theirs["samples"][task.name], key=lambda sample: sample["doc_id"])
    assert record.items["acc"] == tuple(sample["acc"] for sample in samples)


def test_the_error_of_perplexity_is_that_of_its_logarithm(model: Loading, hub: FolderHub) -> None:
    record = score(model(2048), TASKS["llama_lur/lambada_openai"], hub)
    perplexity = next(metric for metric in record.metrics if metric.name == "perplexity")
    logs = np.array(record.items["perplexity"])
    assert perplexity.value == pytest.approx(math.exp(-logs.mean()))
    assert perplexity.stderr == pytest.approx(perplexity.value * logs.std(ddof=1) / math.sqrt(len(logs)))
    # The rule itself, on as many items as Lambada has: the bootstrap that lm-eval takes says the same.
    logs = np.random.default_rng(0).normal(-3.0, 2.0, 5153)
    draws = np.random.default_rng(1).choice(logs, (2000, len(logs)))
    rule = math.exp(-logs.mean()) * logs.std(ddof=1) / math.sqrt(len(logs))
    assert np.exp(-draws.mean(axis=1)).std() == pytest.approx(rule, rel=0.06)


def test_mmlu_is_the_mean_over_all_items(model: Loading, hub: FolderHub) -> None:
    whole = TASKS["llama_lur/mmlu"]
    few = replace(whole, subtasks=whole.subtasks[:3], configs=whole.configs[:3])
    record = score(model(2048), few, hub)
    (acc,) = record.metrics
    # Three subjects of two items each.
    assert (record.n, record.requests) == (6, 24)
    assert acc.value == pytest.approx(sum(record.items["acc"]) / 6)
    assert acc.stderr is not None


def kept_by_hand(prompts: list[tuple[str, str]], tokenizer: Any, context: int) -> tuple[int, int]:
    """(cut, shots that are whole), from the text that is left: shots are separated by an empty line."""
    cut = kept = 0
    for prompt, answer in prompts:
        ids = tokenizer.encode(prompt + answer)
        whole = prompt.split("\n\n")
        if len(ids) > context + 1:
            cut += 1
            rest = tokenizer.decode(ids[-(context + 1) :]).removesuffix(answer).split("\n\n")
            pairs = zip(rest[::-1][1:], whole[::-1][1:], strict=False)
            # Half of an empty line may be left before a shot that is whole.
            kept += sum(one.removeprefix("\n") == other for one, other in pairs)
        else:
            kept += len(whole) - 1
    return cut, kept


@pytest.mark.parametrize("context", [330, 256, 120])
def test_cut_prompts_and_the_shots_left_are_counted(model: Loading, hub: FolderHub, context: int) -> None:
    task, loaded = TASKS["gpt2_qa/sciq"], model(context)
    record = score(loaded, task, hub)
    theirs = lm_eval_says(loaded, task, hub)
    prompts = [pair for sample in theirs["samples"]["sciq"] for pair in sample["arguments"]]
    cut, kept = kept_by_hand(prompts, loaded[1], context)
    assert record.truncated == cut > 0
    assert record.shots_kept == kept / len(prompts)
    assert record.shots_kept < 5
    assert record.context == context


def test_nothing_cut_keeps_every_shot(model: Loading, hub: FolderHub) -> None:
    record = score(model(2048), TASKS["gpt2_qa/sciq"], hub)
    assert (record.truncated, record.shots_kept, record.requests) == (0, 5.0, 32)


class Meeting:
    """Ranks as threads of this process."""

    def __init__(self, world: int) -> None:
        self.barrier = threading.Barrier(world)
        self.said: list[str] = [""] * world


class Member:
    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting, self.rank, self.world = meeting, rank, len(meeting.said)

    def exchange(self, text: str) -> list[str]:
        self.meeting.said[self.rank] = text
        self.meeting.barrier.wait(60)
        said = list(self.meeting.said)
        self.meeting.barrier.wait(60)
        return said


def on_ranks(world: int, work: Callable[[Member], Any]) -> list[Any]:
    """What each rank's call returned or raised. Calls are one after the other but for the exchanges."""
    meeting, found = Meeting(world), [None] * world

    def run(rank: int) -> None:
        try:
            found[rank] = work(Member(meeting, rank))
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_ranks_share_requests_and_agree(model: Loading) -> None:
    network, tokenizer = model(64)
    requests = [
        Instance("loglikelihood", {}, (f"Anselm found {n * 'a drum and '}", f" x{k}"), k, ("t", n, 1))
        for n in range(9)
        for k in range(3)
    ]

    def answers(ranks: Any) -> Any:
        scoring = ScoringModel(network, tokenizer, batch_size=4, ranks=ranks)
        return scoring.loglikelihood(requests), scoring.requests.sha256, len(scoring.requests.cuts)

    alone = answers(Alone())
    for world in (2, 3):
        for values, digest, cuts in on_ranks(world, answers):
            assert [v for v, _ in values] == pytest.approx([v for v, _ in alone[0]], rel=1e-5)
            assert [g for _, g in values] == [g for _, g in alone[0]]
            assert (digest, cuts) == alone[1:]
    assert alone[2] > 0


def test_a_rank_that_fails_does_not_leave_the_others_waiting(model: Loading) -> None:
    network, tokenizer = model(64)
    requests = [
        Instance("loglikelihood", {}, ("a", " b" * (99 if n == 1 else 1)), 0, ("t", n, 1)) for n in range(4)
    ]

    def answers(ranks: Any) -> Any:
        return ScoringModel(network, tokenizer, batch_size=4, ranks=ranks).loglikelihood(requests)

    failed = on_ranks(2, answers)
    assert [type(each) for each in failed] == [EvaluationError, EvaluationError]
    assert any("item 1 has an answer of" in str(each) for each in failed)
    assert {each.exit_code for each in failed} == {3}


def test_shares_keep_items_together_and_lose_none() -> None:
    generator = random.Random(0)
    requests = [
        Instance("loglikelihood", {}, ("p" * generator.randrange(500), "a"), k, ("t", n, 1))
        for n in range(50)
        for k in range(4)
    ]
    shares = share(requests, 3)
    assert sorted(index for each in shares for index in each) == list(range(200))
    owners = [{requests[index].doc_id for index in each} for each in shares]
    assert sum(map(len, owners)) == 50
    loads = [sum(len(requests[index].args[0]) for index in each) for each in shares]
    assert max(loads) < 1.1 * min(loads)


def test_log_softmax_is_taken_in_float32(model: Loading) -> None:
    network, tokenizer = model(64)
    network.to(torch.bfloat16)
    scoring = ScoringModel(network, tokenizer, batch_size=1, ranks=Alone())
    request = Instance("loglikelihood", {}, ("Brida found", " the drum"), 0, ("t", 0, 1))
    ((value, _),) = scoring.loglikelihood([request])
    context, whole = tokenizer.encode("Brida found"), tokenizer.encode("Brida found the drum")
    with torch.no_grad():
        logits_TV = network(torch.tensor([whole[:-1]])).logits[0]
    logs_TV = torch.log_softmax(logits_TV.double(), dim=-1)
    places = range(len(context) - 1, len(whole) - 1)
    expected = sum(float(logs_TV[place, whole[place + 1]]) for place in places)
    rounded = sum(float(torch.log_softmax(logits_TV, dim=-1)[place, whole[place + 1]]) for place in places)
    assert value == pytest.approx(expected, abs=1e-4)
    assert abs(rounded - expected) > 1e-3


def test_broken_weights_are_named(model: Loading, hub: FolderHub) -> None:
    network, tokenizer = model(512)
    with torch.no_grad():
        network.transformer.wte.weight.fill_(math.nan)
    with pytest.raises(EvaluationError, match="32 of 32 log-likelihoods are not finite") as caught:
        score((network, tokenizer), TASKS["gpt2_qa/sciq"], hub)
    assert caught.value.exit_code == 6


def test_generation_needs_room(model: Loading, hub: FolderHub) -> None:
    with pytest.raises(
        EvaluationError, match="generates up to 256 tokens and the model's context is 200"
    ) as e:
        score(model(200), TASKS["llama_qa/triviaqa"], hub)
    assert e.value.exit_code == 2


def test_generated_answers_are_scored_and_cut_prompts_counted(model: Loading, hub: FolderHub) -> None:
    # 256 tokens are kept for the answer, so 14 are left for the question: "Question: ...?\nAnswer:".
    record = score(model(270), TASKS["llama_qa/triviaqa"], hub)
    assert (record.n, record.requests, record.truncated) == (8, 8, 8)
    assert [metric.name for metric in record.metrics] == ["exact_match"]


def test_shots_follow_their_seed_and_nothing_else(model: Loading, hub: FolderHub) -> None:
    task, loaded = TASKS["gpt2_qa/piqa"], model(1024)
    random.seed(7)
    torch.manual_seed(7)
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = score(loaded, task, hub)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.random.get_state()[1].tolist() == before[2]
    again = score(loaded, task, hub)
    other = score(loaded, task, hub, seeds=Seeds(fewshot=99))
    assert first.prompt_sha256 == again.prompt_sha256 != other.prompt_sha256
    assert replace(first, seconds=0) == replace(again, seconds=0)


def test_a_limit_scores_the_first_items(model: Loading, hub: FolderHub) -> None:
    loaded, task = model(2048), TASKS["gpt2_qa/sciq"]
    whole, few = score(loaded, task, hub), score(loaded, task, hub, limit=3)
    assert (few.n, few.requests, few.key.limit) == (3, 12, 3)
    assert few.items["acc"] == whole.items["acc"][:3]


def test_another_version_of_a_task_is_refused(model: Loading, hub: FolderHub) -> None:
    with pytest.raises(EvaluationError, match=r"suites are written for 9\.9") as caught:
        score(model(512), replace(TASKS["gpt2_qa/sciq"], version="9.9"), hub)
    assert caught.value.exit_code == 2


def test_data_that_lm_eval_cannot_score_is_one_line(model: Loading, hub: FolderHub, tmp_path: Path) -> None:
    task = TASKS["gpt2_qa/piqa"]
    folder = tmp_path / "other"
    (folder / "data").mkdir(parents=True)
    for split in ("train", "validation"):
        (folder / "data" / f"{split}.jsonl").write_text(json.dumps({"foreign": "column"}) + "\n")
    scoring = ScoringModel(*model(512), batch_size=4, ranks=Alone())
    data = TaskData(folders={task.configs[0]: folder}, dataset="made up")
    with pytest.raises(EvaluationError, match="piqa: lm-eval cannot score made up") as caught:
        evaluate_task(scoring, task, data, key_of(task), manager=task_manager([task]), dtype="float32")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3

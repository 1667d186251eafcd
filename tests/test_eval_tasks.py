"""Our four task files against those that lm-eval ships, and the suites' facts against lm-eval's.

lm-eval reads invented items from folders made here; no socket may be opened.
"""

import json
import shutil
import socket
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.registry import is_higher_better
from lm_eval.defaults import DEFAULT_MAX_GEN_TOKS
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind

from eval.suites import EvalTask, load_suites

Items = dict[str, list[dict[str, Any]]]

SHIPPED = Path(lm_eval.__file__).parent / "tasks"
OWN = Path(__file__).resolve().parents[1] / "eval" / "tasks"
SHIPPED_FOLDERS = {
    "logiqa": "logiqa",
    "logiqa2": "logiqa2",
    "tinyArc": "tinyBenchmarks",
    "tinyWinogrande": "tinyBenchmarks",
}
SUITES = load_suites()
EVERY = {task.name: task for suite in SUITES.values() for task in suite.tasks}

# What goes wrong in prompts: template syntax, quotes that end a literal, blanks and line ends at either end,
# letters where an option's letter stood, text outside the first plane.
ODD = [
    "plain <b>words</b> &amp; &lt;.",
    "{{ context }} and {{ 7 * 7 }}",
    "{% if x %}never{% endif %} {# nor this #}",
    "it's \"quoted\" and 'quoted' and `ticked` \\n \\ %s {0}",
    " blanks at both ends \t ",
    "\nlines\n\nand more\r\nthan one\n",
    "A. an option that begins with a letter. B. and another",
    "Ünïcode — 逻辑 🧩 \u2028 \u00a0 e\u0301",
    "12",
    "[1, 2]",
    "",
    "None",
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was to be opened")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def tiny_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The shipped tiny* tasks import this package when they are built."""
    monkeypatch.setitem(sys.modules, "tinyBenchmarks", types.ModuleType("tinyBenchmarks"))
    yield
    sys.modules.pop("lm_eval.tasks.tinyBenchmarks.agg_functions", None)


def odd(i: int) -> str:
    return ODD[i % len(ODD)]


def logiqa_item(i: int) -> dict[str, Any]:
    options = [f"{odd(i + k)} {k}" if k else odd(i) for k in range(4)]
    return {
        "label": "abcd"[i % 4] + " " * (i % 2),
        "context": odd(i),
        "question": odd(i + 1),
        "options": options,
    }


def logiqa2_item(i: int) -> dict[str, Any]:
    item = logiqa_item(i)
    text = {"text": item["context"], "question": item["question"], "options": item["options"]}
    return {"id": i, "answer": i % 4, "type": "{}", **text}


def arc_item(i: int) -> dict[str, Any]:
    labels = ["ABCD", "1234", "ABC", "ABCDE"][i % 4]
    texts = [f"{odd(i + k)}{k}" for k in range(len(labels))]
    answer = labels[i % len(labels)]
    return {
        "id": str(i),
        "question": odd(i),
        "choices": {"text": texts, "label": list(labels)},
        "answerKey": answer,
    }


def winogrande_item(i: int) -> dict[str, Any]:
    sentence = f"{odd(i).replace('_', '')}_ because {odd(i + 1)} _ "
    return {"sentence": sentence, "option1": odd(i + 2), "option2": f"{odd(i + 3)}!", "answer": "12"[i % 2]}


MAKERS = {
    "logiqa": logiqa_item,
    "logiqa2": logiqa2_item,
    "tinyArc": arc_item,
    "tinyWinogrande": winogrande_item,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Task -> folder with its splits: 30 items to draw shots from, then 14 and 12 with an offset."""
    root = tmp_path_factory.mktemp("data")
    for name, make in MAKERS.items():
        (root / name).mkdir()
        for split, start, count in [("train", 0, 30), ("validation", 30, 14), ("test", 44, 12)]:
            lines = "".join(json.dumps(make(i)) + "\n" for i in range(start, start + count))
            (root / name / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return {name: root / name for name in MAKERS}


def build(include: Path, name: str, data: Path, shots: int | None, seed: int = 1234) -> Any:
    """The task as the harness has it: overridden inside a group, shots seeded, requests built."""
    manager = TaskManager(include_defaults=False, include_path=[str(include)])
    place = {"dataset_path": str(data), "dataset_name": None}
    kwargs = {"dataset_kwargs": {"cache_dir": str(data.parent / "cache")}}
    group = {"group": f"reweight_{name}", "task": [{"task": name, **place, **kwargs}]}
    task = manager.load([group])["tasks"][name]
    if shots is not None:
        task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=seed)
    task.build_all_requests()
    return task


def requests(task: Any) -> list[tuple[int, int, str, str]]:
    """(item, choice, context, continuation) of every request."""
    return [(each.doc_id, each.idx, *each.args) for each in task.instances]


# --------------------------------------------------------------------------- the same prompts, by character
@pytest.mark.usefixtures("tiny_package")
@pytest.mark.parametrize("shots", [0, 5, None], ids=["0", "5", "default"])
@pytest.mark.parametrize("name", MAKERS)
def test_every_request_equals_the_shipped_tasks(
    folders: dict[str, Path], name: str, shots: int | None
) -> None:
    shipped = build(SHIPPED / SHIPPED_FOLDERS[name], name, folders[name], shots)
    own = build(OWN, name, folders[name], shots)
    assert requests(own) == requests(shipped)
    assert own.VERSION == shipped.VERSION
    # 12 items of 4 choices (in tinyArc 4, 4, 3, 5 by turns); tinyWinogrande: 14 of validation, 2 each.
    count = {"logiqa": 48, "logiqa2": 48, "tinyArc": 48, "tinyWinogrande": 28}[name]
    assert len(requests(own)) == count
    if shots != 0 and EVERY[name].num_fewshot:
        other = build(OWN, name, folders[name], shots, seed=1)
        assert requests(other) != requests(own)


@pytest.mark.filterwarnings("ignore:divide by zero")  # lm-eval's, of an empty option
@pytest.mark.usefixtures("tiny_package")
@pytest.mark.parametrize("name", MAKERS)
def test_every_answer_is_scored_as_by_the_shipped_task(folders: dict[str, Path], name: str) -> None:
    """Whichever request is made the most likely, by acc and acc_norm alike."""
    shipped = build(SHIPPED / SHIPPED_FOLDERS[name], name, folders[name], 0)
    own = build(OWN, name, folders[name], 0)
    right = 0.0
    for item in own.eval_docs:
        choices = own.doc_to_choice(item)
        for best in range(len(choices)):
            # Long choices get less than their share, so that acc and acc_norm may differ.
            likely = [(-3.0 - k - len(choices[k]) / 4 + 4 * (k == best), False) for k in range(len(choices))]
            ours, theirs = own.process_results(item, likely), shipped.process_results(item, likely)
            assert {metric: ours[metric] for metric in theirs} == theirs
            assert set(ours) == {"acc", "acc_norm"}
            right += ours["acc"]
    assert right > 0


@pytest.mark.parametrize("name", MAKERS)
def test_ours_report_plain_means(folders: dict[str, Path], name: str) -> None:
    """The tiny tasks without the package, which is on no index."""
    assert "tinyBenchmarks" not in sys.modules
    task = build(OWN, name, folders[name], 0)
    means = {metric: aggregate([1.0, 0.0, 0.0, 1.0, 1.0]) for metric, aggregate in task.aggregation().items()}
    assert means == {"acc": 0.6, "acc_norm": 0.6}
    assert task.higher_is_better() == {"acc": True, "acc_norm": True}


def test_a_prompt_in_full(folders: dict[str, Path]) -> None:
    """Item 44 of logiqa: texts 44 % 12 = 8 and on, which are "12", "[1, 2]", "" and "None"."""
    task = build(OWN, "logiqa", folders["logiqa"], 0)
    context = "Passage: 12\nQuestion: [1, 2]\nChoices:\nA. 12\nB. [1, 2] 1\nC.  2\nD. None 3\nAnswer:"
    assert requests(task)[:4] == [
        (0, 0, context, " 12"),
        (0, 1, context, " [1, 2] 1"),
        (0, 2, context, "  2"),
        (0, 3, context, " None 3"),
    ]


def test_two_shots_in_full(tmp_path: Path) -> None:
    for split, texts in {"train": ["p", "q"], "validation": ["r"], "test": ["s"]}.items():
        rows = [{"text": t, "question": f"{t}?", "options": list("wxyz"), "answer": 2} for t in texts]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    context = requests(build(OWN, "logiqa2", tmp_path, 2))[0][2]
    blocks = [f"Passage: {t}\nQuestion: {t}?\nA. w\nB. x\nC. y\nD. z\nAnswer:" for t in "pqs"]
    shots = [f"{block} y\n\n" for block in blocks[:2]]
    assert context in (shots[0] + shots[1] + blocks[2], shots[1] + shots[0] + blocks[2])


def test_a_label_that_is_none_is_refused(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        row = {"label": "", "context": "c", "question": "q", "options": ["w", "x", "y", "z"]}
        (tmp_path / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="not in tuple"):
        build(OWN, "logiqa", tmp_path, 0).doc_to_target({"label": "", "options": ["w"]})


def test_the_files_work_from_a_read_only_installation(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages" / "eval" / "tasks"
    shutil.copytree(OWN, installed, ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(path.name for path in installed.iterdir())
    assert before == [
        "__init__.py",
        "logiqa.yaml",
        "logiqa2.yaml",
        "prompts.py",
        "tinyArc.yaml",
        "tinyWinogrande.yaml",
    ]
    for path in (*installed.iterdir(), installed):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # root may write anywhere
    for name in MAKERS:
        assert requests(build(installed, name, folders[name], 0)) == requests(
            build(OWN, name, folders[name], 0)
        )
    assert sorted(path.name for path in installed.iterdir()) == before
    installed.chmod(0o755)


# --------------------------------------------------------------------------- the suites' facts and lm-eval's
@pytest.fixture(scope="module")
def index() -> dict[str, Any]:
    """Name -> lm-eval's entry, of the folders that hold the twenty tasks; no function is resolved."""
    names = {task.shipped or SHIPPED_FOLDERS[task.name] for task in EVERY.values()}
    manager = TaskManager(
        include_defaults=False, include_path=[str(SHIPPED / name) for name in sorted(names)]
    )
    return dict(manager.task_index)


def leaves(index: dict[str, Any], name: str) -> set[str]:
    """The tasks below a task, group or tag."""
    entry = index[name]
    if entry.kind is Kind.TASK:
        return {name}
    members: Sequence[str] = sorted(entry.tags) if entry.kind is Kind.TAG else entry.cfg["task"]
    return {leaf for member in members for leaf in leaves(index, member)}


def shipped_metrics(config: dict[str, Any]) -> dict[str, bool]:
    """Metric -> whether higher is better."""
    return {
        entry["metric"]: entry.get("higher_is_better", is_higher_better(entry["metric"]))
        for entry in config["metric_list"]
    }


@pytest.mark.parametrize("name", EVERY)
def test_the_suites_agree_with_lm_eval(index: dict[str, Any], name: str) -> None:
    task = EVERY[name]
    assert leaves(index, name) == set(task.subtasks)
    assert str(index[name].cfg["metadata"]["version"]) == task.version
    for subtask, config in zip(task.subtasks, task.configs, strict=True):
        found = index[subtask].cfg
        assert found.get("dataset_name") == config
        assert found["dataset_path"] == task.sources[0].repository
        assert (found.get("test_split") or found["validation_split"]) == task.split
        assert "process_docs" not in found  # it could drop items, and n would be another
        filters = found.get("filter_list", [{"name": "none"}])
        assert [each["name"] for each in filters] == [task.filter]
        metrics = shipped_metrics(found)
        # Ours gives acc too; the item scores are the same.
        extra = {"acc"} if name.startswith("tiny") else set()
        assert set(task.metrics) == set(metrics) | extra
        assert {metric: task.higher_is_better[metric] for metric in metrics} == metrics
        generates = found["output_type"] == "generate_until"
        assert task.generated == (DEFAULT_MAX_GEN_TOKS if generates else 0)


@pytest.mark.parametrize(
    "task", [t for n in ("llama_lur", "llama_qa") for t in SUITES[n].tasks], ids=lambda t: t.name
)
def test_the_llamas_shots_are_lm_evals_defaults(index: dict[str, Any], task: EvalTask) -> None:
    assert {index[name].cfg.get("num_fewshot") or 0 for name in task.subtasks} == {task.num_fewshot}


def test_mmlu_is_weighted_by_size(index: dict[str, Any]) -> None:
    assert index["mmlu"].cfg["aggregate_metric_list"] == [{"metric": "acc", "weight_by_size": True}]


@pytest.mark.parametrize("name", MAKERS)
def test_our_files_differ_from_the_shipped_in_the_known_places_only(index: dict[str, Any], name: str) -> None:
    own = dict(TaskManager(include_defaults=False, include_path=[str(OWN)]).task_index)[name].cfg
    shipped = index[name].cfg
    written_anew = {"doc_to_text", "doc_to_choice", "doc_to_target", "metric_list"}
    unused = {"should_decontaminate", "doc_to_decontamination_query"}
    differing = {key for key in own.keys() | shipped.keys() if own.get(key) != shipped.get(key)}
    assert differing <= written_anew | unused
    assert set(shipped_metrics(own)) == set(EVERY[name].metrics)

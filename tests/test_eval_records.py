"""Task records: exact round trip, names from the whole key, atomic writing, one line a broken file."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.errors import EvaluationError
from eval.records import Key, Metric, Seeds, TaskRecord, as_scores, find_record, read_record, write_record
from eval.results import Results, read_results, write_results

KEY = Key(model_sha256="b" * 64, task="sciq", task_version="1.0", num_fewshot=5, limit=None, seeds=Seeds())
RECORD = TaskRecord(
    key=KEY,
    metrics=(
        Metric(name="acc", value=0.75, stderr=0.25, higher_is_better=True),
        Metric(name="perplexity", value=12.5, stderr=None, higher_is_better=False),
    ),
    n=4,
    requests=16,
    truncated=3,
    shots_kept=4.25,
    context=512,
    prompt_sha256="a" * 64,
    dataset="allenai/sciq@0123",
    dtype="float32",
    batch_size=8,
    device="cpu",
    ranks=1,
    seconds=1.5,
    versions={"torch": "2.13.0", "lm_eval": "0.4.13"},
    items={"acc": (1.0, 0.0, 1.0, 1.0), "perplexity": (-1.25, -2.0, -0.1, -3.0)},
    gp_irt=None,
    gp_irt_note=None,
)
TINY = replace(
    RECORD,
    key=replace(KEY, task="tinyArc", num_fewshot=25, limit=None),
    shots_kept=25.0,
    truncated=0,
    gp_irt=0.3617,
)


def unexpected(line: str) -> None:
    raise AssertionError(line)


@pytest.mark.parametrize("record", [RECORD, TINY, replace(RECORD, gp_irt_note="no file given", items={})])
def test_what_is_written_is_what_is_read(tmp_path: Path, record: TaskRecord) -> None:
    path = write_record(tmp_path / "deep", record)
    assert path == tmp_path / "deep" / record.key.file_name
    assert read_record(path) == record
    assert find_record(path.parent, record.key, unexpected) == record
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert write_record(path.parent, record).read_bytes() == path.read_bytes()


def test_the_name_is_from_the_whole_key() -> None:
    # Independently of the code: the canonical JSON written out by hand.
    seeds = '{"fewshot":1234,"numpy":1234,"random":0,"torch":1234}'
    canonical = (
        f'{{"limit":null,"model_sha256":"{"b" * 64}","num_fewshot":5,"seeds":{seeds},'
        '"task":"sciq","task_version":"1.0"}'
    )
    assert KEY.file_name == f"sciq-5shot-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}.json"
    others = [
        replace(KEY, model_sha256="c" * 64),
        replace(KEY, task="piqa"),
        replace(KEY, task_version="2.0"),
        replace(KEY, num_fewshot=0),
        replace(KEY, limit=5),
        *(
            replace(KEY, seeds=replace(Seeds(), **{name: 7}))
            for name in ("random", "numpy", "torch", "fewshot")
        ),
    ]
    assert len({key.file_name for key in (KEY, *others)}) == 10


@pytest.mark.parametrize("task", ["../sciq", "a/b", "", ".hidden", "a\nb", "x" * 101])
def test_a_task_cannot_leave_the_folder(tmp_path: Path, task: str) -> None:
    with pytest.raises(ValueError, match="no task name"):
        replace(KEY, task=task)
    raw = document(tmp_path)
    raw["key"]["task"] = task
    refused(tmp_path, raw, "key.task")


def document(folder: Path) -> dict[str, Any]:
    return dict(json.loads(write_record(folder, RECORD).read_text()))


def refused(folder: Path, raw: object, message: str) -> None:
    path = folder / KEY.file_name
    path.write_text(json.dumps(raw))
    with pytest.raises(EvaluationError) as caught:
        read_record(path)
    said = str(caught.value)
    assert message in said
    assert said.startswith(str(path))
    assert "\n" not in said
    assert len(said) < 400
    assert caught.value.exit_code == 3
    told: list[str] = []
    assert find_record(folder, KEY, told.append) is None
    assert told == [said]


def put(*path: str | int) -> Callable[[dict[str, Any], object], None]:
    def change(raw: dict[str, Any], value: object) -> None:
        inner: Any = raw
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value

    return change


EDITS = [
    (put("schema"), 2, "schema is 2"),
    (put("schema"), True, "schema is True"),
    (put("surprise"), 1, "unknown key 'surprise'"),
    (put("key"), None, "key is not an object"),
    (put("key", "extra"), 1, "key has the unknown key"),
    (put("key", "model_sha256"), "B" * 64, "key.model_sha256"),
    (put("key", "num_fewshot"), 5.0, "key.num_fewshot"),
    (put("key", "limit"), 0, "key.limit"),
    (put("key", "task_version"), 1, "key.task_version"),
    (put("key", "seeds"), [], "key.seeds is not an object"),
    (put("key", "seeds", "numpy"), True, "key.seeds.numpy"),
    (put("key", "seeds"), {"random": 0}, "key.seeds.numpy is None"),
    (put("metrics"), [], "metrics is []"),
    (put("metrics", 0), 1, "metrics[0] is not an object"),
    (put("metrics", 0, "value"), "0.5", "metrics[0].value"),
    (put("metrics", 0, "value"), 10**400, "metrics[0].value"),
    (put("metrics", 0, "stderr"), -1.0, "metrics[0].stderr"),
    (put("metrics", 0, "higher_is_better"), 1, "metrics[0].higher_is_better"),
    (put("metrics", 1, "name"), "acc", "gives a metric twice"),
    (put("metrics", 1, "name"), "gp_irt", "a field of its own"),
    (put("n"), 5, "items.acc is not a list of 5"),
    (put("items", "acc"), [1, 0, 1, True], "items.acc"),
    (put("items", "acc"), [1, 0, 1, 1, True], "items.acc"),
    (put("items", "acc"), "1011", "items.acc"),
    (put("items"), [], "items is []"),
    (put("truncated"), 17, "at most 16"),
    (put("shots_kept"), 5.5, "at most 5"),
    (put("requests"), 0, "requests is 0"),
    (put("context"), None, "context is None"),
    (put("prompt_sha256"), "a" * 63, "prompt_sha256"),
    (put("seconds"), -1, "seconds"),
    (put("versions"), {"torch": 2}, "versions"),
    (put("dataset"), "", "dataset"),
    (put("gp_irt"), "0.3", "gp_irt"),
]


@pytest.mark.parametrize(("change", "value", "message"), EDITS)
def test_a_wrong_field_is_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any], object], None], value: object, message: str
) -> None:
    raw = document(tmp_path)
    change(raw, value)
    refused(tmp_path, raw, message)


def test_an_estimate_and_its_excuse_exclude_each_other(tmp_path: Path) -> None:
    refused(tmp_path, document(tmp_path) | {"gp_irt": 0.3, "gp_irt_note": "no file"}, "gp_irt_note")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"n": NaN}',
        b'{"n": 1e999}',
        b"[" * 100_000,
        b'{"n": ' + b"9" * 5000,
    ],
)
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY.file_name).write_bytes(content)
    told: list[str] = []
    assert find_record(tmp_path, KEY, told.append) is None
    assert len(told) == 1
    assert "\n" not in told[0]
    assert "delete the file" in told[0]


def test_every_truncation_of_a_good_file_is_refused(tmp_path: Path) -> None:
    path = write_record(tmp_path, RECORD)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 13):
        path.write_bytes(whole[:length])
        with pytest.raises(EvaluationError):
            read_record(path)


def test_what_is_no_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / KEY.file_name
    os.mkfifo(path)
    with pytest.raises(EvaluationError, match="not an ordinary file"):
        read_record(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(EvaluationError, match="not an ordinary file"):
        read_record(path)
    path.rmdir()
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(EvaluationError, match="larger than"):
        read_record(path)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(EvaluationError, match="No such file"):
        read_record(path)


def test_only_an_equal_key_is_found(tmp_path: Path) -> None:
    assert find_record(tmp_path / "none", KEY, unexpected) is None
    path = write_record(tmp_path, RECORD)
    other = replace(KEY, limit=4)
    assert find_record(tmp_path, other, unexpected) is None
    path.rename(tmp_path / other.file_name)
    told: list[str] = []
    assert find_record(tmp_path, other, told.append) is None
    assert "another key" in told[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_not_written(tmp_path: Path, value: float) -> None:
    bad = replace(RECORD, metrics=(replace(RECORD.metrics[0], value=value),))
    with pytest.raises(EvaluationError, match="sciq is NaN or infinite") as caught:
        write_record(tmp_path, bad)
    assert caught.value.exit_code == 6
    assert list(tmp_path.iterdir()) == []


def test_what_would_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"items\.acc"):
        write_record(tmp_path, replace(RECORD, n=5))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_record_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_record(tmp_path, RECORD)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_record(tmp_path, replace(RECORD, seconds=9.0))
    assert caught.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert read_record(path) == RECORD


def test_scores_carry_what_a_record_knows(tmp_path: Path) -> None:
    scores = as_scores(TINY, "llama_lur")
    assert [(s.metric, s.value, s.higher_is_better) for s in scores] == [
        ("acc", 0.75, True),
        ("perplexity", 12.5, False),
        ("gp_irt", 0.3617, True),
    ]
    one = scores[0]
    assert (one.suite, one.task, one.n, one.num_fewshot, one.task_version) == (
        "llama_lur",
        "tinyArc",
        4,
        25,
        "1.0",
    )
    assert (one.limit, one.requests, one.truncated, one.shots_kept, one.context) == (None, 16, 0, 25.0, 512)
    assert (one.model_sha256, one.prompt_sha256, one.batch_size) == ("b" * 64, "a" * 64, 8)
    assert one.seeds == {"random": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
    assert len(as_scores(RECORD, "gpt2_qa")) == 2
    results = Results(recipe="r", seed=0, step=1, scores=scores)
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json") == results


def test_loads_without_the_heavy_libraries() -> None:
    code = "import eval.records, sys; print([m for m in ('torch','numpy','lm_eval') if m in sys.modules])"
    root = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert out.stdout.strip() == "[]"

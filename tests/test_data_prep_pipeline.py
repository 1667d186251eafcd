"""One pass from text to a store: the same bytes whatever the workers, interruptions and formats."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import prep_inputs
import pytest

from data_prep import pipeline, units
from data_prep.assembly import state
from data_prep.documents import SLIMPAJAMA_DOMAINS
from data_prep.errors import DataError, HubError, ResumeError, StorageError, UserError
from data_prep.items import Item
from data_prep.manifest import Domain, Shard
from data_prep.pipeline import prepare
from data_prep.plan import Record
from data_prep.repair import repair
from data_prep.spec import PrepSpec
from data_prep.token_store import TokenStore, verify_store
from data_prep.tokenizers import load_tokenizer


@pytest.fixture
def spec(tmp_path: Path) -> PrepSpec:
    root = prep_inputs.slimpajama(tmp_path / "in")
    folder = prep_inputs.tokenizer_folder(tmp_path / "vocab")
    return PrepSpec(
        dataset="slimpajama", inputs=(root,), out=tmp_path / "store", tokenizer=str(folder), workers=1
    )


def out(spec: PrepSpec) -> Path:
    assert spec.out is not None
    return spec.out


def everything(store: Path) -> dict[str, bytes]:
    """Every file of a store but its work records."""
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and ".prep" not in path.parts
    }


def expected_ids(spec: PrepSpec) -> dict[tuple[str, str], list[int]]:
    """What the store should hold, by the reference tokenizer and a plain loop over the records."""
    reference = load_tokenizer(spec.tokenizer).reference()
    ids: dict[tuple[str, str], list[int]] = {}
    for split, numbers in (
        ("train", [1000 * f + n for f in range(3) for n in range(40)]),
        ("validation", [900_000 + n for n in range(20)]),
    ):
        for number in numbers:
            record = prep_inputs.record(number)
            domain = SLIMPAJAMA_DOMAINS[prep_inputs.SETS[number % len(prep_inputs.SETS)]]
            text_ids = reference.encode_batch([str(record["text"])])[0].tolist()
            ids.setdefault((split, domain), []).extend([*text_ids, reference.end_of_text])
    return ids


def test_the_store_holds_each_document_and_its_end_in_order(spec: PrepSpec) -> None:
    prepared = prepare(spec)
    store = TokenStore.open(out(spec))
    expected = expected_ids(spec)
    assert {(s, d) for s in ("train", "validation") for d in store.domains(s)} == set(expected)
    for (split, domain), ids in expected.items():
        found = store.read_windows(split, domain, np.arange(store.tokens(split, domain)), 1).ravel()
        assert found.tolist() == ids, (split, domain)
        assert store.manifest.splits[split][domain].documents == ids.count(264)
    texts = [str(prep_inputs.record(1000 * f + n)["text"]) for f in range(3) for n in range(40)]
    train = store.manifest.splits["train"].values()
    assert sum(domain.bytes for domain in train) == sum(len(text.encode()) for text in texts)
    assert prepared.built_files == 4
    assert verify_store(out(spec)) == []
    assert [each.path for each in store.manifest.source.inputs] == [
        *(f"train/chunk1/example_train_{n}.jsonl.zst" for n in range(3)),
        "validation/chunk1/example_holdout_0.jsonl.zst",
    ]
    assert str(out(spec).parent) not in (out(spec) / "manifest.json").read_text()


def test_a_complete_store_is_left_alone(spec: PrepSpec) -> None:
    prepare(spec)
    before = {path: path.stat().st_mtime_ns for path in out(spec).rglob("*.*") if path.is_file()}
    again = prepare(spec)
    assert again.built_files == 0
    after = {path: path.stat().st_mtime_ns for path in out(spec).rglob("*.*") if path.is_file()}
    assert {p: t for p, t in after.items() if p.name != "lock"} == {
        p: t for p, t in before.items() if p.name != "lock"
    }


def test_workers_do_not_change_a_byte(
    spec: PrepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(spec)
    monkeypatch.setattr(pipeline, "SPAWN_BYTES", 0)
    reports: list[pipeline.Progress] = []
    two = replace(spec, out=tmp_path / "two", workers=2)
    prepare(two, reports.append)
    assert everything(out(two)) == everything(out(spec))
    assert reports[-1].done_bytes == reports[-1].total_bytes == sum(f.stat().st_size for f in _inputs(spec))
    assert reports[-1].documents == 140


def _inputs(spec: PrepSpec) -> list[Path]:
    return [path for path in spec.inputs[0].rglob("*") if path.is_file()]


def test_formats_do_not_change_a_token(spec: PrepSpec, tmp_path: Path) -> None:
    for split, name, numbers in (
        ("train", "example_train_", [[1000 * f + n for n in range(40)] for f in range(3)]),
        ("validation", "example_holdout_", [[900_000 + n for n in range(20)]]),
    ):
        for index, each in enumerate(numbers):
            rows = [prep_inputs.record(n) for n in each]
            columns = {"text": [r["text"] for r in rows], "meta": [r["meta"] for r in rows]}
            prep_inputs.parquet(tmp_path / f"parquet/{split}/chunk1/{name}{index}.parquet", columns)
    prepare(spec)
    other = replace(spec, inputs=(tmp_path / "parquet",), out=tmp_path / "other")
    prepare(other)
    assert TokenStore.open(out(other)).fingerprint == TokenStore.open(out(spec)).fingerprint


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test may catch it as an ordinary error."""


@pytest.mark.parametrize("call", ["write_record", "place", "finish", "write_manifest", "write_plan"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_rerun_after_an_interruption_redoes_only_what_is_missing(
    spec: PrepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    whole = replace(spec, out=tmp_path / "whole")
    prepare(whole)
    home: object = {"write_record": units, "place": units.ShardWriter, "finish": units.ShardWriter}.get(
        call, pipeline
    )
    original: Callable[..., object] = getattr(home, call)
    calls = 0

    def die(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(home, call, die)
        if after == 0 or call not in ("write_manifest", "write_plan"):
            with pytest.raises(Killed):
                prepare(spec)
            assert not (out(spec) / "manifest.json").exists()
    committed = len(list((out(spec) / ".prep/files").glob("*.json")))
    again = prepare(spec)
    assert again.built_files == (4 - committed if calls else 4)
    assert everything(out(spec)) == everything(out(whole))
    assert not list(out(spec).rglob("*.tmp"))


SCRIPT = """
import sys
from pathlib import Path
from data_prep import pipeline
from data_prep.spec import PrepSpec
if __name__ == "__main__":
    pipeline.SPAWN_BYTES = 0
    root = Path(sys.argv[1])
    pipeline.prepare(PrepSpec(dataset="slimpajama", inputs=(root / "in",), out=root / "store",
                              tokenizer=str(root / "vocab"), workers=2))
"""


def _start(spec: PrepSpec, **options: object) -> "subprocess.Popen[str]":
    script = out(spec).parent / "run.py"
    script.write_text(SCRIPT)
    root = Path(pipeline.__file__).resolve().parent.parent
    return subprocess.Popen(
        [sys.executable, str(script), str(out(spec).parent)],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_processes_leave_a_store_that_a_rerun_completes(
    spec: PrepSpec, tmp_path: Path, how: signal.Signals
) -> None:
    prep_inputs.slimpajama(spec.inputs[0], files=6, documents=2000)
    process = _start(spec, start_new_session=True)
    deadline = time.monotonic() + 60
    records = out(spec) / ".prep/files"
    while not list(records.glob("*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    if how == signal.SIGINT:
        # As Ctrl-C does: to every process of the group.
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == -how
    if how == signal.SIGINT:
        assert not list(out(spec).rglob("*.tmp"))
    # After a kill the workers notice their parent's death by themselves; nothing is left of the group.
    for _ in range(500):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.01)
    else:
        pytest.fail("a worker outlived its parent")
    done = len(list(records.glob("*.json")))
    assert 1 <= done < 7
    assert prepare(spec).built_files == 7 - done
    whole = replace(spec, out=tmp_path / "whole")
    prepare(whole)
    assert everything(out(spec)) == everything(out(whole))
    assert not list(out(spec).rglob("*.tmp"))


def test_a_full_disk_is_exit_7_and_leaves_nothing_half_written(spec: PrepSpec) -> None:
    # No file may grow beyond 20 kB, as on a full disk; the largest shard needs more than that.
    prep_inputs.slimpajama(spec.inputs[0], files=3, documents=3000)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = _start(spec, preexec_fn=limit)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "StorageError: cannot write" in errors.splitlines()[-1]
    assert "File too large" in errors.splitlines()[-1]
    assert not list(out(spec).rglob("*.tmp"))
    assert not (out(spec) / "manifest.json").exists()
    assert prepare(spec).built_files == 4


def test_a_bad_file_keeps_the_others_and_is_done_once_mended(spec: PrepSpec, tmp_path: Path) -> None:
    bad = spec.inputs[0] / "train/chunk1/example_train_2.jsonl.zst"
    good = bad.read_bytes()
    wrong = {**prep_inputs.record(2), "text": 3}
    prep_inputs.write(bad, prep_inputs.json_lines([prep_inputs.record(1), wrong]))
    with pytest.raises(DataError, match=r"example_train_2\.jsonl\.zst line 2: 'text' is int"):
        prepare(spec)
    assert not (out(spec) / "manifest.json").exists()
    assert not list(out(spec).rglob("00002.npy*"))
    bad.write_bytes(good)
    # Files 0 and 1 are committed; 2 failed, and validation comes after it.
    assert prepare(spec).built_files == 2
    whole = replace(spec, out=tmp_path / "whole")
    prepare(whole)
    assert everything(out(spec)) == everything(out(whole))


def test_an_input_that_vanishes_during_the_work_is_a_data_error(spec: PrepSpec) -> None:
    def remove(_: pipeline.Progress) -> None:
        (spec.inputs[0] / "train/chunk1/example_train_1.jsonl.zst").unlink(missing_ok=True)

    with pytest.raises(DataError, match=r"example_train_1\.jsonl\.zst: cannot be read \(No such file"):
        prepare(spec, remove)


def test_a_failure_before_the_first_commit_leaves_no_folder(spec: PrepSpec) -> None:
    for each in _inputs(spec):
        each.write_bytes(b"not zstd")
    with pytest.raises(DataError, match="corrupt zstd"):
        prepare(spec)
    assert not out(spec).exists()
    with pytest.raises(DataError, match="no such file or folder"):
        prepare(replace(spec, inputs=(out(spec).parent / "gone",)))
    assert not out(spec).exists()


def test_another_preparation_in_the_folder_is_refused_by_name(spec: PrepSpec, tmp_path: Path) -> None:
    prepare(spec)
    before = everything(out(spec))
    other = prep_inputs.tokenizer_folder(tmp_path / "vocab2")
    (other / "vocab.bpe").write_text("#version: 0.2\n", encoding="utf-8")
    fewer = prep_inputs.slimpajama(tmp_path / "fewer", files=2)
    cases = {
        "tokenizer is vocab there and vocab2 here": replace(spec, tokenizer=str(other)),
        "input train/chunk1/example_train_2.jsonl.zst .* is only there": replace(spec, inputs=(fewer,)),
        "limit_tokens is None there and 100 here": replace(spec, limit_tokens=100),
        "dataset is 'slimpajama' there and 'slimpajama-627b' here": replace(spec, dataset="slimpajama-627b"),
        "domain_from is None there and 'meta.x' here": replace(spec, domain_from="meta.x"),
    }
    for complaint, changed in cases.items():
        with pytest.raises(ResumeError, match=f"{complaint}.*choose another --out") as caught:
            prepare(changed)
        assert caught.value.exit_code == 5
    assert everything(out(spec)) == before


def test_an_input_that_changed_under_the_store_is_refused(spec: PrepSpec) -> None:
    prepare(spec)
    path = spec.inputs[0] / "train/chunk1/example_train_1.jsonl.zst"
    os.utime(path, ns=(1, 1))
    assert prepare(spec).built_files == 0
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ResumeError, match=r"example_train_1\.jsonl\.zst: changed since it was prepared"):
        prepare(spec)


def test_a_folder_with_other_things_is_not_touched(spec: PrepSpec) -> None:
    out(spec).mkdir()
    (out(spec) / "thesis.txt").write_text("precious")
    with pytest.raises(ResumeError, match="holds other files"):
        prepare(spec)
    assert [path.name for path in out(spec).iterdir()] == ["thesis.txt"]
    prepare(replace(spec, out=out(spec).parent / "fine"))
    with pytest.raises(StorageError, match="is a file"):
        prepare(replace(spec, out=out(spec) / "thesis.txt"))
    with pytest.raises(StorageError, match="cannot write"):
        prepare(replace(spec, out=out(spec) / "thesis.txt/below"))


def test_the_loser_of_two_preparations_learns_who_holds_the_folder(spec: PrepSpec) -> None:
    seen: list[str] = []

    def second(_: pipeline.Progress) -> None:
        if not seen:
            with pytest.raises(StorageError) as caught:
                prepare(spec)
            seen.append(str(caught.value))

    prepare(spec, second)
    assert f"being prepared by process {os.getpid()}@" in seen[0]
    assert prepare(spec).built_files == 0


def test_too_little_space_is_said_before_the_work(spec: PrepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match="GB are free"):
        prepare(spec)
    assert not out(spec).exists()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "tokenizer", "manifest", "stray"])
def test_repair_rebuilds_only_what_is_damaged(spec: PrepSpec, damage: str) -> None:
    prepare(spec)
    before = everything(out(spec))
    shard = out(spec) / "train/arxiv/00001.npy"
    if damage == "flip":
        data = shard.read_bytes()
        shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "truncate":
        shard.write_bytes(shard.read_bytes()[:-3])
    elif damage == "remove":
        shard.unlink()
    elif damage == "stray":
        shard.with_name("00009.npy").write_bytes(shard.read_bytes())
    else:
        (out(spec) / f"{damage}.json").write_text("{}")
    assert len(verify_store(out(spec))) == 1
    repaired = repair(out(spec), workers=1)
    assert repaired.built_files == (1 if damage in ("flip", "truncate", "remove") else 0)
    assert everything(out(spec)) == before
    assert verify_store(out(spec)) == []


def test_a_rerun_rebuilds_a_shard_that_is_gone(spec: PrepSpec) -> None:
    prepare(spec)
    before = everything(out(spec))
    (out(spec) / "validation/c4/00000.npy").unlink()
    assert prepare(spec).built_files == 1
    assert everything(out(spec)) == before


def test_a_trained_tokenizer_is_made_once_and_kept(
    spec: PrepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = replace(spec, tokenizer="bpe:300")
    prepare(trained)
    store = TokenStore.open(out(spec))
    assert (store.manifest.tokenizer.name, store.manifest.tokenizer.end_of_text) == ("bpe:300", 299)
    prepare(replace(trained, out=tmp_path / "again"))
    assert everything(tmp_path / "again") == everything(out(spec))
    monkeypatch.setattr(pipeline, "train_bpe", lambda *_: pytest.fail("trained a second time"))
    assert prepare(trained).built_files == 0


def test_validation_is_held_out_by_hash_where_the_source_has_none(spec: PrepSpec, tmp_path: Path) -> None:
    train = spec.inputs[0] / "train"
    only_train = replace(spec, inputs=(train,), validation_share=0.2, out=tmp_path / "held")
    manifest = prepare(only_train).manifest
    documents = {split: sum(d.documents for d in s.values()) for split, s in manifest.splits.items()}
    assert sum(documents.values()) == 120
    # 20 % of 120 is 24 with a standard deviation of 4.4.
    assert 4 <= documents["validation"] <= 46
    assert manifest.source.held_out_per_10000 == 2000
    assert verify_store(tmp_path / "held") == []


def test_no_validation_at_all_names_the_remedy(spec: PrepSpec, tmp_path: Path) -> None:
    prep_inputs.write(tmp_path / "one/a.txt", b"a single document")
    lone = replace(spec, dataset="local", inputs=(tmp_path / "one",), validation_share=0.0001)
    with pytest.raises(DataError, match=r"no validation documents: .*--validation-share"):
        prepare(lone)


def test_a_field_with_too_many_values_is_no_domain(spec: PrepSpec, tmp_path: Path) -> None:
    rows = [{"text": "x", "id": f"n{n}"} for n in range(300)]
    prep_inputs.write(tmp_path / "ids/a.jsonl", prep_inputs.json_lines(rows))
    ids = replace(spec, dataset="local", inputs=(tmp_path / "ids",), domain_from="id")
    with pytest.raises(DataError, match=r"a\.jsonl: more than 256 domains"):
        prepare(ids)
    assert not out(spec).exists()


def test_null_and_empty_texts_are_counted(spec: PrepSpec, tmp_path: Path) -> None:
    prep_inputs.parquet(tmp_path / "p/train/x/a.parquet", {"text": ["x", None, "", None]})
    prep_inputs.parquet(tmp_path / "p/validation/x/b.parquet", {"text": ["y"]})
    manifest = prepare(replace(spec, dataset="local", inputs=(tmp_path / "p",))).manifest
    entry = manifest.splits["train"]["x"]
    # "x" and its end, the empty document's end: three ids, one byte.
    assert (entry.documents, entry.skipped, entry.tokens, entry.bytes) == (2, 2, 3, 1)


@pytest.mark.parametrize("limit", [1, 300, 700, 2500, 10**9])
def test_a_token_limit_depends_on_file_order_only(
    spec: PrepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    limited = replace(spec, limit_tokens=limit)
    if limit == 1:
        with pytest.raises(DataError, match="--limit-tokens 1 leaves none"):
            prepare(limited)
        return
    manifest = prepare(limited).manifest
    # Documents in file order, until the next would pass the limit.
    reference = load_tokenizer(spec.tokenizer)
    sizes = [
        len(reference.encode_batch([str(prep_inputs.record(1000 * f + n)["text"])])[0]) + 1
        for f in range(3)
        for n in range(40)
    ]
    total = count = 0
    for size in sizes:
        if total + size > limit:
            break
        total, count = total + size, count + 1
    train = manifest.splits["train"].values()
    assert sum(d.tokens for d in train) == total
    assert sum(d.documents for d in train) == count
    assert prepare(limited).built_files == 0
    monkeypatch.setattr(pipeline, "SPAWN_BYTES", 0)
    parallel = replace(limited, out=tmp_path / "parallel", workers=3)
    prepare(parallel)
    assert everything(out(parallel)) == everything(out(limited))
    assert verify_store(out(parallel)) == []


def test_a_limit_is_shared_by_domains_where_files_have_one(tmp_path: Path) -> None:
    def item(index: int, domain: str) -> Item:
        return Item(split="train", index=index, path=f"{domain}/{index}", kind="txt", bytes=1, domain=domain)

    def done(tokens: int, truncated: bool = False) -> Record:
        shard = Shard(name="00000.npy", tokens=tokens, documents=1, sha256="0" * 64)
        entry = Domain(documents=1, tokens=tokens, bytes=1, shards=(shard,))
        return Record(
            path="", input_bytes=1, modified_ns=None, sha256="", cap=None, truncated=truncated,
            domains={"train": {"a": entry}},
        )  # fmt: skip

    items = [item(0, "a"), item(1, "a"), item(2, "b"), item(3, "b")]
    # 100 tokens over two domains are 50 each; nothing is known yet: both groups start, one file ahead.
    start = state(items, {}, 100, ahead=1)
    assert [(task.item.index, task.cap) for task in start.todo] == [(0, 50), (2, 50)]
    # a: 30 of 50 used, so file 1 is next; b: 20 + 40 pass 50, so file 3 is done again with the 30 left.
    records = {items[0]: done(30), items[2]: done(20), items[3]: done(40)}
    middle = state(items, records, 100, ahead=1)
    assert [(task.item.index, task.cap) for task in middle.todo] == [(1, 50), (3, 30)]
    records |= {items[1]: done(20), items[3]: done(28, truncated=True)}
    end = state(items, records, 100, ahead=1)
    assert end.todo == ()
    assert list(end.chosen) == items


def test_settings_out_of_range_are_usage_errors(spec: PrepSpec) -> None:
    for wrong in (
        replace(spec, workers=0),
        replace(spec, limit_tokens=0),
        replace(spec, validation_share=0.0),
        replace(spec, validation_share=0.9),
        replace(spec, tokenizer="bpe:3"),
        replace(spec, dataset="embedded"),
        replace(spec, dataset="local", inputs=()),
        replace(spec, dataset="fineweb", inputs=(), subset="sample-1T"),
        replace(spec, split_map=(("validation", "dev"),)),
    ):
        with pytest.raises(UserError) as caught:
            prepare(wrong)
        assert caught.value.exit_code == 2, wrong
        assert not out(spec).exists(), wrong


def test_a_hub_run_resumes_at_its_pinned_commit_without_asking_again(
    spec: PrepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_prep import hub

    root = spec.inputs[0]
    names = sorted(path.relative_to(root).as_posix() for path in _inputs(spec))
    files = [hub.HubFile(path=n, bytes=(root / n).stat().st_size, sha256=None) for n in names]
    broken = {names[-1]}

    def fake(repository: str, path: str, *, local_dir: Path, **_: object) -> str:
        if path in broken:
            raise HubError("the hub is down")
        target = local_dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((root / path).read_bytes())
        return str(target)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fake)
    monkeypatch.setattr(hub, "resolve_commit", lambda *_: "c" * 40)
    monkeypatch.setattr(hub, "list_files", lambda *_: files)
    remote = replace(spec, inputs=())
    with pytest.raises(HubError):
        prepare(remote)
    broken.clear()
    monkeypatch.setattr(hub, "resolve_commit", lambda *_: pytest.fail("asked for the commit again"))
    prepared = prepare(remote)
    assert prepared.built_files == 1
    assert prepared.manifest.source.revision == "c" * 40
    assert not (out(spec) / ".prep/downloads").exists()
    local = replace(spec, out=out(spec).parent / "local")
    prepare(local)
    assert TokenStore.open(out(spec)).fingerprint == TokenStore.open(out(local)).fingerprint


def test_damaged_work_records_are_not_believed(spec: PrepSpec) -> None:
    prepare(spec)
    before = everything(out(spec))
    record = out(spec) / ".prep/files/train-00001.json"
    document = json.loads(record.read_text())
    document["domains"]["train"]["arxiv"]["tokens"] += 1
    record.write_text(json.dumps(document))
    assert prepare(spec).built_files == 1
    assert everything(out(spec)) == before
    (out(spec) / ".prep/plan.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        prepare(spec)

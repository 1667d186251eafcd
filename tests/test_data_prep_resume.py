"""Interruptions, foreign folders and damage: nothing is lost, nothing is mixed, little is done again."""

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

import prep_inputs
import pytest
from prep_inputs import everything, input_files, out

from data_prep import finish, pipeline, units
from data_prep.errors import DataError, HubError, ResumeError, StorageError
from data_prep.pipeline import prepare
from data_prep.repair import repair
from data_prep.spec import PrepSpec
from data_prep.token_store import TokenStore, verify_store


@pytest.fixture
def spec(tmp_path: Path) -> PrepSpec:
    return prep_inputs.make_spec(tmp_path)


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test may catch it as an ordinary error."""


@pytest.mark.parametrize("call", ["write_record", "place", "finish", "write_manifest", "write_plan"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_rerun_after_an_interruption_redoes_only_what_is_missing(
    spec: PrepSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    whole = replace(spec, out=tmp_path / "whole")
    prepare(whole)
    homes = {
        "write_record": units,
        "place": units.ShardWriter,
        "finish": units.ShardWriter,
        "write_manifest": finish,
        "write_plan": pipeline,
    }
    home: object = homes[call]
    original: Callable[..., object] = getattr(home, call)
    calls = 0

    def die(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Killed
        return original(*args, **options)

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
    for each in input_files(spec):
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
    with pytest.raises(StorageError, match="MB are free"):
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


def test_a_hub_run_resumes_at_its_pinned_commit_without_asking_again(
    spec: PrepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_prep import hub

    root = spec.inputs[0]
    names = sorted(path.relative_to(root).as_posix() for path in input_files(spec))
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
    monkeypatch.setattr(hub, "list_files", lambda *_, **__: files)
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

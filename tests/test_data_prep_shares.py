"""Shares of a preparation made apart, and the store that joins them."""

import json
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import prep_inputs
import pytest
from prep_inputs import out

from data_prep.errors import DataError, ResumeError, StorageError, UserError
from data_prep.lock import locked
from data_prep.merge import merge
from data_prep.pipeline import prepare, prepare_share
from data_prep.plan import WORK
from data_prep.spec import PrepSpec, Share
from data_prep.token_store import TokenStore, verify_store


@pytest.fixture
def spec(tmp_path: Path) -> PrepSpec:
    """Five training files and one of validation."""
    folder = prep_inputs.tokenizer_folder(tmp_path / "vocab")
    inputs = (prep_inputs.slimpajama(tmp_path / "in", files=5),)
    return PrepSpec(
        dataset="slimpajama", inputs=inputs, out=tmp_path / "store", tokenizer=str(folder), workers=1
    )


def content(store: Path) -> dict[str, bytes]:
    """Every file of a store but those of the work folder."""
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and WORK not in path.parts
    }


def shares(parts: int) -> list[Share]:
    return [Share(part=part, parts=parts) for part in range(1, parts + 1)]


@pytest.mark.parametrize("parts", [1, 2, 4, 9])
def test_merged_shares_are_the_store_of_one_machine(spec: PrepSpec, tmp_path: Path, parts: int) -> None:
    prepare(spec)
    apart = replace(spec, out=tmp_path / "apart")
    done = [prepare_share(apart, share) for share in reversed(shares(parts))]
    # Six input files, dealt out in turn: with nine shares the last three have none.
    assert [each.files for each in reversed(done)] == [len(range(part, 6, parts)) for part in range(parts)]
    assert not (out(apart) / "manifest.json").exists()
    assert merge(out(apart)).manifest.source.shares == 1
    assert content(out(apart)) == content(out(spec))
    assert verify_store(out(apart)) == []
    # Once merged it is a store like any other: the plain command finds nothing to do.
    assert prepare(apart).built_files == 0


def test_shares_made_on_machines_without_a_common_folder(spec: PrepSpec, tmp_path: Path) -> None:
    prepare(spec)
    for share in shares(3):
        prepare_share(replace(spec, out=tmp_path / f"machine{share.part}"), share)
    joined = tmp_path / "joined"
    for share in shares(3):
        shutil.copytree(tmp_path / f"machine{share.part}", joined, dirs_exist_ok=True)
    merge(joined)
    assert content(joined) == content(out(spec))


def test_a_bound_is_divided_over_the_shares(spec: PrepSpec, tmp_path: Path) -> None:
    bounded = replace(spec, limit_tokens=1000)
    for share in shares(2):
        prepare_share(bounded, share)
    merged = merge(out(bounded)).manifest
    # Places 0, 2, 4 are share 1's and 1, 3, 5 share 2's; each takes whole documents up to 500 tokens.
    of_share = [0, 0]
    for domain in merged.splits["train"].values():
        for shard in domain.shards:
            of_share[shard.number % 2] += shard.tokens
    longest = max(domain.longest for domain in merged.splits["train"].values())
    assert all(500 - longest < tokens <= 500 for tokens in of_share), of_share
    assert merged.source.shares == 2
    assert merged.source.limit_reached
    # The same bound on one machine is another plan.
    with pytest.raises(ResumeError, match="shares is 2 there and 1 here"):
        prepare(bounded)


def test_merge_names_the_shares_that_are_missing(spec: PrepSpec) -> None:
    with pytest.raises(DataError, match="holds no preparation"):
        merge(out(spec))
    prepare_share(spec, Share(part=1, parts=3))
    prepare_share(spec, Share(part=3, parts=3))
    with pytest.raises(DataError) as caught:
        merge(out(spec))
    assert "2 of 6 input files are not done" in str(caught.value)
    assert str(caught.value).endswith("run again with --shard 2/3 (2 files)")
    assert not (out(spec) / "manifest.json").exists()


def test_merge_finds_a_damaged_shard_and_its_share_makes_only_that_again(spec: PrepSpec) -> None:
    for share in shares(2):
        prepare_share(spec, share)
    victim = next((out(spec) / "train/c4").glob("00003.npy"))
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    with pytest.raises(DataError, match=r"shards of 1 input files are damaged.*--shard 2/2 \(1 files\)"):
        merge(out(spec))
    # Place 3 of the plan (train files come first) is share 2's.
    assert prepare_share(spec, Share(part=1, parts=2)).built_files == 0
    assert prepare_share(spec, Share(part=2, parts=2)).built_files == 1
    merge(out(spec))
    assert verify_store(out(spec)) == []


def test_another_preparation_is_refused_and_its_records_are_not_taken(spec: PrepSpec, tmp_path: Path) -> None:
    prepare_share(spec, Share(part=1, parts=2))
    with pytest.raises(ResumeError, match="tokenizer is"):
        prepare_share(replace(spec, tokenizer="bpe:300"), Share(part=2, parts=2))
    # Copied together by hand from two preparations: the foreign share counts as not done.
    other = replace(spec, out=tmp_path / "other", tokenizer="bpe:300")
    prepare_share(other, Share(part=2, parts=2))
    for source in (out(other), out(spec)):
        shutil.copytree(source, tmp_path / "mixed", dirs_exist_ok=True)
    with pytest.raises(DataError, match="3 of 6 input files are not done"):
        merge(tmp_path / "mixed")


@pytest.mark.parametrize(
    "share", [Share(part=0, parts=3), Share(part=4, parts=3), Share(part=1, parts=10**6)]
)
def test_a_share_that_is_none(spec: PrepSpec, share: Share) -> None:
    with pytest.raises(UserError, match="--shard"):
        prepare_share(spec, share)
    assert not out(spec).exists()


def test_a_share_leaves_the_temporary_files_of_others_alone(spec: PrepSpec) -> None:
    prepare_share(spec, Share(part=1, parts=2))
    # Files 0, 2, 4 are share 1's: what it finds of them is its own leavings.
    mine, theirs = out(spec) / "train/c4/00002.npy.aa.tmp", out(spec) / "train/c4/00003.npy.bb.tmp"
    record = out(spec) / WORK / "files/train-00003.json.cc.tmp"
    for path in (mine, theirs, record):
        path.write_bytes(b"x")
    prepare_share(spec, Share(part=1, parts=2))
    assert not mine.exists()
    assert theirs.exists()
    assert record.exists()
    prepare_share(spec, Share(part=2, parts=2))
    assert not list(out(spec).rglob("*.tmp"))


def _hold(folder: Path, share: Share | None, ready: object, done: object) -> None:
    with locked(folder, share):
        ready.set()  # type: ignore[attr-defined]
        done.wait()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("held", "wanted", "free"),
    [
        (None, None, False),
        (None, Share(part=1, parts=2), False),
        (Share(part=1, parts=2), None, False),
        (Share(part=1, parts=2), Share(part=1, parts=2), False),
        (Share(part=1, parts=2), Share(part=2, parts=2), True),
        (Share(part=1, parts=2), Share(part=3, parts=4), False),
    ],
)
def test_who_may_work_beside_whom(
    tmp_path: Path, held: Share | None, wanted: Share | None, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.lock.PATIENCE_S", 0.1)
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, held, ready, done))
    holder.start()
    try:
        assert ready.wait(20)
        if free:
            with locked(tmp_path, wanted):
                pass
        else:
            with (
                pytest.raises(StorageError, match=f"being prepared by process {holder.pid}@"),
                locked(tmp_path, wanted),
            ):
                pass
    finally:
        done.set()
        holder.join()
    with locked(tmp_path, wanted):
        pass


def test_twenty_shares_that_start_at_once(spec: PrepSpec, tmp_path: Path) -> None:
    """All write the plan and look at the store's lock in the same moment; none is turned away."""
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(20)
    results = context.Queue()

    def run(share: Share) -> None:
        gate.wait()
        try:
            results.put(prepare_share(spec, share).files)
        except BaseException as error:
            results.put(repr(error))

    workers = [context.Process(target=run, args=(share,)) for share in shares(20)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(map(str, found)) == ["0"] * 14 + ["1"] * 6
    merge(out(spec))
    prepare(replace(spec, out=tmp_path / "whole"))
    assert content(out(spec)) == content(tmp_path / "whole")


def test_document_starts_and_repeats(tmp_path: Path) -> None:
    def row(text: str, name: str) -> dict[str, object]:
        return {"text": text, "meta": {"redpajama_set_name": name}}

    c4, github = "RedPajamaC4", "RedPajamaGithub"
    files = {
        "train/a.jsonl": [row("aa", c4), row("b", c4), row("", c4), row("aa", c4), row("aa", github)],
        "train/b.jsonl": [row("b", c4), row("ccc", c4), row("x", github), row("", github)],
        "validation/a.jsonl": [row("aa", c4), row("aa", c4), row("new", c4), row("b", github)],
    }
    for name, rows in files.items():
        prep_inputs.write(tmp_path / "in" / name, prep_inputs.json_lines(rows))
    folder = prep_inputs.tokenizer_folder(tmp_path / "vocab")
    prepared = prepare(
        PrepSpec(dataset="slimpajama", inputs=(tmp_path / "in",), out=tmp_path / "s", tokenizer=str(folder))
    )
    splits = prepared.manifest.splits
    # c4 of train holds aa b "" aa | b ccc: aa and b once more each. github: aa | x "": none.
    assert [splits["train"][name].duplicates for name in ("c4", "github")] == [2, 0]
    # validation: aa twice, and both are in train; b is in train, though in another domain.
    assert [splits["validation"][name].duplicates for name in ("c4", "github")] == [1, 0]
    assert [splits["validation"][name].in_train for name in ("c4", "github")] == [2, 1]
    assert [splits["train"][name].in_train for name in ("c4", "github")] == [0, 0]
    # A byte is a token here (no merge applies but "in", "th"...), and each document has its end-of-text id:
    # lengths 3 2 1 3 | 2 4 in c4.
    store = TokenStore.open(tmp_path / "s")
    assert store.document_starts("train", "c4").tolist() == [0, 3, 5, 6, 9, 11]
    assert splits["train"]["c4"].longest == 4
    # Lengths 1 | 3 2 3 2 | 4 by powers of two.
    assert splits["train"]["c4"].lengths == (1, 4, 1)
    end = store.manifest.tokenizer.end_of_text
    ids = store.read_windows("train", "c4", [0], store.tokens("train", "c4"))[0]  # type: ignore[arg-type]
    assert [i + 1 for i, token in enumerate(ids) if token == end] == [3, 5, 6, 9, 11, 15]


def test_repeats_are_the_same_however_many_passes(spec: PrepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "".join(json.dumps(prep_inputs.record(50_000 + n % 7)) + "\n" for n in range(60))
    prep_inputs.write(spec.inputs[0] / "train/more.jsonl", lines.encode())
    once = prepare(spec).manifest
    monkeypatch.setattr("data_prep.duplicates.DOCUMENTS_A_PASS", 13)
    (out(spec) / "manifest.json").unlink()
    assert prepare(spec).manifest == once
    # 60 records of 7 texts, none of which occurs elsewhere.
    assert sum(domain.duplicates for domain in once.splits["train"].values()) == 53

"""The bytes on disk: what is written is read back, and nothing damaged is believed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import DataError
from data_prep.files import canonical_json, sha256_text
from data_prep.manifest import TokenizerInfo
from data_prep.token_store import TokenStore, verify_store, write_store

INFO = TokenizerInfo(name="tiny", sha256="0" * 64, vocab_size=1000, end_of_text=999)


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    tokens = {
        "train": {"a": [np.arange(0, 10), np.arange(10, 13), np.arange(13, 30)], "b": [np.arange(100, 107)]},
        "validation": {"a": [np.array([5, 6, 999, 7, 8, 999])]},
    }
    return write_store(tmp_path / "store", tokens, tokenizer=INFO, tokenizer_json='{"any": "json"}')


def test_windows_cross_shards_and_drop_the_tail(store: TokenStore) -> None:
    # 30 ids in shards of 10, 3 and 17: 30 // 8 = 3 windows; window 1 is ids 8..15 and touches all three.
    assert store.windows("train", "a", 8) == 3
    windows = store.read_windows("train", "a", np.array([2, 0, 1, 1]), 8)
    assert windows.dtype == np.int32
    assert windows.tolist() == [[*range(16, 24)], [*range(8)], [*range(8, 16)], [*range(8, 16)]]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 10, 13, 30])
def test_every_window_equals_the_shards_laid_end_to_end(store: TokenStore, length: int) -> None:
    count = store.windows("train", "a", length)
    windows = store.read_windows("train", "a", np.arange(count), length)
    assert windows.ravel().tolist() == list(range(count * length))


def test_shards_are_standard_npy_little_endian_of_the_smallest_type(
    store: TokenStore, tmp_path: Path
) -> None:
    shard = np.load(store.path / "train/a/00002.npy", allow_pickle=False)
    assert shard.dtype == np.dtype("<u2")
    assert shard.tolist() == list(range(13, 30))
    # 65,536 ids end at 65,535, the largest uint16; one more needs uint32.
    for vocab_size, dtype in ((1 << 16, "<u2"), ((1 << 16) + 1, "<u4")):
        info = TokenizerInfo(name="x", sha256="1" * 64, vocab_size=vocab_size, end_of_text=vocab_size - 1)
        ids = np.array([3, vocab_size - 1])
        wide = write_store(tmp_path / str(vocab_size), {"train": {"a": [ids]}}, tokenizer=info)
        assert np.load(wide.path / "train/a/00000.npy").dtype == np.dtype(dtype)
        assert wide.read_windows("train", "a", np.array([0]), 2).tolist() == [ids.tolist()]


def test_counts_and_domains(store: TokenStore) -> None:
    assert store.domains("train") == ("a", "b")
    assert store.tokens("train", "a") == 30
    assert store.manifest.splits["validation"]["a"].documents == 2
    assert store.verify() == []


def test_unknown_names_list_what_exists(store: TokenStore) -> None:
    with pytest.raises(DataError, match="no split 'test'; it has train, validation"):
        store.domains("test")
    with pytest.raises(DataError, match="no domain 'c'; it has a, b"):
        store.tokens("train", "c")
    with pytest.raises(IndexError):
        store.read_windows("train", "b", np.array([7]), 1)
    with pytest.raises(IndexError):
        store.read_windows("train", "b", np.array([-1]), 1)


def test_fingerprint_changes_with_any_token_and_with_the_tokenizer(tmp_path: Path) -> None:
    def fingerprint(name: str, last: int, info: TokenizerInfo = INFO) -> str:
        ids = {"train": {"a": [np.array([1, 2, last])]}}
        return write_store(tmp_path / name, ids, tokenizer=info).fingerprint

    other = TokenizerInfo(name="tiny", sha256="f" * 64, vocab_size=1000, end_of_text=999)
    prints = [fingerprint("1", 3), fingerprint("2", 3), fingerprint("3", 4), fingerprint("4", 3, other)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_missing_store_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="reweight prep DATASET --out") as caught:
        TokenStore.open(tmp_path / "none")
    assert caught.value.exit_code == 3
    (tmp_path / "half/.prep").mkdir(parents=True)
    with pytest.raises(DataError, match="not finished; run the same"):
        TokenStore.open(tmp_path / "half")
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="not a token store"):
        TokenStore.open(tmp_path / "other")


def test_flipping_any_of_fifty_bytes_is_found_and_named(store: TokenStore) -> None:
    rng = np.random.default_rng(0)
    files = sorted(store.path.glob("*/*/*.npy"))
    for _ in range(50):
        victim = files[rng.integers(len(files))]
        good = victim.read_bytes()
        at = int(rng.integers(len(good)))
        victim.write_bytes(good[:at] + bytes([good[at] ^ (1 << int(rng.integers(8)))]) + good[at + 1 :])
        assert victim in [problem.path for problem in verify_store(store.path)], at
        victim.write_bytes(good)
    assert verify_store(store.path) == []


def test_other_damage_is_found(store: TokenStore) -> None:
    root = store.path
    copies = root.parent / "copies"
    first, second = root / "train/a/00000.npy", root / "train/a/00001.npy"

    def damage_truncate() -> Path:
        first.write_bytes(first.read_bytes()[:-2])
        return first

    def damage_zero() -> Path:
        first.write_bytes(bytes(first.stat().st_size))
        return first

    def damage_swap() -> Path:
        held = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(held)
        return second

    def damage_rename() -> Path:
        return first.rename(root / "train/a/00007.npy")

    def damage_remove() -> Path:
        first.unlink()
        return first

    def damage_tokenizer() -> Path:
        (root / "tokenizer.json").write_text("{}")
        return root / "tokenizer.json"

    damages = (damage_truncate, damage_zero, damage_swap, damage_rename, damage_remove, damage_tokenizer)
    for damage in damages:
        shutil.copytree(root, copies)
        expected = damage()
        problems = verify_store(root)
        assert expected in [problem.path for problem in problems], damage.__name__
        assert all("reweight prep --repair" in problem.remedy for problem in problems)
        shutil.rmtree(root)
        copies.rename(root)
    assert verify_store(root) == []


def test_open_refuses_a_truncated_or_missing_shard_without_reading_it_all(store: TokenStore) -> None:
    shard = store.path / "train/b/00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"00000\.npy: 141 bytes, expected 142; .*--repair"):
        # 128 bytes of header and 7 ids of 2 bytes.
        TokenStore.open(store.path)
    shard.unlink()
    with pytest.raises(DataError, match="missing"):
        TokenStore.open(store.path)


def _edit(store: TokenStore, keys: list[str | int], value: object, digest: bool) -> None:
    path = store.path / "manifest.json"
    document = json.loads(path.read_text())
    target = document
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    if digest:
        content = {key: each for key, each in document.items() if key != "digest"}
        document["digest"] = sha256_text(canonical_json(content))
    path.write_text(json.dumps(document))


def test_an_edited_manifest_is_found(store: TokenStore) -> None:
    _edit(store, ["dataset"], "other", digest=False)
    with pytest.raises(DataError, match="edited or damaged"):
        TokenStore.open(store.path)
    problems = verify_store(store.path)
    assert [problem.path.name for problem in problems] == ["manifest.json"]


@pytest.mark.parametrize(
    ("keys", "value", "complaint"),
    [
        (["format"], 1, "format 1, but this version of reweight reads format 2"),
        (["dataset"], "../../etc", "not a name"),
        (["splits", "train", "a", "shards", 0, "name"], "../../x.npy", "not a name"),
        (["splits", "train", "a", "shards", 0, "name"], "x.npy", "not NNNNN.npy"),
        (["splits", "train", "a", "tokens"], 31, "its shards hold 30"),
        (["splits", "train", "a", "tokens"], True, "whole number"),
        (["splits", "train", "a", "shards", 0, "tokens"], -1, "whole number"),
        (["splits", "train", "a", "shards", 0, "sha256"], "abc", "sha256 in hex"),
        (["splits", "train"], [], "must be an object"),
        (["splits", ".."], {}, "not a name"),
        (["dtype"], "uint32", "needs uint16"),
        (["dtype"], "O", "needs uint16"),
        (["tokenizer", "end_of_text"], 1000, "impossible"),
        (["tokenizer", "vocab_size"], 0, "whole number"),
    ],
)
def test_a_hostile_manifest_is_refused(
    store: TokenStore, keys: list[str | int], value: object, complaint: str
) -> None:
    _edit(store, keys, value, digest=True)
    with pytest.raises(DataError, match=complaint) as caught:
        TokenStore.open(store.path)
    assert "manifest.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"format": 1}', "\x00"])
def test_a_manifest_that_is_no_manifest(store: TokenStore, text: str) -> None:
    (store.path / "manifest.json").write_text(text)
    with pytest.raises(DataError):
        TokenStore.open(store.path)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/etc", "a\\b", "a b", "ä", "x" * 97, "a\n", "a\0", "%2e%2e/", "‮abc"]
)
def test_names_that_leave_their_folder_are_refused(tmp_path: Path, name: str) -> None:
    ids = [np.array([1, 999])]
    for tokens in ({name: {"a": ids}}, {"train": {name: ids}}):
        with pytest.raises(DataError, match="is not a name"):
            write_store(tmp_path / "s", tokens, tokenizer=INFO)
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("name", ["manifest.json", "train/a/00000.npy"])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_ordinary_file_is_refused_and_never_waited_for(
    store: TokenStore, name: str, kind: str
) -> None:
    path = store.path / name
    path.unlink()
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(DataError, match=r"no manifest.json|not an ordinary file"):
        TokenStore.open(store.path)
    assert verify_store(store.path) != []


def test_a_damaged_tokenizer_is_found_whatever_splits_are_read(store: TokenStore) -> None:
    (store.path / "tokenizer.json").write_text("{}")
    problems = store.verify(splits=["validation"])
    assert [(each.path.name, each.what) for each in problems] == [
        ("tokenizer.json", "changed since it was written")
    ]

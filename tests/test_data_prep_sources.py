"""Records to documents: formats, domains, splits, and what is refused."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import prep_inputs
import pytest
import zstandard

from data_prep import embedded, hub
from data_prep.documents import SLIMPAJAMA_DOMAINS, Document
from data_prep.errors import DataError, RevisionError, UserError
from data_prep.items import split_of
from data_prep.readers import Meter
from data_prep.sources import open_source
from data_prep.spec import PrepSpec


def documents(spec: PrepSpec, tmp_path: Path) -> list[Document]:
    source = open_source(spec, tmp_path / "downloads")
    return [
        document
        for item in source.items
        for document in source.reader.documents(item, source.locate(item), Meter())
    ]


def slim(path: Path) -> PrepSpec:
    return PrepSpec(dataset="slimpajama", inputs=(path,))


def local(*paths: Path, domain_from: str | None = None, **split_map: str) -> PrepSpec:
    pairs = tuple(split_map.items())
    return PrepSpec(dataset="local", inputs=paths, domain_from=domain_from, split_map=pairs)


def test_every_format_gives_the_same_documents(tmp_path: Path) -> None:
    rows = [prep_inputs.record(n) for n in range(20)]
    data = prep_inputs.json_lines(rows)
    prep_inputs.write(tmp_path / "a/train.jsonl", data)
    prep_inputs.write(tmp_path / "b/train.jsonl.zst", data)
    text, meta = [r["text"] for r in rows], [r["meta"] for r in rows]
    prep_inputs.parquet(tmp_path / "c/train-00000-of-00001.parquet", {"text": text, "meta": meta})
    strings = [json.dumps(each) for each in meta]
    prep_inputs.parquet(
        tmp_path / "d/train-00000-of-00001.parquet", {"text": text, "meta": strings, "x": text}
    )
    expected = [
        (r["text"], SLIMPAJAMA_DOMAINS[r["meta"]["redpajama_set_name"]], len(str(r["text"]).encode()))  # type: ignore[index]
        for r in rows
    ]
    for folder in "abcd":
        found = documents(slim(tmp_path / folder), tmp_path)
        assert sorted((d.text, d.domain, d.bytes) for d in found) == sorted(expected), folder  # type: ignore[type-var]


def test_lines_are_found_across_blocks_and_frames(tmp_path: Path) -> None:
    # One record longer than a read block, several zstd frames, no newline at the end, a blank line.
    long = "x" * 300_000
    parts = [b'{"text": "', long.encode(), b'"}\n\n{"text": "second"}\n', b'{"text": "third"}']
    path = tmp_path / "train/a.jsonl.zst"
    path.parent.mkdir()
    path.write_bytes(b"".join(zstandard.compress(part) for part in parts))
    meter = Meter()
    source = open_source(local(tmp_path / "train"), tmp_path)
    item = source.items[0]
    found = [d.text for d in source.reader.documents(item, source.locate(item), meter)]
    assert found == [long, "second", "third"]
    assert meter.bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/chunk1/example_train_0.jsonl.zst", "train"),
        ("data/train-00000-of-00048-ab909cc31bfcfd54.parquet", "train"),
        ("data/validation-00000-of-00001.parquet", "validation"),
        ("data/test-00000-of-00001.parquet", "test"),
        ("valid/x.txt", "validation"),
        ("VAL/x.txt", "validation"),
        ("github/val.jsonl", "validation"),
        ("en/c4-validation.00000-of-00008.json.gz", "validation"),
        ("en/c4-train.00000-of-01024.json.gz", "train"),
        ("dev.jsonl", "validation"),
        ("developer_tester.jsonl", None),
        ("training_notes/trainer.txt", None),
        ("testimony.txt", None),
        ("a/b.txt", None),
    ],
)
def test_splits_come_from_names(path: str, split: str | None) -> None:
    assert split_of(path) == split


def _splits(spec: PrepSpec, tmp_path: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in open_source(spec, tmp_path).items:
        found.setdefault(item.split, []).append(item.path)
    return found


def test_split_map_renames_and_the_replaced_split_is_left_out(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        prep_inputs.write(tmp_path / f"in/{split}/x/a.txt", split.encode())
    plain = _splits(local(tmp_path / "in"), tmp_path)
    assert sorted(plain) == ["test", "train", "validation"]
    mapped = _splits(local(tmp_path / "in", validation="test"), tmp_path)
    assert mapped == {"train": ["train/x/a.txt"], "validation": ["test/x/a.txt"]}
    with pytest.raises(UserError, match=r"no split 'dev'; it has test, train, validation"):
        _splits(local(tmp_path / "in", validation="dev"), tmp_path)


def test_slimpajama_takes_the_test_split_as_validation(tmp_path: Path) -> None:
    root = prep_inputs.slimpajama(tmp_path / "in", files=1)
    assert _splits(slim(root), tmp_path)["validation"] == ["validation/chunk1/example_holdout_0.jsonl.zst"]
    prep_inputs.write(root / "test/chunk1/t.jsonl.zst", prep_inputs.json_lines([prep_inputs.record(1)]))
    assert _splits(slim(root), tmp_path)["validation"] == ["test/chunk1/t.jsonl.zst"]


def test_local_domains_by_folder_by_field_or_by_name(tmp_path: Path) -> None:
    prep_inputs.write(tmp_path / "corpus/train/poems/x/a.txt", b"one")
    prep_inputs.write(tmp_path / "corpus/news/train/b.jsonl", b'{"text": "two", "meta": {"site": "n.org"}}\n')
    prep_inputs.write(tmp_path / "corpus/c.txt", b"three")
    found = documents(local(tmp_path / "corpus"), tmp_path)
    assert {(d.text, d.domain) for d in found} == {("one", "poems"), ("two", "news"), ("three", "corpus")}
    only = documents(local(tmp_path / "corpus/news/train/b.jsonl", domain_from="meta.site"), tmp_path)
    assert [(d.text, d.domain) for d in only] == [("two", "n.org")]


def test_held_out_share_depends_on_the_text_only(tmp_path: Path) -> None:
    texts = [f"document {n}" for n in range(4000)]
    rows = prep_inputs.json_lines([{"text": text} for text in texts])
    prep_inputs.write(tmp_path / "one/a.jsonl", rows)
    prep_inputs.write(tmp_path / "two/z.jsonl", b"".join(reversed(rows.splitlines(keepends=True))))
    held = [
        {d.text for d in documents(local(tmp_path / name), tmp_path) if d.split == "validation"}
        for name in ("one", "two")
    ]
    assert held[0] == held[1]
    # 1 % of 4,000 is 40 with a standard deviation of 6.3: five of them either side.
    assert 8 <= len(held[0]) <= 72


BAD_LINES = {
    "json": (b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
    "object": (b'{"text": "a"}\n[1]\n', "line 2: not a JSON object but list"),
    "utf8": (b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: invalid UTF-8 at byte 24 of the text"),
    "missing": (
        b'{"txt": "a"}\n',
        "line 1: no field 'text' for the text (it has txt); name another with --text-from",
    ),
    "number": (b'{"text": 3}\n', "line 1: 'text' is int, not a string"),
    "surrogate": (b'{"text": "a\\ud83d"}\n', "line 1: 'text' holds half a surrogate pair at character 1"),
    "deep": (b'{"text": ' + b"[" * 100_000 + b"}\n", "line 1: not JSON"),
    "empty": (b"", "empty file"),
}


@pytest.mark.parametrize("name", BAD_LINES)
@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.zst"])
def test_bad_lines_name_the_file_and_line(tmp_path: Path, name: str, suffix: str) -> None:
    data, complaint = BAD_LINES[name]
    path = prep_inputs.write(tmp_path / f"train/a.{suffix}", data)
    with pytest.raises(DataError) as caught:
        documents(local(tmp_path / "train"), tmp_path)
    assert str(path) in str(caught.value)
    assert complaint in str(caught.value)
    assert caught.value.exit_code == 3


def test_unknown_set_name_lists_the_known_ones(tmp_path: Path) -> None:
    rows = [prep_inputs.record(0), prep_inputs.record(1, "RedPajamaTwitter")]
    prep_inputs.write(tmp_path / "train/a.jsonl", prep_inputs.json_lines(rows))
    with pytest.raises(DataError, match=r"a\.jsonl line 2: unknown .*_set_name 'RedPajamaTwitter'; known"):
        documents(slim(tmp_path), tmp_path)
    prep_inputs.write(tmp_path / "train/a.jsonl", b'{"text": "x", "meta": {}}\n')
    with pytest.raises(DataError, match=r"line 1: no field 'meta.redpajama_set_name'"):
        documents(slim(tmp_path), tmp_path)


def test_a_domain_value_cannot_leave_the_folder(tmp_path: Path) -> None:
    prep_inputs.write(tmp_path / "train/a.jsonl", b'{"text": "x", "site": "../../etc"}\n')
    with pytest.raises(DataError, match=r"line 1: site '\.\./\.\./etc' is not a name"):
        documents(local(tmp_path / "train", domain_from="site"), tmp_path)


@pytest.mark.parametrize("where", [5, 60, 200])
def test_a_corrupt_or_cut_zstd_file_is_refused(tmp_path: Path, where: int) -> None:
    rng_text = os.urandom(3000).hex()
    path = prep_inputs.write(tmp_path / "train/a.jsonl.zst", json.dumps({"text": rng_text}).encode())
    good = path.read_bytes()
    path.write_bytes(good[:-where])
    with pytest.raises(DataError, match=r"a\.jsonl\.zst: (zstd data ends inside a frame|corrupt)"):
        documents(local(tmp_path / "train"), tmp_path)
    # With its checksum, a flipped byte anywhere in the frame is found.
    framed = zstandard.ZstdCompressor(write_checksum=True).compress(json.dumps({"text": rng_text}).encode())
    path.write_bytes(framed[:where] + bytes([framed[where] ^ 4]) + framed[where + 1 :])
    with pytest.raises(DataError, match=str(path)):
        documents(local(tmp_path / "train"), tmp_path)


def test_gzip_of_several_members_and_what_is_wrong_with_others(tmp_path: Path) -> None:
    rows = [json.dumps(prep_inputs.record(n)).encode() + b"\n" for n in range(50)]
    whole = gzip.compress(b"".join(rows[:20])) + gzip.compress(b"".join(rows[20:])) + b"\0" * 100
    path = tmp_path / "in/c4-train.00000-of-00001.json.gz"
    path.parent.mkdir()
    path.write_bytes(whole)
    texts = [d.text for d in documents(local(path.parent), tmp_path)]
    assert texts == [prep_inputs.record(n)["text"] for n in range(50)]
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 4
    for bad, says in (
        (bytes(flipped), "corrupt gzip"),
        (whole[: len(whole) // 2], "cut off"),
        (b"", "empty"),
    ):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=says):
            documents(local(path.parent), tmp_path)


def test_bad_parquet(tmp_path: Path) -> None:
    path = prep_inputs.parquet(tmp_path / "train/a.parquet", {"content": ["x"], "id": [1]})
    with pytest.raises(DataError, match=r"a\.parquet: no column 'text'; it has content, id"):
        documents(local(tmp_path / "train"), tmp_path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"a\.parquet: corrupt parquet"):
        documents(local(tmp_path / "train"), tmp_path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.parquet: empty file"):
        documents(local(tmp_path / "train"), tmp_path)
    prep_inputs.parquet(path, {"text": [f"row {n} " * 50 for n in range(64)]})
    good = path.read_bytes()
    path.write_bytes(good[:100] + b"\xff" * 200 + good[300:])
    with pytest.raises(DataError, match=r"a\.parquet"):
        documents(local(tmp_path / "train"), tmp_path)


def test_null_text_is_skipped_and_empty_text_is_a_document(tmp_path: Path) -> None:
    prep_inputs.parquet(tmp_path / "train/a.parquet", {"text": ["x", None, ""]})
    assert [d.text for d in documents(local(tmp_path / "train"), tmp_path)] == ["x", None, ""]


def test_missing_input_and_input_without_known_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        open_source(slim(tmp_path / "nowhere"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no file that ends in \.jsonl"):
        open_source(slim(tmp_path / "empty"), tmp_path)


def test_paths_with_spaces_and_other_scripts(tmp_path: Path) -> None:
    prep_inputs.write(tmp_path / "mein Ordner/東京 1.jsonl", b'{"text": "x", "d": "a"}\n')
    found = documents(local(tmp_path / "mein Ordner", domain_from="d"), tmp_path)
    assert [d.text for d in found] == ["x"]


@pytest.mark.parametrize("name", sorted(embedded.DOMAINS))
def test_embedded_domains_are_real_bounded_and_disjoint(name: str) -> None:
    found = embedded.read_domain(name)
    texts = [each.text for each in found]
    sizes = {held: sum(len(e.text.encode()) for e in found if e.held_out == held) for held in (False, True)}
    assert len(set(texts)) == len(texts)
    # Several windows of 128 tokens, even at 8 bytes a token: 8 * 128 * 10 = 10,240 bytes.
    assert sizes[True] >= 10_240
    assert sizes[False] >= 2 * sizes[True]
    assert sum(sizes.values()) <= embedded.DOMAIN_BYTES


def test_embedded_code_and_docstrings_come_from_different_files() -> None:
    code = {each.text for each in embedded.read_domain("stdlib_code")}
    prose = [each.text for each in embedded.read_domain("docstrings")]
    assert not any(text[:300] in each for text in prose[:40] for each in code)


KNOWN = "2d0accdd58c5d5511943ca1f5ff0e3eb5e293543"


@pytest.fixture
def hub_627b(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Stands for the hub with two files of SlimPajama-627B; the list tells what was asked of it."""
    data = prep_inputs.json_lines([prep_inputs.record(n) for n in range(5)])
    remote = {"train/chunk1/a.jsonl.zst": data, "validation/chunk1/b.jsonl.zst": data, "LICENSE.txt": b"x"}
    asked: list[tuple[str, str | None]] = []

    def resolve(repository: str, revision: str | None, remedy: str) -> str:
        asked.append((repository, revision))
        return revision if revision and len(revision) == 40 else "a" * 40

    def listed(
        repository: str, commit: str, folder: str | None, remedy: str, *, wanted: Any
    ) -> list[hub.HubFile]:
        return [hub.HubFile(path=path, bytes=9, sha256=None) for path in sorted(remote) if wanted(path)]

    def download(
        repository: str, kind: str, commit: str, path: str, remedy: str, *, folder: Path, **_: object
    ) -> Path:
        asked.append((path, commit))
        return prep_inputs.write(folder / path, remote[path])

    monkeypatch.setattr(hub, "resolve_commit", resolve)
    monkeypatch.setattr(hub, "list_files", listed)
    monkeypatch.setattr(hub, "download", download)
    return asked


def test_hub_items_are_listed_at_a_pinned_commit_and_deleted_after_use(
    tmp_path: Path, hub_627b: list[tuple[str, str | None]]
) -> None:
    source = open_source(PrepSpec(dataset="slimpajama-627b"), tmp_path / "downloads")
    assert (source.name, source.revision) == ("cerebras/SlimPajama-627B", KNOWN)
    # The licence is no document: it lies beside data files.
    assert [(item.split, item.path) for item in source.items] == [
        ("train", "train/chunk1/a.jsonl.zst"),
        ("validation", "validation/chunk1/b.jsonl.zst"),
    ]
    assert len(list(source.reader.documents(source.items[0], None, Meter()))) == 5
    assert hub_627b == [("cerebras/SlimPajama-627B", KNOWN), ("train/chunk1/a.jsonl.zst", KNOWN)]
    source.reader.release(source.items[0])
    assert not [path for path in (tmp_path / "downloads").rglob("*") if path.is_file()]


def test_which_commit_is_read(
    tmp_path: Path, hub_627b: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = PrepSpec(dataset="slimpajama-627b")
    assert open_source(replace(spec, revision="b" * 40), tmp_path).revision == "b" * 40
    # A copy in the same layout has commits of its own.
    copy = open_source(replace(spec, repository="someone/copy"), tmp_path)
    assert (copy.name, copy.revision) == ("someone/copy", "a" * 40)
    assert hub_627b[-1] == ("someone/copy", None)
    assert {item.domain for item in copy.items} == {None}
    assert {d.domain for d in copy.reader.documents(copy.items[0], None, Meter())} == {
        "arxiv",
        "c4",
        "github",
    }
    # A hub that has the repository and not the known commit: main, which the manifest records.
    resolve = hub.resolve_commit

    def rewritten(repository: str, revision: str | None, remedy: str) -> str:
        if revision == KNOWN:
            raise RevisionError("no such revision")
        return resolve(repository, revision, remedy)

    monkeypatch.setattr(hub, "resolve_commit", rewritten)
    assert open_source(spec, tmp_path).revision == "a" * 40
    with pytest.raises(RevisionError):
        open_source(replace(spec, revision=KNOWN), tmp_path)


def test_fineweb_is_a_named_sample_a_dump_or_a_random_sample_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[str | None] = []
    paths = [f"data/CC-MAIN-2024-{dump}/000_{n:05d}.parquet" for dump in (10, 18) for n in range(20)]

    def listed(
        repository: str, commit: str, folder: str | None, remedy: str, *, wanted: Any
    ) -> list[hub.HubFile]:
        folders.append(folder)
        return [hub.HubFile(path=path, bytes=9, sha256=None) for path in paths]

    monkeypatch.setattr(hub, "resolve_commit", lambda repository, revision, remedy: revision)
    monkeypatch.setattr(hub, "list_files", listed)

    def order(**changes: Any) -> list[str]:
        source = open_source(replace(PrepSpec(dataset="fineweb"), **changes), tmp_path)
        assert {item.domain for item in source.items} == {"fineweb"}
        return [item.path for item in source.items]

    assert order() == paths
    assert order(subset="sample-10BT") == order(subset="CC-MAIN-2024-10") == paths
    assert folders == ["sample/100BT", "sample/10BT", "data/CC-MAIN-2024-10"]
    sample = order(limit_tokens=100 * 10**9)
    assert folders[-1] == "data"
    assert sample == order(limit_tokens=1, sample_seed=0) != order(limit_tokens=1, sample_seed=1)
    assert sorted(sample) == paths
    # Any prefix mixes the dumps: of the first 20 files, 10 are expected from each, give or take 2.3.
    assert 3 <= sum("2024-10" in path for path in sample[:20]) <= 17
    assert sample != paths
    for wrong in ("sample-1T", "../../etc", "CC-MAIN-2024-1", "CC-MAIN-2024-10/../x"):
        with pytest.raises(UserError, match="--subset"):
            order(subset=wrong)

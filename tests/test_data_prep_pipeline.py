"""One pass from text to a store: the same bytes whatever the workers and formats."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import prep_inputs
import pytest
from prep_inputs import everything, input_files, out

from data_prep import pipeline
from data_prep.assembly import state
from data_prep.documents import SLIMPAJAMA_DOMAINS
from data_prep.errors import DataError, UserError
from data_prep.items import Item
from data_prep.manifest import Domain, Shard
from data_prep.pipeline import prepare
from data_prep.plan import Record
from data_prep.spec import PrepSpec
from data_prep.token_store import TokenStore, verify_store
from data_prep.tokenizers import load_tokenizer


@pytest.fixture
def spec(tmp_path: Path) -> PrepSpec:
    return prep_inputs.make_spec(tmp_path)


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
    assert (
        reports[-1].done_bytes == reports[-1].total_bytes == sum(f.stat().st_size for f in input_files(spec))
    )
    assert reports[-1].documents == 140


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
    with pytest.raises(DataError, match=r"a\.jsonl: over 256 domains"):
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
        shard = Shard(
            name="00000.npy", tokens=tokens, documents=1, sha256="0" * 64, documents_sha256="1" * 64
        )
        entry = Domain(documents=1, tokens=tokens, bytes=1, lengths=(1,), shards=(shard,))
        return Record(
            path="", plan="", input_bytes=1, modified_ns=None, sha256="", cap=None, truncated=truncated,
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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split_map": (("../x", "train"),)}, "--split-map ../x=train: a split is"),
        ({"split_map": ((".prep", "train"),)}, "a split is 1 to 96 of"),
        ({"split_map": (("manifest.json", "train"),)}, "a split is 1 to 96 of"),
        ({"validation_share": float("nan")}, "--validation-share nan"),
        ({"validation_share": float("inf")}, "--validation-share inf"),
        ({"limit_tokens": 10**30}, "--limit-tokens 1000"),
        ({"domain_from": ""}, "--domain-from: name a field"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_touched(
    spec: PrepSpec, changes: dict[str, Any], says: str
) -> None:
    before = sorted(out(spec).parent.rglob("*"))
    with pytest.raises(UserError, match=says) as caught:
        prepare(replace(spec, **changes))
    assert caught.value.exit_code == 2
    assert sorted(out(spec).parent.rglob("*")) == before


def test_a_preparation_that_yields_nothing_leaves_nothing_and_its_remedy_works(
    spec: PrepSpec, tmp_path: Path
) -> None:
    source = tmp_path / "one"
    rows = [prep_inputs.record(n) for n in range(60)]
    prep_inputs.write(source / "a.jsonl", prep_inputs.json_lines(rows))
    small = replace(spec, inputs=(source,), validation_share=0.0001)
    with pytest.raises(DataError, match=r"hold out more than 0.0001 with --validation-share"):
        prepare(small)
    assert not out(spec).exists()
    prepare(replace(small, validation_share=0.3))
    assert verify_store(out(spec)) == []


def test_links_in_a_circle_are_no_input(spec: PrepSpec, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(DataError, match="loop"):
        prepare(replace(spec, inputs=(loop,)))

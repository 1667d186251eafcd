"""The data benchmark: its peers make what they should, its ratios are what the seconds say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import prep_inputs
import pytest

from data_prep import bench, bench_peers
from data_prep.errors import DataError
from data_prep.pipeline import prepare
from data_prep.spec import PrepSpec
from data_prep.tokenizers import load_tokenizer

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    prep_inputs.slimpajama(root / "in", files=2, documents=12)
    prep_inputs.tokenizer_folder(root / "vocab")
    return root


def _files(root: Path) -> dict[str, list[str]]:
    return {
        split: [str(path) for path in sorted((root / "in" / split).rglob("*.zst"))]
        for split in ("train", "validation")
    }


def test_the_released_procedure_makes_the_same_ids(inputs: Path, tmp_path: Path) -> None:
    vocab = inputs / "vocab"
    tokenizer = load_tokenizer(vocab)
    documents, tokens = bench_peers.released_procedure(
        _files(inputs), tokenizer.as_tiktoken(), tokenizer.info, 1, tmp_path / "peer"
    )
    store = tmp_path / "store"
    spec = PrepSpec(dataset="slimpajama", inputs=(inputs / "in",), out=store, tokenizer=str(vocab), workers=1)
    splits = prepare(spec).manifest.splits
    assert {split: set(domains) for split, domains in splits.items()} == {
        "train": {"arxiv", "c4", "github"},
        "validation": {"arxiv", "c4", "github"},
    }
    for split, domains in splits.items():
        for domain, entry in domains.items():
            theirs = np.fromfile(tmp_path / "peer" / split / f"{domain}.bin", dtype=np.uint16)
            ours = [np.load(store / split / domain / shard.name) for shard in entry.shards]
            assert theirs.tolist() == np.concatenate(ours).tolist()
    # Two files of 12 and one of 6 documents.
    assert (documents, tokens) == (30, sum(d.tokens for s in splits.values() for d in s.values()))


def test_peers_share_the_work_between_processes(inputs: Path, tmp_path: Path) -> None:
    tokenizer, files = load_tokenizer(inputs / "vocab"), _files(inputs)
    every = [path for paths in files.values() for path in paths]
    one = bench_peers.mapped_in_batches(every, tokenizer, 1, tmp_path / "one")
    two = bench_peers.mapped_in_batches(every, tokenizer, 2, tmp_path / "two")
    assert one == two
    assert one[0] == 30


def test_ratios_and_shares_follow_from_the_seconds(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def taking(seconds: list[float]) -> object:
        each = iter(seconds)

        def way(*arguments: object) -> tuple[int, int]:
            nonlocal clock
            clock += next(each)
            if isinstance(arguments[-1], list):
                arguments[-1].append(2)  # processes that a preparation used
            return 30, 900

        return way

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock)
    monkeypatch.setattr(bench, "_ours", taking([1.0, 2.0, 4.0]))
    monkeypatch.setattr(bench, "released_procedure", taking([10.0, 30.0, 48.0]))
    monkeypatch.setattr(bench, "mapped_in_batches", taking([2.0, 3.0, 6.0, 6.0, 8.0, 12.0]))
    monkeypatch.setattr(bench, "_encode_alone", lambda *_: 0.8)
    result = bench.compare_preparations([inputs / "in"], str(inputs / "vocab"), 2, 3, repeat=2)
    ours, released, reference, own = result.ways
    # Rounds: 10/1, 30/2, 48/4 are 10, 15, 12; 2/1, 6/2, 8/4; 3/1, 6/2, 12/4.
    assert [way.ratio for way in (ours, released, reference, own)] == [1, 12, 2, 3]
    assert (released.low, released.high) == (10, 15)
    # The encoder alone takes 0.8 s on one core; two workers take 1, 2 and 4 s: 0.4, 0.2 and 0.1 of it.
    assert result.share_of_encoder == pytest.approx(0.2)
    texts = [str(prep_inputs.record(n)["text"]) for n in (*range(12), *range(1000, 1012))]
    texts += [str(prep_inputs.record(900_000 + n)["text"]) for n in range(6)]
    megabytes = 2 * sum(len(text.encode()) for text in texts) / 1e6
    assert result.encoder_megabytes_per_s == pytest.approx(megabytes / 0.8)
    assert ours.megabytes_per_s == pytest.approx(megabytes / 2)


def test_nothing_to_prepare_is_said(tmp_path: Path, inputs: Path) -> None:
    with pytest.raises(DataError, match=r"no \.jsonl"):
        bench.compare_preparations([tmp_path], str(inputs / "vocab"), 1, 1)


def test_bench_prep_prints_one_document(reweight: Cli, inputs: Path) -> None:
    arguments = ("bench", "prep", "--input", inputs / "in", "--tokenizer", inputs / "vocab", "--json")
    code, out, _ = reweight(*arguments, "--rounds", "1", "--workers", "1")
    assert code == 0
    document = json.loads(out)
    assert [way["name"] for way in document["variants"]] == [
        "reweight prep",
        "released code's procedure",
        "datasets.map, Hugging Face tokenizers",
        "datasets.map, our batch encoder",
    ]
    assert {(way["documents"], way["tokens"]) for way in document["variants"]} == {
        (30, document["variants"][0]["tokens"])
    }
    assert (document["engine"], document["repeat"]) == ("fastokens", 1)
    assert document["share_of_encoder"] > 0

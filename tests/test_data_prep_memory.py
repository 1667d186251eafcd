"""Memory and time at the scale of the paper's corpora: long documents, huge row groups, many files."""

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import prep_inputs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.assembly import state
from data_prep.items import Item
from data_prep.manifest import Domain, Shard
from data_prep.pipeline import prepare
from data_prep.plan import Record, read_plan, record_path, write_plan
from data_prep.shards import ShardWriter, documents_path
from data_prep.sources import open_source
from data_prep.spec import PrepSpec
from data_prep.token_store import TokenStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parent.parent
PARENT_MB, WORKER_MB = 2000 / 1.048576, 300 / 1.048576
"""The promise: peak memory under 2 GB plus 300 MB a worker, whatever the corpus. In units of 2^20 bytes."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a command took."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    """Sum of the peaks of its processes, as the kernel counts them: no less than the peak of the sum."""
    out: str


def _peaks_mb(group: int) -> dict[int, float]:
    """Peak resident memory so far of each process of a group."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rpartition(")")[2].split()[2]) != group:
                continue
            peak = re.search(r"VmHWM:\s+(\d+) kB", (path / "status").read_text())
        except OSError:
            continue
        if peak is not None:
            found[int(path.name)] = int(peak[1]) / 1024
    return found


def measured(*arguments: object) -> Use:
    """Run `reweight` and watch the memory of its process group."""
    started = time.monotonic()
    peaks: dict[int, float] = {}
    process = subprocess.Popen(
        [sys.executable, "-m", "reproduce.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            peaks.update(_peaks_mb(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    ended.set()
    watcher.join()
    assert status == 0, out[-2000:]
    use = Use(
        seconds=time.monotonic() - started,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_mb=sum(peaks.values()),
        out=out,
    )
    print(f"\n{arguments[:2]}: {use.seconds:.1f} s, {use.cpu_seconds:.1f} s of CPU, {use.peak_mb:.0f} MB")
    return use


def prep(root: Path, workers: int) -> Use:
    # Trained, so that a token is as long as usual; bytes as tokens would cost twice the memory of the text.
    source = ("--input", root / "in", "--tokenizer", "bpe:290", "--workers", workers)
    return measured("prep", "local", *source, "--validation-share", "0.1", "--out", root / "store")


def words(size: int, ascii_only: bool) -> str:
    """So many bytes of text in lines of words."""
    vocabulary = ["the", "of", "state", "weights", "loss\n", "a", "in", "42", "x=1;", "differently"]
    if not ascii_only:
        vocabulary = ["東京", "состояние", "naïve", "κόσμος", "🙂", "نص", "中文文本。", "loss\n"]
    rng = random.Random(size)
    block = " ".join(rng.choices(vocabulary, k=100_000)) + " "
    return block * (size // len(block.encode()) + 1)


@pytest.mark.parametrize("kind", ["ascii", "one odd character", "scripts"])
def test_a_document_of_200_megabytes(tmp_path: Path, kind: str) -> None:
    text = words(200_000_000, kind != "scripts")
    if kind == "one odd character":
        text += "🙂"  # makes Python hold every character in four bytes
    path = tmp_path / "in/train/x/a.jsonl.zst"
    path.parent.mkdir(parents=True)
    small = json.dumps({"text": "small"}).encode() + b"\n"
    with path.open("wb") as raw, zstandard.ZstdCompressor(level=1).stream_writer(raw) as stream:
        stream.write(small)
        stream.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
        stream.write(small * 50)
    prep_inputs.write(tmp_path / "in/validation/x/v.jsonl", small)
    use = prep(tmp_path, workers=1)
    # JSON of one character above U+FFFF and many escapes is held at 4 + 4 + 2 bytes a character at once: 8 %
    # above the promise, which is for any other.
    assert use.peak_mb < (PARENT_MB + WORKER_MB) * (1.08 if kind == "one odd character" else 1.0)
    store = TokenStore.open(tmp_path / "store")
    assert store.manifest.splits["train"]["x"].documents == 52
    assert store.manifest.splits["train"]["x"].bytes == len(text.encode()) + 51 * len("small")


def test_a_parquet_file_of_one_huge_row_group(tmp_path: Path) -> None:
    rows, text = 250_000, words(4000, True)[:4500]
    path = tmp_path / "in/train/x/a.parquet"
    path.parent.mkdir(parents=True)
    schema = pa.schema([("text", pa.string()), ("id", pa.string())])
    column = pa.array([f"{n} {text[n % 97 :]}" for n in range(rows)])
    table = pa.table({"text": column, "id": pa.array([str(n) for n in range(rows)])}, schema=schema)
    pq.write_table(table, path, row_group_size=rows, compression="zstd", use_dictionary=False)
    assert pq.ParquetFile(path).metadata.num_row_groups == 1
    assert pq.ParquetFile(path).metadata.row_group(0).total_byte_size > 1_000_000_000
    del table, column
    use = prep(tmp_path, workers=1)
    # Streamed page by page: nothing near the size of the row group.
    assert use.peak_mb < 700


TRAIN, VALIDATION = 60_000, 6_000
DOMAINS = ("arxiv", "book", "c4", "cc", "github", "stackexchange", "wikipedia")


def item_folders(root: Path) -> Iterator[Path]:
    """The input files of a corpus as large as SlimPajama-627B, all empty."""
    for split, count in (("train", TRAIN), ("validation", VALIDATION)):
        for number in range(count):
            yield root / f"{split}/chunk{number % 10}/example_{split}_{number}.jsonl.zst"


def many_files(root: Path) -> None:
    """A preparation in which every file of such a corpus is done, through the library's own writers."""
    for path in item_folders(root / "in"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    vocab = prep_inputs.tokenizer_folder(root / "vocab")
    first = root / "first"
    prep_inputs.write(first / "train/a.jsonl", prep_inputs.json_lines([prep_inputs.record(0)]))
    prep_inputs.write(first / "validation/a.jsonl", (first / "train/a.jsonl").read_bytes())
    spec = PrepSpec(
        dataset="slimpajama-627b", inputs=(first,), out=root / "store", tokenizer=str(vocab), workers=1
    )
    prepare(spec)
    store = root / "store"
    plan = read_plan(store)
    assert plan is not None
    (store / "manifest.json").unlink()
    spec = replace(spec, inputs=(root / "in",))
    source = open_source(spec, root / "none")
    plan = replace(plan, items=source.items)
    write_plan(store, plan, spec)
    templates = [_template(root / f"template/{n:05d}.npy", n) for n in range(20)]
    for number, item in enumerate(plan.items):
        _commit(store, plan.key, item, source.locate(item), templates[number % 20])


def _template(path: Path, number: int) -> tuple[Path, Shard, tuple[int, ...]]:
    """One finished shard; hard links to it stand for all others, up to 65,000 each."""
    writer = ShardWriter(path, "uint16")
    lengths = np.array([2**n for n in range(17)], dtype=np.int64)
    texts = list(range(17 * number, 17 * number + 17))
    writer.append(np.zeros(int(lengths.sum()), dtype=np.uint16), lengths, texts)
    shard = writer.finish()
    writer.place()
    return path, shard, writer.lengths


def _commit(
    store: Path, key: str, item: Item, located: Path | None, template: tuple[Path, Shard, tuple[int, ...]]
) -> None:
    path, shard, lengths = template
    named = replace(shard, name=f"{item.index:05d}.npy")
    for domain in DOMAINS:
        target = store / item.split / domain / named.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        documents_path(target).unlink(missing_ok=True)
        os.link(path, target)
        os.link(documents_path(path), documents_path(target))
    entry = Domain(
        documents=shard.documents,
        tokens=shard.tokens,
        bytes=4 * shard.tokens,
        longest=1 << 16,
        lengths=lengths,
        shards=(named,),
    )
    record = Record(
        path=item.path,
        plan=key,
        input_bytes=0,
        modified_ns=located.stat().st_mtime_ns if located else None,
        sha256="0" * 64,
        cap=None,
        truncated=False,
        domains={item.split: dict.fromkeys(DOMAINS, entry)},
    )
    record_path(store, item).write_text(json.dumps(asdict(record)) + "\n")


def test_a_corpus_of_66_thousand_files(tmp_path: Path) -> None:
    many_files(tmp_path)
    store = tmp_path / "store"
    source = ("--input", tmp_path / "in", "--tokenizer", tmp_path / "vocab", "--workers", "2")
    command = ("prep", "slimpajama-627b", *source, "--out", store)
    uses = {"finish": measured(*command), "rerun": measured(*command)}
    uses["merge"] = measured("prep", "--merge", store)
    uses["stat"] = measured("prep", "--stat", store)
    assert "already complete" in uses["rerun"].out
    started = time.monotonic()
    opened = TokenStore.open(store)
    print(f"\nTokenStore.open: {time.monotonic() - started:.1f} s")
    shards = [len(domain.shards) for s in opened.manifest.splits.values() for domain in s.values()]
    assert sum(shards) == (TRAIN + VALIDATION) * len(DOMAINS)
    for what, use in uses.items():
        assert use.peak_mb < PARENT_MB, what
    assert uses["rerun"].cpu_seconds < 300
    # A bound makes each round of the work look at all files again.
    plan = read_plan(store)
    assert plan is not None
    started = time.monotonic()
    state(plan.items, {}, 10**12, 2)
    assert time.monotonic() - started < 5

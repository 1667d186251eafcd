"""What preparing data costs: `prepare` against other ways with the same vocabulary on the same input.

Three peers: the released code's procedure; `datasets.map` with Hugging Face's tokenizers; and `datasets.map`
around our own batch-encode call, which leaves only the pipelines to differ. In the same rounds the encoder
alone is timed on one core, on texts in memory: what the whole preparation cannot exceed.
"""

import pickle
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.bench_peers import Counts, mapped_in_batches, released_procedure
from data_prep.errors import DataError
from data_prep.items import split_of
from data_prep.pipeline import prepare
from data_prep.readers import Meter, kind_of, read_rows
from data_prep.spec import PrepSpec
from data_prep.tokenizers import Tokenizer, load_tokenizer
from data_prep.units import BATCH_CHARACTERS, BATCH_DOCUMENTS
from data_prep.workers import available_cores

OURS = "reweight prep"
RELEASED = "released code's procedure"


@dataclass(frozen=True, kw_only=True)
class PrepTiming:
    """One way of preparing the input."""

    name: str
    megabytes_per_s: float
    """Median over the rounds, 10^6 bytes of UTF-8 text a second, reading and writing included."""
    ratio: float
    """Median over the rounds of the seconds it took over ours in the same round."""
    low: float
    high: float
    """Smallest and largest ratio of a round."""
    documents: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class PrepComparison:
    """All that was measured."""

    ways: tuple[PrepTiming, ...]
    """Ours first."""
    engine: str
    """Library that encodes."""
    encoder_megabytes_per_s: float
    """Median over the rounds, the encoder alone on one core with the texts in memory."""
    share_of_encoder: float
    """Median over the rounds of our speed a worker over the encoder's in the same round."""


@dataclass(kw_only=True)
class _Input:
    """The files that every way reads."""

    folder: Path
    files: dict[str, list[str]]
    """Split -> paths."""
    batches: list[list[str]]
    """Their texts, in the batches that a preparation encodes."""
    text_bytes: int


def compare_preparations(
    inputs: Sequence[Path],
    tokenizer: str,
    workers: int | None,
    rounds: int,
    advance: Callable[[int], None] | None = None,
    repeat: int = 1,
) -> PrepComparison:
    """Prepare SlimPajama-layout files in every way, alternated, every time from nothing.

    `workers` None leaves it to the preparation, and gives its peers one a core. `repeat` gives every way
    that many copies of the input, so that starting weighs less.

    Raises:
        DataError: no .jsonl or .jsonl.zst file below `inputs`, or not in SlimPajama's layout.
    """
    encoder = load_tokenizer(tokenizer)
    with tempfile.TemporaryDirectory(prefix="reweight-bench-") as scratch:
        given = _copied(inputs, Path(scratch) / "input", repeat)
        used: list[int] = []
        ways = _ways(given, tokenizer, encoder, workers, used)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        counts: dict[str, Counts] = {}
        alone: list[float] = []
        for done in range(rounds):
            for name, way in ways.items():
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    start = time.perf_counter()
                    counts[name] = way(Path(folder))
                    seconds[name].append(time.perf_counter() - start)
            alone.append(_encode_alone(encoder, given.batches))
            if advance is not None:
                advance(done + 1)
    return PrepComparison(
        ways=tuple(_timing(name, seconds, counts, given.text_bytes) for name in ways),
        engine=encoder.engine,
        encoder_megabytes_per_s=given.text_bytes / 1e6 / statistics.median(alone),
        share_of_encoder=statistics.median(
            own / ours / busy for own, ours, busy in zip(alone, seconds[OURS], used, strict=True)
        ),
    )


def _ways(
    given: _Input, tokenizer: str, encoder: Tokenizer, workers: int | None, used: list[int]
) -> Mapping[str, Callable[[Path], Counts]]:
    import datasets  # noqa: F401 - a second that should not be counted against the peers

    every = [path for paths in given.files.values() for path in paths]
    ways: dict[str, Callable[[Path], Counts]] = {
        OURS: lambda folder: _ours(given.folder, tokenizer, workers, folder, used)
    }
    each = workers or available_cores()
    encoding = encoder.as_tiktoken()
    if encoding is not None:
        ways[RELEASED] = lambda folder: released_procedure(given.files, encoding, encoder.info, each, folder)
    return ways | {
        "datasets.map, Hugging Face tokenizers": lambda folder: mapped_in_batches(
            every, encoder.reference(), each, folder
        ),
        "datasets.map, our batch encoder": lambda folder: mapped_in_batches(every, encoder, each, folder),
    }


def _timing(
    name: str, seconds: Mapping[str, list[float]], counts: Mapping[str, Counts], text_bytes: int
) -> PrepTiming:
    documents, tokens = counts[name]
    ratios = [own / ours for own, ours in zip(seconds[name], seconds[OURS], strict=True)]
    return PrepTiming(
        name=name,
        megabytes_per_s=text_bytes / 1e6 / statistics.median(seconds[name]),
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        documents=documents,
        tokens=tokens,
    )


def _copied(inputs: Sequence[Path], folder: Path, repeat: int) -> _Input:
    """The input's files below `folder`, `repeat` times, and their texts."""
    found = [
        (path, Path(f"{number:03d}") / (path.name if root.is_file() else path.relative_to(root)))
        for number, root in enumerate(inputs)
        for path in ([root] if root.is_file() else sorted(root.rglob("*.jsonl*")))
        if path.name.endswith((".jsonl", ".jsonl.zst"))
    ]
    if not found:
        raise DataError(
            f"no .jsonl or .jsonl.zst file in {', '.join(map(str, inputs))}; name one with --input"
        )
    files: dict[str, list[str]] = {}
    for number in range(repeat):
        for path, relative in found:
            copy = folder / f"{number:03d}" / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            files.setdefault(split_of(relative.as_posix()) or "train", []).append(str(copy))
    batches = _batches([path for path, _ in found])
    text_bytes = sum(len(text.encode()) for batch in batches for text in batch)
    return _Input(folder=folder, files=files, batches=batches * repeat, text_bytes=text_bytes * repeat)


def _batches(paths: Sequence[Path]) -> list[list[str]]:
    batches: list[list[str]] = [[]]
    size = 0
    for path in paths:
        kind = kind_of(path.name)
        if kind is None:
            raise AssertionError(f"{path} was chosen by its name")
        for _, row in read_rows(path, kind, ("text",), Meter()):
            text = row.get("text")
            if not isinstance(text, str):
                continue
            if size >= BATCH_CHARACTERS or len(batches[-1]) >= BATCH_DOCUMENTS:
                batches.append([])
                size = 0
            batches[-1].append(text)
            size += len(text)
    return batches


def _encode_alone(encoder: Tokenizer, batches: Sequence[Sequence[str]]) -> float:
    """Seconds to encode every batch with a new engine, whose building is not counted."""
    fresh: Tokenizer = pickle.loads(pickle.dumps(encoder))
    fresh.encode_flat(["An engine sets itself up on its first text."])
    start = time.perf_counter()
    for batch in batches:
        fresh.encode_flat(batch)
    return time.perf_counter() - start


def _ours(folder: Path, tokenizer: str, workers: int | None, scratch: Path, used: list[int]) -> Counts:
    store = scratch / "store"
    spec = PrepSpec(dataset="slimpajama", inputs=(folder,), out=store, tokenizer=tokenizer, workers=workers)
    prepared = prepare(spec)
    used.append(prepared.workers)
    domains = [domain for split in prepared.manifest.splits.values() for domain in split.values()]
    return sum(d.documents for d in domains), sum(d.tokens for d in domains)

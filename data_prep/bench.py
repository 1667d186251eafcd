"""What preparing data costs: `prepare` against `datasets.map` with the same vocabulary on the same input.

Two peers: `datasets.map` with Hugging Face's tokenizers, which is what the released code and most others do,
and `datasets.map` around our own batch-encode call, which leaves only the pipelines to differ.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.pipeline import prepare
from data_prep.spec import PrepSpec
from data_prep.tokenizers import Tokenizer, load_tokenizer

OURS = "reweight prep"


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


def compare_preparations(
    inputs: Sequence[Path],
    tokenizer: str,
    workers: int,
    rounds: int,
    advance: Callable[[int], None] | None = None,
) -> list[PrepTiming]:
    """Prepare SlimPajama-layout files in three ways, alternated, every time from nothing.

    Raises:
        DataError: no .jsonl or .jsonl.zst file below `inputs`.
    """
    files = _json_files(inputs)
    encoder = load_tokenizer(tokenizer)
    ways: dict[str, Callable[[Path], tuple[int, int, int]]] = {
        OURS: lambda folder: _ours(inputs, tokenizer, workers, folder),
        "datasets.map, Hugging Face tokenizers": lambda folder: _mapped(
            files, encoder.reference(), workers, folder
        ),
        "datasets.map, our batch encoder": lambda folder: _mapped(files, encoder, workers, folder),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    counts = {}
    for done in range(rounds):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory(prefix="reweight-bench-") as scratch:
                start = time.perf_counter()
                counts[name] = way(Path(scratch))
                seconds[name].append(time.perf_counter() - start)
        if advance is not None:
            advance(done + 1)
    return [_timing(name, seconds, counts) for name in ways]


def _timing(
    name: str, seconds: dict[str, list[float]], counts: dict[str, tuple[int, int, int]]
) -> PrepTiming:
    documents, tokens, _ = counts[name]
    text_bytes = counts[OURS][2]
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


def _json_files(inputs: Sequence[Path]) -> list[str]:
    files = [
        path
        for root in inputs
        for path in ([root] if root.is_file() else sorted(root.rglob("*.jsonl*")))
        if path.name.endswith((".jsonl", ".jsonl.zst"))
    ]
    if not files:
        raise DataError(
            f"no .jsonl or .jsonl.zst file in {', '.join(map(str, inputs))}; name one with --input"
        )
    return [str(path) for path in files]


def _ours(inputs: Sequence[Path], tokenizer: str, workers: int, folder: Path) -> tuple[int, int, int]:
    """Documents, tokens and bytes of text of a store made in `folder`."""
    spec = PrepSpec(
        dataset="slimpajama",
        inputs=tuple(inputs),
        out=folder / "store",
        tokenizer=tokenizer,
        workers=workers,
    )
    domains = [domain for split in prepare(spec).manifest.splits.values() for domain in split.values()]
    return (
        sum(d.documents for d in domains),
        sum(d.tokens for d in domains),
        sum(d.bytes for d in domains),
    )


def _mapped(files: Sequence[str], tokenizer: Tokenizer, workers: int, folder: Path) -> tuple[int, int, int]:
    import datasets

    datasets.disable_progress_bars()
    end = tokenizer.info.end_of_text
    with contextlib.redirect_stderr(None):
        rows: Any = datasets.load_dataset(
            "json", data_files=list(files), split="train", cache_dir=str(folder)
        )
        mapped: Any = rows.map(
            _encode,
            batched=True,
            batch_size=1000,
            num_proc=workers,
            remove_columns=rows.column_names,
            fn_kwargs={"tokenizer": tokenizer, "end_of_text": end},
        )
    return len(mapped), sum(mapped["length"]), 0


def _encode(batch: dict[str, list[Any]], tokenizer: Tokenizer, end_of_text: int) -> dict[str, list[Any]]:
    ids = [[*document.tolist(), end_of_text] for document in tokenizer.encode_batch(batch["text"])]
    return {"ids": ids, "length": [len(document) for document in ids]}

"""What `reweight bench prep` compares with: other ways to prepare the same files, from nothing.

Each returns how many documents and tokens it made.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.documents import SLIMPAJAMA_DOMAINS
from data_prep.manifest import TokenizerInfo
from data_prep.tokenizers import Tokenizer

Counts = tuple[int, int]


def released_procedure(
    files: Mapping[str, Sequence[str]],
    encoding: Any,
    tokenizer: TokenizerInfo,
    workers: int,
    folder: Path,
) -> Counts:
    """The released code's way: for each split and domain, filter every row, map tiktoken, concatenate.

    `files` are jsonl or jsonl.zst, by split; `encoding` is a tiktoken.Encoding. Writes <split>/<domain>.bin,
    ids one after the other, as in the memory-mapped files that its loader reads. Rows are filtered and
    tokenized one at a time, as there.
    """
    import datasets

    end = tokenizer.end_of_text
    documents = tokens = 0
    with _quiet():
        rows: Any = datasets.load_dataset("json", data_files=dict(files), cache_dir=str(folder / "cache"))
        for split in rows:
            for name, domain in SLIMPAJAMA_DOMAINS.items():
                part = rows[split].filter(lambda row, name=name: row["meta"]["redpajama_set_name"] == name)
                if len(part) == 0:
                    continue
                mapped = part.map(
                    _encode_one,
                    num_proc=_processes(workers, len(part)),
                    remove_columns=part.column_names,
                    fn_kwargs={"encoding": encoding, "end_of_text": end},
                    # Spares it hashing the vocabulary, which the released code's global does not cost.
                    new_fingerprint=f"{split}{domain}",
                )
                documents += len(mapped)
                tokens += _concatenate(mapped, folder / split / f"{domain}.bin", tokenizer.dtype)
    return documents, tokens


def _encode_one(row: dict[str, Any], encoding: Any, end_of_text: int) -> dict[str, Any]:
    ids = encoding.encode_ordinary(row["text"])
    ids.append(end_of_text)
    return {"ids": ids, "len": len(ids)}


def _concatenate(rows: Any, path: Path, dtype: str) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    size, done, parts = int(sum(rows["len"])), 0, min(1024, len(rows))
    out = np.memmap(path, dtype=dtype, mode="w+", shape=(size,))
    for index in range(parts):
        part = rows.shard(num_shards=parts, index=index, contiguous=True).with_format("numpy")
        ids = np.concatenate(part["ids"])
        out[done : done + len(ids)] = ids
        done += len(ids)
    out.flush()
    return size


def mapped_in_batches(files: Sequence[str], tokenizer: Tokenizer, workers: int, folder: Path) -> Counts:
    """`datasets.map` over batches of a thousand rows, without routing to domains."""
    import datasets

    with _quiet():
        rows: Any = datasets.load_dataset(
            "json", data_files=list(files), split="train", cache_dir=str(folder)
        )
        mapped: Any = rows.map(
            _encode_batch,
            batched=True,
            batch_size=1000,
            num_proc=_processes(workers, len(rows)),
            remove_columns=rows.column_names,
            fn_kwargs={"tokenizer": tokenizer, "end_of_text": tokenizer.end_of_text},
        )
    return len(mapped), sum(mapped["length"])


def _encode_batch(batch: dict[str, list[Any]], tokenizer: Tokenizer, end_of_text: int) -> dict[str, Any]:
    ids = [[*document.tolist(), end_of_text] for document in tokenizer.encode_batch(batch["text"])]
    return {"ids": ids, "length": [len(document) for document in ids]}


def _processes(workers: int, rows: int) -> int | None:
    return min(workers, rows) if workers > 1 and rows > 1 else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import datasets

    datasets.disable_progress_bars()
    with contextlib.redirect_stderr(None):
        yield

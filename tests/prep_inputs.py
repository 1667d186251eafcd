"""Tiny inputs for the tests of data preparation: a SlimPajama folder, a tokenizer folder."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from data_prep.bpe import byte_alphabet
from data_prep.spec import PrepSpec

SETS = ("RedPajamaArXiv", "RedPajamaC4", "RedPajamaGithub")
WORDS = ("the", "of", "state", "weight", "loss", "a", "in", "42", "x=1;", "naïve", "東京", "def", "🙂\n\n")


def record(number: int, set_name: str | None = None) -> dict[str, object]:
    """A SlimPajama record whose text is fixed by its number."""
    rng = random.Random(number)
    text = " ".join(rng.choices(WORDS, k=rng.randint(5, 60)))
    return {"text": text, "meta": {"redpajama_set_name": set_name or SETS[number % len(SETS)]}}


def json_lines(records: Sequence[Mapping[str, object]]) -> bytes:
    """The records as jsonl."""
    return b"".join(json.dumps(r, ensure_ascii=False).encode("utf-8") + b"\n" for r in records)


def write(path: Path, data: bytes) -> Path:
    """Write a file, making its folder; .zst names are compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zstandard.compress(data) if path.suffix == ".zst" else data)
    return path


def slimpajama(root: Path, files: int = 3, documents: int = 40) -> Path:
    """A folder in the layout of SlimPajama-627B: `files` training files and one of validation."""
    for index in range(files):
        rows = [record(1000 * index + n) for n in range(documents)]
        write(root / f"train/chunk1/example_train_{index}.jsonl.zst", json_lines(rows))
    rows = [record(900_000 + n) for n in range(documents // 2)]
    write(root / "validation/chunk1/example_holdout_0.jsonl.zst", json_lines(rows))
    return root


def parquet(path: Path, columns: Mapping[str, list[object]], row_group_size: int = 8) -> Path:
    """Write a parquet file with several row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, row_group_size=row_group_size)
    return path


MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "a"), ("o", "f"), ("Ġ", "of"), ("i", "n"), ("Ġ", "in"))
"""A hand-made merge list; ids follow the 256 bytes in this order, end-of-text is the last, 264."""


def tokenizer_folder(root: Path, vocab: str = "encoder.json", merges: str = "vocab.bpe") -> Path:
    """A folder with a GPT-2 style byte-level BPE of 265 ids."""
    tokens = [*byte_alphabet(), *(a + b for a, b in MERGES), "<|endoftext|>"]
    root.mkdir(parents=True, exist_ok=True)
    (root / vocab).write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (root / merges).write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES), encoding="utf-8")
    return root


def make_spec(root: Path) -> PrepSpec:
    """A preparation of the tiny SlimPajama with the hand-made tokenizer, in this process."""
    folder = tokenizer_folder(root / "vocab")
    inputs = (slimpajama(root / "in"),)
    return PrepSpec(dataset="slimpajama", inputs=inputs, out=root / "store", tokenizer=str(folder), workers=1)


def out(spec: PrepSpec) -> Path:
    """The store's folder."""
    assert spec.out is not None
    return spec.out


def everything(store: Path) -> dict[str, bytes]:
    """Every file of a store but its work records."""
    return {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file() and ".prep" not in path.parts
    }


def input_files(spec: PrepSpec) -> list[Path]:
    """Every input file."""
    return [path for path in spec.inputs[0].rglob("*") if path.is_file()]

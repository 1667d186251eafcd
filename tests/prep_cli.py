"""Inputs, outputs and error lines of `reweight prep`, for the tests that give it what is bad.

The fixtures for it, `prep`, `vocab` and `no_sync`, are in conftest.py.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import prep_inputs

from data_prep.token_store import TokenStore

Cli = Callable[..., tuple[int, str, str]]
GOOD = b'{"text": "one good document"}\n' * 3


def fill(root: Path, name: str = "train/x/a.jsonl", data: bytes = GOOD) -> None:
    """An input folder of one training and one validation file."""
    prep_inputs.write(root / "validation/x/v.jsonl", GOOD)
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def one_line(err: str, *says: str) -> None:
    """One line, no traceback, that says what it must."""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("reweight: "), err
    assert len(lines[0]) < 1300, err
    for each in says:
        assert each in lines[0], err


def tiny(rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)  # type: ignore[attr-defined]


def decoded(store: Path, split: str = "train", domain: str = "x") -> list[str]:
    """The texts of a domain, back from its ids."""
    import tokenizers

    opened = TokenStore.open(store)
    tokenizer = tokenizers.Tokenizer.from_file(str(store / "tokenizer.json"))
    ids = opened.read_windows(split, domain, np.arange(opened.tokens(split, domain)), 1).ravel().tolist()
    starts = [*opened.document_starts(split, domain).tolist(), len(ids)]
    end = opened.manifest.tokenizer.end_of_text
    assert all(ids[stop - 1] == end for stop in starts[1:])
    return [
        tokenizer.decode(ids[start : stop - 1], skip_special_tokens=False)
        for start, stop in itertools.pairwise(starts)
    ]

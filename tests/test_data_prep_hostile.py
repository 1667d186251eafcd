"""Lines and files that `reweight prep` takes, or refuses in one line with nothing half-written."""

import gzip
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import prep_inputs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from prep_cli import GOOD, Cli, decoded, fill, one_line, tiny
from prep_inputs import everything

from data_prep.token_store import TokenStore, verify_store

pytestmark = pytest.mark.usefixtures("no_sync")


REFUSED_LINES: dict[str, tuple[bytes, str]] = {
    "a number": (b'{"text": 3}\n', "line 1: 'text' is int, not a string"),
    "a list": (b'{"text": ["a"]}\n', "line 1: 'text' is list, not a string"),
    "true": (b'{"text": true}\n', "line 1: 'text' is bool, not a string"),
    "a NaN": (b'{"text": NaN}\n', "line 1: 'text' is float, not a string"),
    "1e400": (b'{"text": 1e400}\n', "line 1: 'text' is float, not a string"),
    "a number of 5000 digits": (b'{"text": ' + b"9" * 5000 + b"}\n", "line 1: not JSON"),
    "half a surrogate pair": (
        GOOD + b'{"text": "a\\ud800b"}\n',
        "line 4: 'text' holds half a surrogate pair",
    ),
    "invalid UTF-8": (GOOD + b'{"text": "a\xff"}\n', "line 4: invalid UTF-8 at byte"),
    "an overlong UTF-8 form": (b'{"text": "\xc0\xaf"}\n', "line 1: invalid UTF-8 at byte"),
    "UTF-16": ('{"text": "a"}\n'.encode("utf-16"), "line 1: invalid UTF-8 at byte 0"),
    "deep nesting": (b'{"text": "a", "x": ' + b"[" * 200_000 + b"}\n", "line 1: not JSON"),
    "deep nesting, closed": (b'{"x": ' + b'{"a":' * 99_999 + b"1" + b"}" * 99_999 + b"}\n", "line 1: "),
    "a cut line": (GOOD + b'{"text": "a', "line 4: not JSON"),
    "a control character": (b'{"text": "a\x01b"}\n', "line 1: not JSON"),
    "a list of records": (b'[{"text": "a"}]\n', "line 1: not a JSON object but list"),
    "a column renamed": (
        b'{"content": "a"}\n',
        "no field 'text' for the text (it has content); name another",
    ),
    "an empty file": (b"", "empty file"),
    "NULs": (b"\0" * 100, "line 1: not JSON"),
    "a parquet file": (b"PAR1" + bytes(range(256)), "line 1: "),
}


@pytest.mark.parametrize("name", REFUSED_LINES)
def test_a_line_that_is_refused(prep: Cli, tmp_path: Path, name: str) -> None:
    data, says = REFUSED_LINES[name]
    fill(tmp_path / "in", data=data)
    code, shown, err = prep()
    assert (code, shown) == (3, "")
    one_line(err, str(tmp_path / "in/train/x/a.jsonl"), says)
    # The validation file is good and committed; of the bad one there is nothing, and no store.
    assert not list((tmp_path / "store").rglob("*.tmp"))
    assert not (tmp_path / "store/manifest.json").exists()
    # Mended, the same command ends as if nothing had been.
    (tmp_path / "in/train/x/a.jsonl").write_bytes(GOOD)
    assert prep()[0] == 0
    mended = everything(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    assert prep()[0] == 0
    assert everything(tmp_path / "store") == mended


TAKEN_LINES: dict[str, tuple[bytes, list[str]]] = {
    "a byte order mark": (b"\xef\xbb\xbf" + b'{"text": "a"}\n', ["a"]),
    "CRLF": (b'{"text": "a"}\r\n{"text": "b"}\r\n', ["a", "b"]),
    "blank lines": (b'\n  \n{"text": "a"}\n\n', ["a"]),
    "no newline at the end": (b'{"text": "a"}', ["a"]),
    "one key twice": (b'{"text": 1, "text": "b"}\n', ["b"]),
    "NaN elsewhere": (b'{"text": "a", "x": NaN, "y": -Infinity, "z": 1e400}\n', ["a"]),
    "an empty text": (b'{"text": ""}\n{"text": "a"}\n', ["", "a"]),
    "a null text": (b'{"text": null}\n{"text": "a"}\n', ["a"]),
    "a NUL in the text": (b'{"text": "a\\u0000b"}\n', ["a\0b"]),
    "line separators": ('{"text": "a\u2028b\u0085c"}\n'.encode(), ["a\u2028b\u0085c"]),
    "a surrogate pair": (b'{"text": "\\ud83d\\ude42"}\n', ["\U0001f642"]),
    "an empty key": (b'{"": 1, "text": "a"}\n', ["a"]),
}


@pytest.mark.parametrize("name", TAKEN_LINES)
def test_an_odd_line_that_is_taken(prep: Cli, tmp_path: Path, name: str) -> None:
    data, texts = TAKEN_LINES[name]
    fill(tmp_path / "in", data=data)
    code, _, err = prep()
    assert code == 0, err
    assert decoded(tmp_path / "store") == texts


def test_the_end_of_text_string_in_a_document_is_ordinary_text(prep: Cli, tmp_path: Path) -> None:
    texts = ["a<|endoftext|>b", "<|endoftext|>", "<|endoftext|><|endoftext|>", "<|endof", "text|>", "</s>"]
    fill(tmp_path / "in", data=tiny([{"text": text} for text in texts]))
    assert prep()[0] == 0
    store = TokenStore.open(tmp_path / "store")
    ids = store.read_windows("train", "x", np.arange(store.tokens("train", "x")), 1).ravel()
    # One end-of-text id a document, and no other.
    assert np.count_nonzero(ids == store.manifest.tokenizer.end_of_text) == len(texts)
    assert decoded(tmp_path / "store") == texts


def _parquet(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=50)
    return path


def _damaged_group(path: Path) -> None:
    _parquet(path, text=[os.urandom(40).hex() for _ in range(200)])
    about = pq.ParquetFile(path).metadata.row_group(2).column(0)
    data = bytearray(path.read_bytes())
    start = about.dictionary_page_offset or about.data_page_offset
    for place in range(start + 100, start + 140):
        data[place] ^= 0x5A
    path.write_bytes(data)


REFUSED_FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a corrupt row group": ("a.parquet", _damaged_group, "row group 2: corrupt parquet"),
    "no row group": (
        "a.parquet",
        lambda p: pq.write_table(pa.table({"x": [1]}), p),
        "no column 'text'; it has x",
    ),
    "a column of numbers": ("a.parquet", lambda p: _parquet(p, text=[1, 2]), "row 0: 'text' is int"),
    "a column of bytes": ("a.parquet", lambda p: _parquet(p, text=[b"\xff"]), "row 0: 'text' is bytes"),
    "a column of lists": ("a.parquet", lambda p: _parquet(p, text=[["a"]]), "row 0: 'text' is list"),
    "text renamed upstream": (
        "a.parquet",
        lambda p: _parquet(p, content=["a"], id=[1]),
        "no column 'text'; it has content, id; name the text's column with --text-from",
    ),
    "a parquet of text": ("a.parquet", lambda p: p.write_bytes(b"hello" * 100), "corrupt parquet"),
    "a parquet of two magic words": ("a.parquet", lambda p: p.write_bytes(b"PAR1PAR1"), "corrupt parquet"),
    "a parquet of no length": ("a.parquet", lambda p: p.write_bytes(b""), "empty file"),
    "a zst of text": ("a.jsonl.zst", lambda p: p.write_bytes(GOOD), "corrupt zstd data before byte"),
    "a cut zst": ("a.jsonl.zst", lambda p: p.write_bytes(zstandard.compress(GOOD)[:-4]), "a.jsonl.zst: "),
    "rubbish after a zst": (
        "a.jsonl.zst",
        lambda p: p.write_bytes(zstandard.compress(GOOD) + b"rubbish"),
        "a.jsonl.zst: ",
    ),
    "a gzip of text": ("a.jsonl.gz", lambda p: p.write_bytes(GOOD), "corrupt gzip data"),
    "a cut gzip": ("a.jsonl.gz", lambda p: p.write_bytes(gzip.compress(GOOD)[:-9]), "it is cut off"),
    "a gzip with a wrong checksum": (
        "a.jsonl.gz",
        lambda p: p.write_bytes(gzip.compress(GOOD)[:-8] + bytes(4) + gzip.compress(GOOD)[-4:]),
        "corrupt gzip data",
    ),
    "invalid UTF-8 in a text": ("a.txt", lambda p: p.write_bytes(b"one\ntwo\xff"), "line 2: invalid UTF-8"),
}


@pytest.mark.parametrize("name", REFUSED_FILES)
def test_a_file_that_is_refused(prep: Cli, tmp_path: Path, name: str) -> None:
    file, make, says = REFUSED_FILES[name]
    fill(tmp_path / "in")
    path = tmp_path / "in/train/x" / file
    make(path)
    code, shown, err = prep()
    assert (code, shown) == (3, "")
    one_line(err, str(path), says)
    assert not list((tmp_path / "store").rglob("*.tmp"))
    assert not (tmp_path / "store/manifest.json").exists()


@pytest.mark.parametrize("length", [*range((1 << 20) - 40, (1 << 20) + 4), (3 << 20) - 18])
def test_gzip_whose_text_ends_with_a_block(tmp_path: Path, length: int) -> None:
    from data_prep.readers import Meter, read_rows

    # The decompressor is asked for 1 MiB at a time: 14 bytes of JSON and its newline around the text.
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"text": "a" * length}).encode() + b"\n", mtime=0))
    rows = [row["text"] for _, row in read_rows(path, "jsonl.gz", ("text",), Meter())]
    assert [len(text) for text in rows] == [length]


def _fifo(root: Path) -> None:
    os.mkfifo(root / "train/x/b.jsonl")


def _socket(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as each:
        here = Path.cwd()
        os.chdir(root)  # a socket's path has 107 bytes at most
        each.bind("train/x/b.jsonl")
        os.chdir(here)


def _loop(root: Path) -> None:
    (root / "train/x/loop").symlink_to(root)
    (root / "train/x/b.jsonl").symlink_to("b.jsonl")
    (root / "train/x/gone.jsonl").symlink_to("nowhere.jsonl")


def _folder(root: Path) -> None:
    (root / "train/x/b.jsonl").mkdir()


def _hidden(root: Path) -> None:
    prep_inputs.write(root / "train/x/.b.jsonl", b"not ours")
    prep_inputs.write(root / ".cache/b.jsonl", b"not ours")


@pytest.mark.parametrize("make", [_fifo, _socket, _loop, _folder, _hidden])
def test_what_is_no_file_is_no_input(prep: Cli, tmp_path: Path, make: Callable[[Path], None]) -> None:
    fill(tmp_path / "in")
    make(tmp_path / "in")
    code, _, err = prep()
    assert code == 0, err
    assert decoded(tmp_path / "store") == ["one good document"] * 3
    assert len(TokenStore.open(tmp_path / "store").manifest.source.inputs) == 2


@pytest.mark.parametrize("name", ["fifo.jsonl", "null.jsonl"])
def test_an_input_that_is_no_file(reweight: Cli, tmp_path: Path, vocab: Path, name: str) -> None:
    path = tmp_path / name
    if name == "fifo.jsonl":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    code, shown, err = reweight(
        "prep", "local", "--input", path, "--tokenizer", vocab, "--out", tmp_path / "store"
    )
    assert (code, shown) == (3, "")
    one_line(err, name)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("change", ["grow", "shrink", "replace"])
def test_a_file_that_changes_while_it_is_read(
    prep: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Its record would otherwise vouch for a content that nobody has any more."""
    from data_prep import units

    fill(tmp_path / "in", data=GOOD * 2000)
    path = tmp_path / "in/train/x/a.jsonl"
    append = units.ShardWriter.append
    changed: list[bool] = []

    def early(writer: units.ShardWriter, *arguments: Any) -> None:
        append(writer, *arguments)
        if not changed:
            changed.append(True)
            if change == "grow":
                path.write_bytes(GOOD * 2001)
            elif change == "shrink":
                path.write_bytes(GOOD)
            else:
                (tmp_path / "new").write_bytes(GOOD * 2000)
                (tmp_path / "new").replace(path)

    monkeypatch.setattr(units.ShardWriter, "append", early)
    code, shown, err = prep()
    assert (code, shown) == (3, "")
    one_line(err, str(path), "changed while it was read")
    assert not (tmp_path / "store/manifest.json").exists()
    assert prep()[0] == 0
    assert verify_store(tmp_path / "store") == []

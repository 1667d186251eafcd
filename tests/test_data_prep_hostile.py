"""Bad input to `reweight prep`: an exit code, one line on stderr, and nothing half-written."""

import contextlib
import gzip
import itertools
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
from prep_inputs import everything

from data_prep.token_store import TokenStore, verify_store

Cli = Callable[..., tuple[int, str, str]]
GOOD = b'{"text": "one good document"}\n' * 3


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing is for power cuts; no test here cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    return prep_inputs.tokenizer_folder(tmp_path / "vocab")


@pytest.fixture
def prep(reweight: Cli, tmp_path: Path, vocab: Path) -> Cli:
    """`reweight prep` of a data set in tmp_path/in into tmp_path/store, with further arguments."""

    def call(*arguments: object, dataset: str = "local") -> tuple[int, str, str]:
        source = ("--input", tmp_path / "in", "--tokenizer", vocab, "--workers", 1)
        return reweight("prep", dataset, *source, "--out", tmp_path / "store", *arguments)

    return call


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


NAMES = [
    "../x",
    "..",
    ".",
    "a/b",
    "/etc",
    "x" * 97,
    "a\nb",
    "\u202eabc",
    "a b",
    "",
    "%2e%2e",
    "a\0b",
    "~",
    "$HOME",
]


@pytest.mark.parametrize("name", NAMES, ids=[repr(name)[:20] for name in NAMES])
def test_a_domain_that_tries_to_leave_the_folder(prep: Cli, tmp_path: Path, name: str) -> None:
    fill(tmp_path / "in", data=tiny([{"text": "a", "site": name}]))
    (tmp_path / "in/validation/x/v.jsonl").write_bytes(tiny([{"text": "a", "site": "fine"}]))
    before = {path for path in tmp_path.rglob("*") if "store" not in path.parts}
    code, _, err = prep("--domain-from", "site")
    if name in ("%2e%2e", "~", "$HOME") or name not in ("",):
        assert code == 3
        one_line(err, "a.jsonl line 1: site")
    assert {path for path in tmp_path.rglob("*") if "store" not in path.parts} == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("local", "--repo", "../../etc/passwd"), "--repo"),
        (("local", "--repo", "a/../b"), "--repo"),
        (("local", "--repo", "/a/b"), "--repo"),
        (("local", "--repo", "a/b/c"), "--repo"),
        (("local", "--repo", "justname"), "--repo"),
        (("local", "--repo", "a/b", "--subset", "../x"), "--subset"),
        (("local", "--repo", "a/b", "--subset", "/etc"), "--subset"),
        (("local", "--repo", "a/b", "--revision", "../../x"), ""),
        (("local", "--repo", "a/b", "--input", "x"), "--repo and --input exclude each other"),
        (("embedded", "--repo", "a/b"), "embedded is the text of this machine"),
        (("fineweb", "--subset", "../../x"), "--subset"),
        (("../../etc",), "no data set"),
        (("local", "--input", "x", "--split-map", "../x=train"), "a split is 1 to 96"),
        (("local", "--input", "x", "--split-map", ".prep=train"), "a split is 1 to 96"),
        (("local", "--input", "x", "--split-map", "=train"), "write OURS=THEIRS"),
        (("local", "--input", "x", "--limit-tokens", "0"), "--limit-tokens 0: 1 to"),
        (("local", "--input", "x", "--limit-tokens", "-1"), "--limit-tokens -1: 1 to"),
        (("local", "--input", "x", "--limit-tokens", "abc"), "'abc' is no number of tokens"),
        (("local", "--input", "x", "--limit-tokens", "1e9"), "write 1000000, 300M or 100B"),
        (("local", "--input", "x", "--limit-tokens", "1.0005K"), "is no number of tokens"),
        (("local", "--input", "x", "--limit-tokens", "9" * 31), "is no number of tokens"),
        (("local", "--input", "x", "--limit-tokens", "10b"), "is no number of tokens"),
        (("local", "--input", "x", "--limit-tokens", "١"), "is no number of tokens"),
        (("local", "--input", "x", "--limit-tokens", "999999T"), "--limit-tokens 9999"),
        (("local", "--input", "x", "--shard", "0/3"), "--shard 0/3: I/N with I from 1 to N"),
        (("local", "--input", "x", "--shard", "4/3"), "--shard 4/3: I/N with I from 1 to N"),
        (("local", "--input", "x", "--shard", "1/0"), "--shard 1/0: I/N with I from 1 to N"),
        (("local", "--input", "x", "--shard", "a/b"), "write I/N, as 3/16"),
        (("local", "--input", "x", "--shard", "1/3/5"), "write I/N, as 3/16"),
        (("local", "--input", "x", "--shard", "-1/3"), "write I/N, as 3/16"),
        (("local", "--input", "x", "--shard", "1"), "write I/N, as 3/16"),
        (("local", "--input", "x", "--sample-seed", "-1"), "--sample-seed -1: a whole number from 0"),
        (("local", "--input", "x", "--sample-seed", "x"), "--sample-seed"),
        (("local", "--input", "x", "--sample-seed", "9" * 30), "--sample-seed"),
        (("local", "--input", "x", "--workers", "0"), "--workers 0: 1 to 1024"),
        (("local", "--input", "x", "--workers", "99999"), "--workers 99999: 1 to 1024"),
        (("local", "--input", "x", "--validation-share", "nan"), "--validation-share nan"),
        (("local", "--input", "x", "--validation-share", "1"), "--validation-share 1.0: 0.0001 to 0.5"),
        (("local", "--input", "x", "--domain-from", ""), "--domain-from: name a field"),
        (("local", "--input", "x", "--text-from", ""), "--text-from: name a field"),
        (("local", "--input", "x", "--tokenizer", "bpe:9999999999"), "bpe:VOCAB takes"),
        (("local", "--input", "x", "--revision", "main"), "are for the hub"),
        (("--merge", "--verify", "x"), "--verify and --merge exclude each other"),
        (("--shard", "1/2", "--verify", "x"), "--verify and --shard exclude each other"),
        (("--shard", "1/2", "--merge", "x"), "--merge and --shard exclude each other"),
        (("--plot", "x.svg", "x"), "--plot goes with --stat"),
    ],
)
def test_bad_usage(
    reweight: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.txt").write_text("a")
    code, shown, err = reweight("prep", *arguments, *(() if "--out" in arguments else ("--out", "o")))
    assert (code, shown) == (2, ""), err
    one_line(err, says)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "x"]


@pytest.mark.parametrize("limit", ["10B", "1.5K"])
def test_a_limit_beyond_the_source_is_told(prep: Cli, tmp_path: Path, limit: str) -> None:
    fill(tmp_path / "in")
    code, _, err = prep("--limit-tokens", limit)
    assert code == 0
    number = {"10B": "10,000,000,000", "1.5K": "1,500"}[limit]
    assert f"--limit-tokens {number} is beyond what was there" in err
    assert TokenStore.open(tmp_path / "store").manifest.source.limit_reached is False


def test_a_domain_that_ends_up_empty(prep: Cli, tmp_path: Path) -> None:
    fill(tmp_path / "in")
    prep_inputs.write(tmp_path / "in/train/y/a.jsonl", b'{"text": null}\n')
    code, shown, err = prep()
    assert code == 0
    assert "train: nothing in y" in err
    store = TokenStore.open(tmp_path / "store")
    assert store.domains("train") == ("x", "y")
    assert store.tokens("train", "y") == 0
    assert store.windows("train", "y", 8) == 0
    assert verify_store(tmp_path / "store") == []
    assert "train / y" in shown


def test_all_of_train_empty_leaves_nothing(prep: Cli, tmp_path: Path) -> None:
    fill(tmp_path / "in", data=b'{"text": null}\n')
    code, shown, err = prep()
    assert (code, shown) == (3, "")
    one_line(err, "no training documents")
    assert not (tmp_path / "store").exists()


def test_a_vocabulary_beyond_16_bits(reweight: Cli, tmp_path: Path) -> None:
    import tokenizers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [f"w{n}" for n in range(70_000)]
    vocab = {token: place for place, token in enumerate(["<|endoftext|>", *alphabet, *words])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="a"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    model.save(str(tmp_path / "tokenizer.json"))
    fill(tmp_path / "in", data=tiny([{"text": "w0 w69999 w65279 w65280"}]))
    source = ("--input", tmp_path / "in", "--tokenizer", tmp_path / "tokenizer.json")
    code, _, err = reweight("prep", "local", *source, "--out", tmp_path / "store")
    assert code == 0, err
    store = TokenStore.open(tmp_path / "store")
    ids = store.read_windows("train", "x", np.arange(5), 1).ravel().tolist()
    # Words follow the end-of-text id and the 256 bytes.
    assert ids == [257, 257 + 69_999, 257 + 65_279, 257 + 65_280, 0]
    assert store.manifest.dtype == "uint32"
    assert np.load(tmp_path / "store/train/x/00000.npy").dtype == np.uint32


def test_spaces_and_other_scripts_in_every_path(reweight: Cli, tmp_path: Path) -> None:
    root = tmp_path / "mein Ordner/東京 🙂"
    vocab = prep_inputs.tokenizer_folder(root / "vo cab")
    fill(root / "in put")
    prep_inputs.write(root / "in put/train/x/文 書.jsonl", GOOD)
    store = root / "the store"
    code, _, err = reweight(
        "prep", "local", "--input", root / "in put", "--tokenizer", vocab, "--out", store, "--workers", 1
    )
    assert code == 0, err
    assert reweight("prep", "--verify", store)[0] == 0
    assert reweight("prep", "--stat", store)[0] == 0
    (store / "manifest.json").write_text("{")
    code, _, err = reweight("prep", "--verify", store)
    assert code == 3
    # The command it names runs as it stands.
    import shlex

    command = err.splitlines()[-1].split("`")[1]
    assert reweight(*shlex.split(command)[1:])[0] == 0
    assert reweight("prep", "--verify", store)[0] == 0


def test_a_folder_whose_name_cannot_be_a_domain(prep: Cli, tmp_path: Path) -> None:
    fill(tmp_path / "in", "train/my notes/a.jsonl")
    code, shown, err = prep()
    assert (code, shown) == (3, "")
    one_line(err, "my notes", "--domain-from")


class TestStores:
    """--merge, --stat, --verify and --repair on what is no store, or a hostile one."""

    @pytest.fixture
    def store(self, prep: Cli, tmp_path: Path) -> Path:
        fill(tmp_path / "in")
        assert prep()[0] == 0
        return tmp_path / "store"

    @pytest.mark.parametrize("mode", ["--merge", "--stat", "--verify", "--repair"])
    @pytest.mark.parametrize("what", ["missing", "empty", "foreign", "file", "fifo", "loop", "work"])
    def test_what_is_no_store(self, reweight: Cli, tmp_path: Path, mode: str, what: str) -> None:
        path = tmp_path / "thing"
        if what in ("empty", "foreign", "work"):
            path.mkdir()
        if what == "foreign":
            (path / "thesis.txt").write_text("precious")
        elif what == "file":
            path.write_text("precious")
        elif what == "fifo":
            os.mkfifo(path)
        elif what == "loop":
            path.symlink_to("thing")
        elif what == "work":
            (path / ".prep").mkdir()
        before = sorted(tmp_path.rglob("*"))
        code, shown, err = reweight("prep", mode, path)
        assert (code, shown) == (3, ""), err
        one_line(err, str(path))
        assert sorted(tmp_path.rglob("*")) == before

    def test_merge_of_a_finished_store_changes_nothing(self, reweight: Cli, store: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in store.rglob("*.npy")}
        whole = everything(store)
        assert reweight("prep", "--merge", store)[0] == 0
        assert everything(store) == whole
        assert {path: path.stat().st_mtime_ns for path in store.rglob("*.npy")} == before

    def test_stat_needs_a_picture_name(self, reweight: Cli, store: Path, tmp_path: Path) -> None:
        code, shown, err = reweight("prep", "--stat", store, "--plot", tmp_path / "x.jpg")
        assert (code, shown) == (2, "")
        one_line(err, "name a file that ends in .svg or .png")
        assert not (tmp_path / "x.jpg").exists()

    @pytest.mark.parametrize("name", ["plan.json", "files/train-00000.json", "../manifest.json"])
    @pytest.mark.parametrize(
        "damage",
        [
            "{",
            "",
            "[]",
            "null",
            "3",
            '"x"',
            "{}",
            '{"plan": 3, "request": []}',
            '{"format": 1e999}',
            "[" * 100_000,
            "\0",
            "9" * 5000,
            '{"plan": {}, "request": {}}',
            "\ufeff{}",
        ],
    )
    def test_records_that_are_damaged(
        self, reweight: Cli, prep: Cli, store: Path, name: str, damage: str
    ) -> None:
        whole = everything(store)
        path = store / ".prep" / name
        path.write_text(damage)
        for arguments in (("--verify", store), ("--stat", store), ("--merge", store), ("--repair", store)):
            code, _, err = reweight("prep", *arguments)
            assert code in (0, 3), (arguments, err)
            if code:
                assert "Traceback" not in err
                assert f"{store}" in err.splitlines()[-1]
        code, _, err = prep()
        if name == "plan.json":
            assert code == 3
            one_line(err, "plan.json", "delete")
            assert {k: v for k, v in everything(store).items() if k.endswith(".npy")} == {
                k: v for k, v in whole.items() if k.endswith(".npy")
            }
        else:
            assert code == 0, err
            assert everything(store) == whole


def _edits(document: dict[str, Any], path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    found: list[tuple[Any, ...]] = [path] if path else []
    if isinstance(document, dict):
        for key, value in document.items():
            found += _edits(value, (*path, key))
    elif isinstance(document, list) and document:
        found += _edits(document[0], (*path, 0))
    return found


HOSTILE_VALUES: list[Any] = [
    None,
    True,
    -1,
    1 << 61,
    10**400,
    1.5,
    float("nan"),
    "",
    "../../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "x" * 10_000,
    "\ud800",
    [],
    {},
    [[]],
    {"../x": {}},
    [1] * 10_000,
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plan.json", "files/train-00000.json", "../manifest.json"])
def test_every_value_of_every_record_replaced_by_hostile_ones(
    prep: Cli, reweight: Cli, tmp_path: Path, name: str
) -> None:
    """Any value of a plan, a record or a manifest (its digest made to fit): no traceback, nothing outside."""
    from data_prep.files import canonical_json, sha256_text

    fill(tmp_path / "in")
    assert prep()[0] == 0
    store, kept = tmp_path / "store", tmp_path / "kept"
    shutil.copytree(store, kept)
    outside = sorted(path for path in tmp_path.rglob("*") if store not in path.parents)
    original = json.loads((store / ".prep" / name).read_text())
    places = _edits(original)
    assert len(places) > 15
    number = 0
    for place in places:
        # Not every value at every place: each place meets some, and each value many places.
        for value in [HOSTILE_VALUES[(number + k) % len(HOSTILE_VALUES)] for k in (0, 7, 13)]:
            document = json.loads(json.dumps(original))
            parent = document
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = value
            if "digest" in document and place != ("digest",):
                content = {key: each for key, each in document.items() if key != "digest"}
                with contextlib.suppress(ValueError):
                    document["digest"] = sha256_text(canonical_json(content))
            (store / ".prep" / name).write_text(json.dumps(document))
            modes = ["--stat", "--verify", "--merge", "--repair"]
            for mode in (modes[number % 4], modes[(number + 1) % 4]):
                code, _, err = reweight("prep", mode, store)
                assert code in (0, 2, 3, 5, 7), (place, value, mode, code, err)
                assert "Traceback" not in err, (place, value, mode, err)
            code, _, err = prep()
            assert code in (0, 3, 5), (place, value, code, err)
            shutil.rmtree(store)
            shutil.copytree(kept, store)
            number += 1
    assert sorted(path for path in tmp_path.rglob("*") if store not in path.parents) == outside


def _flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def _swap(one: Path, other: Path) -> None:
    a, b = one.read_bytes(), other.read_bytes()
    assert len(a) == len(b)
    assert a != b
    one.write_bytes(b)
    other.write_bytes(a)


def _edit(path: Path, keys: tuple[Any, ...], value: Any, refit: bool) -> None:
    """Change one value of a manifest, and its digest with it if `refit`."""
    from data_prep.files import canonical_json, sha256_text

    document = json.loads(path.read_text())
    parent = document
    for key in keys[:-1]:
        parent = parent[key]
    parent[keys[-1]] = value(parent[keys[-1]])
    if refit:
        content = {key: each for key, each in document.items() if key != "digest"}
        document["digest"] = sha256_text(canonical_json(content))
    path.write_text(json.dumps(document, indent=1) + "\n")


X, TRUTH = "train/x/00001", "manifest.json"
SHARD_KEYS = ("splits", "train", "x", "shards", 0)

Damage = Callable[[Path], object]
SHARD_DAMAGES: dict[str, Damage] = {
    **{
        f"{file}, {name}": lambda s, f=file, d=damage: d(s / f)  # type: ignore[misc]
        for file in (f"{X}.npy", f"{X}.documents.npy", "validation/x/00000.npy")
        for name, damage in {
            "cut by a byte": lambda p: p.write_bytes(p.read_bytes()[:-1]),
            "cut to nothing": lambda p: p.write_bytes(b""),
            "cut in its header": lambda p: p.write_bytes(p.read_bytes()[:40]),
            "a byte more": lambda p: p.write_bytes(p.read_bytes() + b"\0"),
            "flipped at the start": lambda p: _flip(p, 0.0),
            "flipped in the middle": lambda p: _flip(p, 0.6),
            "flipped at the end": lambda p: _flip(p, 1.0),
            "zeroed": lambda p: p.write_bytes(bytes(p.stat().st_size)),
            "its second half zeroed": lambda p: p.write_bytes(
                p.read_bytes()[: p.stat().st_size // 2] + bytes(p.stat().st_size - p.stat().st_size // 2)
            ),
            "gone": lambda p: p.unlink(),
            "renamed": lambda p: p.rename(p.with_name("00007.npy")),
            "a link": lambda p: (
                p.rename(p.parents[3] / "elsewhere"),
                p.symlink_to(p.parents[3] / "elsewhere"),
            ),
        }.items()
    },
    "two shards exchanged": lambda s: _swap(s / f"{X}.npy", s / "train/x/00002.npy"),
    "two files of starts exchanged": lambda s: _swap(
        s / f"{X}.documents.npy", s / "train/x/00002.documents.npy"
    ),
}
OTHER_DAMAGES: dict[str, Damage] = {
    "a shard too many": lambda s: shutil.copy(s / f"{X}.npy", s / "train/x/00009.npy"),
    "tokenizer flipped": lambda s: _flip(s / "tokenizer.json", 0.5),
    "tokenizer gone": lambda s: (s / "tokenizer.json").unlink(),
    "manifest cut": lambda s: (s / TRUTH).write_bytes((s / TRUTH).read_bytes()[:-20]),
    "manifest flipped": lambda s: _flip(s / TRUTH, 0.5),
    **{
        f"manifest: {'.'.join(map(str, keys))}{', its digest made to fit' if refit else ''}": (
            lambda s, k=keys, v=value, r=refit: _edit(s / TRUTH, k, v, r)  # type: ignore[misc]
        )
        for refit in (False, True)
        for keys, value in {
            ("dtype",): lambda _: "uint32",
            ("tokenizer", "vocab_size"): lambda v: v + 70_000,
            (*SHARD_KEYS, "name"): lambda _: "00001.npy",
            (*SHARD_KEYS, "tokens"): lambda v: v + 1,
            (*SHARD_KEYS, "documents"): lambda v: v + 1,
            (*SHARD_KEYS, "sha256"): lambda _: "0" * 64,
            (*SHARD_KEYS, "documents_sha256"): lambda _: "0" * 64,
            ("splits", "train", "x", "documents"): lambda v: v + 1,
            ("splits", "train", "x", "tokens"): lambda v: v - 1,
            ("splits", "train", "x", "lengths"): lambda v: [*v, 1],
            ("tokenizer", "file_sha256"): lambda _: "1" * 64,
            ("format",): lambda v: v + 1,
        }.items()
    },
    **{
        f"manifest: {'.'.join(map(str, keys))}": lambda s, k=keys, v=value: _edit(s / TRUTH, k, v, False)  # type: ignore[misc]
        for keys, value in {
            ("dataset",): lambda _: "other",
            ("tokenizer", "end_of_text"): lambda v: v - 1,
            ("splits", "train", "x", "bytes"): lambda v: v + 1,
            ("splits", "train", "x", "duplicates"): lambda v: v + 1,
            ("splits", "train", "x", "longest"): lambda v: v + 1,
            ("source", "inputs", 0, "sha256"): lambda _: "2" * 64,
            ("source", "limit_tokens"): lambda _: 5,
            ("source", "revision"): lambda _: "main",
            ("digest",): lambda _: "0" * 64,
        }.items()
    },
}


@pytest.fixture
def whole(reweight: Cli, tmp_path: Path, vocab: Path) -> Path:
    """A store of three training files whose shards are of equal size, and one of validation."""
    for number in range(3):
        fill(tmp_path / "in", f"train/x/{number}.jsonl", tiny([{"text": f"{number} {n}"} for n in range(9)]))
    source = ("--input", tmp_path / "in", "--tokenizer", vocab, "--workers", 1)
    assert reweight("prep", "local", *source, "--out", tmp_path / "store")[0] == 0
    return tmp_path / "store"


def inodes(store: Path) -> dict[str, int]:
    """Shards -> inode: another one where the file was made anew."""
    return {p.relative_to(store).as_posix(): p.stat().st_ino for p in store.rglob("*.npy") if p.is_file()}


@pytest.mark.parametrize("name", [*SHARD_DAMAGES, *OTHER_DAMAGES])
def test_every_damage_is_found_and_the_named_command_rebuilds_only_it(
    reweight: Cli, whole: Path, name: str
) -> None:
    before, content = inodes(whole), everything(whole)
    made_again = name in SHARD_DAMAGES
    ({**SHARD_DAMAGES, **OTHER_DAMAGES}[name])(whole)
    code, _, err = reweight("prep", "--verify", whole)
    assert code == 3, err
    *problems, last = err.splitlines()
    assert last.startswith(f"reweight: {whole}: ")
    assert len(problems) == int(last.removeprefix(f"reweight: {whole}: ").split()[0]) >= 1
    named = {line.partition(": ")[0] for line in problems}
    damaged = {str(whole / path) for path, data in everything(whole).items() if content.get(path) != data}
    damaged |= {str(whole / path) for path in content if not (whole / path).is_file()}
    if name.endswith("made to fit"):  # then what it names is found to be something else
        damaged.discard(str(whole / TRUTH))
    assert named >= damaged, (named, damaged)
    command = last.split("`")[1]
    assert command == f"reweight prep --repair {whole}"
    code, _, err = reweight(*command.split()[1:])
    assert code == 0, err
    assert everything(whole) == content
    assert verify_store(whole) == []
    # Only the damaged input files are made again, with all of their shards.
    after = inodes(whole)
    changed = {path for path in before if before[path] != after[path]}
    if not made_again:
        assert changed == set()
    else:
        stems = {Path(path).name.split(".")[0] + path.split("/")[0] for path in changed}
        assert 1 <= len(stems) <= (2 if "exchanged" in name else 1), changed


def test_the_damages_are_fifty_at_least() -> None:
    assert len(SHARD_DAMAGES) + len(OTHER_DAMAGES) >= 50


def test_a_repair_needs_no_source_for_what_the_rest_tells(reweight: Cli, whole: Path, tmp_path: Path) -> None:
    content = everything(whole)
    shutil.rmtree(tmp_path / "in")
    _flip(whole / "manifest.json", 0.5)
    assert reweight("prep", "--repair", whole)[0] == 0
    assert everything(whole) == content


def test_a_repair_that_cannot_be_done_leaves_what_there_is(
    reweight: Cli, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").rename(tmp_path / "away")
    _flip(whole / "train/x/00001.npy", 0.9)
    content = everything(whole)
    code, shown, err = reweight("prep", "--repair", whole)
    assert (code, shown) == (3, "")
    one_line(err, "no such file or folder")
    assert everything(whole) == content
    (tmp_path / "away").rename(tmp_path / "in")
    assert reweight("prep", "--repair", whole)[0] == 0
    assert verify_store(whole) == []


def test_a_repair_of_merged_shares_under_a_bound(reweight: Cli, tmp_path: Path, vocab: Path) -> None:
    for number in range(6):
        fill(tmp_path / "in", f"train/x/{number}.jsonl", tiny([{"text": f"{number} {n}"} for n in range(9)]))
    source = ("--input", tmp_path / "in", "--tokenizer", vocab, "--workers", 1, "--limit-tokens", 90)
    store = tmp_path / "store"
    for part in (1, 2):
        code, _, err = reweight("prep", "local", *source, "--out", store, "--shard", f"{part}/2")
        assert code == 0, err
    assert reweight("prep", "--merge", store)[0] == 0
    content = everything(store)
    _flip(store / "train/x/00001.npy", 0.9)
    code, _, err = reweight("prep", "--repair", store)
    assert code == 0, err
    assert everything(store) == content
    assert verify_store(store) == []


def test_a_merge_while_a_share_is_at_work(reweight: Cli, whole: Path) -> None:
    import multiprocessing

    from data_prep.lock import locked
    from data_prep.spec import Share

    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()

    def hold() -> None:
        with locked(whole / ".prep", Share(part=1, parts=2)):
            ready.set()
            done.wait()

    holder = context.Process(target=hold)
    holder.start()
    try:
        assert ready.wait(20)
        code, shown, err = reweight("prep", "--merge", whole)
        assert (code, shown) == (7, "")
        one_line(err, f"being prepared by process {holder.pid}@")
    finally:
        done.set()
        holder.join()


@pytest.mark.parametrize("field", ["split", "path", "domain"])
def test_a_plan_cannot_lead_out_of_its_folder(reweight: Cli, whole: Path, tmp_path: Path, field: str) -> None:
    """A merge deletes the shards that its manifest does not name, wherever a plan says they lie."""
    precious = prep_inputs.write(tmp_path / "thesis/x/00000.npy", b"precious")
    path = whole / ".prep/plan.json"
    document = json.loads(path.read_text())
    document["plan"]["items"][0][field] = "../thesis"
    path.write_text(json.dumps(document))
    (whole / "manifest.json").unlink()
    for mode in ("--merge", "--repair"):
        code, shown, err = reweight("prep", mode, whole)
        assert (code, shown) == (3, "")
        one_line(err, "plan.json: damaged", f"items[0].{field}")
    assert precious.read_bytes() == b"precious"


@pytest.mark.parametrize("level", ["split", "domain"])
def test_a_record_cannot_lead_out_of_its_folder(
    reweight: Cli, whole: Path, tmp_path: Path, level: str
) -> None:
    precious = prep_inputs.write(tmp_path / "thesis/x/00000.npy", b"precious")
    path, content = whole / ".prep/files/train-00000.json", everything(whole)
    document = json.loads(path.read_text())
    domains = document["domains"]
    if level == "split":
        domains["../thesis"] = domains.pop("train")
    else:
        domains["train"]["../../thesis/x"] = domains["train"].pop("x")
    path.write_text(json.dumps(document))
    code, _, err = reweight("prep", "--repair", whole)
    assert code == 0, err
    assert everything(whole) == content
    assert precious.read_bytes() == b"precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_file_system_that_is_full_or_read_only(prep: Cli, tmp_path: Path, kind: str) -> None:
    import subprocess

    fill(tmp_path / "in", data=tiny([{"text": f"{n} " * 200} for n in range(2000)]))
    place = tmp_path / "disk"
    place.mkdir()
    options = "size=300k" if kind == "full" else "size=300k,ro"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=False).returncode:
        pytest.skip("no mounts here")
    try:
        # The later --out counts.
        code, shown, err = prep("--out", place / "store")
        assert (code, shown) == (7, "")
        one_line(err, str(place), "free" if kind == "full" else "Read-only")
        assert [path.name for path in place.rglob("*.tmp")] == []
        assert not (place / "store/manifest.json").exists()
        if kind == "full":
            subprocess.run(["mount", "-o", "remount,size=100m", place], check=True)
            assert prep("--out", place / "store")[0] == 0
            assert verify_store(place / "store") == []
    finally:
        subprocess.run(["umount", place], check=True)

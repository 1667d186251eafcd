"""Files of records, read as streams: jsonl, parquet and plain text, plain or compressed.

Every complaint names the file and the line, row or byte. Which domain a record belongs to, and what
becomes of its text, is decided elsewhere.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from data_prep.errors import DataError

Kind = Literal["jsonl", "jsonl.zst", "jsonl.gz", "parquet", "txt", "txt.zst", "embedded"]
SUFFIXES: Mapping[str, Kind] = {
    ".jsonl": "jsonl",
    ".jsonl.zst": "jsonl.zst",
    ".json.zst": "jsonl.zst",
    ".jsonl.gz": "jsonl.gz",
    ".json.gz": "jsonl.gz",
    ".parquet": "parquet",
    ".txt": "txt",
    ".txt.zst": "txt.zst",
}
"""A compressed .json of a data set is a file of lines; a plain one is, more often, something else."""

KNOWN_SUFFIXES = ", ".join(SUFFIXES)

READ_BYTES = 1 << 14
"""Compressed bytes at a time. Zstandard can expand 32,768-fold, so a hostile file costs 512 MB at most."""
HASH_BYTES = 1 << 20
GZIP = 31
"""zlib's code for a gzip header and a window of any size."""
MAX_DOCUMENT_BYTES = 1 << 28
"""Of a line, or a text file. 200 MB of ASCII cost 1.3 GB for a moment; with one character above U+FFFF, for
which Python holds all of them at 4 bytes each, 2.3 GB."""
PARQUET_ROWS = 256
PARQUET_BYTES = 8 << 20
"""Text of the rows that are decoded at a time, as far as a row group's mean size tells."""

Row = Mapping[str, Any]

REMEDY = "fetch or mend the file, or leave it out"


class Meter:
    """Counts and hashes the bytes of one input file as they are read."""

    def __init__(self, advance: Callable[[int], None] | None = None) -> None:
        self._digest = hashlib.sha256()
        self._advance = advance
        self.bytes = 0

    def feed(self, block: bytes) -> None:
        """Note one block of the input."""
        self._digest.update(block)
        self.bytes += len(block)
        if self._advance is not None:
            self._advance(len(block))

    @property
    def sha256(self) -> str:
        """Digest, in hex, of everything fed so far."""
        return self._digest.hexdigest()


def kind_of(name: str) -> Kind | None:
    """The format a file name stands for, or None if it is not one of ours."""
    lowered = name.lower()
    return next((kind for suffix, kind in SUFFIXES.items() if lowered.endswith(suffix)), None)


def read_rows(path: Path, kind: Kind, columns: tuple[str, ...], meter: Meter) -> Iterator[tuple[str, Row]]:
    """Yield (where, row) for each record; `where` is 'FILE line N' or 'FILE row N'.

    The meter has seen the whole file once the iterator is exhausted. Raises DataError.
    """
    try:
        if kind == "parquet":
            yield from _parquet(path, columns, meter)
        elif kind in ("jsonl", "jsonl.zst", "jsonl.gz"):
            yield from _json_lines(path, _blocks(path, kind, meter))
        else:
            yield str(path), {"text": _text(path, _blocks(path, kind, meter))}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); {REMEDY}") from None


def _blocks(path: Path, kind: Kind, meter: Meter) -> Iterator[bytes]:
    compressed = kind.endswith((".zst", ".gz"))
    with path.open("rb") as stream:
        raw = _metered(iter(lambda: stream.read(READ_BYTES if compressed else HASH_BYTES), b""), meter)
        if kind.endswith(".zst"):
            yield from _unzstd(path, raw, meter)
        elif kind.endswith(".gz"):
            yield from _gunzip(path, raw, meter)
        else:
            yield from raw


def _metered(blocks: Iterator[bytes], meter: Meter) -> Iterator[bytes]:
    for block in blocks:
        meter.feed(block)
        yield block


def _unzstd(path: Path, blocks: Iterator[bytes], meter: Meter) -> Iterator[bytes]:
    import zstandard

    # stream_reader takes a truncated frame for the end of the file; decompressobj can tell.
    frame, inside = zstandard.ZstdDecompressor().decompressobj(), False
    try:
        for block in blocks:
            while block:
                inside = True
                yield frame.decompress(block)
                block = b""
                if frame.eof:
                    block, inside = frame.unused_data, False
                    frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise DataError(f"{path}: corrupt zstd data before byte {meter.bytes} ({error}); {REMEDY}") from None
    if inside:
        raise DataError(
            f"{path}: zstd data ends inside a frame, after byte {meter.bytes}: it is cut off; {REMEDY}"
        )
    if meter.bytes == 0:
        raise DataError(f"{path}: empty file; {REMEDY}")


def _gunzip(path: Path, blocks: Iterator[bytes], meter: Meter) -> Iterator[bytes]:
    member, inside = zlib.decompressobj(GZIP), False
    try:
        for block in blocks:
            while block:
                inside = True
                yield member.decompress(block, HASH_BYTES)
                block = member.unconsumed_tail
                if member.eof:
                    # Zeros after the last member are padding, as gzip itself takes them.
                    block, inside = member.unused_data.lstrip(b"\0"), False
                    member = zlib.decompressobj(GZIP)
    except zlib.error as error:
        raise DataError(f"{path}: corrupt gzip data before byte {meter.bytes} ({error}); {REMEDY}") from None
    if inside:
        raise DataError(f"{path}: gzip data ends early, after byte {meter.bytes}: it is cut off; {REMEDY}")
    if meter.bytes == 0:
        raise DataError(f"{path}: empty file; {REMEDY}")


def _lines(path: Path, blocks: Iterator[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    held = 0
    for block in blocks:
        first, *rest = block.split(b"\n")
        parts.append(first)
        held += len(first)
        if held > MAX_DOCUMENT_BYTES:
            raise DataError(
                f"{path}: a line is longer than {MAX_DOCUMENT_BYTES} bytes; if it is jsonl at all, {REMEDY}"
            )
        if rest:
            yield _joined(parts)
            yield from rest[:-1]
            parts, held = [rest[-1]], len(rest[-1])
    if held:
        yield _joined(parts)


def _joined(parts: list[bytes]) -> bytes:
    """The parts end to end; the list is emptied, for a line may be long and nobody needs it twice."""
    line = b"".join(parts)
    parts.clear()
    return line


def _json_lines(path: Path, blocks: Iterator[bytes]) -> Iterator[tuple[str, Row]]:
    offset = number = 0
    # Not enumerate, which keeps what it gave last. Nothing here holds a line while its record is in use.
    for line in _lines(path, blocks):
        number += 1
        where, size = f"{path} line {number}", len(line)
        text = "" if line.isspace() else _decoded(where, line, offset).removeprefix("\ufeff" * (number == 1))
        del line
        offset += size + 1
        if text:
            row = _json_row(where, text)
            del text
            yield where, row
            del row
    if number == 0:
        raise DataError(f"{path}: empty file; {REMEDY}")


def _decoded(where: str, line: bytes, offset: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: invalid UTF-8 at byte {offset + error.start} of the text; {REMEDY}"
        ) from None


def _json_row(where: str, text: str) -> Row:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({str(error)[:80]}); {REMEDY}") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a JSON object but {type(row).__name__}; {REMEDY}")
    return row


def _text(path: Path, blocks: Iterator[bytes]) -> str:
    data = bytearray()
    for block in blocks:
        data += block
        if len(data) > MAX_DOCUMENT_BYTES:
            raise DataError(
                f"{path}: a text file is one document, and this is longer than {MAX_DOCUMENT_BYTES} bytes; "
                "split it, or make it jsonl of shorter documents"
            )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} line {line}: invalid UTF-8 at byte {error.start}; {REMEDY}") from None


def _parquet(path: Path, columns: tuple[str, ...], meter: Meter) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for _ in _blocks(path, "parquet", meter):
        pass
    if meter.bytes == 0:
        raise DataError(f"{path}: empty file; {REMEDY}")
    number, where = 0, str(path)
    try:
        # A buffer instead of whole column chunks: some writers put a gigabyte of text into one row group.
        with pq.ParquetFile(
            path, buffer_size=HASH_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            _check_columns(path, file.schema_arrow.names, columns)
            for group in range(file.num_row_groups):
                where = f"{path} row group {group}"
                about = file.metadata.row_group(group)
                rows = PARQUET_BYTES * about.num_rows // max(1, about.total_byte_size)
                for batch in file.iter_batches(
                    max(1, min(PARQUET_ROWS, rows)),
                    row_groups=[group],
                    columns=list(columns),
                    use_threads=False,
                ):
                    for row in batch.to_pylist():
                        yield f"{path} row {number}", row
                        number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk; what arrow finds wrong with a file has no number
        raise DataError(f"{where}: corrupt parquet ({str(error).splitlines()[0][:160]}); {REMEDY}") from None


def _check_columns(path: Path, have: list[str], need: tuple[str, ...]) -> None:
    missing = [column for column in need if column not in have]
    if missing:
        raise DataError(
            f"{path}: no column '{missing[0]}'; it has {', '.join(have)[:200]}; name the text's column with "
            "--text-from, the domain's with --domain-from"
        )

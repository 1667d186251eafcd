"""One shard: a standard .npy file of ids and one of its documents' starts, streamed and checked cheaply.

NNNNN.npy holds ids, shape (tokens,), uint16 or uint32. NNNNN.documents.npy holds, shape (documents, 2),
uint64: the place of each document's first id in its shard, and the xxh3 (64 bits) of its text.
"""

import contextlib
import functools
import io
import math
import os
import stat
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DataError
from data_prep.files import TEMPORARY, sha256_file, sync_folder
from data_prep.manifest import Dtype, Shard

START, TEXT = 0, 1
"""Columns of NNNNN.documents.npy."""

LENGTH_BINS = 63


def disk_dtype(dtype: Dtype) -> np.dtype[Any]:
    """The ids' type on disk: little-endian on every machine."""
    return np.dtype(dtype).newbyteorder("<")


DOCUMENTS_DTYPE = np.dtype("<u8")


def shard_name(index: int) -> str:
    """File name of the shard made from input file `index` of its split."""
    return f"{index:05d}.npy"


def documents_path(shard: Path) -> Path:
    """Where the document starts of a shard lie."""
    return shard.with_name(f"{shard.stem}.documents.npy")


class _NpyStream:
    """A .npy file whose first axis grows: the header is written again at the end, so memory is constant."""

    def __init__(self, path: Path, dtype: np.dtype[Any], row: tuple[int, ...] = ()) -> None:
        self._path, self._dtype, self._row = path, dtype, row
        self._temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
        self.rows = 0
        self._stream: IO[bytes] = self._temporary.open("wb")
        self._header_bytes = self._write_header()

    def _write_header(self) -> int:
        self._stream.seek(0)
        return self._stream.write(_header(self._dtype, (self.rows, *self._row)))

    def append(self, rows: NDArray[Any]) -> None:
        # Not ndarray.tofile: on a full disk its error says neither which nor why.
        self._stream.write(np.ascontiguousarray(rows, dtype=self._dtype).data)
        self.rows += len(rows)

    def finish(self) -> str:
        """Complete and sync the temporary file; its sha256."""
        self._stream.flush()
        if self._write_header() != self._header_bytes:
            raise AssertionError("the .npy header grew: numpy no longer pads it for a growing first axis")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return sha256_file(self._temporary)

    def place(self) -> None:
        self._temporary.replace(self._path)

    def discard(self) -> None:
        # Of a full disk, which may refuse the last buffered bytes.
        with contextlib.suppress(OSError):
            self._stream.close()
        self._temporary.unlink(missing_ok=True)


class ShardWriter:
    """Appends documents to one shard under temporary names; `finish` completes it, `place` renames it."""

    def __init__(self, path: Path, dtype: Dtype) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._ids = _NpyStream(path, disk_dtype(dtype))
        try:
            self._documents = _NpyStream(documents_path(path), DOCUMENTS_DTYPE, (2,))
        except BaseException:
            self._ids.discard()
            raise
        self._lengths = np.zeros(LENGTH_BINS, dtype=np.int64)
        self.longest = 0

    def append(self, ids: NDArray[Any], lengths: NDArray[np.int64], texts: Sequence[int]) -> None:
        """Add whole documents.

        `ids`, shape (n,), are theirs end to end with their end-of-text ids; `lengths`, shape (documents,),
        sum to n; `texts` are the xxh3 of their texts.
        """
        rows = np.empty((len(lengths), 2), dtype=DOCUMENTS_DTYPE)
        rows[:, START] = self._ids.rows + np.cumsum(lengths) - lengths
        rows[:, TEXT] = texts
        self._ids.append(ids)
        self._documents.append(rows)
        # frexp, unlike log2, is exact: n = fraction * 2^exponent with a fraction in [0.5, 1).
        bins = np.frexp(lengths.astype(np.float64))[1] - 1
        self._lengths += np.bincount(bins, minlength=LENGTH_BINS)
        self.longest = max(self.longest, int(lengths.max(initial=0)))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Documents by length, as `Domain.lengths`."""
        return tuple(np.trim_zeros(self._lengths, "b").tolist())

    def finish(self) -> Shard:
        """Complete and sync the temporary files; return what the manifest records about them."""
        return Shard(
            name=self._path.name,
            tokens=self._ids.rows,
            documents=self._documents.rows,
            sha256=self._ids.finish(),
            documents_sha256=self._documents.finish(),
        )

    def place(self) -> None:
        """Rename the finished files into place. The folder is not synced: see `sync_folders`."""
        self._documents.place()
        self._ids.place()

    def discard(self) -> None:
        """Give up: remove the temporary files. Harmless after `place`."""
        self._ids.discard()
        self._documents.discard()


def sync_folders(shards: Sequence[Path]) -> None:
    """Make the names of placed shards survive a power cut."""
    for folder in sorted({shard.parent for shard in shards}):
        sync_folder(folder)


def shard_header(tokens: int, dtype: Dtype) -> bytes:
    """What a shard of so many ids begins with."""
    return _header(disk_dtype(dtype), (tokens,))


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The one .npy header of a shard: numpy pads it, so its size does not depend on the number of rows."""
    before, after = _empty_header(dtype.str, shape[1:])
    rows = b"%d" % shape[0]
    # Each digit takes the place of a space before the newline.
    return before + rows + after[: -len(rows)] + b"\n"


@functools.cache
def _empty_header(descr: str, row: tuple[int, ...]) -> tuple[bytes, bytes]:
    """What stands before and after the number of rows in the header of an empty array. Of a large store's
    million files each is checked: numpy takes longer to write a header than the system to read one."""
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": (0, *row)}
    np.lib.format.write_array_header_1_0(stream, header)
    before, zero, after = stream.getvalue().partition(b"(0")
    if not zero or not after.endswith(b" " * 20 + b"\n"):
        raise AssertionError("the .npy header changed: numpy no longer pads it for a growing first axis")
    return before + b"(", after


def check_shard(path: Path, tokens: int, dtype: Dtype) -> int:
    """Cheap check of one shard, header and size; returns the byte offset of the first id.

    The header must be, byte for byte, the one that is written: nothing hostile is parsed.
    Raises DataError saying what is wrong with it.
    """
    return _check_npy(path, disk_dtype(dtype), (tokens,), f"{tokens} ids of {dtype}")


def check_documents(shard: Path, documents: int) -> int:
    """Cheap check of a shard's document starts, header and size; the byte offset of the first. DataError."""
    path = documents_path(shard)
    return _check_npy(path, DOCUMENTS_DTYPE, (documents, 2), f"{documents} documents")


def read_documents_of(shard: Path, documents: int) -> NDArray[np.uint64]:
    """Where the documents of a shard start and what their texts hash to, shape (documents, 2). DataError."""
    offset = check_documents(shard, documents)
    rows = np.fromfile(documents_path(shard), dtype=DOCUMENTS_DTYPE, count=2 * documents, offset=offset)
    return rows.reshape(documents, 2)


def _check_npy(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], what: str) -> int:
    expected = _header(dtype, shape)
    try:
        about = path.stat()
        # Asked before it is opened: opening a pipe would wait for a writer.
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{path}: not an ordinary file")
        with path.open("rb", buffering=0) as stream:
            found = stream.read(len(expected))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: missing") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    wanted = len(expected) + math.prod(shape) * dtype.itemsize
    if about.st_size != wanted:
        raise DataError(f"{path}: {about.st_size} bytes, expected {wanted}")
    if found != expected:
        raise DataError(f"{path}: its header is not that of {what}")
    return len(expected)

"""One shard: a standard .npy file of ids, written as a stream and checked cheaply."""

import io
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DataError
from data_prep.files import TEMPORARY, sha256_file, sync_folder
from data_prep.manifest import Dtype, Shard


def disk_dtype(dtype: Dtype) -> np.dtype[Any]:
    """The ids' type on disk: little-endian on every machine."""
    return np.dtype(dtype).newbyteorder("<")


def shard_name(index: int) -> str:
    """File name of the shard made from input file `index` of its split."""
    return f"{index:05d}.npy"


class ShardWriter:
    """Appends documents to one shard under a temporary name; `finish` completes it, `place` renames it.

    The header is written again at the end, when the number of ids is known, so memory stays constant.
    """

    def __init__(self, path: Path, dtype: Dtype) -> None:
        self._path, self._dtype = path, dtype
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
        self.tokens = 0
        self.documents = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: IO[bytes] = self._temporary.open("wb")
        self._header_bytes = self._write_header()

    def _write_header(self) -> int:
        self._stream.seek(0)
        return self._stream.write(_header(self._dtype, self.tokens))

    def append(self, ids: NDArray[Any], documents: int) -> None:
        """Add ids, shape (n,), that make up `documents` whole documents with their end-of-text ids."""
        # Not ndarray.tofile: on a full disk its error says neither which nor why.
        self._stream.write(ids.astype(disk_dtype(self._dtype), copy=False).tobytes())
        self.tokens += len(ids)
        self.documents += documents

    def finish(self) -> Shard:
        """Complete and sync the temporary file; return what the manifest records about it."""
        self._stream.flush()
        if self._write_header() != self._header_bytes:
            raise AssertionError("the .npy header grew: numpy no longer pads it for a growing first axis")
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        digest = sha256_file(self._temporary)
        return Shard(name=self._path.name, tokens=self.tokens, documents=self.documents, sha256=digest)

    def place(self) -> None:
        """Rename the finished file into place."""
        self._temporary.replace(self._path)
        sync_folder(self._path.parent)

    def discard(self) -> None:
        """Give up: remove the temporary file. Harmless after `place`."""
        self._stream.close()
        self._temporary.unlink(missing_ok=True)


def _header(dtype: Dtype, tokens: int) -> bytes:
    """The one .npy header of a shard: numpy pads it, so its size does not depend on the number of ids."""
    stream = io.BytesIO()
    header = {"descr": disk_dtype(dtype).str, "fortran_order": False, "shape": (tokens,)}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def check_shard(path: Path, tokens: int, dtype: Dtype) -> int:
    """Cheap check of one shard, header and size; returns the byte offset of the first id.

    The header must be, byte for byte, the one that is written: nothing hostile is parsed.
    Raises DataError saying what is wrong with it.
    """
    expected = _header(dtype, tokens)
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not an ordinary file")
    try:
        with path.open("rb") as stream:
            found = stream.read(len(expected))
            size = os.fstat(stream.fileno()).st_size
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: missing") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    wanted = len(expected) + tokens * disk_dtype(dtype).itemsize
    if size != wanted:
        raise DataError(f"{path}: {size} bytes, expected {wanted}")
    if found != expected:
        raise DataError(f"{path}: its header is not that of {tokens} ids of {dtype}")
    return len(expected)

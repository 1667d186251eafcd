"""The manifest of a checkpoint: its files, their digests, which rows of which tensor lie where. No torch.

One content has one spelling, which holds a digest of itself: a text that does not read back to the very same
bytes is not what was written. So a changed byte is found in the manifest as it is in the files.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from data_prep.files import is_safe_name, sha256_text

FORMAT = 2
LARGEST = 2**63 - 1
"""Of a size or a number of rows: what files and tensors can have."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file as it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive rows (of dimension 0) of a tensor. A tensor without dimensions counts as one row."""

    file: str
    first: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """A whole tensor, whoever holds its pieces."""

    dtype: str
    """As torch calls it, without `torch.`"""
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """Rows of the whole tensor."""
        return self.shape[0] if self.shape else 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint consists of, or the part of it that one rank wrote."""

    step: int
    world: int
    """Ranks of the run that wrote it; it can be continued on any number."""
    files: Mapping[str, FileEntry]
    tensors: Mapping[str, TensorEntry]
    """By group and name: `model/NAME`, `optimizer/NAME/exp_avg`, `extra/NAME`. Files leave the group out."""


def dump(manifest: Manifest) -> str:
    """The manifest as JSON: an entry a line, after a digest of all that follows it."""
    files = {name: {"bytes": file.bytes, "sha256": file.sha256} for name, file in manifest.files.items()}
    tensors = {
        name: {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "pieces": [(piece.file, piece.first, piece.rows) for piece in tensor.pieces],
        }
        for name, tensor in manifest.tensors.items()
    }
    content = (
        f'"format": {FORMAT},\n"step": {manifest.step},\n"world": {manifest.world},\n'
        f'"files": {_lines(files)},\n"tensors": {_lines(tensors)}\n}}\n'
    )
    return f'{{\n"sha256": "{sha256_text(content)}",\n{content}'


def parse(raw: bytes) -> Manifest:
    """Read what `dump` wrote.

    Raises:
        ValueError: anything else; the message says what is wrong with it.
    """
    try:
        document = _mapping(json.loads(raw))
        if "format" in document and document["format"] != FORMAT:
            raise ValueError(f"of format {str(document['format'])[:20]}, not {FORMAT}")
        manifest = Manifest(
            step=_integer(document["step"]),
            world=_integer(document["world"]),
            files={_file_name(name): _file(entry) for name, entry in _mapping(document["files"]).items()},
            tensors={name: _tensor(entry) for name, entry in _mapping(document["tensors"]).items()},
        )
    except KeyError as error:
        raise ValueError(f"without {error}") from None
    except RecursionError:
        raise ValueError("nested without end") from None
    if dump(manifest).encode() != raw:
        raise ValueError("its bytes are not those that were saved")
    return manifest


def merge(parts: Iterable[Manifest]) -> Manifest:
    """One manifest from those of all ranks that wrote something.

    Raises:
        ValueError: together they are not a whole checkpoint.
    """
    parts = list(parts)
    files: dict[str, FileEntry] = {}
    tensors: dict[str, TensorEntry] = {}
    for part in parts:
        if not files.keys().isdisjoint(part.files):
            raise ValueError(f"two ranks wrote {', '.join(files.keys() & part.files)}")
        files.update(part.files)
        for name, own in part.tensors.items():
            before = tensors.get(name, TensorEntry(dtype=own.dtype, shape=own.shape, pieces=()))
            if (before.dtype, before.shape) != (own.dtype, own.shape):
                raise ValueError(f"ranks disagree about the shape of {name}")
            tensors[name] = TensorEntry(
                dtype=own.dtype, shape=own.shape, pieces=(*before.pieces, *own.pieces)
            )
    whole = Manifest(step=parts[0].step, world=parts[0].world, files=files, tensors=tensors)
    check_whole(whole)
    return whole


def check_whole(manifest: Manifest) -> None:
    """Refuse rows that are missing or there twice, and pieces in files that are not listed (ValueError)."""
    for name, tensor in manifest.tensors.items():
        position = 0
        for piece in sorted(tensor.pieces, key=lambda piece: piece.first):
            if piece.first != position or piece.file not in manifest.files:
                raise ValueError(f"rows of {name} are missing")
            position += piece.rows
        if position != tensor.rows:
            raise ValueError(f"rows of {name} are missing")


def _lines(entries: Mapping[str, object]) -> str:
    inner = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    return f"{{\n{inner}\n}}"


def _file_name(name: str) -> str:
    # It is joined to the checkpoint's folder and opened.
    if not is_safe_name(name):
        raise ValueError(f"{name[:40]!r} is no file name")
    return name


def _file(entry: object) -> FileEntry:
    fields = _mapping(entry)
    return FileEntry(bytes=_integer(fields["bytes"]), sha256=_text(fields["sha256"]))


def _tensor(entry: object) -> TensorEntry:
    fields = _mapping(entry)
    return TensorEntry(
        dtype=_text(fields["dtype"]),
        shape=tuple(_integer(size) for size in _list(fields["shape"])),
        pieces=tuple(_piece(piece) for piece in _list(fields["pieces"])),
    )


def _piece(entry: object) -> Piece:
    fields = _list(entry)
    if len(fields) != 3:
        raise ValueError("a piece is a file, a first row and a number of rows")
    return Piece(file=_text(fields[0]), first=_integer(fields[1]), rows=_integer(fields[2]))


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{str(value)[:40]} where a mapping belongs")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{str(value)[:40]} where a list belongs")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST:
        raise ValueError(f"{str(value)[:40]} where a size belongs")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:40]} where a text belongs")
    return value

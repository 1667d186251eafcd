"""Small JSON files of other people's making: read strictly, written whole or not at all.

Shared by results.json and the task records. Every problem becomes the caller's own error through `refuse`.
"""

import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

Refuse = Callable[[str], Exception]
"""What is wrong -> the error to raise."""

SHA256 = re.compile(r"[0-9a-f]{64}")


def read_json_object(path: Path, max_bytes: int, refuse: Refuse) -> Mapping[str, Any]:
    """Read one JSON object; NaN and Infinity are no numbers here.

    Raises:
        what `refuse` makes: no ordinary file, too large, not UTF-8, not complete JSON, nested too deep, no
            object. OSError where the file cannot be read.
    """
    if path.exists() and not path.is_file():
        raise refuse("is not an ordinary file")  # reading a pipe would wait for ever
    if path.stat().st_size > max_bytes:
        raise refuse(f"is larger than {max_bytes} bytes, so not written by this project")
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise refuse("is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise refuse(f"is not complete JSON ({error})") from error
    if not isinstance(document, dict):
        raise refuse("is not a JSON object")
    return document


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a file by UTF-8 text, as `write_bytes_atomically` does."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Replace a file whole or not at all; an OSError names `path`, not the temporary file."""
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # a full disk's error names no file
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Fields:
    """Typed access to one JSON object: `true` is no integer, a number is finite."""

    where: str
    """Place in the file, for the message."""

    entry: Mapping[str, Any]
    refuse: Refuse

    @classmethod
    def of(cls, where: str, entry: object, owner: type, refuse: Refuse) -> "Fields":
        """The fields of a dataclass `owner` from what should be an object; an unknown key is refused."""
        if not isinstance(entry, dict):
            raise refuse(f"{where} is not an object")
        unknown = sorted(set(entry) - {field.name for field in fields(owner)})
        if unknown:
            raise refuse(f"{where} has the unknown key {unknown[0]!r:.60}")
        return cls(where, entry, refuse)

    def wrong(self, key: str, expected: str) -> Exception:
        """The error for a value that is not what was expected."""
        return self.refuse(f"{self.where}.{key} is {self.entry.get(key)!r:.40}, expected {expected}")

    def has(self, key: str) -> bool:
        """Whether the key is there with another value than null."""
        return self.entry.get(key) is not None

    def text(self, key: str) -> str:
        """A text that is not empty."""
        value = self.entry.get(key)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, "a text")
        return value

    def sha256(self, key: str) -> str:
        """64 lower-case hexadecimal digits."""
        value = self.entry.get(key)
        if not isinstance(value, str) or not SHA256.fullmatch(value):
            raise self.wrong(key, "a sha256 in hexadecimal")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.entry.get(key)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def integer(self, key: str, *, minimum: int) -> int:
        """An integer, at least `minimum`."""
        value = self.entry.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.wrong(key, f"an integer >= {minimum}")
        return value

    def number(self, key: str, *, minimum: float = -math.inf) -> float:
        """A finite number, at least `minimum`."""
        number = finite(self.entry.get(key))
        if number is None or number < minimum:
            raise self.wrong(key, "a finite number")
        return number

    def texts(self, key: str) -> dict[str, str]:
        """Names -> texts, by name."""
        value = self.entry.get(key)
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise self.refuse(f"{self.where}.{key} does not map names to strings")
        return dict(sorted(value.items()))

    def optional_text(self, key: str) -> str | None:
        """As `text`, or None where it is null or not there."""
        return self.text(key) if self.has(key) else None

    def optional_integer(self, key: str, *, minimum: int) -> int | None:
        """As `integer`, or None."""
        return self.integer(key, minimum=minimum) if self.has(key) else None

    def optional_number(self, key: str, *, minimum: float = -math.inf) -> float | None:
        """As `number`, or None."""
        return self.number(key, minimum=minimum) if self.has(key) else None


def finite(value: object) -> float | None:
    """The value as a float if it is a finite JSON number (`true` is none), else None."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number here")

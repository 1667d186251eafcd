"""Strict reading of JSON objects that may come from anywhere."""

import re
from typing import Any

from data_prep.errors import DataError

DIGEST = re.compile(r"[0-9a-f]{64}")


class Fields:
    """One JSON object, and where in the document it stands. Every complaint is a DataError that says so."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise DataError(f"{where} must be an object, found {str(value)[:40]!r}")
        self._value: dict[str, Any] = value
        self.where = where

    def items(self) -> list[tuple[str, Any]]:
        """Every key with its value."""
        return list(self._value.items())

    def raw(self, key: str) -> object:
        """The value, whatever it is."""
        if key not in self._value:
            raise DataError(f"{self.where}.{key} is missing")
        return self._value[key]

    def sub(self, key: str) -> "Fields":
        """The value as an object."""
        return Fields(self.raw(key), f"{self.where}.{key}")

    def subs(self, key: str) -> "list[Fields]":
        """The value as a list of objects."""
        values = self.raw(key)
        if not isinstance(values, list):
            raise DataError(f"{self.where}.{key} must be a list, found {str(values)[:40]!r}")
        return [Fields(value, f"{self.where}.{key}[{i}]") for i, value in enumerate(values)]

    def text(self, key: str) -> str:
        """The value as text of 1 to 4096 characters."""
        value = self.raw(key)
        if not isinstance(value, str) or not 0 < len(value) <= 4096:
            raise DataError(f"{self.where}.{key} must be text, found {str(value)[:40]!r}")
        return value

    def count(self, key: str, least: int = 0) -> int:
        """The value as a whole number of at least `least`."""
        value = self.raw(key)
        if type(value) is not int or not least <= value < 1 << 62:
            raise DataError(
                f"{self.where}.{key} must be a whole number of at least {least}, found {str(value)[:40]!r}"
            )
        return value

    def counts(self, key: str) -> tuple[int, ...]:
        """The value as a list of whole numbers."""
        values = self.raw(key)
        if not isinstance(values, list) or any(type(v) is not int or not 0 <= v < 1 << 62 for v in values):
            raise DataError(f"{self.where}.{key} must be whole numbers, found {str(values)[:40]!r}")
        return tuple(values)

    def digest(self, key: str) -> str:
        """The value as a sha256 in hex."""
        value = self.raw(key)
        if not isinstance(value, str) or DIGEST.fullmatch(value) is None:
            raise DataError(f"{self.where}.{key} must be a sha256 in hex, found {str(value)[:80]!r}")
        return value

    def optional_text(self, key: str) -> str | None:
        """The value as text, or None for null."""
        return None if self.raw(key) is None else self.text(key)

    def optional_count(self, key: str) -> int | None:
        """The value as a whole number, or None for null."""
        return None if self.raw(key) is None else self.count(key)

"""Strict reading of a shipped YAML file: every mistake is an error that names the file and the key."""

from pathlib import Path
from typing import TypeVar

import yaml

T = TypeVar("T")


class Section:
    """A mapping of a file, taken apart key by key; whatever is left at the end is a mistake."""

    def __init__(self, file: Path, path: str, value: object) -> None:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ValueError(f"{file.name}: {path or 'the file'}: must be a mapping with text keys")
        self._file, self._path, self._left = file, path, dict(value)

    def wrong(self, key: str, what: str) -> ValueError:
        """The error about a key, to be raised."""
        return ValueError(f"{self._file.name}: {self._path}{'.' if self._path else ''}{key}: {what}")

    def take(self, key: str, kind: type[T]) -> T:
        """A value that must be there, of exactly that type and not empty."""
        if key not in self._left:
            raise self.wrong(key, "is missing")
        value = self._left.pop(key)
        if type(value) is not kind or value in ("", [], {}):  # not isinstance: true is no whole number
            raise self.wrong(key, f"must be a non-empty {kind.__name__}, found {value!r}")
        return value

    def take_or(self, key: str, kind: type[T], otherwise: T) -> T:
        """A value of that type where the key is given."""
        return self.take(key, kind) if key in self._left else otherwise

    def take_text_or_null(self, key: str) -> str | None:
        """A text, or null; the key must be there."""
        if key in self._left and self._left[key] is None:
            self._left.pop(key)
            return None
        return self.take(key, str)

    def take_count(self, key: str) -> int:
        """A whole number, at least 1."""
        value = self.take(key, int)
        if value < 1:
            raise self.wrong(key, f"must be at least 1, found {value}")
        return value

    def holds(self, key: str) -> bool:
        """Whether the key is given and not yet taken."""
        return key in self._left

    def take_sections(self, key: str) -> tuple["Section", ...]:
        """A list of mappings, or a mapping of mappings."""
        if isinstance(self._left.get(key), dict):
            named: dict[str, object] = self.take(key, dict)
            return tuple(Section(self._file, self._below(f"{key}.{name}"), named[name]) for name in named)
        values: list[object] = self.take(key, list)
        return tuple(Section(self._file, self._below(f"{key}[{i}]"), value) for i, value in enumerate(values))

    def names(self, key: str) -> tuple[str, ...]:
        """The keys of a mapping of mappings, in order."""
        value = self._left.get(key)
        if not isinstance(value, dict) or not value:
            raise self.wrong(key, "must be a mapping with at least one entry")
        return tuple(str(name) for name in value)

    def end(self) -> None:
        """Refuse every key that nobody took."""
        for key in self._left:
            raise self.wrong(key, "is not a key of this section")

    def _below(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def read_sections(file: Path) -> Section:
    """The file's outermost mapping.

    Raises:
        ValueError: not YAML, a key given twice, or no mapping.
    """
    text = file.read_text(encoding="utf-8")
    try:
        _refuse_repeated_keys(file, yaml.compose(text, Loader=yaml.SafeLoader))
        return Section(file, "", yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"{file.name}: is not YAML: {' '.join(str(error).split())}") from error


def _refuse_repeated_keys(file: Path, node: yaml.Node | None) -> None:
    """PyYAML keeps the last of two equal keys without a word."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ValueError(f"{file.name}: line {line}: {key.value}: given twice; keep one")
            seen.add(key.value)
            _refuse_repeated_keys(file, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_repeated_keys(file, value)

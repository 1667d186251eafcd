"""YAML text to a tree of plain values that remembers lines, with YAML 1.2's idea of a number.

PyYAML alone reads `5e-4` as a string, `no` as False, `010` as 8 and lets a second key win silently.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from reproduce.errors import RecipeError

Path = tuple[str, ...]

MAX_RECIPE_BYTES = 1_000_000
MAX_DIGITS = 300
"""Longer whole numbers are refused: no setting needs them, and a float does not hold them."""

TEXT_TAG = "tag:yaml.org,2002:str"
PLAIN_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
NUMBER = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a recipe."""

    where: str
    """File and line, or the option it came from."""
    path: str
    """Dotted path of the key, or empty."""
    what: str
    """What was found, what is allowed, the nearest valid name."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.path, self.what) if part)


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Nested plain values, and the line each key stands on."""

    source: str
    """What to call the text in messages: a file or an option."""
    values: dict[str, Any]
    lines: dict[Path, int]
    options: dict[Path, str] = field(default_factory=dict)
    """Keys that came from the command line -> the option as written."""

    def set_by_option(self, path: Path, option: str) -> None:
        """Let messages about a key name the option that set it."""
        self.options[path] = option

    def where(self, path: Path) -> str:
        """Source and line of a key, or of the nearest key above it."""
        if path in self.options:
            return self.options[path]
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.source}:{self.lines[path[:end]]}"
        return self.source


class _Loader(yaml.SafeLoader):
    """SafeLoader with only the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), [*list("~nN"), ""]
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"^{WHOLE.pattern}$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(f"^(?:{NUMBER.pattern})$"),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that puts quotes around text which `parse` would take for a number, as `1e5`."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"^(?:{NUMBER.pattern})$"), list("-+0123456789.")
)


A_RECIPE = "a recipe is a mapping of sections (model:, train:, ...)"


def parse(text: str, source: str, wanted: str = A_RECIPE) -> tuple[Tree, list[Problem]]:
    """Read one YAML document whose top level is a mapping; `wanted` says so of a text that is none.

    Raises:
        RecipeError: text that is not YAML, or not a mapping; nothing more can be said about it.
    """
    if len(text) > MAX_RECIPE_BYTES:
        raise RecipeError(f"{source}: larger than {MAX_RECIPE_BYTES:,} bytes; not a recipe")
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{source}:{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        detail = str(error).splitlines()[0] if str(error) else "nested too deeply"
        raise RecipeError(f"{source}: not YAML: {detail}") from None
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{source}: {wanted}")
    reader = _Reader(source)
    values = reader.mapping(node, ())
    return Tree(source=source, values=values, lines=reader.lines), reader.problems


def dump(values: Any) -> str:
    """Nested plain values as YAML that `parse` reads back as they are."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)


def reads_as_text(text: str) -> bool:
    """Whether a value without quotes would be taken for this text, not for a number, null or worse."""
    try:
        return bool(scalar(text) == text)
    except ValueError:
        return False


def scalar(text: str) -> Any:
    """One value as a recipe would read it: `1e-3` a number, `true` a boolean, `[...]` refused.

    Raises:
        ValueError: not a plain value.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
    except RecursionError:
        raise ValueError(f"{text[:40]!r}... is not a single value") from None
    if node is None:
        return None
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(f"{text!r} is not a single value")
    return _scalar(node)


class _Reader:
    """Walks composed nodes; collects lines, and problems instead of stopping at the first."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self._seen: set[int] = set()

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            here = (*path, key)
            if key_node.tag != TEXT_TAG:
                self._problem(line, here, "a key is a name; write it in quotes if it is meant as text")
                continue
            if key in values:
                first = self.lines[here]
                self._problem(line, here, f"given twice (first on line {first}); keep one")
                continue
            self.lines[here] = line
            values[key] = self._value(value_node, here)
        return values

    def _value(self, node: yaml.Node, path: Path) -> Any:
        if id(node) in self._seen:
            self._problem(node.start_mark.line + 1, path, "YAML aliases are not read; write the value out")
            return None
        self._seen.add(id(node))
        if isinstance(node, yaml.CollectionNode) and node.tag not in PLAIN_COLLECTIONS:
            self._problem(node.start_mark.line + 1, path, _unread_tag(node))
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, str(index))) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        try:
            return _scalar(node)
        except ValueError as error:
            self._problem(node.start_mark.line + 1, path, str(error))
            return None

    def _problem(self, line: int, path: Path, what: str) -> None:
        self.problems.append(Problem(where=f"{self.source}:{line}", path=".".join(path), what=what))


def _scalar(node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    kind = node.tag.rsplit(":", 1)[-1]
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int" and WHOLE.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a number of {len(text)} digits is not read")
        return int(text)
    if kind == "float" and NUMBER.fullmatch(text):
        number = float(text.replace(".inf", "inf").replace(".nan", "nan").replace("_", ""))
        if not math.isfinite(number):
            raise ValueError(f"{text} is not a finite number")
        return number
    if kind == "str":
        return text
    raise ValueError(_unread_tag(node))


def _unread_tag(node: yaml.Node) -> str:
    return f"the YAML tag {str(node.tag)[:80]!r} is not read here; write a plain value"

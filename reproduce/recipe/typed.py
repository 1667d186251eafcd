"""Plain values -> frozen dataclasses, guided by their annotations; problems are collected, not raised."""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union

from reproduce.recipe.schema import Range
from reproduce.recipe.yaml_tree import Path, Problem, Tree

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], tree: Tree) -> tuple[T | None, list[Problem]]:
    """The dataclass `cls` from nested plain values, or None and what is wrong with them."""
    problems: list[Problem] = []
    made = _dataclass(cls, values, (), tree, problems)
    return (made if not problems else None), problems


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _dataclass(cls: Any, values: Any, path: Path, tree: Tree, problems: list[Problem]) -> Any:
    if not isinstance(values, Mapping):
        _add(problems, tree, path, f"expected a section with keys, found {_show(values)}")
        return None
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            _add(problems, tree, (*path, key), f"unknown key; {_nearest(key, path, fields)}")
    made = {}
    for name, field in fields.items():
        if name in values:
            made[name] = _value(_hints(cls)[name], values[name], (*path, name), tree, problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            _add(problems, tree, (*path, name), "missing")
    return cls(**made) if not problems else None


def _value(kind: Any, value: Any, path: Path, tree: Tree, problems: list[Problem]) -> Any:
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, path, tree, problems)
    section = _section(kind)
    if section is not None:
        if value is not None and not isinstance(value, Mapping):
            _add(problems, tree, path, f"expected a section with keys, or null, found {_show(value)}")
        return _dataclass(section, value, path, tree, problems) if isinstance(value, Mapping) else None
    problem = _mismatch(kind, value)
    if problem:
        _add(problems, tree, path, f"expected {problem}, found {_show(value)}")
        return value
    # YAML has one `1`; a field in nats or of a rate is a float all the same.
    return float(value) if _plain_kind(kind) is float and isinstance(value, int) else value


def section_of(cls: Any, name: str) -> Any:
    """The dataclass behind a field of a dataclass; None where the field is no section."""
    return _section(_hints(cls)[name])


def _section(kind: Any) -> Any:
    """The dataclass of an annotation `Dataclass` or `Dataclass | None`; None for any other."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        kinds = [option for option in typing.get_args(kind) if option is not type(None)]
        kind = kinds[0] if len(kinds) == 1 else None
    return kind if dataclasses.is_dataclass(kind) else None


def _mismatch(kind: Any, value: Any) -> str:
    """What the annotation asks for, if the value is not that; else an empty string."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        base, limits = typing.get_args(kind)
        wrong = _mismatch(base, value)
        assert isinstance(limits, Range)
        return f"{_name(base)} {limits}" if wrong or not limits.admits(value) else ""
    if origin is Literal:
        allowed = typing.get_args(kind)
        near = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        return "" if value in allowed and isinstance(value, str) else f"one of {', '.join(allowed)}{hint}"
    if origin in (Union, types.UnionType):
        wrongs = [_mismatch(option, value) for option in typing.get_args(kind)]
        return " or ".join(wrongs) if all(wrongs) else ""
    if origin is not None and issubclass(origin, Mapping):
        _, item = typing.get_args(kind)
        fine = isinstance(value, Mapping) and value and not any(_mismatch(item, v) for v in value.values())
        return "" if fine else f"a mapping name: {_name(item)}"
    return "" if _is(kind, value) else _name(kind)


def _is(kind: Any, value: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (type(None), None):
        return value is None
    return isinstance(value, kind)


def _plain_kind(kind: Any) -> Any:
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


def _name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return names.get(_plain_kind(kind), str(kind))


def _nearest(key: str, path: Path, fields: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    elsewhere = {name: section for section, names in _sections().items() for name in names}
    if not near and key in elsewhere:
        return f"it belongs to section '{elsewhere[key]}'"
    if near:
        return f"did you mean '{'.'.join((*path, near[0]))}'?"
    return f"known here: {', '.join(fields)}"


@functools.cache
def _sections() -> dict[str, tuple[str, ...]]:
    from reproduce.recipe.schema import Recipe

    sections = {name: _section(kind) for name, kind in _hints(Recipe).items()}
    return {
        name: tuple(field.name for field in dataclasses.fields(kind))
        for name, kind in sections.items()
        if kind is not None
    }


def _show(value: Any) -> str:
    text = repr(value)
    kind = {str: "text ", bool: "", type(None): ""}.get(type(value), "")
    return kind + (text if len(text) <= 60 else text[:57] + "...")


def _add(problems: list[Problem], tree: Tree, path: Path, what: str) -> None:
    problems.append(Problem(where=tree.where(path), path=".".join(path), what=what))

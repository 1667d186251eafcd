"""Parsed YAML -> a set of domain weights.

The first thing wrong is refused in one line: file and line, key, what, remedy.
"""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from data_prep.files import is_safe_name
from reproduce.errors import RecipeError
from reproduce.recipe.weight_set import SUM_TOLERANCE, HistoryPoint, Round, Setting, WeightSet
from reproduce.recipe.yaml_tree import Path, Tree

MOST_DOMAINS = 1000
MOST_ENTRIES = 20_000
"""Of a list or of the settings."""
MOST_LETTERS = 2000
MOST = 10**12
SHA256 = re.compile(r"[0-9a-f]{64}")


class WeightSetReader:
    """The values of one file, each refused in one line that names file, line and key."""

    def __init__(self, tree: Tree) -> None:
        """`tree` is the file as parsed, without problems."""
        self._tree = tree

    def weight_set(self, stem: str) -> WeightSet:
        """The whole set; `stem` is its name where it has none.

        Raises:
            RecipeError: the first thing that is wrong.
        """
        values = self._known((), self._tree.values, WeightSet)
        if "weights" not in values:
            self._refuse((), "weights are missing; write `weights:` and, below, domain: weight")
        weights = self._weights(("weights",), values["weights"])
        texts = {key: self._text((key,), values[key]) for key in ("algorithm", "source") if key in values}
        optional = {
            key: self._text((key,), values[key])
            for key in ("tokenizer", "recipe")
            if values.get(key) is not None
        }
        digests = {
            key: self._digest((key,), values[key])
            for key in ("tokenizer_sha256", "data_fingerprint")
            if values.get(key) is not None
        }
        steps = values.get("steps")
        return WeightSet(
            name=self._name(("name",), values.get("name", stem)),
            weights=weights,
            **texts,
            **optional,
            **digests,
            seeds=tuple(
                self._whole(("seeds", str(n)), seed, 0)
                for n, seed in self._list(("seeds",), values.get("seeds", []))
            ),
            steps=None if steps is None else self._whole(("steps",), steps, 1),
            settings=self._settings(("settings",), values.get("settings", {})),
            rounds=tuple(
                self._round(("rounds", str(n)), each, weights)
                for n, each in self._list(("rounds",), values.get("rounds", []))
            ),
        )

    def _round(self, at: Path, value: Any, weights: Mapping[str, float]) -> Round:
        values = self._known(at, value, Round)
        for key in ("reference_weights", "weights"):
            if key not in values:
                self._refuse((*at, key), "missing; write domain: weight below it")
        parts = {key: self._weights((*at, key), values[key]) for key in ("reference_weights", "weights")}
        for key, part in parts.items():
            if set(part) != set(weights):
                self._refuse((*at, key), f"its domains are not those of the set, {_some(weights)}; name each")
        history: list[HistoryPoint] = []
        for n, each in self._list((*at, "history"), values.get("history", [])):
            here = (*at, "history", str(n))
            point = self._known(here, each, HistoryPoint)
            step = self._whole((*here, "step"), point.get("step"), 0)
            if history and step <= history[-1].step:
                self._refuse((*here, "step"), f"{step} follows {history[-1].step}; give steps in order")
            numbers = [number for _, number in self._list((*here, "weights"), point.get("weights"))]
            if len(numbers) != len(weights):
                self._refuse(
                    (*here, "weights"), f"{len(numbers)} numbers for {len(weights)} domains; give each"
                )
            row = self._weights((*here, "weights"), dict(zip(weights, numbers, strict=True)))
            history.append(HistoryPoint(step=step, weights=tuple(row.values())))
        return Round(history=tuple(history), **parts)

    def _weights(self, at: Path, value: Any) -> dict[str, float]:
        if not isinstance(value, Mapping) or not value:
            self._refuse(at, f"expected a mapping domain: weight, found {_show(value)}")
        if len(value) > MOST_DOMAINS:
            self._refuse(at, f"{len(value):,} domains; a set has at most {MOST_DOMAINS:,}")
        for name, weight in value.items():
            here = (*at, name)
            if not is_safe_name(name):
                self._refuse(at, f"{_show(name)} is not a domain's name; use 1 to 96 of A-Z a-z 0-9 . _ -")
            # YAML's infinities and NaN were refused before; a whole number may still be beyond any float.
            if (
                isinstance(weight, bool)
                or not isinstance(weight, (int, float))
                or not (0 <= weight <= 1 + SUM_TOLERANCE)
            ):
                self._refuse(here, f"expected a share between 0 and 1, found {_show(weight)}")
        total = math.fsum(value.values())
        if abs(total - 1) > SUM_TOLERANCE:
            self._refuse(
                at, f"they sum to {total:.6g}, not to 1 within {SUM_TOLERANCE:g}; divide each by that"
            )
        return {name: float(weight) for name, weight in value.items()}

    def _settings(self, at: Path, value: Any) -> dict[str, Setting]:
        if not isinstance(value, Mapping) or len(value) > MOST_ENTRIES:
            self._refuse(at, f"expected a mapping name: value, found {_show(value)}")
        for name, setting in value.items():
            if not is_safe_name(name):
                self._refuse(at, f"{_show(name)} is not a setting's name; use 1 to 96 of A-Z a-z 0-9 . _ -")
            if isinstance(setting, (Mapping, list)):
                self._refuse((*at, name), f"expected one value, found {_show(setting)}")
            if isinstance(setting, str) and setting:
                self._text((*at, name), setting)
        return dict(value)

    def _known(self, at: Path, value: Any, kind: type) -> Mapping[str, Any]:
        """A mapping with no key but the fields of a dataclass."""
        names = [each.name for each in fields(kind)]
        if not isinstance(value, Mapping):
            self._refuse(at, f"expected a mapping of {', '.join(names)}, found {_show(value)}")
        for key in value:
            if key not in names:
                near = difflib.get_close_matches(key, names, n=1) or names
                self._refuse((*at, key), f"unknown key; there is {', '.join(near)}")
        return value

    def _list(self, at: Path, value: Any) -> Sequence[tuple[int, Any]]:
        if not isinstance(value, list) or len(value) > MOST_ENTRIES:
            self._refuse(at, f"expected a list of at most {MOST_ENTRIES:,}, found {_show(value)}")
        return list(enumerate(value))

    def _name(self, at: Path, value: Any) -> str:
        if not isinstance(value, str) or not is_safe_name(value):
            self._refuse(at, f"{_show(value)} is not a name; use 1 to 96 of A-Z a-z 0-9 . _ -")
        return value

    def _text(self, at: Path, value: Any) -> str:
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= MOST_LETTERS:
            self._refuse(at, f"expected one printable line of text, found {_show(value)}")
        return value

    def _digest(self, at: Path, value: Any) -> str:
        if not isinstance(value, str) or SHA256.fullmatch(value) is None:
            self._refuse(at, f"expected a sha256 of 64 hex digits, or null, found {_show(value)}")
        return value

    def _whole(self, at: Path, value: Any, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
            self._refuse(at, f"expected a whole number >= {least}, found {_show(value)}")
        return value

    def _refuse(self, at: Path, what: str) -> NoReturn:
        dotted = f"{'.'.join(at)}: " if at else ""
        raise RecipeError(f"{self._tree.where(at)}: {dotted}{what}")


def _some(names: Mapping[str, Any]) -> str:
    return ", ".join([*names][:8]) + (", ..." if len(names) > 8 else "")


def _show(value: Any) -> str:
    if isinstance(value, (Mapping, list)):
        return f"{'a mapping' if isinstance(value, Mapping) else 'a list'} of {len(value):,}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a number of many digits"
    return text if len(text) <= 60 else text[:57] + "..."

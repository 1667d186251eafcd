"""Sets of domain weights as files: read strictly, written so that they read back the same.

A set is bound to domain names and, where it says so, to a tokenizer: losses a token of another one are other
numbers. A file with `weights:` alone is a set too. Loading one into a recipe by its name is the loader's.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import reproduce
from data_prep.files import read_ordinary_file
from reproduce.errors import RecipeError
from reproduce.recipe.weight_set import HistoryPoint, Round, Setting, WeightSet
from reproduce.recipe.weight_set_reader import WeightSetReader
from reproduce.recipe.yaml_tree import MAX_RECIPE_BYTES, parse, reads_as_text

__all__ = [
    "HistoryPoint",
    "Round",
    "Setting",
    "WeightSet",
    "name_of_file",
    "read_weight_set",
    "shipped_weight_sets",
    "weight_set_text",
]

SHIPPED_SETS = Path(reproduce.__file__).resolve().parent.parent / "recipes" / "domain_weights"

WANTED = "a set of weights is a mapping; write `weights:` and, below it, domain: weight"
PLAIN = re.compile(r"[A-Za-z0-9._/][A-Za-z0-9 ._/+-]*")
"""Text that may stand without quotes, unless it reads as a number or the like."""


def shipped_weight_sets() -> dict[str, Path]:
    """Name -> file of every set in recipes/domain_weights, sorted by name."""
    return {path.stem: path for path in sorted(SHIPPED_SETS.glob("*.yaml"))}


def read_weight_set(path: Path) -> WeightSet:
    """Read a set of domain weights.

    Raises:
        RecipeError: one line: file and line, key, what was found, what to do.
    """
    try:
        size = path.stat().st_size
        if size > MAX_RECIPE_BYTES:
            raise RecipeError(
                f"{path}: {size:,} bytes, and a set of weights has at most {MAX_RECIPE_BYTES:,}; keep fewer "
                "points of its history"
            )
        text = read_ordinary_file(path).decode("utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not UTF-8 text; name a set of weights") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"{path}: cannot be read: {reason}; check the path") from None
    return _from_text(text, str(path), name_of_file(path))


def name_of_file(path: Path) -> str:
    """What the set of a file is called that has no name of its own: the file's stem, made a safe name."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)[:96].strip(".") or "weights"


def weight_set_text(weights: WeightSet) -> str:
    """The set as YAML, its mappings in their order; reading it gives an equal set.

    Raises:
        ValueError: a set that reading would refuse, as one with a weight that is not finite.
    """
    lines = [
        "# Domain weights by name, of sum 1. To train with them: `data.domain_weights: PATH` in a recipe,",
        "# or --set data.domain_weights=PATH; the token store must have the same tokenizer and domains.",
        f"name: {_scalar_text(weights.name)}",
        *_weight_lines("weights", weights.weights, ""),
    ]
    for key in ("algorithm", "source", "tokenizer", "tokenizer_sha256", "data_fingerprint", "recipe"):
        lines.append(f"{key}: {_scalar_text(getattr(weights, key))}")
    lines.append(f"seeds: [{', '.join(map(_scalar_text, weights.seeds))}]")
    lines.append(f"steps: {_scalar_text(weights.steps)}")
    lines += _mapping_lines("settings", weights.settings, "")
    lines.append("rounds:" if weights.rounds else "rounds: []")
    for each in weights.rounds:
        first, *rest = _weight_lines("reference_weights", each.reference_weights, "    ")
        lines += [f"  - {first.strip()}", *rest, *_weight_lines("weights", each.weights, "    ")]
        lines.append("    history:" if each.history else "    history: []")
        for point in each.history:
            row = ", ".join(_scalar_text(float(weight)) for weight in point.weights)
            lines.append(f"      - {{step: {_scalar_text(point.step)}, weights: [{row}]}}")
    text = "\n".join(lines) + "\n"
    try:
        if _from_text(text, weights.name, "") == weights:
            return text
        reason = "some of its values are of another type"
    except RecipeError as error:
        reason = str(error)
    raise ValueError(f"not a set of weights that can be read back: {reason}")


def _weight_lines(key: str, weights: Mapping[str, float], indent: str) -> list[str]:
    # A whole number too becomes a float: what is read back is one.
    return _mapping_lines(key, {name: float(weight) for name, weight in weights.items()}, indent)


def _mapping_lines(key: str, values: Mapping[str, Setting], indent: str) -> list[str]:
    if not values:
        return [f"{indent}{key}: {{}}"]
    inner = [f"{indent}  {_scalar_text(name)}: {_scalar_text(value)}" for name, value in values.items()]
    return [f"{indent}{key}:", *inner]


def _scalar_text(value: Setting) -> str:
    """A value as our YAML reads it back: full precision, and text in quotes where it would be a number."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        plain = PLAIN.fullmatch(value) and not value.endswith(" ") and reads_as_text(value)
        return value if plain else json.dumps(value, ensure_ascii=False)
    # float() and int(): numpy's numbers have another repr.
    return repr(float(value)) if isinstance(value, float) else repr(int(value))


def _from_text(text: str, source: str, stem: str) -> WeightSet:
    tree, problems = parse(text, source, WANTED)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise RecipeError(f"{problems[0]}{more}")
    return WeightSetReader(tree).weight_set(stem)

"""YAML + `extends` + overrides -> Recipe, every problem of it in one error.

A recipe is found by name among the shipped ones, or by path. Validation never changes a value; the one
value that loading replaces is the name of a set of domain weights, by the weights and the tokenizer they
were learned with.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import reproduce
from data_prep.spec import DataSpec
from reproduce.errors import RecipeError
from reproduce.recipe.checks import impossible
from reproduce.recipe.schema import Recipe
from reproduce.recipe.typed import build
from reproduce.recipe.weight_sets import read_weight_set, shipped_weight_sets
from reproduce.recipe.yaml_tree import Problem, Tree, dump, parse, scalar

SHIPPED = Path(reproduce.__file__).resolve().parent.parent / "recipes"
"""recipes/ of the checkout or of the installed distribution; both lie beside the packages."""

RESERVED_KEYS = ("name", "seed", "extends")


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that can be trained, sorted by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def find_recipe(name_or_path: str) -> Path:
    """The file of a recipe given by name or path.

    Raises:
        RecipeError: neither; names the nearest shipped recipe.
    """
    shipped = shipped_recipes()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    try:
        if (path.suffix in (".yaml", ".yml") or "/" in name_or_path) and path.is_file():
            return path
    except (OSError, ValueError):
        pass  # a name that no file system takes
    if path.suffix in (".yaml", ".yml") or "/" in name_or_path:
        raise RecipeError(f"no recipe file '{name_or_path[:300]}'; `reweight recipes` lists the shipped ones")
    near = difflib.get_close_matches(name_or_path, shipped, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "`reweight recipes` lists them"
    raise RecipeError(f"no recipe named '{name_or_path[:100]}'; {hint}")


def load_recipe(name_or_path: str, overrides: Sequence[str] = (), seed: int | None = None) -> Recipe:
    """Load, resolve and check a recipe.

    Args:
        name_or_path: a shipped recipe's name, or a YAML file.
        overrides: `section.key=value`, values read as YAML scalars; each key once.
        seed: replaces the recipe's seed.

    Raises:
        RecipeError: every problem found, one a line: file, line, dotted path, what, remedy.
    """
    path = find_recipe(name_or_path)
    tree, problems = _read(path)
    values, base_problems = _with_base(path, tree)
    problems += base_problems
    values.setdefault("name", path.stem)
    problems += _override(values, overrides, tree)
    if seed is not None:
        values["seed"] = seed
    problems += _named_weights(values, tree)
    recipe, typed_problems = build(Recipe, values, tree)
    problems += typed_problems
    if recipe is not None and not problems:
        problems = [
            Problem(where=tree.where(tuple(found.split("."))), path=found, what=what)
            for found, what in impossible(recipe)
        ]
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise RecipeError(f"recipe {path.stem}: {count}", [str(problem) for problem in problems])
    assert recipe is not None
    return recipe


def recipe_as_yaml(recipe: Recipe) -> str:
    """The whole resolved recipe; loading it again gives an equal one."""
    return dump(_plain(recipe))


def recipe_as_dict(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain nested values, for JSON."""
    plain: dict[str, Any] = _plain(recipe)
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _read(path: Path) -> tuple[Tree, list[Problem]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(text, str(path))


def _with_base(path: Path, tree: Tree) -> tuple[dict[str, Any], list[Problem]]:
    """Lay the recipe over the base that `extends` names: section by section, one level deep."""
    name = tree.values.get("extends")
    own = {key: value for key, value in tree.values.items() if key != "extends"}
    if name is None:
        return own, []
    where = tree.where(("extends",))
    bases = {
        base.stem: base for base in (path.parent / "bases", SHIPPED / "bases") for base in base.glob("*.yaml")
    }
    if not isinstance(name, str) or name not in bases:
        near = difflib.get_close_matches(str(name), bases, n=1) or sorted(bases)
        return own, [
            Problem(where=where, path="extends", what=f"no base '{name}'; there is {', '.join(near)}")
        ]
    base, problems = _read(bases[name])
    if "extends" in base.values:
        problems.append(
            Problem(where=base.source, path="extends", what="a base extends nothing: one level only")
        )
    merged: dict[str, Any] = {}
    for key in {**base.values, **own}:
        ours, theirs = own.get(key), base.values.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            merged[key] = {**theirs, **ours}
        else:
            merged[key] = ours if key in own else theirs
    for line_path, line in base.lines.items():
        # A message about an inherited value points into the base.
        tree.lines.setdefault(line_path, line)
    return merged, problems


def _override(values: dict[str, Any], overrides: Sequence[str], tree: Tree) -> list[Problem]:
    problems = []
    seen: set[str] = set()
    for override in overrides:
        where = f"--set {override}"
        key, equals, text = override.partition("=")
        key = key.strip()
        parts = key.split(".")
        if not equals or not all(parts):
            problems.append(
                Problem(where=where, path="", what="write section.key=value, e.g. train.steps=1000")
            )
            continue
        if key in seen:
            problems.append(Problem(where=where, path=key, what="set twice; keep one"))
            continue
        seen.add(key)
        try:
            value = scalar(text.strip())
        except ValueError as error:
            problems.append(Problem(where=where, path=key, what=str(error)))
            continue
        target = values
        for part in parts[:-1]:
            inner = target.get(part)
            target[part] = dict(inner) if isinstance(inner, dict) else {}
            target = target[part]
        target[parts[-1]] = value
        tree.set_by_option(tuple(parts), where)
    return problems


def _named_weights(values: dict[str, Any], tree: Tree) -> list[Problem]:
    """Replace the name (or file) of a set of domain weights by its weights and the tokenizer they are for."""
    data = values.get("data")
    if not isinstance(data, dict):
        return []
    name = data.get("domain_weights")
    if not isinstance(name, str) or name in ("uniform", "natural"):
        return []

    def problem(what: str) -> list[Problem]:
        where = tree.where(("data", "domain_weights"))
        return [Problem(where=where, path="data.domain_weights", what=what)]

    sets = shipped_weight_sets()
    file = sets.get(name, _file_of_set(name, tree))
    if file is None:
        known = ["uniform", "natural", *sets]
        near = difflib.get_close_matches(name, known, n=1) or known
        return problem(f"no set of weights '{name}'; there is {', '.join(near)}")
    try:
        found = read_weight_set(file)
    except RecipeError as error:
        return problem(str(error))
    tokenizer = data.get("tokenizer", DataSpec.tokenizer)
    if found.tokenizer is not None and tokenizer != found.tokenizer:
        return problem(
            f"'{found.name}' was learned with tokenizer {found.tokenizer}, and data.tokenizer is "
            f"{tokenizer}; learn weights on this one with `reweight domains`, or give the numbers "
            "themselves, as domain: weight"
        )
    data["domain_weights"] = dict(found.weights)
    # Whoever gives the digest beside the name decides; one that was there before was another set's.
    name_given, digest_given = (
        tree.options.get(("data", key)) for key in ("domain_weights", "weights_tokenizer_sha256")
    )
    if digest_given is None and (name_given is not None or "weights_tokenizer_sha256" not in data):
        data["weights_tokenizer_sha256"] = found.tokenizer_sha256
    return []


def _file_of_set(name: str, tree: Tree) -> Path | None:
    """The file that a name stands for, seen from here, else from the recipe; None: it names no file."""
    if not name.endswith((".yaml", ".yml")):
        return None
    beside = Path(tree.source).parent / name
    given = ("data", "domain_weights") in tree.options
    return beside if not given and not Path(name).exists() and beside.exists() else Path(name)

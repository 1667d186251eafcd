"""Run folders, read: what was trained, what it scored, on what. Opens no model and follows no link.

A run folder is any folder with a results.json; runs/<recipe>/seed-<n>/ by convention.
"""

import json
import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from data_prep.files import sha256_file
from eval.results import Results, read_results
from reproduce import study_file
from reproduce.errors import DataError

Scalar = str | int | float | bool | None
Scale = Literal["paper", "reduced"]

RESULTS = "results.json"
MAX_BYTES = 4 * 1024 * 1024
MAX_SETTINGS = 2000
MAX_INTEGER = 2**64
"""No setting is as large; an integer past a float's range breaks what reads it as one."""

PRUNED = {"checkpoints", "model"}
"""Folders inside a run that hold no runs and may hold thousands of files."""

MAX_DEPTH = 64
"""Levels below a root that are searched; a deeper tree was made to exhaust us."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What of a recipe decides which cell of the paper a run stands for."""

    recipe: str
    strategy: str
    r: float | None
    table: str | None
    """Table of the paper that the recipe belongs to; None: a run that the paper does not have."""

    model: str | None
    """The paper's model that it trains, or stands in for at reduced scale."""

    scale: Scale
    domain_weights: str | Mapping[str, float]
    """`uniform`, `natural`, or the weights themselves: domain -> weight, to be normalised to sum 1."""

    steps: int | None
    """Optimizer steps that the recipe asks for."""

    settings: Mapping[str, Scalar]
    """The whole recipe, dotted path -> value."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run folder."""

    path: Path
    info: RunInfo
    results: Results
    provenance: Mapping[str, Scalar]
    """provenance.json, dotted path -> value; empty if the folder has none."""

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.results.seed

    @property
    def data_fingerprint(self) -> str | None:
        """Fingerprint of the token store that it was trained on, if recorded."""
        value = self.provenance.get("identity.data_fingerprint")
        return None if value is None else str(value)


Lookup = Callable[[str], RunInfo | None]
"""Recipe name -> what the shipped recipe of that name says; None if there is none."""


def no_lookup(name: str) -> RunInfo | None:
    """Know no shipped recipe."""
    return None


def find_runs(roots: Sequence[Path], lookup: Lookup = no_lookup) -> list[Run]:
    """Every run at or below the given folders, in the order of their paths.

    Args:
        roots: run folders, or folders of runs; each must exist.
        lookup: asked for a run folder without recipe.yaml.

    Raises:
        DataError: a root that does not exist, a file in a run folder that cannot be read, an unknown recipe.
        ResultsError: a broken results.json.
    """
    folders: dict[Path, Path] = {}
    for root in roots:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder of runs; `reweight train` makes one under runs/")
        for folder in _run_folders(root):
            folders.setdefault(folder.resolve(), folder)
    return [read_run(folders[key], lookup) for key in sorted(folders)]


def unscored_runs(roots: Sequence[Path]) -> list[Path]:
    """Run folders at or below the roots that have no results.json yet: unfinished, or never evaluated."""
    return [
        folder
        for root in roots
        for folder, files in walk(root)
        if "recipe.yaml" in files and not {RESULTS, study_file.FILE_NAME} & set(files)
    ]


def read_run(folder: Path, lookup: Lookup = no_lookup) -> Run:
    """Read one run folder; raises as find_runs does."""
    results = read_results(folder / RESULTS)
    recipe = folder / "recipe.yaml"
    own = recipe.is_file() and not recipe.is_symlink()
    info = recipe_info(load_yaml(recipe), recipe) if own else lookup(results.recipe)
    if info is None:
        raise DataError(
            f"{folder}: no recipe.yaml, and no shipped recipe is called {results.recipe!r:.100}; "
            "put the run's recipe.yaml back"
        )
    if info.recipe != results.recipe:
        raise _two_runs(folder, "recipe", repr(results.recipe), repr(info.recipe))
    # A shipped recipe's seed is not the run's.
    seed = _whole(info.settings, "seed", recipe) if own else None
    if seed is not None and seed != results.seed:
        raise _two_runs(folder, "seed", str(results.seed), str(seed))
    provenance = folder / "provenance.json"
    known = provenance.is_file() and not provenance.is_symlink()
    facts = _facts(load_json(provenance), provenance) if known else {}
    digest = facts.get("recipe_sha256")
    if digest is not None and recipe.is_file() and digest != sha256_file(recipe):
        raise DataError(f"{recipe}: changed since the run wrote it, its sha256 differs; restore it")
    return Run(path=folder, info=info, results=results, provenance=facts)


def _two_runs(folder: Path, what: str, scored: str, trained: str) -> DataError:
    return DataError(
        f"{folder}: {RESULTS} is of {what} {scored:.100}, recipe.yaml of {trained:.100}; "
        f"the folder mixes two runs, move {RESULTS} away and run `reweight eval` on the folder"
    )


def recipe_info(recipe: Mapping[str, Any], where: Path | str) -> RunInfo:
    """What a resolved recipe (nested sections) says about its place in the paper.

    Raises:
        DataError: a field that the comparison needs is missing or of another type.
    """
    settings = flatten(recipe, where)

    def text(key: str) -> str | None:
        value = settings.get(key)
        if value is None or isinstance(value, str):
            return value
        raise DataError(f"{where}: {key} is {value!r:.40}, expected a text; restore the run's recipe.yaml")

    name, strategy = text("name"), text("reweighting.strategy")
    if not name or not strategy:
        missing = "name" if not name else "reweighting.strategy"
        raise DataError(
            f"{where}: {missing} is missing; restore the recipe.yaml that the run was started with"
        )
    return RunInfo(
        recipe=name,
        strategy=strategy,
        r=_number(settings, "reweighting.r", where),
        table=text("paper.table"),
        model=text("paper.model"),
        scale="paper" if text("paper.scale") == "paper" else "reduced",
        domain_weights=_domain_weights(settings, where),
        steps=_whole(settings, "train.steps", where),
        settings=settings,
    )


def load_yaml(path: Path) -> Mapping[str, Any]:
    """Read a small YAML mapping safely."""
    try:
        document = yaml.safe_load(_small_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not valid YAML ({first}); restore the file from the run") from error
    return _mapping(path, document)


def load_json(path: Path) -> Mapping[str, Any]:
    """Read a small JSON object."""
    try:
        document = json.loads(_small_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not complete JSON ({error}); delete the file or run again") from error
    return _mapping(path, document)


def walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders at or below `root` that may hold runs or studies, with their files' names, in order of names.

    No link is followed, and nothing below MAX_DEPTH levels is visited.
    """
    top = len(root.parts)
    for folder, subfolders, files in os.walk(root, followlinks=False):
        path = Path(folder)
        deeper = sorted(n for n in subfolders if n not in PRUNED and not n.startswith("."))
        subfolders[:] = deeper if len(path.parts) - top < MAX_DEPTH else []
        yield path, files


def flatten(document: Mapping[str, Any], where: Path | str) -> dict[str, Scalar]:
    """Nested mappings and lists as dotted path -> scalar, in file order.

    Raises:
        DataError: more than MAX_SETTINGS values (YAML aliases can hide millions in a few lines), an integer
            beyond MAX_INTEGER.
    """
    flat: dict[str, Scalar] = {}
    try:
        for key, value in _leaves("", document, 0):
            flat[key] = value
            if len(flat) > MAX_SETTINGS:
                raise DataError(f"{where}: more than {MAX_SETTINGS} values, not written by this project")
            if isinstance(value, int) and abs(value) > MAX_INTEGER:
                raise DataError(
                    f"{where}: {key} is an integer of {value.bit_length()} bits, larger than any setting; "
                    "restore the file from the run"
                )
    except ValueError as error:  # Python writes out no integer of more than 4300 digits, here of a name
        raise DataError(
            f"{where}: a name in it is not written by this project; restore the file from the run"
        ) from error
    return flat


def _facts(document: Mapping[str, Any], where: Path) -> dict[str, Scalar]:
    """provenance.json flattened: the command as one line, restarts by their number."""
    short = dict(document)
    if isinstance(short.get("command"), list):
        short["command"] = shlex.join(map(str, short["command"]))
    if isinstance(short.get("restarts"), list):
        short["restarts"] = len(short["restarts"])
    return flatten(short, where)


def _leaves(prefix: str, value: Any, depth: int) -> Iterator[tuple[str, Scalar]]:
    if depth > 12 or not isinstance(value, (Mapping, list)):
        scalar = value is None or isinstance(value, (str, int, float, bool))
        yield prefix, value if scalar else str(value)[:200] if depth <= 12 else "..."
        return
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, inner in items:
        yield from _leaves(f"{prefix}.{key}" if prefix else str(key), inner, depth + 1)


def _run_folders(root: Path) -> Iterator[Path]:
    for folder, files in walk(root):
        if RESULTS in files and not (folder / RESULTS).is_symlink():
            yield folder


def _small_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"{path}: larger than {MAX_BYTES} bytes, not written by this project; move it away"
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; restore the file from the run") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _mapping(path: Path, document: object) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise DataError(f"{path}: holds no mapping of names to values; restore the file from the run")
    return document


def _domain_weights(settings: Mapping[str, Scalar], where: Path | str) -> str | dict[str, float]:
    key = "data.domain_weights"
    named = settings.get(key, "uniform")
    written = {
        k.removeprefix(f"{key}."): _number(settings, k, where) for k in settings if k.startswith(f"{key}.")
    }
    if written:
        return {domain: weight for domain, weight in written.items() if weight is not None}
    if isinstance(named, str):
        return named
    raise DataError(f"{where}: {key} is {named!r:.40}, expected a name or weights; restore the recipe.yaml")


def _number(settings: Mapping[str, Scalar], key: str, where: Path | str) -> float | None:
    value = settings.get(key)
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise DataError(
        f"{where}: {key} is {value!r:.40}, expected a finite number; restore the run's recipe.yaml"
    )


def _whole(settings: Mapping[str, Scalar], key: str, where: Path | str) -> int | None:
    value = settings.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise DataError(f"{where}: {key} is {value!r:.40}, expected an integer; restore the run's recipe.yaml")

"""What a run folder says of the run that made it: recipe, data, what else decided the result. No torch."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_prep.files import read_ordinary_file
from reproduce.errors import DataError, RecipeError
from reproduce.recipe import Recipe, load_recipe

RECIPE_DIGEST = "recipe_sha256"
"""Key of provenance.json: the digest of recipe.yaml as it was written."""


def recorded_facts(run: Path) -> Mapping[str, Any]:
    """provenance.json, or nothing where it cannot be read."""
    try:
        document = json.loads(read_ordinary_file(run / "provenance.json"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def recorded_recipe(run: Path) -> Recipe:
    """The recipe that a run folder was made for.

    Raises:
        DataError: recipe.yaml is missing, damaged, or not what the run wrote; say where to get it back.
    """
    own = run / "recipe.yaml"
    try:
        text = read_ordinary_file(own)
        recipe = load_recipe(str(own))
    except OSError as error:
        raise DataError(f"{own}: cannot be read ({error.strerror}); restore it") from None
    except RecipeError as error:
        raise DataError(f"{own}: damaged ({' '.join(error.lines)[:300]}); restore it") from None
    digest = recorded_facts(run).get(RECIPE_DIGEST)
    # Without one there is nothing to hold it against.
    if digest is not None and digest != hashlib.sha256(text).hexdigest():
        raise DataError(f"{own}: changed since the run wrote it, its sha256 differs; restore it")
    return recipe


def recorded_identity(run: Path) -> Mapping[str, Any]:
    """What decided a run's result besides its recipe; nothing where it is not recorded."""
    found = recorded_facts(run).get("identity")
    return found if isinstance(found, dict) else {}


def recorded_store(run: Path) -> Path | None:
    """The token store that a run was trained on; None where it is not recorded."""
    data = recorded_facts(run).get("data")
    return Path(data) if isinstance(data, str) else None


def recorded_tokenizer(run: Path) -> str | None:
    """sha256 of the tokenizer that a run was trained with; None where it is not recorded."""
    digest = recorded_facts(run).get("tokenizer_sha256")
    return digest if isinstance(digest, str) else None

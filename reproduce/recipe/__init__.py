"""What to train, as data: a typed recipe, loaded strictly. No torch.

Loading, overriding and printing: loader.py. Combinations that cannot work: checks.py. What a run will
cost: estimate.py.
"""

from reproduce.recipe.loader import find_recipe, load_recipe, recipe_as_yaml, shipped_recipes
from reproduce.recipe.schema import (
    CompatibilitySpec,
    DomainsSpec,
    EvaluationSpec,
    ModelSpec,
    OptimizerSpec,
    PaperSpec,
    ParallelSpec,
    Recipe,
    ReweightingSpec,
    TrainSpec,
)

__all__ = [
    "CompatibilitySpec",
    "DomainsSpec",
    "EvaluationSpec",
    "ModelSpec",
    "OptimizerSpec",
    "PaperSpec",
    "ParallelSpec",
    "Recipe",
    "ReweightingSpec",
    "TrainSpec",
    "find_recipe",
    "load_recipe",
    "recipe_as_yaml",
    "shipped_recipes",
]

"""The shipped recipes that stand for the paper's rows: what a run has to be trained with to count as one."""

from functools import cache

from reproduce.paper.needs import PAPER
from reproduce.paper.runs import RunInfo, recipe_info
from reproduce.recipe.loader import load_recipe, recipe_as_dict


@cache
def standing_recipes(table: str) -> tuple[RunInfo, ...]:
    """The recipes of a table's rows at the paper's scale, by the table's id."""
    return tuple(
        recipe_info(recipe_as_dict(load_recipe(name)), f"recipe {name}") for name in PAPER[table].recipes
    )

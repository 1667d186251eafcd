"""`reweight recipes`: what can be trained."""

from pathlib import Path

import click

from reproduce.cli.console import UserPath, emit_json, json_option, note, print_table, quantity


@click.group(invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List, show, validate and copy recipes.

    \b
    Examples:
      reweight recipes
      reweight recipes show gpt2_mini_linupper
      reweight recipes show gpt2_nano_linupper --set train.steps=1000
      reweight recipes validate my_recipe.yaml
      reweight recipes cp gpt2_nano_linupper my_recipe.yaml
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_recipes)


@command.command("list")
@json_option
def list_recipes(as_json: bool = False) -> None:
    """List the shipped recipes."""
    from reproduce.recipe import load_recipe, shipped_recipes
    from reproduce.recipe.estimate import parameter_count

    recipes = [load_recipe(name) for name in shipped_recipes()]
    if as_json:
        emit_json(
            [
                {
                    "name": r.name,
                    "strategy": r.reweighting.strategy,
                    "domains": r.domains.algorithm if r.domains else None,
                    "parameters": parameter_count(r.model),
                    "tokens": r.train.tokens,
                    "table": r.paper.table,
                    "scale": r.paper.scale,
                }
                for r in recipes
            ]
        )
        return
    rows = [
        (
            r.name,
            f"{r.domains.algorithm} proxy" if r.domains else r.reweighting.strategy,
            quantity(parameter_count(r.model)),
            quantity(r.train.tokens),
            f"{r.paper.table} ({r.paper.scale})" if r.paper.table else "-",
        )
        for r in recipes
    ]
    print_table(f"{len(rows)} recipes", ("name", "strategy", "parameters", "tokens", "paper"), rows)


@command.command("show")
@click.argument("name")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a value.")
@json_option
def show(name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print a recipe, resolved and complete."""
    from reproduce.recipe import load_recipe, recipe_as_yaml
    from reproduce.recipe.loader import recipe_as_dict

    recipe = load_recipe(name, overrides)
    if as_json:
        emit_json(recipe_as_dict(recipe))
    else:
        click.echo(recipe_as_yaml(recipe), nl=False)


@command.command("validate")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@json_option
def validate(paths: tuple[str, ...], as_json: bool) -> None:
    """Check recipes: keys, types, bounds and combinations. Exit 2 if one is wrong."""
    from reproduce.errors import RecipeError
    from reproduce.recipe import load_recipe

    wrong = []
    for path in paths:
        try:
            load_recipe(path)
        except RecipeError as error:
            wrong.append(error)
    if as_json:
        emit_json({"valid": not wrong, "checked": len(paths), "problems": [str(each) for each in wrong]})
    elif not wrong:
        click.echo(f"{len(paths)} valid")
    if len(wrong) == 1:
        raise wrong[0]
    if wrong:
        lines = [line for error in wrong for line in error.lines]
        raise RecipeError(f"{len(wrong)} of {len(paths)} recipes cannot be run", lines)


@command.command("cp")
@click.argument("name")
@click.argument("path", type=UserPath(dir_okay=False))
def copy(name: str, path: Path) -> None:
    """Write a shipped recipe, resolved, to a file of your own."""
    from data_prep.files import write_text_atomically
    from reproduce.errors import UserError
    from reproduce.recipe import load_recipe, recipe_as_yaml

    text = recipe_as_yaml(load_recipe(name))
    own = text.replace(f"name: {name}\n", "", 1)
    if path.exists():
        raise UserError(f"{path} exists; choose another name or delete it first")
    write_text_atomically(path, own)
    note(f"wrote {path}; train it with `reweight train --recipe {path}`")

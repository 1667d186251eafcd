"""`reweight domains show` and `average`: sets of domain weights side by side, and their mean."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reproduce.cli.console import UserPath, emit_json, json_option, note, print_table
from reproduce.errors import ExitCode, UserError
from reproduce.paper.text import clean

if TYPE_CHECKING:
    from reproduce.recipe.weight_set import WeightSet


@click.command("show")
@click.argument("names", nargs=-1, metavar="[NAME|PATH]...")
@json_option
def show(names: tuple[str, ...], as_json: bool) -> int:
    """Show sets of domain weights side by side; without NAME or PATH, those that ship.

    \b
    Examples:
      reweight domains show
      reweight domains show doge doge_c4_cc_exchanged
      reweight domains show runs/gpt2_nano_doremi_proxy/seed-*/weights.yaml
    """
    sets = [_found(name) for name in names or _shipped()]
    if as_json:
        emit_json([_document(each) for each in sets])
    else:
        _print(sets)
    return ExitCode.DONE


@click.command("average")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=UserPath(dir_okay=False))
@click.option("--out", required=True, type=UserPath(dir_okay=False), help="File to write.")
@json_option
def average(paths: tuple[Path, ...], out: Path, as_json: bool) -> int:
    """Write the mean of weights that were learned with several seeds, all else alike.

    \b
    Examples:
      reweight domains average runs/gpt2_nano_doge_proxy/seed-*/weights.yaml --out gpt2_nano_doge.yaml
    """
    from data_prep.files import write_text_atomically
    from reproduce.domains.average import average as mean_of
    from reproduce.recipe.weight_sets import name_of_file, read_weight_set, weight_set_text

    if out.suffix not in (".yaml", ".yml"):
        raise click.UsageError(f"--out {out}: a recipe takes a file of weights by its ending; call it .yaml")
    if out.resolve() in [path.resolve() for path in paths]:
        raise click.UsageError(f"--out {out}: is one of the sets, which would be lost; choose another name")
    sets = [read_weight_set(path) for path in paths]
    mean = mean_of(sets, name_of_file(out))
    write_text_atomically(out, weight_set_text(mean))
    if as_json:
        emit_json({"path": str(out), **_document(mean)})
    else:
        _print(sets)
        note(f"train with it: --set data.domain_weights={out}")
        click.echo(str(out))
    return ExitCode.DONE


def print_learned(path: Path, weights: "WeightSet", as_json: bool) -> None:
    """What an algorithm has just written."""
    if as_json:
        emit_json({"path": str(path), **_document(weights)})
        return
    rows = [
        (domain, *(f"{found.weights[domain]:.4f}" for found in weights.rounds)) for domain in weights.weights
    ]
    columns = (
        ["weight"] if len(weights.rounds) == 1 else [f"round {n + 1}" for n in range(len(weights.rounds))]
    )
    print_table(weights.algorithm, ("domain", *columns), rows)
    note(f"train with them: --set data.domain_weights={path}")
    click.echo(str(path))


def _shipped() -> list[str]:
    from reproduce.recipe.weight_sets import shipped_weight_sets

    return list(shipped_weight_sets())


def _found(name: str) -> "WeightSet":
    from reproduce.recipe.weight_sets import read_weight_set, shipped_weight_sets

    shipped = shipped_weight_sets()
    if name in shipped:
        return read_weight_set(shipped[name])
    if "/" in name or name.endswith((".yaml", ".yml")):
        return read_weight_set(UserPath().convert(name, None, None))
    raise UserError(f"no set of domain weights '{name}'; there is {', '.join(shipped)}, or name a file")


def _print(sets: Sequence["WeightSet"]) -> None:
    domains = list(dict.fromkeys(domain for each in sets for domain in each.weights))
    alike = len({(each.recipe, frozenset(each.weights)) for each in sets}) == 1
    several = len(sets) > 1 and alike and sets[0].recipe is not None
    rows = [[domain, *(_shown(each.weights.get(domain)) for each in sets)] for domain in domains]
    if several:
        for row, domain in zip(rows, domains, strict=True):
            values = [each.weights[domain] for each in sets]
            row += [_shown(statistics.fmean(values)), _shown(statistics.stdev(values))]
    names = [clean(_title(each), 40) for each in sets]
    print_table("domain weights", ("domain", *names, *(("mean", "std. dev.") if several else ())), rows)
    for each in sets:
        bound = f"tokenizer {each.tokenizer}" if each.tokenizer else "bound to no tokenizer"
        note(clean(f"{_title(each)}: {each.source}; {bound}", 400))


def _title(weights: "WeightSet") -> str:
    return weights.name + (
        f" seed {', '.join(map(str, weights.seeds))}" if weights.seeds and weights.recipe else ""
    )


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _document(weights: "WeightSet") -> dict[str, Any]:
    from dataclasses import asdict

    document = {key: value for key, value in asdict(weights).items() if key != "rounds"}
    document["rounds"] = [
        {"reference_weights": dict(each.reference_weights), "weights": dict(each.weights)}
        for each in weights.rounds
    ]
    return document

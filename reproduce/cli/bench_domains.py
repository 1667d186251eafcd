"""`reweight bench domains`: what DoReMi's and DoGE's steps cost."""

from dataclasses import asdict

import click

from reproduce.cli.bench import command, print_ratios
from reproduce.cli.console import emit_json, json_option, progress
from reproduce.training.bench_ratios import Clock, Round, load_average, ratios, speeds


@command.command("domains")
@click.option("--recipe", "name", default="gpt2_nano_doge_proxy", show_default=True, metavar="NAME|PATH")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a value.")
@click.option("--domains", type=click.IntRange(2, 1000), default=7, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
def domains(
    name: str, overrides: tuple[str, ...], domains: int, threads: int, rounds: int, as_json: bool
) -> None:
    """Steps of DoReMi and DoGE against a plain step of the same proxy, and against k backward passes.

    Seconds are the process's own by the CPU clock with one thread on a CPU, else by the wall clock. Ctrl-C
    ends it with the rounds done so far.

    \b
    Examples:
      reweight bench domains
      reweight bench domains --rounds 40 --domains 22
      reweight bench domains --recipe gpt2_82m_doge_proxy --set model.dropout=0 --rounds 6
    """
    import torch
    from transformers.utils import logging

    from reproduce.domains.bench import COMPARISONS, measure
    from reproduce.recipe import load_recipe
    from reproduce.training.bench import one_cpu_thread
    from reproduce.training.provenance import versions

    torch.set_num_threads(threads)
    logging.set_verbosity_error()
    recipe = load_recipe(name, overrides)
    clock: Clock = "cpu" if one_cpu_thread() else "wall"
    load = [load_average()]
    done: list[Round] = []
    interrupted = False
    with progress("bench domains", rounds, "rounds") as line:
        try:
            for one in measure(recipe, domains, rounds, line.update):
                done.append(one)
        except KeyboardInterrupt:
            if not done:
                raise
            interrupted = True
    load.append(load_average())
    result = ratios(tuple(COMPARISONS), done, clock, True, COMPARISONS)
    speed = speeds(done, recipe.train.tokens_a_step)
    if as_json:
        emit_json(
            {
                "recipe": recipe.name,
                "domains": domains,
                "threads": threads,
                "clock": clock,
                "load_average": {"before": load[0], "after": load[1]},
                "versions": versions(),
                "ratios": [asdict(each) for each in result],
                "variants": [asdict(each) for each in speed],
            }
        )
    else:
        title = f"{recipe.name}, {domains} domains: {len(done)} rounds, {threads} thread(s), {clock} clock"
        print_ratios(title, result, speed, load)
    if interrupted:
        raise KeyboardInterrupt

"""Progress of `reweight domains`: a line for each phase, and what signals ask of all of them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from reproduce.cli.console import Progress, note, quantity
from reproduce.cli.signals import leads, stop_requests

if TYPE_CHECKING:
    from reproduce.recipe import Recipe
    from reproduce.training.start import Events


@contextmanager
def phases() -> Iterator[Callable[["Recipe"], "Events"]]:
    """Callbacks for each phase in turn, from its recipe."""
    with stop_requests() as asked, ExitStack() as lines:

        def events(recipe: "Recipe") -> "Events":
            from reproduce.training.start import Events

            lines.close()  # the phase before is over
            if not leads():
                return Events(
                    warn=lambda message: None,
                    advance=lambda step, line: None,
                    stop=lambda: asked.code,
                    saves=lambda: asked.saves,
                )
            line = Progress(f"{recipe.name} seed {recipe.seed}", recipe.train.steps, "steps")
            lines.callback(line.close)

            def advance(step: int, logged: dict[str, Any]) -> None:
                line.update(step, _detail(step, recipe.train.steps, logged))

            return Events(warn=note, advance=advance, stop=lambda: asked.code, saves=lambda: asked.saves)

        yield events


def _detail(step: int, steps: int, logged: dict[str, Any]) -> str:
    rate = f"{quantity(logged['tokens_per_s'])} tokens/s"
    text = f"step {step}/{steps} loss {logged['loss']:.3f} {rate}"
    if "alpha" not in logged:
        return text
    largest = max(logged["alpha"], key=logged["alpha"].__getitem__)
    return f"{text} most weight {largest} {logged['alpha_max']:.3f}"

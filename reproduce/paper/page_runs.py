"""What the report's page says about each run, and the commands that make its numbers again."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.files import read_ordinary_file
from eval.results import PERPLEXITY_SUITE
from reproduce.paper.again import again_folder
from reproduce.paper.found_studies import FoundStudy
from reproduce.paper.matching import Group
from reproduce.paper.runs import Run, Scalar
from reproduce.paper.shown_weights import weights_at_a_glance, written_weights
from reproduce.paper.study_words import repeat_command
from reproduce.paper.text import clean


@dataclass(frozen=True, kw_only=True)
class ShownRun:
    """One run, as text."""

    recipe: str
    seed: int
    strategy: str
    r: str
    weights: str
    """Domain weights, at a glance."""
    scale: str
    step: int
    state: str
    data: str
    device: str
    path: str
    facts: tuple[tuple[str, str], ...]
    """Its domain weights where they are written out, and its provenance."""
    again: str
    """The command that trains it once more."""


def shown_value(value: Scalar) -> str:
    """A value of a recipe or of provenance as a text."""
    return "–" if value is None else str(value)


def shown_run(run: Run) -> ShownRun:
    """The run as the page shows it."""
    weights = written_weights(run.info)
    return ShownRun(
        recipe=clean(run.info.recipe, 60),
        seed=run.seed,
        strategy=clean(run.info.strategy, 40),
        r="–" if run.info.r is None or run.info.strategy == "uniform" else f"{run.info.r:g}",
        weights=weights_at_a_glance(run.info),
        scale=run.info.scale,
        step=run.results.step,
        state=_state(run),
        data=clean(shown_value(run.provenance.get("data")), 80),
        device=clean(
            shown_value(run.provenance.get("hardware.gpu") or run.provenance.get("hardware.cpu")), 60
        ),
        path=clean(run.path, 200),
        facts=(*([("domain weights", weights)] if weights else []), *_provenance(run)),
        again=_train_command(run),
    )


def _state(run: Run) -> str:
    path = run.path / "status.json"
    try:
        status = json.loads(read_ordinary_file(path)) if not path.is_symlink() else {}
    except (OSError, ValueError, RecursionError):
        return "unknown"
    return clean(status.get("state", "unknown"), 40) if isinstance(status, dict) else "unknown"


def _provenance(run: Run) -> tuple[tuple[str, str], ...]:
    return tuple((clean(key, 60), clean(shown_value(value), 200)) for key, value in run.provenance.items())


def commands(groups: Sequence[Group], studies: Sequence[FoundStudy]) -> tuple[tuple[str, str], ...]:
    """What makes each number of the page again, and the command, in the order to run them."""
    runs = [run for group in groups for run in group.runs]
    if not runs and not studies:
        return ()
    folders = " ".join(map(_quoted, [*(run.path for run in runs), *(each.path for each in studies)]))
    made: list[tuple[str, str]] = []
    for run in runs:
        name = f"{clean(run.info.recipe, 60)}, seed {run.seed}"
        made.append((f"{name}: losses, weights, log-perplexities", _train_command(run)))
        suites = dict.fromkeys(score.suite for score in run.results.scores if score.suite != PERPLEXITY_SUITE)
        for suite in suites:
            # Of the run made again: where a score is there already, `eval` leaves it.
            command = f"reweight eval {_quoted(again_folder(run.path))} --suite {_quoted(suite)}"
            made.append((f"{name}: scores of {clean(suite, 40)}", command))
    for each in studies:
        repeat = repeat_command(each.study, each.path)
        if repeat is not None:
            made.append((clean(each.study.title, 200), repeat))
    again = {
        "the verdicts": "compare --against paper",
        "the figures, as SVG, PNG and CSV": "figures",
        "this page": "report",
    }
    return (*made, *((what, f"reweight {verb} {folders}") for what, verb in again.items()))


def _train_command(run: Run) -> str:
    """Make the run once more, elsewhere: its own recipe.yaml is complete, overrides included.

    In its own folder `train` would find it complete. The proxy of a domain algorithm is no plain run, `train`
    refuses it: the algorithm makes it again.
    """
    own = run.path / "recipe.yaml"
    recipe = own if own.is_file() else run.info.recipe
    data = run.provenance.get("data")
    store = "" if data is None else f" --data {_quoted(data)}"
    algorithm = run.info.settings.get("domains.algorithm")
    verb = "train" if algorithm is None else f"domains {_quoted(algorithm)}"
    out = _quoted(again_folder(run.path))
    return f"reweight {verb} --recipe {_quoted(recipe)} --seed {run.seed}{store} --out {out}"


def _quoted(text: object) -> str:
    return shlex.quote(clean(text, 300))

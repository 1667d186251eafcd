"""What scoring tasks needs, checked before anything heavy is loaded."""

import os
from importlib.util import find_spec
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from reproduce.errors import UserError


def require_lm_eval() -> None:
    """Refuse where lm-eval is not installed, or cannot be loaded (UserError): training does without it."""
    try:
        _ = urlsplit(os.environ.get("HF_ENDPOINT", "")).port
    except ValueError as error:
        # The hub's client ends in a traceback when it is imported.
        raise UserError(f"HF_ENDPOINT is not an address ({error}); mend or unset it") from None
    lacking = [name for name in ("lm_eval", "datasets") if find_spec(name) is None]
    if lacking:
        raise UserError(
            f"scoring tasks needs the packages lm-eval and datasets, and {lacking[0]} is not installed; "
            "pip install them here, or score the run's folder on another machine"
        )


def refuse_without_suite(eval_suite: str | None) -> None:
    """Refuse options of `reweight train` that would do nothing (click.UsageError)."""
    context = click.get_current_context()
    for option in ("eval_every", "eval_limit"):
        if eval_suite is None and context.get_parameter_source(option) is not ParameterSource.DEFAULT:
            name = option.replace("_", "-")
            raise click.UsageError(f"--{name} is about tasks; add --eval-suite, or leave it out")

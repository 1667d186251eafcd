"""In which settings two recipes differ, and whether that is of consequence to what they trained."""

from collections.abc import Sequence

from reproduce.paper.runs import RunInfo, Scalar
from reproduce.recipe.neutral import default_settings, is_neutral

NO_CONSEQUENCE = ("name", "seed", "paper", "evaluation.every_steps", "evaluation.batch")
"""Settings that change no result, beside those that `is_neutral` knows; the seed makes the group."""

METHOD = ("reweighting", "compatibility")
"""What a strategy and its uniform row may differ in: the method, with the defects of the released code."""


def setting(info: RunInfo, path: str) -> Scalar:
    """A setting of a recipe; its default where the recipe is from before it."""
    value: Scalar = info.settings.get(path, default_settings().get(path))
    return value


def setting_differences(one: RunInfo, other: RunInfo) -> list[str]:
    """Dotted paths in which two recipes differ, the seed and the recipe's own name left out.

    A setting that one recipe lacks counts there as its default: the recipe is from before it.
    """
    keys = dict.fromkeys([*one.settings, *other.settings])
    return [k for k in keys if k not in ("name", "seed") and setting(one, k) != setting(other, k)]


def consequential(one: RunInfo, other: RunInfo, besides: Sequence[str] = ()) -> list[str]:
    """The same without what leaves a run's result alone, and without `besides` and all below them."""
    scopes = {setting(info, "reweighting.scope") for info in (one, other)}
    scope = "micro" if "micro" in scopes else "global"
    left_out = (*NO_CONSEQUENCE, *besides)
    return [k for k in setting_differences(one, other) if not (is_neutral(k, scope) or covered(k, left_out))]


def covered(path: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted path is one of these, or lies below one."""
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def listed(paths: Sequence[str], one: RunInfo, other: RunInfo, there: str) -> str:
    """Settings with both values, as one text: `optimizer.lr 0.1 (there: 0.001)`."""
    shown = [
        f"{path} {_shown(setting(one, path))} ({there}: {_shown(setting(other, path))})" for path in paths
    ]
    return "; ".join(shown[:6]) + (f"; and {len(shown) - 6} more" if len(shown) > 6 else "")


def _shown(value: Scalar) -> str:
    return "null" if value is None else f"{value!s:.40}"

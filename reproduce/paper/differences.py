"""In what two groups of runs differ besides their results, and whether that is what is being compared."""

from collections.abc import Sequence
from dataclasses import dataclass

from reproduce.errors import RecipeError
from reproduce.paper.matching import Group
from reproduce.paper.runs import Scalar
from reproduce.paper.setting_differences import consequential, covered, setting

FACTOR = "reweighting"
"""What runs may differ in without being told: the method."""

FACTS = ("identity.data_fingerprint", "precision")
"""Facts of provenance.json that decide a result besides the recipe."""

DATA = ("data.dataset", "data.tokenizer")
"""Settings by which the training data differ as a matter of course."""


@dataclass(frozen=True, kw_only=True)
class Different:
    """One thing in which a group differs from the reference."""

    recipe: str
    path: str
    """Dotted path in the recipe; identity.* and results.* for what is recorded elsewhere."""

    ours: Scalar
    theirs: Scalar
    declared: bool
    """Whether a declared factor covers it."""


def differences(group: Group, reference: Group, factors: Sequence[str]) -> list[Different]:
    """Everything of consequence in which the two differ, settings first.

    A recipe that lacks a setting is from before it, and counts as having its default; a fact that was not
    recorded cannot be held against a run.
    """
    one, other = group.info, reference.info
    found = [
        Different(
            recipe=one.recipe,
            path=path,
            ours=setting(one, path),
            theirs=setting(other, path),
            declared=covered(path, factors),
        )
        for path in consequential(one, other)
    ]
    return found + _facts(group, reference, factors)


def refuse_undeclared(found: Sequence[Different], reference: Group) -> None:
    """Refuse groups that differ in more than the declared factors.

    Raises:
        RecipeError: with every such difference, its path and both values.
    """
    undeclared = [each for each in found if not each.declared]
    if undeclared:
        where = f"{reference.info.recipe:.100}"
        raise RecipeError(
            f"runs differ from {where} in more than the declared factor; name runs that do not, declare what "
            "you compare with --factor PATH, or go on with --any-difference",
            [f"{each.recipe:.100}: {told(each)}" for each in undeclared],
        )


def told(each: Different) -> str:
    """A difference as text: path, the group's value, the reference's."""
    ours, theirs = ("null" if value is None else f"{value!s:.80}" for value in (each.ours, each.theirs))
    return f"{each.path} {ours}, there {theirs}"


def _facts(group: Group, reference: Group, factors: Sequence[str]) -> list[Different]:
    found = []
    for path in (*FACTS, "identity.eval_set_sha256", "results.step"):
        ours, theirs = (sorted(_values(each, path), key=str) for each in (group, reference))
        if ours and theirs and (len(ours) > 1 or ours != theirs):
            covering = {"identity.data_fingerprint": DATA, "results.step": ("train.steps",)}.get(path, ())
            declared = any(covered(each, factors) for each in (path, *covering))
            found.append(
                Different(
                    recipe=group.info.recipe,
                    path=path,
                    ours=", ".join(map(_short, ours)),
                    theirs=", ".join(map(_short, theirs)),
                    declared=declared,
                )
            )
    return found


def _values(group: Group, path: str) -> set[object]:
    if path == "results.step":
        return {run.results.step for run in group.runs}
    if path == "identity.eval_set_sha256":
        known: set[object] = {run.results.eval_set_sha256 for run in group.runs}
    else:
        known = {run.provenance.get(path) for run in group.runs}
    return known - {None}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "…"

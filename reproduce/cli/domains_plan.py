"""`reweight domains ... --dry-run`: what the runs of an algorithm would take. Nothing is written."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.cli.console import duration, emit_json, note, print_table, quantity
from reproduce.cli.machine import catalogued, this_machine
from reproduce.errors import ExitCode, UserError

if TYPE_CHECKING:
    from reproduce.cli.machine import Machine
    from reproduce.domains.cost import Phase
    from reproduce.recipe import Recipe


def dry_run(
    recipe: "Recipe",
    given: dict[str, Any],
    path: Path,
    *,
    arguments: Sequence[str],
    rounds: int = 1,
    reference: Path | None = None,
) -> int:
    """Print every phase with its FLOPs, time, memory and disk, and the command that starts them."""
    from reproduce.domains.cost import phases
    from reproduce.recipe.estimate import Layout
    from reproduce.training.launch import local_ranks

    ranks = given["nproc"] or (1 if given["on"] else local_ranks(None))
    layout = Layout(ranks=ranks, ranks_a_node=ranks)
    machine = catalogued(recipe, given["on"]) if given["on"] else this_machine(recipe)
    domains, known = _domains(recipe, given["data"])
    found = phases(
        recipe,
        rounds=rounds,
        reference_given=reference is not None,
        domains=domains,
        precision=machine.precision,
        layout=layout,
        device=machine.device,
    )
    command = shlex.join(["reweight", "domains", *arguments, *(["--nproc", str(ranks)] if ranks > 1 else [])])
    if given["as_json"]:
        emit_json(
            {
                "recipe": recipe.name,
                "run": str(path),
                "domains": domains,
                "device": machine.name,
                "phases": [_document(each, machine) for each in found],
                "command": command,
            }
        )
        return ExitCode.DONE
    print_table(
        f"{recipe.name}, seed {recipe.seed}, {domains} domains ({known}): nothing is written",
        ("phase", "tokens", "FLOPs", "time", "memory a rank", "of it the algorithm's", "on the host", "disk"),
        [_row(each, machine) for each in found],
    )
    note(f"on {ranks} x {machine.name}, at {machine.flops / 1e12:.3g} TFLOP/s, {machine.basis}")
    note(f"start: {command}")
    return ExitCode.DONE


def _domains(recipe: "Recipe", data: Path | None) -> tuple[int, str]:
    """How many domains, and how that is known."""
    from data_prep.errors import DataError
    from data_prep.token_store import TokenStore
    from reproduce.recipe.checks import KNOWN_DOMAINS

    path = data or recipe.data.default_path
    try:
        return len(TokenStore.open(path).domains(recipe.data.train_split)), f"as {path} has"
    except DataError:
        known = KNOWN_DOMAINS.get(recipe.data.dataset)
    if known is None:
        raise UserError(
            f"how many domains {recipe.data.dataset} has is known once it is prepared; name it by --data"
        )
    return len(known), f"as {recipe.data.dataset} has"


def _document(phase: "Phase", machine: "Machine") -> dict[str, Any]:
    return {
        "phase": phase.name,
        "parameters": phase.plain.parameters,
        "tokens": phase.plain.tokens,
        "flops": phase.flops,
        "seconds": machine.seconds(phase.flops, phase.plain.layout),
        "memory_bytes": phase.device_bytes,
        "added": phase.added,
        "added_bytes": phase.added_bytes,
        "host_bytes": phase.host_bytes,
        "disk_bytes": phase.plain.disk_bytes,
    }


def _row(phase: "Phase", machine: "Machine") -> tuple[str, ...]:
    added = f"{phase.added}: {_gb(phase.added_bytes)}" if phase.added else "–"
    return (
        phase.name,
        quantity(phase.plain.tokens),
        f"{phase.flops:.3g}",
        duration(machine.seconds(phase.flops, phase.plain.layout)),
        _gb(phase.device_bytes),
        added,
        _gb(phase.host_bytes) if phase.host_bytes else "–",
        _gb(phase.plain.disk_bytes),
    )


def _gb(count: float) -> str:
    return f"{count / 1e9:,.3f} GB"

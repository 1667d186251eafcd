"""`reweight train --dry-run`: what a run would take, on this machine or on others. Nothing is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reproduce.cli.console import duration, emit_json, print_table
from reproduce.cli.machine import Machine, catalogued, this_machine
from reproduce.errors import DataError, ExitCode, RecipeError, UserError

if TYPE_CHECKING:
    from reproduce.recipe import Recipe
    from reproduce.recipe.estimate import Estimate, Layout

Sharding = Literal["none", "full", "hybrid"]
Recompute = Literal["none", "blocks"]


def dry_run(
    recipe: "Recipe",
    data: Path | None,
    path: Path,
    *,
    nproc: int | None,
    nodes: int,
    on: str | None,
    as_json: bool,
    arguments: Sequence[str] | None = None,
) -> int:
    """Print parameters, layout, memory, hours, disk, the state of the data and the launch command.

    Args:
        recipe: resolved.
        data: token store; None is the recipe's default place.
        path: run folder.
        nproc: ranks a node; None is one a GPU of this machine, and one with `on`.
        nodes: machines.
        on: kind of GPU to plan for, a key of `DEVICES`; None is this machine.
        as_json: one document instead of a table.
        arguments: of `reweight train`, for the launch command; None is recipe, seed and run folder.

    Raises:
        RecipeError: a layout that the recipe cannot run on.
    """
    from reproduce.recipe.checks import impossible_layout
    from reproduce.recipe.estimate import Layout, estimate
    from reproduce.training.launch import command_line, local_ranks

    a_node = nproc or (1 if on else local_ranks(None))
    layout = Layout(ranks=a_node * nodes, ranks_a_node=a_node)
    problems = impossible_layout(recipe, layout.ranks, a_node)
    if problems:
        raise RecipeError(
            f"recipe {recipe.name} on {layout.ranks} ranks", [f"{where}: {what}" for where, what in problems]
        )
    machine = catalogued(recipe, on) if on else this_machine(recipe)
    cost = estimate(recipe, machine.precision, layout, machine.device)
    given = arguments or ["--recipe", recipe.name, "--seed", str(recipe.seed), "--out", str(path)]
    plan = _Plan(
        recipe=recipe,
        machine=machine,
        cost=cost,
        remedy=_remedy(recipe, machine, layout) if _too_large(cost, machine) else "",
        data=store_state(recipe, data),
        command=command_line(a_node, nodes, given),
        path=path,
    )
    if as_json:
        emit_json(plan.document())
    else:
        print_table(f"{recipe.name}, seed {recipe.seed}: nothing is written", ("", "estimate"), plan.rows())
    return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Everything that is printed."""

    recipe: "Recipe"
    machine: Machine
    cost: "Estimate"
    remedy: str
    """What would make it fit; empty where it fits."""
    data: str
    command: str
    path: Path

    @property
    def seconds(self) -> float:
        return self.machine.seconds(self.cost.flops, self.cost.layout)

    @property
    def device_hours(self) -> float:
        """Hours of GPUs, or of CPU nodes."""
        layout = self.cost.layout
        units = layout.ranks if self.machine.device == "cuda" else layout.nodes
        return self.seconds / 3600 * units

    def document(self) -> dict[str, Any]:
        """For --json."""
        recipe, cost, machine, memory = self.recipe, self.cost, self.machine, self.cost.memory
        return {
            "recipe": recipe.name,
            "seed": recipe.seed,
            "run": str(self.path),
            "parameters": cost.parameters,
            "tokens": cost.tokens,
            "steps": cost.steps,
            "global_batch": recipe.train.global_batch,
            "ranks": cost.layout.ranks,
            "ranks_a_node": cost.layout.ranks_a_node,
            "samples_a_rank": _samples_a_rank(recipe, cost),
            "micro_batches": cost.micro_batches,
            "scope": recipe.reweighting.scope,
            "flops": cost.flops,
            "memory_bytes": cost.memory_bytes,
            "memory": {
                "moment": memory.moment,
                "weights": memory.weights,
                "gradients": memory.gradients,
                "moments": memory.moments,
                "copies": memory.copies,
                "activations": memory.activations,
                "logits": memory.logits,
                "working": memory.working,
            },
            "device_memory_bytes": machine.memory_bytes,
            "fits": not self.remedy,
            "disk_bytes": cost.disk_bytes,
            "store_bytes": cost.store_bytes,
            "device": machine.name,
            "precision": machine.precision,
            "flops_a_second": machine.flops,
            "seconds": self.seconds,
            "device_hours": self.device_hours,
            "data": self.data,
            "command": self.command,
        }

    def rows(self) -> Iterator[tuple[str, str]]:
        """For a reader."""
        recipe, cost, machine = self.recipe, self.cost, self.machine
        memory, layout = cost.memory, cost.layout
        yield "parameters", f"{cost.parameters:,}"
        yield "tokens", f"{cost.tokens:,} ({cost.steps:,} steps of {recipe.train.tokens_a_step:,})"
        yield "strategy", f"{recipe.reweighting.strategy}, r = {recipe.reweighting.r:g}"
        yield "layout", _layout_text(recipe, cost)
        yield "weighed against", _scope_text(recipe, cost)
        yield "FLOPs", f"{cost.flops:.3g}"
        yield "memory a rank", f"{_gb(memory.total)}, {machine.precision}, at most in: {memory.moment}"
        yield "  model", f"{_gb(memory.weights + memory.gradients + memory.moments + memory.copies)}"
        yield "  activations", f"{_gb(memory.activations + memory.logits + memory.working)}"
        yield "  there is", self._fits()
        place = f"{layout.ranks} x {machine.name}" if machine.device == "cuda" else machine.name
        yield "time", f"about {duration(self.seconds)} on {place}"
        yield "", f"at {machine.flops / 1e12:.3g} TFLOP/s each, {machine.basis}"
        unit = "GPU-hours" if machine.device == "cuda" else "node-hours"
        yield unit, f"{self.device_hours:,.1f}"
        yield "disk", f"{_gb(cost.disk_bytes)} for the run, {_gb(cost.store_bytes)} of tokens read"
        yield "data", self.data
        yield "run folder", str(self.path)
        yield "start", self.command

    def _fits(self) -> str:
        share = f"{_gb(self.machine.memory_bytes)} of {self.machine.name}"
        return f"{share}: DOES NOT FIT; {self.remedy}" if self.remedy else share


def _gb(count: float) -> str:
    return f"{count / 1e9:,.2f} GB" if count < 1e11 else f"{count / 1e9:,.0f} GB"


def _samples_a_rank(recipe: "Recipe", cost: "Estimate") -> int:
    """Samples of one pass on one rank, at most."""
    share = -(-recipe.train.global_batch // cost.layout.ranks)
    return min(recipe.train.micro_batch or share, share)


def _layout_text(recipe: "Recipe", cost: "Estimate") -> str:
    layout, samples = cost.layout, _samples_a_rank(recipe, cost)
    shards = layout.shards(recipe.parallel) if layout.ranks > 1 else 1
    where = f"{layout.ranks} ranks on {layout.nodes} nodes" if layout.nodes > 1 else f"{layout.ranks} rank"
    where += "s" if layout.nodes == 1 and layout.ranks > 1 else ""
    passes = f"{cost.micro_batches} passes" if cost.micro_batches > 1 else "1 pass"
    split = f", model over {shards} ranks" if shards > 1 else ""
    return f"{where}, {passes} a step of {samples} samples each{split}"


def _scope_text(recipe: "Recipe", cost: "Estimate") -> str:
    spec = recipe.reweighting
    if spec.strategy == "uniform":
        return "nothing: every weight is 1/M"
    if spec.scope == "micro":
        one = min(recipe.train.global_batch, _samples_a_rank(recipe, cost) * cost.layout.ranks)
        return f"the {one} samples of a pass (scope micro)"
    if spec.scope == "lagged":
        return f"the range of the step before (scope lagged), over {recipe.train.global_batch} samples"
    extra = (cost.micro_batches - 1) / cost.micro_batches
    note = f"; scored first, +{extra / 3:.0%} FLOPs" if extra else ""
    return f"all {recipe.train.global_batch} samples of the step (scope global){note}"


def _too_large(cost: "Estimate", machine: Machine) -> bool:
    from reproduce.recipe.estimate import UNSEEN_BYTES

    if machine.device == "cuda":
        return cost.memory_bytes + UNSEEN_BYTES > machine.memory_bytes
    return cost.memory_bytes * cost.layout.ranks_a_node > machine.memory_bytes


def _remedy(recipe: "Recipe", machine: Machine, layout: "Layout") -> str:
    """The first change, from the cheapest on, with which the run would fit."""
    from reproduce.recipe.estimate import estimate

    parallel, train = recipe.parallel, recipe.train
    now = min(train.micro_batch or train.global_batch, -(-train.global_batch // layout.ranks))
    fewer = [samples for samples in range(now - 1, 0, -1) if train.global_batch % samples == 0]
    splits: list[Sharding] = [parallel.sharding, "full"] if layout.ranks > 1 else [parallel.sharding]
    recomputes: list[Recompute] = [parallel.recompute, "blocks"]
    for split, recompute, samples in product(splits, recomputes, [train.micro_batch, *fewer]):
        group = parallel.shard_ranks if split == "hybrid" else None
        changed = replace(
            recipe,
            train=replace(train, micro_batch=samples),
            parallel=replace(parallel, recompute=recompute, sharding=split, shard_ranks=group),
        )
        if not _too_large(estimate(changed, machine.precision, layout, machine.device), machine):
            changes = (
                (samples != train.micro_batch, f"train.micro_batch={samples}"),
                (recompute != parallel.recompute, f"parallel.recompute={recompute}"),
                (split != parallel.sharding, f"parallel.sharding={split}"),
            )
            return " ".join(f"--set {text}" for differs, text in changes if differs) + " would"
    return "more ranks with --set parallel.sharding=full might"


def store_state(recipe: "Recipe", data: Path | None) -> str:
    """Whether the data is there and enough; what is missing is said, not refused: the plan stands without."""
    from reproduce.training.data import open_store, training_batches

    path = data or recipe.data.default_path
    if not path.exists():
        tokenizer = recipe.data.tokenizer
        known = tokenizer == "gpt2" or tokenizer.startswith("bpe:")
        if data is not None:
            return f"no token store at {data}"
        return (
            f"not prepared; reweight prep {recipe.data.dataset} --tokenizer "
            f"{tokenizer if known else f'DIR/{tokenizer}'}"
        )
    try:
        training_batches(open_store(recipe, path), recipe)
    except (DataError, UserError) as error:
        return f"not usable: {error}"
    return f"{path}, enough for {recipe.train.steps:,} steps"

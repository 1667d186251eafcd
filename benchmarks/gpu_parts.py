"""What benchmarks/gpu.py measures: a part is a function from a Bench to a record of findings."""

import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reproduce.method import HEADS, Head, SampleReweighter, accepted_head, sample_losses
from reproduce.method.losses import head_operands
from reproduce.recipe import ModelSpec, Recipe, load_recipe
from reproduce.recipe.estimate import estimate, flops_a_token
from reproduce.training.clock import NO_TIMER, PhaseTimer
from reproduce.training.mesh import Mesh
from reproduce.training.model import LanguageModel, build_network
from reproduce.training.optimizer import build_optimizer
from reproduce.training.sharding import share_model
from reproduce.training.step import StepSettings, train_step

Record = dict[str, Any]
"""A part's findings, as they go into the JSON file."""

DENSE_BF16_PEAK = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""FLOP/s by a piece of the device's name; model FLOPs utilisation is left out for others."""

OURS, UNIFORM, MEAN = "linupper", "uniform", "uniform, compiled mean cross entropy"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How to measure."""

    mesh: Mesh
    tiny: bool
    rounds: int
    steps: int
    """Training steps of a variant's turn."""

    @property
    def cuda(self) -> bool:
        """Whether there is device memory to read."""
        return self.mesh.device.type == "cuda"

    def recipe(self, name: str) -> Recipe:
        """A recipe in the bench's precision, its whole batch in one pass on this device."""
        recipe = load_recipe(name)
        train = replace(recipe.train, micro_batch=None, precision=self.mesh.precision)
        if self.tiny:
            train = replace(train, global_batch=4, sequence=16)
            small = replace(recipe.model, layers=2, heads=2, width=16, feed_forward=40, vocab=97, context=16)
            recipe = replace(recipe, model=small)
        parallel = replace(recipe.parallel, sharding="none", shard_ranks=None)
        evaluation = replace(recipe.evaluation, batch=1)
        return replace(recipe, train=train, parallel=parallel, evaluation=evaluation)

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, action: Callable[[], object], times: int) -> float:
        """What so many runs of an action take."""
        self.wait()
        start = time.perf_counter()
        for _ in range(times):
            action()
        self.wait()
        return time.perf_counter() - start

    def in_turn(self, variants: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
        """Seconds of every variant in every round; odd rounds run backwards."""
        found: dict[str, list[float]] = {name: [] for name in variants}
        for done in range(self.rounds):
            for name in list(variants)[:: -1 if done % 2 else 1]:
                found[name].append(self.seconds(variants[name], self.steps))
        return found

    def compiled(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A compiled function; at toy size the function itself."""
        return function if self.tiny else torch.compile(function, fullgraph=True, dynamic=False)

    def start_memory(self) -> int:
        """Bytes in use now; peaks count from here."""
        if not self.cuda:
            return 0
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak_memory(self) -> int | None:
        """Largest number of bytes in use since `start_memory`."""
        return torch.cuda.max_memory_allocated() if self.cuda else None


class Trainee:
    """A recipe's model with the training step of the product."""

    def __init__(self, bench: Bench, recipe: Recipe, head: Head | None = None) -> None:
        """On the bench's device, at the start of training; layout and head are the recipe's, or that head."""
        self._mesh, self._recipe, self._done = bench.mesh, recipe, 0
        with torch.device(bench.mesh.device):
            network = build_network(recipe.model, recipe.seed, end_of_text=0)
        model = LanguageModel(network, head or accepted_head(recipe.parallel.head, bench.mesh.device))
        self._model = share_model(model, bench.mesh, recipe.parallel).train()
        self._optimizer = build_optimizer(self._model, recipe.optimizer)
        shape = (recipe.train.global_batch, recipe.train.sequence)
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, recipe.model.vocab, shape, generator=generator)
        self._tokens_BT = tokens.to(bench.mesh.device)
        self._broken = torch.zeros((), device=bench.mesh.device)
        self._reweighters = {name: SampleReweighter(name, recipe.reweighting.r) for name in (UNIFORM, OURS)}
        self._settings = StepSettings(
            seed=recipe.seed,
            micro_batch=recipe.train.micro_batch or recipe.train.global_batch,
            clip_norm=recipe.train.clip_norm,
        )

    def step(self, strategy: str, timer: PhaseTimer = NO_TIMER) -> Tensor:
        """One step; returns the flag of numbers that are not finite."""
        self._done += 1
        outcome = train_step(
            self._model,
            self._optimizer,
            self._reweighters[strategy],
            self._tokens_BT,
            step=self._done,
            lr=1e-5,
            broken=self._broken,
            mesh=self._mesh,
            settings=self._settings,
            timer=timer,
        )
        return outcome.broken

    def steps(self, strategy: str) -> Callable[[], Tensor]:
        """An action that takes a step."""
        return lambda: self.step(strategy)

    def phases(self) -> dict[str, float]:
        """Milliseconds of one step by phase."""
        timer = PhaseTimer(self._mesh.device)
        self.step(OURS, timer)
        return {phase: 1e3 * seconds for phase, seconds in timer.seconds().items()}


def speed(model: ModelSpec, sequence: int, tokens: int, seconds: float) -> Record:
    """Tokens a second and the share of the device's peak, by nanoGPT's count of FLOPs."""
    rate = tokens / seconds
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((flops for piece, flops in DENSE_BF16_PEAK.items() if piece in name), None)
    return {"tokens_per_s": rate, "mfu": rate * flops_a_token(model, sequence) / peak if peak else None}


def ratio(of: list[float], over: list[float]) -> Record:
    """One variant's time over another's, round by round."""
    values = [a / b for a, b in zip(of, over, strict=True)]
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "values": values}


def gpt2(bench: Bench, *, compile_it: bool, dropout: float) -> Record:
    """GPT2-mini at the paper's batch: speed, what reweighting adds, and whether a step ever waits."""
    recipe = bench.recipe("gpt2_mini_linupper")
    parallel = replace(recipe.parallel, compile=compile_it and not bench.tiny)
    recipe = replace(recipe, model=replace(recipe.model, dropout=dropout), parallel=parallel)
    trainee = Trainee(bench, recipe)
    variants = {UNIFORM: trainee.steps(UNIFORM), OURS: trainee.steps(OURS)}
    if compile_it:
        mean = Trainee(bench, recipe, mean_cross_entropy(bench))
        variants[MEAN] = mean.steps(UNIFORM)
    for action in variants.values():
        bench.seconds(action, 3)
    peaks = {}
    for name, action in variants.items():
        before = bench.start_memory()
        action()
        peak = bench.peak_memory()
        peaks[name] = None if peak is None else peak - before
    seconds = bench.in_turn(variants)
    tokens = recipe.train.tokens_a_step * bench.steps
    found: Record = {
        name: speed(recipe.model, recipe.train.sequence, tokens, statistics.median(values))
        | {"ms_a_step": 1e3 * statistics.median(values) / bench.steps, "step_bytes": peaks[name]}
        for name, values in seconds.items()
    }
    found["time of linupper over uniform"] = ratio(seconds[OURS], seconds[UNIFORM])
    if MEAN in seconds:
        found["time of linupper over compiled mean cross entropy"] = ratio(seconds[OURS], seconds[MEAN])
    found["phases of a linupper step, ms"] = trainee.phases()
    found["synchronisations in a step"] = synchronisation(bench, trainee)
    found["finite"] = not bool(trainee.step(OURS).item())
    return found


def synchronisation(bench: Bench, trainee: Trainee) -> str:
    """`none`, or where a whole step first waited for the device."""
    if not bench.cuda:
        return "not measured"
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainee.step(OURS)
    except RuntimeError as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{frame.filename}:{frame.lineno} {frame.line}: {error}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def mean_cross_entropy(bench: Bench) -> Head:
    """The fastest uniform training there is in torch: the mean over all tokens, fused by the compiler."""

    def mean(rows_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        return F.cross_entropy((rows_ND @ weight_VD.T).float(), targets_N)

    compiled = bench.compiled(mean)

    def head(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        operands = head_operands(hidden, weight, labels)
        with torch.autocast(hidden.device.type, enabled=False):
            loss = compiled(operands.rows_ND, operands.weight_VD, operands.targets_N)
        return loss.expand(len(hidden))

    return head


def logits_in_float32(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Plain autograd, as most code does it."""
    return sample_losses(hidden @ weight.T, labels)


def heads(bench: Bench, *, batch: int, tokens: int, width: int, vocab: int) -> Record:
    """Forward and backward of every head under unequal weights: milliseconds and extra bytes."""
    dtype = torch.float32 if bench.tiny else torch.bfloat16
    if bench.tiny:
        batch, tokens, width, vocab = min(batch, 3), 11, 16, 97
    device = bench.mesh.device
    hidden = torch.randn(batch, tokens, width, device=device, dtype=dtype, requires_grad=True)
    weight = (torch.randn(vocab, width, device=device) * 0.02).to(dtype).requires_grad_()
    labels = torch.randint(0, vocab, (batch, tokens), device=device)
    sample_weights = torch.linspace(0, 1, batch, device=device) if batch > 1 else torch.ones(1, device=device)
    chosen: dict[str, Head] = {MEAN: mean_cross_entropy(bench), "eager autograd": logits_in_float32}
    found: Record = {}
    for name in HEADS:
        try:
            chosen[name] = accepted_head(name, device)
        except ValueError as error:
            found[name] = {"refused": str(error)}

    def run(head: Head) -> Callable[[], object]:
        return lambda: torch.autograd.grad(
            (sample_weights * head(hidden, weight, labels)).sum(), (hidden, weight)
        )

    for name, head in chosen.items():
        bench.seconds(run(head), 2)
        before = bench.start_memory()
        run(head)()
        peak = bench.peak_memory()
        found[name] = {"extra_bytes": None if peak is None else peak - before}
    for name, values in bench.in_turn({name: run(head) for name, head in chosen.items()}).items():
        found[name]["ms"] = 1e3 * statistics.median(values) / bench.steps
    return found


def memory(
    bench: Bench,
    name: str,
    *,
    batch: int | None = None,
    recompute: Literal["none", "blocks"] = "none",
    compiled: bool = False,
) -> Record:
    """A recipe's peak of memory beside the estimate, and its speed."""
    recipe = bench.recipe(name)
    if batch is not None:
        recipe = replace(recipe, train=replace(recipe.train, global_batch=batch))
    parallel = replace(recipe.parallel, recompute=recompute, compile=compiled and not bench.tiny)
    recipe = replace(recipe, parallel=parallel)
    trainee = Trainee(bench, recipe)
    bench.seconds(trainee.steps(OURS), 2)
    bench.start_memory()
    seconds = bench.seconds(trainee.steps(OURS), 3)
    guess = estimate(recipe, bench.mesh.precision, device="cuda").memory
    peak = bench.peak_memory()
    return speed(recipe.model, recipe.train.sequence, 3 * recipe.train.tokens_a_step, seconds) | {
        "peak_bytes": peak,
        "reserved_bytes": torch.cuda.max_memory_reserved() if bench.cuda else None,
        "estimated_bytes": guess.total,
        "estimated_over_measured": None if peak is None else guess.total / peak,
        "estimated_parts": asdict(guess),
    }

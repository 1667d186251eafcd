"""One line of metrics.jsonl a logged step: losses, weights, rates, memory. It waits for the device."""

import resource
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.batches import BatchPlan
from reproduce.method import SampleReweighter, sample_slices, weight_statistics
from reproduce.recipe import Recipe
from reproduce.recipe.estimate import DEVICES, flops_a_token
from reproduce.training.clock import Clock, PhaseTimer
from reproduce.training.mesh import Mesh
from reproduce.training.optimizer import learning_rate
from reproduce.training.step import StepOutcome

Floats = NDArray[np.floating[Any]]

BOUND = 2.0
"""Proposition 1's bound on a weight, as a multiple of 1/M."""


def peak_flops(mesh: Mesh) -> float | None:
    """Dense FLOP/s of one rank's device by its data sheet; None where it is not in the table."""
    if mesh.device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(mesh.device).lower()
    found = [device for part, device in DEVICES.items() if part in name]
    if not found:
        return None
    return found[0].bf16_flops if mesh.precision == "bf16" else found[0].fp32_flops


LOSS_GROUPS = 10
"""Groups that the samples of a batch are put into by their loss, at most."""


def weight_by_loss(losses_M: Floats, weights_M: Floats) -> dict[str, float]:
    """Mean weight times M of the samples by the place of their loss in the batch.

    The batch is sorted by loss and cut into LOSS_GROUPS even groups (one a sample where there are fewer).

    Returns:
        Middle of the group as a share of the batch, 0 the lowest loss and 1 the highest -> mean weight x M.
    """
    samples = len(losses_M)
    order = np.argsort(losses_M, kind="stable")
    groups = np.array_split(np.arange(samples), min(LOSS_GROUPS, samples))
    scaled = weights_M[order].astype(np.float64) * samples
    return {f"{(group.mean() + 0.5) / samples:.3f}": float(scaled[group].mean()) for group in groups}


class Telemetry:
    """Makes the lines of one run."""

    def __init__(
        self, recipe: Recipe, mesh: Mesh, domains: tuple[str, ...], reweighter: SampleReweighter
    ) -> None:
        """`domains` are what `BatchPlan.domains_M` counts."""
        self._recipe, self._mesh, self._domains = recipe, mesh, domains
        self._reweighter = reweighter
        self._flops = flops_a_token(recipe.model, recipe.train.sequence)
        peak = peak_flops(mesh)
        self._peak = None if peak is None else peak * mesh.world

    def line(
        self, step: int, plan: BatchPlan, outcome: StepOutcome, lr: float, clock: Clock, phases: PhaseTimer
    ) -> dict[str, Any]:
        """The step's line.

        Args:
            step: the step.
            plan: its global batch.
            outcome: what happened.
            lr: learning rate.
            clock: read and started anew.
            phases: of this step.
        """
        reweighted = outcome.reweighted
        statistics = weight_statistics(reweighted.losses_M, reweighted.weights_M)
        rate = clock.tokens_per_s()
        line: dict[str, Any] = {
            "kind": "train",
            "step": step,
            "tokens": step * self._recipe.train.tokens_a_step,
            "loss": statistics.loss,
            "weighted_loss": statistics.weighted_loss,
            "lr": lr,
            "r": reweighted.r,
            "grad_norm": outcome.grad_norm.item(),
            "max_weight": statistics.max_weight,
            "over_bound": statistics.max_weight > BOUND,
            "min_weight": statistics.min_weight,
            "ess": statistics.ess,
            "entropy": statistics.entropy,
            "weight_share": self._weight_share(plan, outcome),
            "weight_by_loss": weight_by_loss(
                reweighted.losses_M.cpu().numpy(), reweighted.weights_M.cpu().numpy()
            ),
            "tokens_per_s": rate,
            "model_flops_per_s": rate * self._flops,
            "mfu": None if self._peak is None else rate * self._flops / self._peak,
            "memory_bytes": self._memory(),
            "seconds": phases.seconds(),
        }
        if self._recipe.reweighting.scope == "lagged":
            exact_M = self._reweighter.weights(reweighted.losses_M, step)
            # Half the summed difference: the share of weight that is not where it should be.
            line["weight_error"] = 0.5 * (reweighted.weights_M - exact_M).abs().sum().item()
        return line

    def _weight_share(self, plan: BatchPlan, outcome: StepOutcome) -> dict[str, float]:
        domains_M = np.delete(plan.domains_M, outcome.dropped)
        weights_M = outcome.reweighted.weights_M.double().cpu().numpy()
        shares_K = np.bincount(domains_M, weights=weights_M, minlength=len(self._domains))
        return dict(zip(self._domains, shares_K.tolist(), strict=True))

    def _memory(self) -> int:
        """Peak bytes of this rank so far: of the GPU, or of the process on a CPU."""
        if self._mesh.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._mesh.device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def samples_of(
    plan: BatchPlan, domains: tuple[str, ...], places: tuple[int, ...] | range
) -> list[dict[str, Any]]:
    """Domain and window of samples of a global batch."""
    return [
        {"place": place, "domain": domains[plan.domains_M[place]], "window": int(plan.windows_M[place])}
        for place in places
    ]


def crash_facts(
    recipe: Recipe,
    mesh: Mesh,
    domains: tuple[str, ...],
    step: int,
    plan: BatchPlan,
    outcome: StepOutcome,
) -> dict[str, Any]:
    """What to keep of a step with a number that is not finite: every sample with its rank and loss."""
    losses = outcome.reweighted.losses_M.cpu().tolist()
    shares = sample_slices(mesh.shares(len(plan.domains_M)))
    kept = tuple(place for place in range(len(plan.domains_M)) if place not in outcome.dropped)
    samples = samples_of(plan, domains, kept)
    for sample, loss in zip(samples, losses, strict=True):
        rank = next(r for r, share in enumerate(shares) if share.start <= sample["place"] < share.stop)
        sample |= {"rank": rank, "loss": repr(loss)}
    return {
        "step": step,
        "lr": learning_rate(recipe.optimizer, recipe.train.steps, step),
        "r": outcome.reweighted.r,
        "grad_norm": repr(outcome.grad_norm.item()),
        "samples": samples,
    }

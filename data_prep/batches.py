"""The global batch of step t as a pure function of (seed, t, domain weights): no loader state.

Each sample draws its domain independently, then takes that domain's next window, in a seeded permutation
or in file order. Resuming needs only t, and any number of ranks slices the same batch.

Shapes: M samples of the global batch, T tokens of a window, K domains. Steps count from 1.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DataError, UserError
from data_prep.token_store import TokenStore

SAMPLES_COUNTED = 1 << 18
"""Samples whose draws are made at once when positions are counted from step 1: bounded memory."""

SAMPLES_PLANNED = 1 << 15
"""Samples of the steps that are planned at once: small batches cost one by one what large ones do."""

PLANS_KEPT = 4
"""Blocks of planned steps: the one in use and those that are read ahead, with one to spare."""

SAMPLES_AHEAD = 512
"""Samples asked of the disk before they are needed, at least one batch: a queue that keeps it busy."""

FEISTEL_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """Which windows make up a global batch."""

    domains_M: NDArray[np.int64]
    """(M,) index into `Batches.domains`."""
    windows_M: NDArray[np.int64]
    """(M,) window of that domain, in [0, windows)."""
    step: int | None = None
    """The step; None for windows of no step, after which nothing is read ahead."""
    samples: NDArray[np.integer[Any]] | None = None
    """Which samples of the step's batch these are; None for all."""

    def part(self, samples: NDArray[np.integer[Any]]) -> "BatchPlan":
        """Some samples of the batch, as a rank reads them; the same ones of the next steps are read ahead."""
        return BatchPlan(
            domains_M=self.domains_M[samples],
            windows_M=self.windows_M[samples],
            step=self.step,
            samples=samples if self.samples is None else self.samples[samples],
        )


class Batches:
    """Global batches of one split of a token store."""

    def __init__(
        self,
        store: TokenStore,
        *,
        split: str,
        domain_weights: str | Mapping[str, float],
        global_batch: int,
        sequence: int,
        seed: int,
        order: Literal["shuffled", "file"] = "shuffled",
    ) -> None:
        """Settings as in `DataSpec`; `sequence` is the tokens of a window.

        Raises:
            UserError: weights that name a domain the split does not have.
            DataError: a domain with a positive weight holds no whole window.
        """
        self._store, self._split = store, split
        self._global_batch, self._sequence = global_batch, sequence
        self._seed, self._order = seed, order
        self.domains = store.domains(split)
        self.windows_K = np.array([store.windows(split, d, sequence) for d in self.domains], dtype=np.int64)
        self.probabilities_K = self._probabilities(domain_weights)
        for domain, windows, probability in zip(
            self.domains, self.windows_K, self.probabilities_K, strict=True
        ):
            if probability > 0 and windows == 0:
                raise DataError(
                    f"domain '{domain}' of {store.path}/{split} holds not one window of {sequence} tokens; "
                    "prepare more data, shorten train.sequence, or give the domain weight 0"
                )
        self._reader = store.reader(split)
        self._places_K = np.array([self._reader.place(domain) for domain in self.domains], dtype=np.int64)
        self._counted = (1, np.zeros(len(self.domains), dtype=np.int64))
        # No more than the split has: epochs of a tiny domain cost a permutation each.
        self._planned_steps = max(1, min(SAMPLES_PLANNED, int(self.windows_K.sum())) // global_batch)
        self._planned: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._asked = -1

    def plan(self, step: int) -> BatchPlan:
        """The windows of one step's global batch."""
        steps = self._planned_steps
        block, row = divmod(step, steps)
        planned = self._planned.get(block)
        if planned is None:
            # Step 0 is none, but its draws are defined, and blocks stay aligned.
            planned = self._planned[block] = self._plan_steps(block * steps, (block + 1) * steps)
            while len(self._planned) > PLANS_KEPT:
                self._planned.pop(next(iter(self._planned)), None)
        return BatchPlan(domains_M=planned[0][row], windows_M=planned[1][row], step=step)

    def _plan_steps(self, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Domains and windows (last - first, M) of the steps [first, last)."""
        domains = self._draws(first, last)
        windows = np.zeros_like(domains)
        counted = 1 if first == 0 else 0
        counts_K = self._counts_before(first + counted)
        flat, out = domains[counted:].ravel(), windows[counted:].reshape(-1)
        self._counted = (last, counts_K + np.bincount(flat, minlength=len(counts_K)))
        for k in np.unique(flat):
            mine = np.flatnonzero(flat == k)
            out[mine] = self._windows_at(int(k), counts_K[k] + np.arange(len(mine)))
        # Shared by all who ask for these steps.
        domains.flags.writeable = windows.flags.writeable = False
        return domains, windows

    def tokens(self, plan: BatchPlan) -> NDArray[np.int32]:
        """Token ids (M, T) of a plan, or of a rank's part of one. DataError for a shard that is unreadable.

        Steps in succession are read fastest: the windows of the next ones are asked of the disk meanwhile.
        """
        firsts_M = self._places(plan)
        if plan.step is None:
            self._reader.ask(firsts_M, self._sequence)
            return self._reader.read(firsts_M, self._sequence)
        # Not beyond the plans that are kept: a rank of many has few samples of each step.
        ahead = min(-(-SAMPLES_AHEAD // max(1, len(firsts_M))), (PLANS_KEPT - 2) * self._planned_steps)
        if not plan.step <= self._asked <= plan.step + ahead:
            self._reader.ask(firsts_M, self._sequence)
            self._asked = plan.step
        then = None
        if self._asked < plan.step + (ahead + 1) // 2:
            steps = range(self._asked + 1, plan.step + ahead + 1)
            then = np.concatenate([self._places(self._same_part(plan, step)) for step in steps])
            self._asked = steps[-1]
        return self._reader.read(firsts_M, self._sequence, then)

    def _same_part(self, plan: BatchPlan, step: int) -> BatchPlan:
        whole = self.plan(step)
        return whole if plan.samples is None else whole.part(plan.samples)

    def _places(self, plan: BatchPlan) -> NDArray[np.int64]:
        """Where the plan's windows begin in the split, shape (M,). IndexError for a window there is not."""
        if np.any((plan.windows_M < 0) | (plan.windows_M >= self.windows_K[plan.domains_M])):
            raise IndexError("a plan names a window that its domain does not have")
        places_M: NDArray[np.int64] = self._places_K[plan.domains_M] + plan.windows_M * self._sequence
        return places_M

    def check_enough(self, steps: int) -> None:
        """Refuse a run that would read a domain's windows a second time.

        Raises:
            UserError: naming the domains, what they hold and what the run draws.
        """
        drawn_K = self._count(1, steps + 1)
        short = [
            f"{domain} has {have:,} windows of {self._sequence} tokens and the run draws {want:,}"
            for domain, have, want in zip(self.domains, self.windows_K, drawn_K, strict=True)
            if want > have
        ]
        if short:
            raise UserError(
                f"the run needs more tokens than {self._store.path} has: {'; '.join(short)}. "
                "Prepare more data, train fewer steps, or allow epochs with --set data.repeat=true"
            )

    def _probabilities(self, domain_weights: str | Mapping[str, float]) -> NDArray[np.float64]:
        if isinstance(domain_weights, Mapping):
            unknown = sorted(set(domain_weights) - set(self.domains))
            if unknown:
                raise UserError(
                    f"data.domain_weights names {', '.join(unknown)}, which {self._store.path}/{self._split} "
                    f"does not have; its domains: {', '.join(self.domains)}"
                )
            weights_K = np.array([domain_weights.get(d, 0.0) for d in self.domains], dtype=np.float64)
        elif domain_weights == "natural":
            weights_K = np.array([self._store.tokens(self._split, d) for d in self.domains], dtype=np.float64)
        else:
            weights_K = np.ones(len(self.domains))
        shares_K: NDArray[np.float64] = weights_K / weights_K.sum()
        return shares_K

    def _draws(self, first: int, last: int) -> NDArray[np.int64]:
        """Domain indices (last - first, M) of the steps [first, last).

        Philox is counter-based: the draws of a step are found at that step's own counters, four 64-bit
        words each, so no earlier step needs to be replayed.
        """
        blocks = -(-self._global_batch // 4)
        generator = np.random.Philox(
            key=_words(f"domains/{self._seed}", 2), counter=[first * blocks, 0, 0, 0]
        )
        raw = generator.random_raw((last - first) * blocks * 4).reshape(last - first, -1)
        uniform = (raw[:, : self._global_batch] >> np.uint64(11)) * 2.0**-53
        # The last edge is left out: rounding in the sum must not give an index past the last domain.
        edges_K = np.cumsum(self.probabilities_K)[:-1]
        return np.searchsorted(edges_K, uniform, side="right").astype(np.int64)

    def _count(self, first: int, last: int) -> NDArray[np.int64]:
        counts_K = np.zeros(len(self.domains), dtype=np.int64)
        steps = max(1, SAMPLES_COUNTED // self._global_batch)
        for start in range(first, last, steps):
            draws = self._draws(start, min(start + steps, last))
            counts_K += np.bincount(draws.ravel(), minlength=len(self.domains))
        return counts_K

    def _counts_before(self, step: int) -> NDArray[np.int64]:
        """Samples (K,) each domain gave to the steps before this one, counted on from the last answer."""
        counted, counts_K = self._counted
        if step < counted:
            counted, counts_K = 1, np.zeros_like(counts_K)
        counts_K = counts_K + self._count(counted, step)
        self._counted = (step, counts_K)
        return counts_K

    def _windows_at(self, k: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The windows at these positions of domain k's endless sequence, epoch after epoch."""
        size = int(self.windows_K[k])
        within, epochs = positions % size, positions // size
        if self._order == "file":
            return within
        windows = np.empty_like(within)
        for epoch in np.unique(epochs):
            mine = epochs == epoch
            key = f"windows/{self._seed}/{self.domains[k]}/{epoch}"
            windows[mine] = permute(within[mine], size, key)
        return windows


def permute(positions: NDArray[np.int64], size: int, key: str) -> NDArray[np.int64]:
    """Where a pseudo-random permutation of range(size) sends these positions, in constant memory.

    A Feistel network over the next even power of two, walked until the image falls below `size`: a
    bijection whatever its round function, so nothing of the permutation is stored.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = _words(key, FEISTEL_ROUNDS)
    values = positions.astype(np.uint64)
    pending = np.arange(len(values))
    while len(pending):
        walked = _feistel(values[pending], np.uint64(half), mask, keys)
        values[pending] = walked
        pending = pending[walked >= size]
    return values.astype(np.int64)


def _feistel(
    values: NDArray[np.uint64], half: np.uint64, mask: np.uint64, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _words(key: str, count: int) -> NDArray[np.uint64]:
    """`count` 64-bit words from a text key."""
    digest = hashlib.blake2b(key.encode(), digest_size=8 * count).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)

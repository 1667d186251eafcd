"""Documents that occur more than once, counted exactly from the digests beside the shards.

Two documents count as equal if the 64-bit xxh3 of their texts agree: among the 600 million documents of
the largest corpus, a chance agreement is expected 0.01 times. Nothing is removed: the paper trains on all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import Domain
from data_prep.shards import TEXT, read_documents_of

DOCUMENTS_A_PASS = 48 << 20
"""Digests held in memory at a time: more documents are counted in several passes over the files."""

Splits = Mapping[str, Mapping[str, Domain]]
Digests = NDArray[np.uint64]


@dataclass(kw_only=True)
class Repeats:
    """What is counted for one domain of one split."""

    duplicates: int = 0
    in_train: int = 0


def count_repeats(
    store: Path, splits: Splits, tell: Callable[[str], None] = lambda _: None
) -> dict[tuple[str, str], Repeats]:
    """Count, by (split, domain), texts seen before in the domain and, outside train, texts of train too.

    Raises DataError if a file of document starts is missing or of another size.
    """
    counts = {(split, name): Repeats() for split, domains in splits.items() for name in domains}
    documents = sum(domain.documents for domains in splits.values() for domain in domains.values())
    passes = max(1, -(-documents // DOCUMENTS_A_PASS))
    for number in range(passes):
        tell(f"counting duplicate documents, pass {number + 1} of {passes}")
        train = [
            _distinct(store, "train", name, domain, passes, number, counts)
            for name, domain in splits.get("train", {}).items()
        ]
        # Sorted once for all other splits.
        in_train = np.concatenate([*train, np.empty(0, dtype=np.uint64)])
        del train
        in_train.sort()
        for split, domains in splits.items():
            if split == "train":
                continue
            for name, domain in domains.items():
                digests = _digests(store, split, name, domain, passes, number)
                counts[split, name].duplicates += len(digests) - len(np.unique(digests))
                counts[split, name].in_train += _members(digests, in_train)
    return counts


def _distinct(
    store: Path,
    split: str,
    name: str,
    domain: Domain,
    passes: int,
    number: int,
    counts: dict[tuple[str, str], Repeats],
) -> Digests:
    digests = _digests(store, split, name, domain, passes, number)
    distinct = np.unique(digests)
    counts[split, name].duplicates += len(digests) - len(distinct)
    return distinct


def _digests(store: Path, split: str, name: str, domain: Domain, passes: int, number: int) -> Digests:
    """Digests of the domain's documents that fall into this pass."""
    parts = [np.empty(0, dtype=np.uint64)]
    for shard in domain.shards:
        digests = read_documents_of(store / split / name / shard.name, shard.documents)[:, TEXT]
        parts.append(digests[digests % np.uint64(passes) == number] if passes > 1 else digests)
    return np.concatenate(parts)


def _members(digests: Digests, in_order: Digests) -> int:
    """How many of `digests` occur in the sorted `in_order`."""
    if len(in_order) == 0:
        return 0
    places = np.minimum(np.searchsorted(in_order, digests), len(in_order) - 1)
    return int(np.count_nonzero(in_order[places] == digests))

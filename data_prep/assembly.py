"""From committed input files to a store: what is left to do, what counts, and the manifest of it."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.duplicates import Repeats
from data_prep.errors import DataError, ResumeError
from data_prep.files import sha256_file
from data_prep.items import Item
from data_prep.manifest import Domain, Dtype, InputFile, Manifest, Shard, Source
from data_prep.plan import Plan, Record, read_record
from data_prep.shards import check_documents, check_shard


@dataclass(frozen=True, kw_only=True)
class Todo:
    """An input file that is not done, or done to another bound."""

    item: Item
    cap: int | None
    """Training tokens, at most; None for no bound."""


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a preparation stands."""

    todo: tuple[Todo, ...]
    """What can be done now; empty when the store is complete."""
    chosen: tuple[Item, ...]
    """Items whose records make up the store, as far as is known."""


def state(
    items: Iterable[Item], records: Mapping[Item, Record], limit: int | None, ahead: int, shares: int = 1
) -> State:
    """What is left to do, and what the store is made of.

    With a limit on training tokens the files of a split are taken in order until it is reached; where
    each file has one domain, each domain gets an equal part of it, and where machines share the work, each
    share of the files. Files up to `ahead` beyond the known ones are done in advance and dropped if they
    prove to be too many, so the result depends on the order of files only.
    """
    items = tuple(items)
    if limit is None:
        todo = tuple(Todo(item=item, cap=None) for item in items if item not in records)
        return State(todo=todo, chosen=items)
    groups: dict[str | None, list[list[Item]]] = {}
    for place, item in enumerate(items):
        if item.split == "train":
            groups.setdefault(item.domain, [[] for _ in range(shares)])[place % shares].append(item)
    chosen = [item for item in items if item.split != "train"]
    todo_now = [Todo(item=item, cap=None) for item in chosen if item not in records]
    for group in groups.values():
        budget = limit // len(groups)
        for number, files in enumerate(group):
            part = budget * (number + 1) // shares - budget * number // shares
            bounded = _bounded(files, records, part, ahead)
            chosen += bounded.chosen
            todo_now += bounded.todo
    return State(todo=tuple(todo_now), chosen=tuple(chosen))


def _bounded(group: list[Item], records: Mapping[Item, Record], budget: int, ahead: int) -> State:
    used = 0
    for position, item in enumerate(group):
        record = records.get(item)
        if record is None:
            most = max(ahead, _surely_needed(group[:position], group[position:], records, budget - used))
            missing = [each for each in group[position : position + most] if each not in records]
            tasks = tuple(Todo(item=each, cap=budget) for each in missing)
            return State(todo=tasks, chosen=tuple(group[:position]))
        if used + record.train_tokens > budget:
            again = Todo(item=item, cap=budget - used)
            return State(todo=(again,), chosen=tuple(group[:position]))
        used += record.train_tokens
        if record.truncated or used == budget:
            return State(todo=(), chosen=tuple(group[: position + 1]))
    return State(todo=(), chosen=tuple(group))


def _surely_needed(done: list[Item], rest: list[Item], records: Mapping[Item, Record], tokens: int) -> int:
    """How many of the next files a bound reaches, with a margin, judged by the tokens a byte so far.

    It decides only how much is done at a time: what proves too much is dropped.
    """
    seen = sum(item.bytes for item in done)
    made = sum(records[item].train_tokens for item in done)
    if not seen or not made:
        return 0
    reach = 0.9 * tokens * seen / made
    sizes = itertools.accumulate(item.bytes for item in rest)
    return sum(1 for _ in itertools.takewhile(lambda size: size <= reach, sizes))


def _usable_record(store: Path, dtype: Dtype, key: str, item: Item, located: Path | None) -> Record | None:
    """The item's record if its shards are still in place, None if the item has to be done.

    Raises ResumeError if the input file, where it lies on this machine, has changed since it was committed.
    """
    record = read_record(store, item, key)
    if record is None:
        return None
    changed = located is not None and located.stat().st_mtime_ns != record.modified_ns
    if located is not None and changed and sha256_file(located) != record.sha256:
        raise ResumeError(
            f"{located}: changed since it was prepared into {store}; "
            "choose another --out, or delete that folder to start over"
        )
    try:
        for path, shard in record_shards(store, record):
            check_shard(path, shard.tokens, dtype)
            check_documents(path, shard.documents)
    except DataError:
        return None
    return record


def usable_records(
    store: Path, plan: Plan, items: Iterable[Item], files: Mapping[str, Path]
) -> dict[Item, Record]:
    """The records of those items that have a usable one; `files` tells where local files lie.

    Raises ResumeError if an input file that lies on this machine has changed since it was committed.
    """
    key, dtype = plan.key, plan.tokenizer.dtype
    found = ((item, _usable_record(store, dtype, key, item, files.get(item.path))) for item in items)
    return {item: record for item, record in found if record is not None}


def record_shards(store: Path, record: Record) -> list[tuple[Path, Shard]]:
    """Where the shards of a committed input file lie."""
    return [
        (store / split / name / shard.name, shard)
        for split, domains in record.domains.items()
        for name, domain in domains.items()
        for shard in domain.shards
    ]


def assemble(plan: Plan, chosen: Iterable[Item], records: Mapping[Item, Record]) -> Manifest:
    """The manifest of a complete store. DataError if train or validation came out empty."""
    chosen = sorted(chosen, key=lambda item: (item.split, item.index))
    splits: dict[str, dict[str, list[Domain]]] = {}
    inputs: list[InputFile] = []
    for item in chosen:
        record = records[item]
        inputs.append(
            InputFile(path=item.path, split=item.split, sha256=record.sha256, bytes=record.input_bytes)
        )
        for split, domains in record.domains.items():
            for name, domain in domains.items():
                splits.setdefault(split, {}).setdefault(name, []).append(domain)
    summed = {
        split: {name: _sum(parts) for name, parts in sorted(domains.items())}
        for split, domains in sorted(splits.items())
    }
    _check_not_empty(plan, summed)
    return Manifest(
        dataset=plan.dataset,
        tokenizer=plan.tokenizer,
        dtype=plan.tokenizer.dtype,
        splits=summed,
        source=Source(
            name=plan.source,
            revision=plan.revision,
            inputs=tuple(inputs),
            held_out_per_10000=plan.held_out_per_10000,
            limit_tokens=plan.limit_tokens,
            limit_reached=len(chosen) < len(plan.items) or any(records[item].truncated for item in chosen),
            sample_seed=plan.sample_seed,
            shares=plan.shares,
        ),
    )


def with_repeats(manifest: Manifest, repeats: Mapping[tuple[str, str], Repeats] | None) -> Manifest:
    """The manifest with what `count_repeats` found, or as it was before the count."""
    none = Repeats()
    splits = {
        split: {
            name: replace(domain, duplicates=found.duplicates, in_train=found.in_train)
            for name, domain in domains.items()
            for found in ((repeats[split, name] if repeats is not None else none),)
        }
        for split, domains in manifest.splits.items()
    }
    return replace(manifest, splits=splits)


def _sum(parts: list[Domain]) -> Domain:
    shards = [shard for part in parts for shard in part.shards]
    lengths = itertools.zip_longest(*(part.lengths for part in parts), fillvalue=0)
    return Domain(
        documents=sum(part.documents for part in parts),
        tokens=sum(part.tokens for part in parts),
        bytes=sum(part.bytes for part in parts),
        skipped=sum(part.skipped for part in parts),
        longest=max(part.longest for part in parts),
        lengths=tuple(sum(each) for each in lengths),
        shards=tuple(sorted(shards, key=lambda shard: shard.number)),
    )


def _check_not_empty(plan: Plan, splits: Mapping[str, Mapping[str, Domain]]) -> None:
    tokens = {split: sum(d.tokens for d in domains.values()) for split, domains in splits.items()}
    if not tokens.get("train"):
        where = (
            f"--limit-tokens {plan.limit_tokens} leaves none" if plan.limit_tokens else "the input has none"
        )
        raise DataError(
            f"{plan.source}: no training documents: {where}; give more text, or another --split-map"
        )
    if not tokens.get("validation"):
        raise DataError(
            f"{plan.source}: no validation documents: name a split with --split-map validation=NAME, "
            f"or hold out more than {plan.held_out_per_10000 / 10_000:g} with --validation-share"
        )

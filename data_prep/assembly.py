"""From committed input files to a store: what is left to do, what counts, and the manifest of it."""

import contextlib
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import DataError, ResumeError
from data_prep.files import TEMPORARY, sha256_file
from data_prep.items import Item
from data_prep.manifest import (
    MANIFEST_NAME,
    TOKENIZER_FILE,
    Domain,
    Dtype,
    InputFile,
    Manifest,
    Shard,
    Source,
)
from data_prep.plan import WORK, Plan, Record, read_record, record_path
from data_prep.shards import check_shard
from data_prep.sources import Source as TextSource
from data_prep.units import Task


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a preparation stands."""

    todo: tuple[Task, ...]
    """What can be done now; empty when the store is complete."""
    chosen: tuple[Item, ...]
    """Items whose records make up the store, as far as is known."""


def state(items: Iterable[Item], records: Mapping[Item, Record], limit: int | None, ahead: int) -> State:
    """What is left to do, and what the store is made of.

    With a limit on training tokens the files of a split are taken in order until it is reached; where
    each file has one domain, each domain gets an equal share of it. Files up to `ahead` beyond the known
    ones are done in advance and dropped if they prove to be too many, so the result depends on the order
    of files only.
    """
    items = tuple(items)
    if limit is None:
        todo = tuple(Task(item=item, cap=None) for item in items if item not in records)
        return State(todo=todo, chosen=items)
    groups: dict[str | None, list[Item]] = {}
    for item in items:
        if item.split == "train":
            groups.setdefault(item.domain, []).append(item)
    chosen = [item for item in items if item.split != "train"]
    todo_now = [Task(item=item, cap=None) for item in chosen if item not in records]
    for group in groups.values():
        part = _bounded(group, records, limit // len(groups), ahead)
        chosen += part.chosen
        todo_now += part.todo
    return State(todo=tuple(todo_now), chosen=tuple(chosen))


def _bounded(group: list[Item], records: Mapping[Item, Record], budget: int, ahead: int) -> State:
    used = 0
    for position, item in enumerate(group):
        record = records.get(item)
        if record is None:
            missing = [each for each in group[position : position + ahead] if each not in records]
            tasks = tuple(Task(item=each, cap=budget) for each in missing)
            return State(todo=tasks, chosen=tuple(group[:position]))
        if used + record.train_tokens > budget:
            again = Task(item=item, cap=budget - used)
            return State(todo=(again,), chosen=tuple(group[:position]))
        used += record.train_tokens
        if record.truncated or used == budget:
            return State(todo=(), chosen=tuple(group[: position + 1]))
    return State(todo=(), chosen=tuple(group))


def usable_record(store: Path, source: TextSource, item: Item, dtype: Dtype) -> Record | None:
    """The item's record if its shards are still in place, None if the item has to be done.

    Raises ResumeError if the input file has changed since it was committed.
    """
    record = read_record(store, item)
    if record is None:
        return None
    located = source.locate(item)
    changed = located is not None and located.stat().st_mtime_ns != record.modified_ns
    if located is not None and changed and sha256_file(located) != record.sha256:
        raise ResumeError(
            f"{located}: changed since it was prepared into {store}; "
            "choose another --out, or delete that folder to start over"
        )
    try:
        for path, shard in record_shards(store, record):
            check_shard(path, shard.tokens, dtype)
    except DataError:
        return None
    return record


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
    splits: dict[str, dict[str, list[Domain]]] = {}
    inputs: list[InputFile] = []
    for item in sorted(chosen, key=lambda item: (item.split, item.index)):
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
        ),
    )


def _sum(parts: list[Domain]) -> Domain:
    shards = [shard for part in parts for shard in part.shards]
    return Domain(
        documents=sum(part.documents for part in parts),
        tokens=sum(part.tokens for part in parts),
        bytes=sum(part.bytes for part in parts),
        skipped=sum(part.skipped for part in parts),
        shards=tuple(sorted(shards, key=lambda shard: shard.name)),
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


def drop_others(store: Path, items: Iterable[Item], manifest: Manifest) -> None:
    """Delete what the store does not consist of: shards of no record, records of files beyond the limit."""
    named = {
        store / split / name / shard.name
        for split, domains in manifest.splits.items()
        for name, domain in domains.items()
        for shard in domain.shards
    }
    for folder in {*manifest.splits, *(item.split for item in items), "validation"}:
        for path in (store / folder).glob("*/*.npy"):
            if path not in named:
                path.unlink()
    wanted = {(each.split, each.path) for each in manifest.source.inputs}
    for item in items:
        if (item.split, item.path) not in wanted:
            record_path(store, item).unlink(missing_ok=True)


def drop_temporary(store: Path) -> None:
    """Delete the temporary files of a run that was killed."""
    for path in store.rglob(f"*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def drop_all_if_nothing_is_committed(store: Path) -> None:
    """After a failure: leave no trace of a preparation that has committed nothing."""
    work = store / WORK
    if any((work / "files").glob("*.json")) or (store / MANIFEST_NAME).exists():
        return
    for split in [path for path in store.iterdir() if path.is_dir() and path != work]:
        for path in split.glob("*/*.npy"):
            path.unlink()
        for folder in [*split.glob("*/"), split]:
            with contextlib.suppress(OSError):
                folder.rmdir()
    (store / TOKENIZER_FILE).unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    # Not empty if it holds anything that is not ours.
    with contextlib.suppress(OSError):
        store.rmdir()

"""What a preparation set out to do, and which input files it has committed: DIR/.prep/.

A plan is what must be equal for a rerun to continue. A record says that one input file's shards are in
place; it is written after them, so a file without a record is simply done again.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from data_prep.errors import DataError, ResumeError
from data_prep.fields import Fields
from data_prep.files import (
    canonical_json,
    check_name,
    create_text_atomically,
    sha256_text,
    write_text_atomically,
)
from data_prep.items import ITEM_KINDS, Item
from data_prep.manifest import Domain, TokenizerInfo, parse_domain, parse_tokenizer
from data_prep.spec import DATASETS, PrepSpec, names_tokenizer

WORK = ".prep"
PLAN_NAME = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides the content of a store."""

    dataset: str
    source: str
    revision: str | None
    items: tuple[Item, ...]
    domain_from: str | None
    text_from: str
    held_out_per_10000: int
    limit_tokens: int | None
    sample_seed: int | None
    shares: int
    """Parts a bound on training tokens is divided over; 1 without a bound."""
    tokenizer: TokenizerInfo

    @property
    def key(self) -> str:
        """sha256 of what decides the content of any one file's shards; records carry it."""
        decisive = asdict(replace(self, items=())) | {
            "tokenizer": [self.tokenizer.sha256, self.tokenizer.end_of_text, self.tokenizer.vocab_size]
        }
        return sha256_text(canonical_json(decisive))


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One committed input file."""

    path: str
    plan: str
    """`Plan.key` of the preparation it belongs to."""
    input_bytes: int
    modified_ns: int | None
    """Modification time of a local file: unchanged time and size stand for unchanged content."""
    sha256: str
    cap: int | None
    """Training tokens it was bounded to."""
    truncated: bool
    """Whether the bound left documents out."""
    domains: Mapping[str, Mapping[str, Domain]]
    """Split -> domain -> counts, with at most one shard each."""

    @property
    def train_tokens(self) -> int:
        """Training tokens of the file."""
        return sum(domain.tokens for domain in self.domains.get("train", {}).values())


def write_plan(store: Path, plan: Plan, spec: PrepSpec, *, first: bool = False) -> None:
    """Write the plan, and the request it came from so that a repair needs no other arguments.

    With `first` a plan that is there already stays.
    """
    request = {
        "dataset": spec.dataset,
        "inputs": [str(path.resolve()) for path in spec.inputs],
        "tokenizer": spec.tokenizer
        if names_tokenizer(spec.tokenizer)
        else str(Path(spec.tokenizer).resolve()),
        "split_map": [list(pair) for pair in spec.split_map],
        "domain_from": spec.domain_from,
        "repository": spec.repository,
        "text_from": spec.text_from,
        "subset": spec.subset,
        "sample_seed": spec.sample_seed,
        "revision": spec.revision,
        "validation_share": spec.validation_share,
        "limit_tokens": spec.limit_tokens,
        "keep_downloads": spec.keep_downloads,
    }
    # Item by item: asdict copies deeply, which for 100,000 files takes seconds and hundreds of megabytes.
    whole = asdict(replace(plan, items=())) | {"items": [asdict(item) for item in plan.items]}
    text = json.dumps({"plan": whole, "request": request}) + "\n"
    (create_text_atomically if first else write_text_atomically)(store / WORK / PLAN_NAME, text)


def read_plan(store: Path) -> Plan | None:
    """The plan of an earlier run; None if there is none. DataError if it is damaged."""
    document = _read(store / WORK / PLAN_NAME)
    if document is None:
        return None
    try:
        return _plan(document.sub("plan"))
    except DataError as error:
        raise _damaged(store, str(error)) from None


def _plan(plan: Fields) -> Plan:
    return Plan(
        dataset=plan.text("dataset"),
        source=plan.text("source"),
        revision=plan.optional_text("revision"),
        items=tuple(_item(each) for each in plan.subs("items")),
        domain_from=plan.optional_text("domain_from"),
        text_from=plan.text("text_from"),
        held_out_per_10000=plan.count("held_out_per_10000"),
        limit_tokens=plan.optional_count("limit_tokens"),
        sample_seed=plan.optional_count("sample_seed"),
        shares=plan.count("shares", least=1),
        tokenizer=parse_tokenizer(plan.sub("tokenizer")),
    )


def read_request(store: Path) -> PrepSpec | None:
    """The request that made the store in `store`, as a spec with `out` set; None if it is not recorded."""
    document = _read(store / WORK / PLAN_NAME)
    if document is None:
        return None
    try:
        return _request(store, document.sub("request"))
    except DataError as error:
        raise _damaged(store, str(error)) from None


def _request(store: Path, request: Fields) -> PrepSpec:
    dataset = next((name for name in DATASETS if name == request.raw("dataset")), None)
    share, pairs, inputs = (request.raw(key) for key in ("validation_share", "split_map", "inputs"))
    if (
        dataset is None
        or not isinstance(share, float)
        or not isinstance(pairs, list)
        or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
        or not isinstance(inputs, list)
        or not all(isinstance(path, str) and "\0" not in path for path in inputs)
    ):
        raise DataError("the request is not one")
    return PrepSpec(
        dataset=dataset,
        inputs=tuple(Path(path) for path in inputs),
        out=store,
        tokenizer=request.text("tokenizer"),
        split_map=tuple((str(ours), str(theirs)) for ours, theirs in pairs),
        domain_from=request.optional_text("domain_from"),
        repository=request.optional_text("repository"),
        text_from=request.text("text_from"),
        subset=request.optional_text("subset"),
        sample_seed=request.optional_count("sample_seed"),
        revision=request.optional_text("revision"),
        validation_share=share,
        limit_tokens=request.optional_count("limit_tokens"),
        keep_downloads=request.raw("keep_downloads") is True,
    )


def refuse_other_plan(store: Path, there: Plan, here: Plan) -> None:
    """Raise ResumeError naming the first difference between the plan in `store` and the one asked for."""
    for each in fields(Plan):
        old, new = getattr(there, each.name), getattr(here, each.name)
        if old == new:
            continue
        if isinstance(old, TokenizerInfo) and isinstance(new, TokenizerInfo):
            if (old.sha256, old.end_of_text) == (new.sha256, new.end_of_text):
                continue
            same = " (same name, other vocabulary)" if old.name == new.name else ""
            what = f"tokenizer is {old.name} there and {new.name} here{same}"
        elif each.name == "items":
            difference = _items_difference(there.items, here.items)
            if difference is None:
                continue
            what = difference
        else:
            what = f"{each.name} is {old!r} there and {new!r} here"
        raise ResumeError(
            f"{store}: holds another preparation: {what}; "
            "choose another --out, or delete the folder to start over"
        )


def _items_difference(there: tuple[Item, ...], here: tuple[Item, ...]) -> str | None:
    """The first file that is in one plan only, or stands elsewhere in it. Sizes may differ: a file that
    was mended is done now, and one that changed after it was committed is found by its digest."""
    old, new = ({(i.split, i.path): replace(i, bytes=0) for i in items} for items in (there, here))
    for what, only in (("only there", old.keys() - new.keys()), ("only here", new.keys() - old.keys())):
        if only:
            split, path = min(only)
            return f"input {path} ({split}) is {what}"
    changed = [key for key, item in old.items() if item != new[key]]
    return f"input {min(changed)[1]} has another place, domain or digest" if changed else None


def record_path(store: Path, item: Item) -> Path:
    """Where the record of an input file lies."""
    return store / WORK / "files" / f"{item.split}-{item.index:05d}.json"


def write_record(store: Path, item: Item, record: Record) -> None:
    """Commit an input file: its shards are in place."""
    write_text_atomically(record_path(store, item), json.dumps(asdict(record)) + "\n")


def read_record(store: Path, item: Item, plan: str) -> Record | None:
    """The record of an input file under the plan of this key, or None if it has to be done (again)."""
    try:
        document = _read(record_path(store, item))
        if document is None or document.raw("path") != item.path or document.raw("plan") != plan:
            return None
        domains = document.sub("domains")
        return Record(
            path=item.path,
            plan=plan,
            input_bytes=document.count("input_bytes"),
            modified_ns=document.optional_count("modified_ns"),
            sha256=document.digest("sha256"),
            cap=document.optional_count("cap"),
            truncated=document.raw("truncated") is True,
            domains={
                check_name(split, "split"): _domains(domains.sub(split)) for split, _ in domains.items()
            },
        )
    except DataError:
        # A record that cannot be read commits nothing: the file is done again.
        return None


def _domains(fields_of_split: Fields) -> dict[str, Domain]:
    return {
        check_name(name, "domain"): parse_domain(fields_of_split.sub(name))
        for name, _ in fields_of_split.items()
    }


def _item(each: Fields) -> Item:
    """Nothing in it may lead out of the store: split, domain and index become paths of shards, and the path
    becomes one of a download."""
    kind = next((kind for kind in ITEM_KINDS if kind == each.raw("kind")), None)
    if kind is None:
        raise DataError(f"{each.where}.kind is {str(each.raw('kind'))[:40]!r}")
    domain, path = each.raw("domain"), each.text("path")
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise DataError(f"{each.where}.path is {path[:100]!r}")
    return Item(
        split=check_name(each.raw("split"), f"{each.where}.split"),
        index=each.count("index"),
        path=path,
        kind=kind,
        bytes=each.count("bytes"),
        domain=None if domain is None else check_name(domain, f"{each.where}.domain"),
        sha256=each.optional_text("sha256"),
    )


def _read(path: Path) -> Fields | None:
    try:
        if not path.is_file():
            return None
        return Fields(json.loads(path.read_bytes()), path.name)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and the disk") from None
    except (ValueError, RecursionError, DataError) as error:
        raise _damaged(path.parent.parent, str(error)) from None


def _damaged(store: Path, what: str) -> DataError:
    return DataError(
        f"{store / WORK / PLAN_NAME}: damaged ({what[:200]}); delete {store} and prepare it again"
    )

"""From a record to a document: its text, its domain, and whether it is held out for validation."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import DataError
from data_prep.files import check_name
from data_prep.items import Item
from data_prep.readers import REMEDY, Meter, Row, read_rows

SLIMPAJAMA_DOMAINS: Mapping[str, str] = {
    "RedPajamaArXiv": "arxiv",
    "RedPajamaBook": "book",
    "RedPajamaC4": "c4",
    "RedPajamaCommonCrawl": "cc",
    "RedPajamaGithub": "github",
    "RedPajamaStackExchange": "stackexchange",
    "RedPajamaWikipedia": "wikipedia",
}
"""`meta.redpajama_set_name` -> domain, as the paper calls them."""


@dataclass(frozen=True, kw_only=True)
class DomainRule:
    """How a record's domain is found: from a field, or from the item it stands in."""

    field: str | None = None
    """Dotted path in a record; a JSON string on the way is parsed. None: the item's own domain."""
    names: Mapping[str, str] | None = None
    """Value of the field -> domain; None: the value is the domain."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text with its domain."""

    text: str | None
    """None if the record's text is null: counted, not written."""
    domain: str
    split: str
    bytes: int
    """UTF-8 bytes of the text."""


def read_documents(
    path: Path, item: Item, rule: DomainRule, held_out_per_10000: int, meter: Meter
) -> Iterator[Document]:
    """The documents of one file, routed to their domain and split. Raises DataError naming the record."""
    columns = ("text",) if rule.field is None else ("text", rule.field.split(".")[0])
    for where, row in read_rows(path, item.kind, columns, meter):
        if "text" not in row:
            raise DataError(
                f"{where}: no field 'text'; it has {', '.join(map(str, row))[:200]}; rename one to 'text'"
            )
        text = row["text"]
        domain = _domain(where, row, item, rule)
        if text is None:
            yield Document(text=None, domain=domain, split=item.split, bytes=0)
            continue
        if not isinstance(text, str):
            raise DataError(f"{where}: 'text' is {type(text).__name__}, not a string; {REMEDY}")
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: 'text' holds half a surrogate pair at character {error.start}; {REMEDY}"
            ) from None
        held_out = item.split == "train" and held_out_per_10000 > 0 and is_held_out(data, held_out_per_10000)
        yield Document(
            text=text, domain=domain, split="validation" if held_out else item.split, bytes=len(data)
        )


def is_held_out(data: bytes, per_10000: int) -> bool:
    """Whether a document belongs to the held-out share: decided by its content alone, so copies agree."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") % 10_000 < per_10000


def _domain(where: str, row: Row, item: Item, rule: DomainRule) -> str:
    if rule.field is None:
        if item.domain is None:
            raise AssertionError(f"{item.path} has neither a domain nor a rule for one")
        return item.domain
    value: object = row
    for key in rule.field.split("."):
        value = _parsed(value)
        if not isinstance(value, dict) or key not in value:
            raise DataError(
                f"{where}: no field '{rule.field}' for the domain; {REMEDY}, or name it with --domain-from"
            )
        value = value[key]
    if rule.names is not None:
        if not isinstance(value, str) or value not in rule.names:
            known = ", ".join(rule.names)
            raise DataError(
                f"{where}: unknown {rule.field} {str(value)[:60]!r}; known: {known}; {REMEDY}, "
                f"or take the names as they are with --domain-from {rule.field}"
            )
        return rule.names[value]
    return check_name(value, f"{where}: {rule.field}")


def _parsed(value: object) -> object:
    """A JSON string, as some parquet files hold `meta`, is looked into."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value

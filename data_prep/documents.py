"""From a record to a document: its text, its domain, and whether it is held out for validation."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import xxhash

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
class RecordRule:
    """Where a record holds its text and its domain. Fields are dotted; a JSON string on the way is parsed."""

    text: str = "text"
    domain: str | None = None
    """None: every record has the domain of the file it stands in."""
    names: Mapping[str, str] | None = None
    """Value of the domain's field -> domain; None: the value is the domain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A text with its domain."""

    text: str | None
    """None if the record's text is null: counted, not written."""
    domain: str
    split: str
    bytes: int
    """UTF-8 bytes of the text."""
    digest: int
    """Their xxh3, 64 bits: equal texts have equal digests."""


def read_documents(
    path: Path, item: Item, rule: RecordRule, held_out_per_10000: int, meter: Meter
) -> Iterator[Document]:
    """The documents of one file, routed to their domain and split. Raises DataError naming the record."""
    text_field = "text" if item.kind in ("txt", "txt.zst") else rule.text
    text_keys = text_field.split(".")
    domain_keys = rule.domain.split(".") if rule.domain else []
    columns = tuple(dict.fromkeys([text_keys[0], *domain_keys[:1]]))
    for where, row in read_rows(path, item.kind, columns, meter):
        text = _value(where, row, text_keys, "the text", "--text-from")
        domain = _domain(where, row, item, rule, domain_keys)
        # None is held while the next row is read: a document may be long.
        del row
        if text is None:
            yield Document(text=None, domain=domain, split=item.split, bytes=0, digest=0)
            continue
        if not isinstance(text, str):
            raise DataError(f"{where}: '{text_field}' is {type(text).__name__}, not a string; {REMEDY}")
        data = _utf8(where, text, text_field)
        held_out = item.split == "train" and held_out_per_10000 > 0 and is_held_out(data, held_out_per_10000)
        document = document_of(text, data, domain, "validation" if held_out else item.split)
        del text, data
        yield document
        del document


def _utf8(where: str, text: str, field: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: '{field}' holds half a surrogate pair at character {error.start}; {REMEDY}"
        ) from None


def document_of(text: str, data: bytes, domain: str, split: str) -> Document:
    """A document whose text is, in UTF-8, `data`."""
    digest = xxhash.xxh3_64_intdigest(data)
    return Document(text=text, domain=domain, split=split, bytes=len(data), digest=digest)


def is_held_out(data: bytes, per_10000: int) -> bool:
    """Whether a document belongs to the held-out share: decided by its content alone, so copies agree."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") % 10_000 < per_10000


def _value(where: str, row: Row, keys: list[str], what: str, option: str) -> object:
    """The value of a dotted field, whose absence is most often a column renamed upstream."""
    value: object = row
    for key in keys:
        if isinstance(value, str):
            value = _parsed(value)
        if not isinstance(value, Mapping) or key not in value:
            have = f"it has {', '.join(map(str, value))[:200]}" if isinstance(value, Mapping) else "no object"
            raise DataError(
                f"{where}: no field '{'.'.join(keys)}' for {what} ({have}); name another with {option} FIELD"
            )
        value = value[key]
    return value


def _domain(where: str, row: Row, item: Item, rule: RecordRule, keys: list[str]) -> str:
    if rule.domain is None:
        if item.domain is None:
            raise AssertionError(f"{item.path} has neither a domain nor a rule for one")
        return item.domain
    value = _value(where, row, keys, "the domain", "--domain-from")
    if rule.names is not None:
        if not isinstance(value, str) or value not in rule.names:
            known = ", ".join(rule.names)
            raise DataError(
                f"{where}: unknown {rule.domain} {str(value)[:60]!r}; known: {known}; {REMEDY}, "
                f"or take the names as they are with --domain-from {rule.domain}"
            )
        return rule.names[value]
    return check_name(value, f"{where}: {rule.domain}")


def _parsed(value: str) -> object:
    """A JSON string, as some parquet files hold `meta`, is looked into."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value

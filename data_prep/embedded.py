"""Real text that every machine with Python already has, read where it lies: for demos and tests.

Each kind of text is a domain. Which documents are taken, their order and the held-out share are fixed
by hashes of their names and content, so the same Python and packages give the same corpus.
"""

import ast
import functools
import hashlib
import importlib.metadata
import sysconfig
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

DOMAIN_BYTES = 900_000
"""Text taken for a domain, at most: the whole corpus is prepared in seconds."""

HELD_OUT_SHARE = 0.06
HELD_OUT_BYTES = 48_000
"""A domain's validation text is at least the share and at least these bytes (some 100 windows of 128)."""

MIN_BYTES = 200
MAX_BYTES = 12_000
"""Documents outside these sizes are left out or, for long ones, cut into parts."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedDocument:
    """A document of the embedded corpus."""

    text: str
    held_out: bool
    """Whether it belongs to validation."""


@functools.cache
def read_domain(name: str) -> tuple[EmbeddedDocument, ...]:
    """The documents of one domain of `DOMAINS`, in their fixed order; no text occurs twice."""
    chosen: dict[str, str] = {}
    taken = 0
    for _, text in DOMAINS[name]():
        for part in _parts(text):
            digest = _digest(part)
            size = len(part.encode("utf-8"))
            if size >= MIN_BYTES and digest not in chosen and taken + size <= DOMAIN_BYTES:
                chosen[digest] = part
                taken += size
        if taken > 0.95 * DOMAIN_BYTES:
            break
    held_out = _held_out(chosen, taken)
    return tuple(EmbeddedDocument(text=text, held_out=digest in held_out) for digest, text in chosen.items())


def _held_out(chosen: Mapping[str, str], total: int) -> set[str]:
    """Documents in the order of their hash until the share and the bytes are reached, at most a quarter."""
    wanted = min(max(HELD_OUT_SHARE * total, HELD_OUT_BYTES), total / 4)
    held: set[str] = set()
    size = 0
    for digest in sorted(chosen):
        if size >= wanted:
            break
        held.add(digest)
        size += len(chosen[digest].encode("utf-8"))
    return held


def _digest(text: str) -> str:
    return hashlib.sha256(b"reweight-embedded\0" + text.encode("utf-8")).hexdigest()


def _parts(text: str) -> Iterator[str]:
    """The text cut at line ends into parts of at most MAX_BYTES characters."""
    while len(text) > MAX_BYTES:
        cut = text.rfind("\n", 0, MAX_BYTES) + 1 or MAX_BYTES
        yield text[:cut]
        text = text[cut:]
    yield text


def _by_hash(keys: list[str]) -> list[str]:
    return sorted(keys, key=lambda key: hashlib.sha256(key.encode("utf-8", "replace")).digest())


def _stdlib_files(wanted: Callable[[int], bool]) -> Iterator[tuple[str, str]]:
    """Source files of the standard library whose name's hash satisfies `wanted`, in hash order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skip = {"test", "tests", "site-packages", "dist-packages", "pydoc_data", "__pycache__", "lib-dynload"}
    names = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if skip.isdisjoint(path.relative_to(root).parts)
    ]
    for name in _by_hash(names):
        if wanted(hashlib.sha256(name.encode("utf-8", "replace")).digest()[-1]):
            text = _read(root / name)
            if text is not None:
                yield name, text


def _read(path: Path) -> str | None:
    """The file's text; None if it is not UTF-8 or cannot be read, as some test data of packages."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _code() -> Iterator[tuple[str, str]]:
    # Code and docstrings come from different files, so that neither domain repeats the other's text.
    return _stdlib_files(lambda byte: byte % 2 == 0)


def _docstrings() -> Iterator[tuple[str, str]]:
    for name, source in _stdlib_files(lambda byte: byte % 2 == 1):
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
        yield name, "\n\n".join(text for text in found if text)


def _language_reference() -> Iterator[tuple[str, str]]:
    from pydoc_data.topics import topics

    for name in _by_hash(list(topics)):
        yield name, topics[name]


def _distributions() -> list[importlib.metadata.Distribution]:
    found = {d.metadata["Name"].lower(): d for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return [found[name] for name in _by_hash(list(found))]


def _package_docs() -> Iterator[tuple[str, str]]:
    for distribution in _distributions():
        text = str(distribution.metadata.get("Description") or distribution.metadata.get_payload() or "")  # type: ignore[attr-defined]
        yield distribution.metadata["Name"], text.encode("utf-8", "ignore").decode("utf-8")


def _licenses() -> Iterator[tuple[str, str]]:
    stems = ("license", "licence", "copying", "notice", "authors")
    for distribution in _distributions():
        for file in sorted(distribution.files or [], key=str):
            if "dist-info" in file.parts[0] and file.name.lower().startswith(stems):
                text = _read(Path(str(file.locate())))
                if text is not None:
                    yield str(file), text


def _unicode_names() -> Iterator[tuple[str, str]]:
    """The character database as lines 'U+0391 Α Lu GREEK CAPITAL LETTER ALPHA', 64 code points a document."""
    for start in range(0x20, 0x30000, 64):
        named = [(code, unicodedata.name(chr(code), "")) for code in range(start, start + 64)]
        # The two great blocks of ideographs and syllables only repeat their numbers.
        lines = [
            f"U+{code:04X} {chr(code)} {unicodedata.category(chr(code))} {name}"
            for code, name in named
            if name and not name.startswith(("CJK UNIFIED", "CJK COMPAT", "HANGUL SYLLABLE", "TANGUT IDEO"))
        ]
        yield f"U+{start:04X}", "\n".join(lines)


DOMAINS: Mapping[str, Callable[[], Iterator[tuple[str, str]]]] = {
    "stdlib_code": _code,
    "docstrings": _docstrings,
    "language_reference": _language_reference,
    "package_docs": _package_docs,
    "licenses": _licenses,
    "unicode_names": _unicode_names,
}
"""Domain -> its documents as (name, text)."""

"""What a token store says about itself: manifest.json as typed values, strictly read.

A manifest may come from anywhere, so nothing in it is believed before it is checked: names must be
folder names, counts must add up, and the digest must match the content.
"""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from data_prep.errors import DataError
from data_prep.fields import Fields
from data_prep.files import canonical_json, check_name, sha256_text, write_text_atomically

FORMAT = 2
FINGERPRINT_FORMAT = 1
"""Part of the fingerprint: it stays while the ids of a store mean the same."""

MANIFEST_NAME = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
MAX_MANIFEST_BYTES = 1 << 30

Dtype = Literal["uint16", "uint32"]

SHARD_NAME = re.compile(r"(?:[0-9]{5}|[1-9][0-9]{5,8})\.npy")
"""Five digits, or as many as a larger number has."""


@dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """Which tokenizer made the ids."""

    name: str
    """Short name: gpt2, bpe:4096, or the folder it came from."""
    sha256: str
    """Digest of the vocabulary and merges, whatever file they were read from."""
    vocab_size: int
    """Ids are below this."""
    end_of_text: int
    """The id that ends each document."""
    file_sha256: str | None = None
    """Digest of the store's tokenizer.json; None if the store has none."""
    repository: str | None = None
    """Hub repository the vocabulary was read from; None for a local file."""
    revision: str | None = None
    """Its commit."""

    @property
    def dtype(self) -> Dtype:
        """The smallest unsigned type that holds every id."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One .npy file of ids, and beside it NNNNN.documents.npy, which tells where its documents start."""

    name: str
    """File name, NNNNN.npy; NNNNN is the number of the input file it came from."""
    tokens: int
    documents: int
    sha256: str
    """Digest of the whole file, header included."""
    documents_sha256: str
    """Digest of the file of document starts."""

    @property
    def number(self) -> int:
        """The number in the name: shards are laid end to end in its order."""
        return int(self.name.removesuffix(".npy"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """One domain of one split, the sum over its shards."""

    documents: int
    tokens: int
    """Ids, one end-of-text for each document included."""
    bytes: int
    """UTF-8 bytes of the documents' text."""
    skipped: int = 0
    """Records whose text was null."""
    longest: int = 0
    """Ids of the longest document, its end-of-text id included."""
    lengths: tuple[int, ...] = ()
    """Documents by length: number k counts those of 2^k to 2^(k+1) - 1 ids."""
    duplicates: int = 0
    """Documents whose text occurred before in the same domain of the same split."""
    in_train: int = 0
    """Outside train: documents whose text occurs in train too, in whatever domain."""
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One file the store was made from."""

    path: str
    """Relative to the input folder or the repository."""
    split: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the text came from."""

    name: str
    revision: str | None
    """Commit of the hub repository; None for files of this machine."""
    inputs: tuple[InputFile, ...]
    held_out_per_10000: int = 0
    """Share of the training documents put into validation by the hash of their text."""
    limit_tokens: int | None = None
    """Bound on training tokens; None for all there are."""
    limit_reached: bool = False
    """Whether the bound left text out; False too where it was beyond all there was."""
    sample_seed: int | None = None
    """Seed of the order in which files were taken up to the bound; None for the order of their paths."""
    shares: int = 1
    """Parts the bound was divided over; 1 unless machines shared the work under a bound."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole of manifest.json."""

    dataset: str
    tokenizer: TokenizerInfo
    splits: Mapping[str, Mapping[str, Domain]]
    source: Source
    dtype: Dtype

    @property
    def fingerprint(self) -> str:
        """sha256 over what decides every token: tokenizer, dtype and the shards' digests in order."""
        shards = {
            split: {domain: [shard.sha256 for shard in entry.shards] for domain, entry in domains.items()}
            for split, domains in self.splits.items()
        }
        tokenizer = [self.tokenizer.sha256, self.tokenizer.vocab_size, self.tokenizer.end_of_text]
        return sha256_text(canonical_json([FINGERPRINT_FORMAT, tokenizer, self.dtype, shards]))


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Write manifest.json atomically. Call it last: it is what makes the folder a store."""
    document = {"format": FORMAT, **asdict(manifest)}
    document["digest"] = sha256_text(canonical_json(document))
    write_text_atomically(store / MANIFEST_NAME, json.dumps(document, indent=1) + "\n")


def read_manifest(store: Path) -> Manifest:
    """Read and check manifest.json of the folder `store`.

    Raises DataError, naming the remedy, if it is missing, damaged, edited or of another format.
    """
    path = store / MANIFEST_NAME
    remedy = repair_command(store)
    try:
        if not path.is_file():
            raise DataError(_missing(store))
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise DataError(f"{path}: larger than {MAX_MANIFEST_BYTES} bytes, not a manifest; {remedy}")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and the disk") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error}); {remedy}") from None
    try:
        return _manifest(document)
    except DataError as error:
        raise DataError(f"{path}: {error}; {remedy}") from None


def repair_command(store: Path) -> str:
    """What to tell the user about a damaged store."""
    return f"rebuild only what is damaged: `reweight prep --repair {shlex.quote(str(store))}`"


def _missing(store: Path) -> str:
    if (store / ".prep").is_dir():
        return f"{store}: preparation has not finished; run the same `reweight prep` command again"
    if store.is_dir():
        return f"{store}: no manifest.json, so not a token store; `reweight prep DATASET --out DIR` makes one"
    return (
        f"{store}: no such token store; make it with `reweight prep DATASET --out {shlex.quote(str(store))}`"
    )


def _manifest(document: object) -> Manifest:
    top = Fields(document, "manifest")
    if top.raw("format") != FORMAT:
        raise DataError(
            f"format {str(top.raw('format'))[:20]}, but this version of reweight reads format {FORMAT}: "
            "prepare the data again into a new folder"
        )
    content = {key: value for key, value in top.items() if key != "digest"}
    try:
        digest = sha256_text(canonical_json(content))
    except (ValueError, RecursionError) as error:  # NaN, half a surrogate pair
        raise DataError(f"edited or damaged: no JSON that we write ({str(error)[:100]})") from None
    if top.raw("digest") != digest:
        raise DataError("edited or damaged: the digest does not match the content")
    tokenizer = parse_tokenizer(top.sub("tokenizer"))
    dtype = top.raw("dtype")
    if dtype != tokenizer.dtype:
        raise DataError(f"dtype is {dtype!r}; a vocabulary of {tokenizer.vocab_size} needs {tokenizer.dtype}")
    return Manifest(
        dataset=check_name(top.raw("dataset"), "dataset"),
        tokenizer=tokenizer,
        dtype=tokenizer.dtype,
        splits={
            check_name(split, "split"): {
                check_name(domain, "domain"): parse_domain(domains.sub(domain))
                for domain, _ in domains.items()
            }
            for split, _ in top.sub("splits").items()
            for domains in (top.sub("splits").sub(split),)
        },
        source=_source(top.sub("source")),
    )


def parse_tokenizer(fields: Fields) -> TokenizerInfo:
    """Read a `TokenizerInfo`. DataError."""
    info = TokenizerInfo(
        name=fields.text("name"),
        sha256=fields.digest("sha256"),
        vocab_size=fields.count("vocab_size", least=1),
        end_of_text=fields.count("end_of_text"),
        file_sha256=None if fields.raw("file_sha256") is None else fields.digest("file_sha256"),
        repository=fields.optional_text("repository"),
        revision=fields.optional_text("revision"),
    )
    if info.end_of_text >= info.vocab_size or info.vocab_size >= 1 << 31:
        raise DataError(f"vocab_size {info.vocab_size} with end_of_text {info.end_of_text} is impossible")
    return info


def parse_domain(fields: Fields) -> Domain:
    """Read a `Domain`, whose counts must be the sums over its shards. DataError."""
    shards = tuple(_shard(each) for each in fields.subs("shards"))
    domain = Domain(
        documents=fields.count("documents"),
        tokens=fields.count("tokens"),
        bytes=fields.count("bytes"),
        skipped=fields.count("skipped"),
        longest=fields.count("longest"),
        lengths=fields.counts("lengths"),
        duplicates=fields.count("duplicates"),
        in_train=fields.count("in_train"),
        shards=shards,
    )
    numbers = [shard.number for shard in shards]
    if numbers != sorted(set(numbers)):
        raise DataError(f"{fields.where}.shards: not in order, or named twice")
    if sum(domain.lengths) != domain.documents:
        raise DataError(f"{fields.where}.lengths: not the lengths of {domain.documents} documents")
    for what in ("tokens", "documents"):
        total = sum(getattr(shard, what) for shard in shards)
        if getattr(domain, what) != total:
            raise DataError(f"{fields.where}.{what} is {getattr(domain, what)}, but its shards hold {total}")
    return domain


def _shard(fields: Fields) -> Shard:
    name = fields.text("name")
    if SHARD_NAME.fullmatch(name) is None:
        check_name(name, f"{fields.where}.name")
        raise DataError(f"{fields.where}.name is {name!r}, not NNNNN.npy")
    return Shard(
        name=name,
        tokens=fields.count("tokens", least=1),
        documents=fields.count("documents"),
        sha256=fields.digest("sha256"),
        documents_sha256=fields.digest("documents_sha256"),
    )


def _source(fields: Fields) -> Source:
    inputs = tuple(
        InputFile(
            path=each.text("path"),
            split=check_name(each.raw("split"), f"{each.where}.split"),
            sha256=each.digest("sha256"),
            bytes=each.count("bytes"),
        )
        for each in fields.subs("inputs")
    )
    revision = None if fields.raw("revision") is None else fields.text("revision")
    return Source(
        name=fields.text("name"),
        revision=revision,
        inputs=inputs,
        held_out_per_10000=fields.count("held_out_per_10000"),
        limit_tokens=None if fields.raw("limit_tokens") is None else fields.count("limit_tokens", least=1),
        limit_reached=fields.raw("limit_reached") is True,
        sample_seed=fields.optional_count("sample_seed"),
        shares=fields.count("shares", least=1),
    )

"""One batch-encode call over every tokenizer, and where tokenizers come from.

A tokenizer is known by name (gpt2, llama2, starcoder), by repository of the hub, by path, or is trained here.
engines.py chooses what encodes. Nothing here reads a corpus: `train_bpe` is given its texts.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import bpe
from data_prep.engines import Engine, Flat, Ids, Name, ReferenceEngine, best_engine, tiktoken_encoding
from data_prep.errors import DataError, HubError, UserError
from data_prep.files import canonical_json, sha256_text, write_text_atomically
from data_prep.manifest import TokenizerInfo
from data_prep.schemes import can_spell, scheme_of

GPT2_REPOSITORY = "openai-community/gpt2"
GPT2_REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
GPT2_DIGEST = "588a3f3a6e7a65b5feec2f0499443be5ad66490d7f55173adef3122a60f680d3"
"""`ByteBpe.digest` of GPT-2's vocabulary, so that it is called gpt2 wherever it was read from."""

REPOSITORIES: dict[str, tuple[str, str | None]] = {
    "gpt2": (GPT2_REPOSITORY, GPT2_REVISION),
    "llama2": ("meta-llama/Llama-2-7b-hf", "01c7f73d771dfac7d292323805ebc428287df4f9"),
    "starcoder": ("bigcode/starcoder", None),
}
"""Name -> repository of the hub and commit; without one, the head of main, whose commit is recorded."""

END_OF_TEXT_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""End-of-text tokens looked for in a tokenizer that is not a plain byte-level BPE, in this order."""

MIN_BPE = 257
MAX_BPE = 1 << 20


@dataclass(kw_only=True, eq=False)
class Tokenizer:
    """Text to ids. Picklable: a worker process rebuilds the engine from the tokenizer's own JSON."""

    name: str
    sha256: str
    vocab_size: int
    end_of_text: int
    document: str
    """The tokenizer as the text of a Hugging Face tokenizer.json."""
    repository: str | None = None
    """Hub repository it was read from; None for a local file."""
    revision: str | None = None
    """Its commit."""
    reference_only: bool = False
    """Encode on the slower Hugging Face engine, whatever a faster one could do."""
    _engine: Engine | None = field(default=None, init=False, repr=False)
    _may_end: bool = field(default=True, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None}

    @property
    def info(self) -> TokenizerInfo:
        """What a manifest records; `file_sha256` is the digest of what `save` writes."""
        return TokenizerInfo(
            name=self.name,
            sha256=self.sha256,
            vocab_size=self.vocab_size,
            end_of_text=self.end_of_text,
            file_sha256=sha256_text(self.document),
            repository=self.repository,
            revision=self.revision,
        )

    @property
    def engine(self) -> Name:
        """Which library encodes; builds it if that has not happened."""
        return self._built().name

    def encode_flat(self, texts: Sequence[str]) -> Flat:
        """All texts' ids end to end, shape (n,), and the number of ids of each text, shape (len(texts),).

        No end-of-text id is added; control tokens inside a text are ordinary text. The arrays may be
        read-only. Raises DataError if ordinary text yields the end-of-text id.
        """
        ids, lengths = self._built().flat(texts)
        if self._may_end and bool((ids == self.end_of_text).any()):
            raise DataError(
                f"tokenizer {self.name}: ordinary text yields its end-of-text id {self.end_of_text}, which "
                "would end a document in its middle; choose another --tokenizer"
            )
        return ids, lengths

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text, as `encode_flat` gives them."""
        ids, lengths = self.encode_flat(texts)
        return np.split(ids, np.cumsum(lengths)[:-1]) if len(lengths) else []

    def reference(self) -> "Tokenizer":
        """The same tokenizer on the slower Hugging Face engine."""
        return replace(self, reference_only=True)

    def as_tiktoken(self) -> Any:
        """A `tiktoken.Encoding` of the same ids; None where its order of merges could not be the same."""
        scheme = scheme_of(json.loads(self.document))
        return None if scheme is None else tiktoken_encoding(scheme)

    def save(self, path: Path) -> None:
        """Write tokenizer.json to `path`, atomically."""
        write_text_atomically(path, self.document)

    def _built(self) -> Engine:
        if self._engine is None:
            scheme = scheme_of(json.loads(self.document))
            # What is known of a scheme was checked when the tokenizer was loaded.
            self._may_end = scheme is None
            reference = self.reference_only
            self._engine = ReferenceEngine(self.document) if reference else best_engine(self.document, scheme)
        return self._engine


def bpe_size(spec: str) -> int | None:
    """The vocabulary size of a `bpe:VOCAB` spec; None for any other spec. UserError if out of range."""
    if not spec.startswith("bpe:"):
        return None
    size = spec.removeprefix("bpe:")
    if not size.isascii() or not size.isdecimal() or not MIN_BPE <= int(size[:9]) <= MAX_BPE or len(size) > 9:
        raise UserError(
            f"--tokenizer {spec!r}: bpe:VOCAB takes {MIN_BPE} to {MAX_BPE} tokens, as in bpe:4096"
        )
    return int(size)


def load_tokenizer(
    spec: str | Path, name: str | None = None, *, repository: str | None = None, revision: str | None = None
) -> Tokenizer:
    """Load `gpt2`, `llama2`, `starcoder` or `hub:OWNER/NAME[@REVISION]` from the hub or its cache, or a path.

    A folder holds vocab.bpe + encoder.json, vocab.json + merges.txt, or tokenizer.json; a file is a
    tokenizer.json. `name`, `repository` and `revision` replace what a file or folder says of itself.
    Raises UserError for a spec of no known kind, DataError for missing or damaged files, HubError.
    """
    if isinstance(spec, str) and (spec in REPOSITORIES or spec.startswith("hub:")):
        return _from_hub(spec)
    path = Path(spec or "?")
    try:
        folder, file = path.is_dir(), path.is_file()
    except OSError:  # a name longer than any file system takes
        folder = file = False
    if folder or file:
        called = path.parent if path.name == "tokenizer.json" else path
        loaded = (
            _from_folder(path, name or _name(path)) if folder else _from_file(path, name or _name(called))
        )
        return replace(loaded, repository=repository, revision=revision)
    if isinstance(spec, Path) or "/" in spec or spec.endswith((".json", ".model")):
        raise DataError(f"{spec}: no such tokenizer file or folder; check --tokenizer")
    raise UserError(
        f"--tokenizer {spec!r:.200} is none of gpt2, bpe:VOCAB, llama2, starcoder, hub:OWNER/NAME, "
        "or an existing file or folder"
    )


def train_bpe(vocab_size: int, texts: Iterable[str]) -> Tokenizer:
    """Train a byte-level BPE with exactly `vocab_size` ids, the last one end-of-text; deterministic.

    Raises DataError if the texts do not hold enough distinct pairs for that many merges.
    """
    import tokenizers

    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    if len(model["vocab"]) != vocab_size - 1:
        raise DataError(
            f"bpe:{vocab_size}: the training text yields only {len(model['vocab']) + 1} tokens; "
            "ask for a smaller vocabulary or give more text"
        )
    merges = tuple((a, b) for a, b in model["merges"])
    learned = bpe.ByteBpe(vocab=model["vocab"], merges=merges, end_of_text=vocab_size - 1)
    return _from_bpe(learned, f"bpe:{vocab_size}")


def _from_bpe(model: bpe.ByteBpe, name: str) -> Tokenizer:
    # Spelled out, in the library's own order: saving through the library takes half a second for GPT-2.
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    end = {"id": model.end_of_text, "content": bpe.END_OF_TEXT, **flags, "special": True}
    vocab = dict(sorted(model.vocab.items(), key=lambda item: item[1]))
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": as_bytes,
        "post_processor": {**as_bytes, "add_prefix_space": True, "trim_offsets": False},
        "decoder": {**as_bytes, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {**vocab, bpe.END_OF_TEXT: model.end_of_text},
            "merges": [list(merge) for merge in model.merges],
        },
    }
    digest = model.digest
    return Tokenizer(
        name="gpt2" if digest == GPT2_DIGEST else name,
        sha256=digest,
        vocab_size=model.vocab_size,
        end_of_text=model.end_of_text,
        document=json.dumps(document, ensure_ascii=False),
    )


def _from_folder(folder: Path, name: str) -> Tokenizer:
    for vocab, merges in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        if (folder / vocab).is_file() and (folder / merges).is_file():
            return _from_bpe(bpe.read_vocab_and_merges(folder / vocab, folder / merges), name)
    for file in ("tokenizer.json", "tokenizer.model"):
        if (folder / file).is_file():
            return _from_file(folder / file, name)
    raise DataError(
        f"{folder}: no tokenizer; expected vocab.bpe + encoder.json, vocab.json + merges.txt, "
        "or tokenizer.json"
    )


def _from_file(path: Path, name: str) -> Tokenizer:
    if path.suffix == ".model":
        command = f"AutoTokenizer.from_pretrained('{path.parent}').save_pretrained('DIR')"
        raise DataError(
            f"{path}: a SentencePiece model, which is read as tokenizer.json; convert it with `pip install "
            f'sentencepiece protobuf` and `python -c "from transformers import AutoTokenizer; {command}"`, '
            "then use --tokenizer DIR"
        )
    document = bpe.read_json(path)
    model = bpe.from_tokenizer_json(document)
    return _from_bpe(model, name) if model is not None else _generic(path, document, name)


def _generic(path: Path, document: Any, name: str) -> Tokenizer:
    import tokenizers

    try:
        loaded = tokenizers.Tokenizer.from_str(json.dumps(document))
    except Exception as error:  # the library raises bare Exception for every malformed file
        raise DataError(f"{path}: not a Hugging Face tokenizer.json ({str(error)[:120]})") from None
    vocab = loaded.get_vocab(with_added_tokens=True)
    end = next((token for token in END_OF_TEXT_TOKENS if token in vocab), None)
    if end is None:
        raise DataError(f"{path}: no end-of-text token; looked for {' '.join(END_OF_TEXT_TOKENS)}")
    if scheme_of(document) is not None and can_spell(document, end):
        raise DataError(
            f"{path}: its merges make the end-of-text token {end} out of ordinary text, which would end a "
            "document in its middle; choose another --tokenizer"
        )
    decisive = {k: v for k, v in document.items() if k not in ("version", "truncation", "padding")}
    return Tokenizer(
        name=name,
        sha256=sha256_text(canonical_json(decisive)),
        vocab_size=max(vocab.values()) + 1,
        end_of_text=vocab[end],
        document=json.dumps(document, ensure_ascii=False),
    )


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name)[:96].strip("-.") or "tokenizer"


def _from_hub(spec: str) -> Tokenizer:
    from data_prep.hub import download, resolve_commit

    repository, revision = REPOSITORIES.get(spec) or _hub_spec(spec)
    remedy = "--tokenizer PATH works offline"
    commit = resolve_commit(repository, revision, remedy, kind="model")
    tokenizer = _from_file(download(repository, "model", commit, "tokenizer.json", remedy), spec)
    if spec == "gpt2" and tokenizer.sha256 != GPT2_DIGEST:
        raise HubError(
            f"{repository} at {commit[:12]}: not GPT-2's vocabulary; give local files with --tokenizer PATH"
        )
    return replace(tokenizer, repository=repository, revision=commit)


def _hub_spec(spec: str) -> tuple[str, str | None]:
    """Repository and revision of hub:OWNER/NAME[@REVISION]; the hub's module refuses malformed ones."""
    repository, at, revision = spec.removeprefix("hub:").partition("@")
    if not repository or (at and not revision):
        raise UserError(f"--tokenizer {spec!r:.200}: write hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    return repository, revision or None

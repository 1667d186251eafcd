"""One batch-encode call over every tokenizer, and where tokenizers come from.

A byte-level BPE with GPT-2's pre-tokenizer runs on tiktoken, several times faster than the reference,
when `ByteBpe.merges_by_rank` proves the ids equal; everything else runs on Hugging Face `tokenizers`.
Nothing here reads a corpus: `train_bpe` is given its texts.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep import bpe
from data_prep.errors import DataError, HubError, UserError
from data_prep.files import canonical_json, sha256_text, write_text_atomically
from data_prep.manifest import TokenizerInfo

GPT2_REPOSITORY = "openai-community/gpt2"
GPT2_REVISION = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
GPT2_DIGEST = "588a3f3a6e7a65b5feec2f0499443be5ad66490d7f55173adef3122a60f680d3"
"""`ByteBpe.digest` of GPT-2's vocabulary, so that it is called gpt2 wherever it was read from."""

END_OF_TEXT_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""End-of-text tokens looked for in a tokenizer that is not a plain byte-level BPE, in this order."""

MIN_BPE = 257
MAX_BPE = 1 << 20
CHUNK_CHARACTERS = 1 << 20
"""Longer documents are encoded in parts, cut where no token can span, to bound memory."""

Ids = NDArray[np.uint32]


class _Engine(Protocol):
    def encode(self, texts: Sequence[str]) -> list[Ids]: ...


class Tokenizer:
    """Text to ids. Picklable: a worker process rebuilds the engine from the tokenizer's own JSON."""

    def __init__(
        self, *, name: str, sha256: str, vocab_size: int, end_of_text: int, document: str, fast: bool
    ) -> None:
        self.name = name
        self.sha256 = sha256
        self.vocab_size = vocab_size
        self.end_of_text = end_of_text
        self.document = document
        """The tokenizer as the text of a Hugging Face tokenizer.json."""
        self.fast = fast
        """Whether tiktoken encodes (ids proven equal) or the reference does."""
        self._engine: _Engine | None = None

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
        )

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text, without an end-of-text id; special tokens inside a text are ordinary text."""
        if self._engine is None:
            self._engine = _TiktokenEngine(self.document) if self.fast else _ReferenceEngine(self.document)
        return self._engine.encode(texts)

    def reference(self) -> "Tokenizer":
        """The same tokenizer on the slower Hugging Face engine."""
        return Tokenizer(
            name=self.name,
            sha256=self.sha256,
            vocab_size=self.vocab_size,
            end_of_text=self.end_of_text,
            document=self.document,
            fast=False,
        )

    def save(self, path: Path) -> None:
        """Write tokenizer.json to `path`, atomically."""
        write_text_atomically(path, self.document)


class _TiktokenEngine:
    def __init__(self, document: str) -> None:
        import tiktoken

        model = bpe.from_tokenizer_json(json.loads(document))
        if model is None:
            raise AssertionError("only a byte-level BPE is encoded by rank")
        # Built from the ranks at hand: tiktoken's own registry would download them.
        self._encoding = tiktoken.Encoding(
            "reweight", pat_str=bpe.PIECES, mergeable_ranks=model.ranks(), special_tokens={}
        )

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> Ids:
        parts = [text] if len(text) <= CHUNK_CHARACTERS else split_safely(text)
        ids: list[Ids] = [self._encoding.encode_to_numpy(part, disallowed_special=()) for part in parts]
        return ids[0] if len(ids) == 1 else np.concatenate(ids)


class _ReferenceEngine:
    def __init__(self, document: str) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(document)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(each.ids, dtype=np.uint32) for each in encoded]


def split_safely(text: str, limit: int = CHUNK_CHARACTERS) -> list[str]:
    """Cut a long text where GPT-2's pre-tokenizer always cuts: before a space or newline that follows
    a character which is no white space. A part is longer than `limit` only if it has no such place."""
    parts: list[str] = []
    start = 0
    for cut in re.finditer(r"(?<=\S)(?=[ \n])", text):
        if cut.start() - start >= limit:
            parts.append(text[start : cut.start()])
            start = cut.start()
    return [*parts, text[start:]]


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


def load_tokenizer(spec: str | Path, name: str | None = None) -> Tokenizer:
    """Load `gpt2` (from the hub or its cache), or the tokenizer in a file or folder.

    A folder holds vocab.bpe + encoder.json, vocab.json + merges.txt, or tokenizer.json. `name` replaces
    the name that the file or folder gives.
    Raises UserError for a spec of no known kind, DataError for missing or damaged files, HubError.
    """
    if spec == "gpt2":
        tokenizer = _from_json_file(_download_gpt2(), "gpt2")
        if tokenizer.sha256 != GPT2_DIGEST:
            raise HubError(
                f"{GPT2_REPOSITORY} at {GPT2_REVISION[:12]}: not GPT-2's vocabulary; "
                "give local files with --tokenizer PATH"
            )
        return tokenizer
    path = Path(spec or "?")
    try:
        folder, file = path.is_dir(), path.is_file()
    except OSError:  # a name longer than any file system takes
        folder = file = False
    if folder:
        return _from_folder(path, name or _name(path))
    if file:
        return _from_json_file(path, name or _name(path.parent if path.name == "tokenizer.json" else path))
    if isinstance(spec, Path) or "/" in spec or spec.endswith(".json"):
        raise DataError(f"{spec}: no such tokenizer file or folder; check --tokenizer")
    raise UserError(f"--tokenizer {spec!r:.200} is none of gpt2, bpe:VOCAB, or an existing file or folder")


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
    import tokenizers

    built = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=dict(model.vocab), merges=list(model.merges)))
    built.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
    built.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    built.decoder = tokenizers.decoders.ByteLevel()
    document = json.loads(built.to_str())
    # Added by hand: the library would give the token the next free id, whatever the files say.
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    document["added_tokens"] = [
        {"id": model.end_of_text, "content": bpe.END_OF_TEXT, **flags, "special": True}
    ]
    document["model"]["vocab"] = {**document["model"]["vocab"], bpe.END_OF_TEXT: model.end_of_text}
    digest = model.digest
    return Tokenizer(
        name="gpt2" if digest == GPT2_DIGEST else name,
        sha256=digest,
        vocab_size=model.vocab_size,
        end_of_text=model.end_of_text,
        document=json.dumps(document, ensure_ascii=False),
        # The proof takes a second for 50,000 merges; GPT-2's own digest stands for a proof already run.
        fast=digest == GPT2_DIGEST or model.merges_by_rank(),
    )


def _from_folder(folder: Path, name: str) -> Tokenizer:
    for vocab, merges in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        if (folder / vocab).is_file() and (folder / merges).is_file():
            return _from_bpe(bpe.read_vocab_and_merges(folder / vocab, folder / merges), name)
    if (folder / "tokenizer.json").is_file():
        return _from_json_file(folder / "tokenizer.json", name)
    raise DataError(
        f"{folder}: no tokenizer; expected vocab.bpe + encoder.json, vocab.json + merges.txt, "
        "or tokenizer.json"
    )


def _from_json_file(path: Path, name: str) -> Tokenizer:
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
    ends = [vocab[token] for token in END_OF_TEXT_TOKENS if token in vocab]
    if not ends:
        raise DataError(f"{path}: no end-of-text token; looked for {' '.join(END_OF_TEXT_TOKENS)}")
    decisive = {k: v for k, v in document.items() if k not in ("version", "truncation", "padding")}
    return Tokenizer(
        name=name,
        sha256=sha256_text(canonical_json(decisive)),
        vocab_size=max(vocab.values()) + 1,
        end_of_text=ends[0],
        document=json.dumps(document, ensure_ascii=False),
        fast=False,
    )


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name)[:96].strip("-.") or "tokenizer"


def _download_gpt2() -> Path:
    from data_prep.hub import download

    return download(
        GPT2_REPOSITORY, "model", GPT2_REVISION, "tokenizer.json", "--tokenizer PATH works offline"
    )

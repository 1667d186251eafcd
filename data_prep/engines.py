"""Engines that turn texts into ids, behind one call.

fastokens encodes the schemes of schemes.py some fifty times as fast as the reference; tiktoken takes over
where fastokens cannot be loaded or fails its check; Hugging Face `tokenizers` is the reference, and encodes
every other tokenizer. An engine is used only after it has given the reference's ids for probes that are
chosen to tell pre-tokenizers and merges apart; the tests compare them on far more.
"""

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep import bpe
from data_prep.longtext import PART, encode_long
from data_prep.schemes import SPACE, Scheme, is_settled

Ids = NDArray[np.uint32]
Flat = tuple[Ids, NDArray[np.int64]]
"""All texts' ids end to end, and how many each text has."""

Name = Literal["fastokens", "tiktoken", "reference"]

VOCABULARY_PROBES = 400


class Engine(Protocol):
    """Anything that encodes."""

    name: Name

    def flat(self, texts: Sequence[str]) -> Flat:
        """Ids of every text, without control tokens."""
        ...


class _Raw(Protocol):
    """A fast library, given prepared text."""

    def flat(self, texts: Sequence[str]) -> Flat: ...


class _Fastokens:
    def __init__(self, scheme: Scheme) -> None:
        # Read once, when the library first encodes: processes share the work, and its threads do not
        # survive a fork. A user's own setting stays.
        os.environ.setdefault("FASTOKENS_BPE_THREADS", "1")
        self._scheme = scheme
        self._tokenizer = self._made()

    def _made(self, one_pattern: bool = True) -> Any:
        import fastokens

        return fastokens.Tokenizer.from_json_str(json.dumps(self._scheme.fast_document(one_pattern)))

    @functools.cached_property
    def _for_unsettled(self) -> Any:
        return self._made(one_pattern=False)

    def flat(self, texts: Sequence[str]) -> Flat:
        if self._scheme.kind != "starcoder" or all(map(is_settled, texts)):
            return self._encoded(self._tokenizer, texts)
        both = [self._tokenizer if is_settled(text) else self._for_unsettled for text in texts]
        each = [self._encoded(tokenizer, [text])[0] for tokenizer, text in zip(both, texts, strict=True)]
        return _joined(each)

    @staticmethod
    def _encoded(tokenizer: Any, texts: Sequence[str]) -> Flat:
        ids, ends = tokenizer.encode_batch_flat(list(texts), False, True)
        return np.frombuffer(ids, dtype="<u4"), np.diff(np.frombuffer(ends, dtype="<i8"))


class _Tiktoken:
    def __init__(self, scheme: Scheme) -> None:
        self._encoding = tiktoken_encoding(scheme)
        if self._encoding is None:
            raise ValueError("merges that token ids do not order")

    def flat(self, texts: Sequence[str]) -> Flat:
        return _joined([self._encoding.encode_to_numpy(text, disallowed_special=()) for text in texts])


def tiktoken_encoding(scheme: Scheme) -> Any:
    """A `tiktoken.Encoding` of the same ids; None for a scheme that merging by rank cannot express."""
    import tiktoken

    controls = [token["content"] for token in scheme.document["added_tokens"]]
    model = bpe.of_model(scheme.document["model"], controls)
    # The proof takes a second for 50,000 merges.
    if scheme.kind != "gpt2" or model is None or not model.merges_by_rank():
        return None
    # Built from the ranks at hand: tiktoken's own registry would download them.
    return tiktoken.Encoding("reweight", pat_str=bpe.PIECES, mergeable_ranks=model.ranks(), special_tokens={})


class FastEngine:
    """A fast library on one scheme; texts of any length."""

    def __init__(self, name: Name, scheme: Scheme, raw: _Raw) -> None:
        self.name: Name = name
        self._scheme, self._raw = scheme, raw

    def flat(self, texts: Sequence[str]) -> Flat:
        """Ids of every text, without control tokens."""
        if max(map(len, texts), default=0) <= PART:
            return self._raw.flat(self._prepared(texts))
        each = [self._long(text) if len(text) > PART else self._part(text, True) for text in texts]
        return _joined(each)

    def _prepared(self, texts: Sequence[str]) -> Sequence[str]:
        return [self._scheme.prepared(text) for text in texts] if self._scheme.kind == "llama2" else texts

    def _part(self, text: str, first: bool) -> Ids:
        return self._raw.flat([self._scheme.prepared(text, first)])[0]

    def _long(self, text: str) -> Ids:
        return encode_long(text, self._scheme, self._part)


class ReferenceEngine:
    """Hugging Face `tokenizers`, exactly as the document says but for control tokens inside a text."""

    name: Name = "reference"

    def __init__(self, document: str) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_str(document)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def flat(self, texts: Sequence[str]) -> Flat:
        """Ids of every text, without control tokens."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return _joined([np.array(each.ids, dtype=np.uint32) for each in encoded])


def _joined(each: Sequence[Ids]) -> Flat:
    lengths = np.array([len(ids) for ids in each], dtype=np.int64)
    if len(each) == 1:
        return each[0], lengths
    return np.concatenate([np.empty(0, dtype=np.uint32), *each]), lengths


LIBRARIES: tuple[tuple[Name, Callable[[Scheme], _Raw]], ...] = (
    ("fastokens", _Fastokens),
    ("tiktoken", _Tiktoken),
)
"""Tried in this order."""


def best_engine(document: str, scheme: Scheme | None) -> Engine:
    """The fastest engine that agrees with the reference on the probes."""
    reference = ReferenceEngine(document)
    if scheme is None:
        return reference
    controls = [token["content"] for token in scheme.document["added_tokens"]]
    probes = [*PROBES, *controls, *_vocabulary_probes(scheme.document["model"]["vocab"])]
    expected = reference.flat(probes)
    for name, library in LIBRARIES:
        try:
            engine = FastEngine(name, scheme, library(scheme))
        except (ImportError, ValueError):  # not built for this machine, or not for this vocabulary
            continue
        if _same(engine.flat(probes), expected):
            return engine
    return reference


def _same(one: Flat, other: Flat) -> bool:
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def _vocabulary_probes(vocab: dict[str, int]) -> Iterator[str]:
    """The vocabulary's own tokens, a sample evenly spread over the ids, alone and in a row."""
    tokens = sorted(vocab, key=lambda token: vocab[token])
    value: dict[str, Any] = {character: byte for byte, character in enumerate(bpe.byte_alphabet())}
    words = []
    for token in tokens[:: max(1, len(tokens) // VOCABULARY_PROBES)]:
        is_bytes = all(character in value for character in token)
        text = bytes(value[c] for c in token).decode(errors="replace") if is_bytes else token
        words.append(text.replace(SPACE, " "))
    yield from words
    yield "".join(words)


PROBES = (
    "",
    " ",
    "don't we'll I'VE they'd it's 'tis ''s 'S'LL x'sy ' s '\u017f",
    "a" * 300 + " " * 300 + "x" + "\n" * 300 + "\t\t \r\n x  \n\n  y   ",
    " \u00a0\u0085\u1680\u2003\u2028\u202f\u3000\u200b\ufeff\u180e x \u00a0y\u0085 z",
    "x\x0b\x0c\x1c\x1d\x1e\x1f y" + "".join(map(chr, range(0x20))) + "\x7f\x80\x9f",
    "12345678901234567890 1 22  333 \u00bd \u2167 \u0663\u0664\u0665 \u0e51  \u00b2\u00b3x9y 3.14",
    "na\u00efve e\u0301\u0302 \u00f1 \ufb01 \ufdfa \u1e9e\u0130\u0131",
    "\u6f22\u5b57\u304b\u306a \ud55c\uad6d\uc5b4 \u0627\u0644\u0639 \u05e2\u05d1 \u0939\u093f\u0928\u094d",
    "\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308\U0001f642 \U0010ffff\ufffd\ufffe",
    "def f(x):\n\treturn  x  # !!!???...---===___\r\n\r\nif (a[0] != b): { }\n    pass",
    "<|endoftext|>a<|endoftext|> <s></s> <unk><0x41><fim_prefix> [PAD] <|im_start|>",
    "\u2581a \u2581\u2581b  c\u2581 d",
)
"""Texts on which pre-tokenizers, normalizers and treatments of control tokens are known to differ."""

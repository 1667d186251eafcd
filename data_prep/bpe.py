"""Byte-level BPE with GPT-2's pre-tokenizer, in one canonical form whatever file it was read from.

GPT-2's vocabulary travels as `vocab.bpe` + `encoder.json`, as `merges.txt` + `vocab.json`, or inside a
`tokenizer.json`; all three become one `ByteBpe` with one digest. No tokenization here.
"""

import functools
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import DataError
from data_prep.files import canonical_json, sha256_text

END_OF_TEXT = "<|endoftext|>"

PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
"""GPT-2's pre-tokenizer (Radford et al. 2019, encoder.py) with possessive quantifiers: the same pieces,
without backtracking over long runs."""


@functools.cache
def byte_alphabet() -> tuple[str, ...]:
    """GPT-2's printable character for each byte value, shape (256,)."""
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


@dataclass(frozen=True, kw_only=True)
class ByteBpe:
    """A byte-level BPE: tokens in the byte alphabet, merges in order, and the end-of-text id."""

    vocab: Mapping[str, int]
    """Token -> id, without the end-of-text token."""
    merges: tuple[tuple[str, str], ...]
    end_of_text: int

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(*self.vocab.values(), self.end_of_text) + 1

    @property
    def digest(self) -> str:
        """sha256, in hex, of the vocabulary, merges and end-of-text id."""
        return sha256_text(
            canonical_json(
                ["byte-level-bpe-gpt2", self.vocab, [list(m) for m in self.merges], self.end_of_text]
            )
        )

    def ranks(self) -> dict[bytes, int]:
        """Token bytes -> id: what a rank-ordered BPE (tiktoken) merges by."""
        value = {character: byte for byte, character in enumerate(byte_alphabet())}
        return {bytes(value[c] for c in token): rank for token, rank in self.vocab.items()}

    def merges_by_rank(self) -> bool:
        """Whether merging by lowest token id gives the same ids as applying the merges in order.

        A rank-ordered BPE joins any neighbours whose bytes are a token; a merge list joins only listed
        pairs. They agree if ids grow along the merge list and rank-ordered BPE of each merged token,
        alone, ends with its listed pair: inside a longer text the span of a token is merged by the same
        steps as alone, so no unlisted pair is ever joined, and the least rank is the first merge.
        """
        made = [self.vocab.get(left + right, -1) for left, right in self.merges]
        singles = set(byte_alphabet())
        known = singles | {left + right for left, right in self.merges}
        if made != sorted(set(made)) or -1 in made or set(self.vocab) != known:
            return False
        return all(_last_pair(self.vocab, a + b) == (a, b) for a, b in self.merges)


def _last_pair(vocab: Mapping[str, int], token: str) -> tuple[str, str] | None:
    parts = list(token)
    while len(parts) > 2:
        ranked = [(vocab.get(a + b), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        best = min(((rank, i) for rank, i in ranked if rank is not None), default=None)
        if best is None:
            return None
        i = best[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None


def read_vocab_and_merges(vocab_file: Path, merges_file: Path) -> ByteBpe:
    """Read GPT-2's pair of files (`encoder.json`, `vocab.bpe`, or `vocab.json`, `merges.txt`).

    Raises DataError if a file is missing or is not what its name says.
    """
    vocab = read_json(vocab_file)
    try:
        lines = merges_file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{merges_file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{merges_file}: not UTF-8 text, so not a merge list") from None
    start = 1 if lines[0].startswith("#version") else 0
    merges = [line.split(" ") for line in lines[start:] if line]
    bpe = _checked(vocab, merges, (vocab.get(END_OF_TEXT) if isinstance(vocab, dict) else None))
    if bpe is None:
        raise DataError(
            f"{vocab_file} and {merges_file.name}: not a byte-level BPE with {END_OF_TEXT}, "
            "or from different tokenizers"
        )
    return bpe


def from_tokenizer_json(document: Any) -> ByteBpe | None:
    """The byte-level BPE inside a parsed tokenizer.json, or None if it is another kind of tokenizer."""
    if not isinstance(document, dict) or document.get("normalizer") is not None:
        return None
    model, before, added = (document.get(key) for key in ("model", "pre_tokenizer", "added_tokens"))
    if not isinstance(model, dict) or not isinstance(before, dict) or not isinstance(added, list):
        return None
    plain = model.get("type", "BPE") == "BPE" and not any(
        model.get(key)
        for key in (
            "dropout",
            "continuing_subword_prefix",
            "end_of_word_suffix",
            "byte_fallback",
            "ignore_merges",
        )
    )
    gpt2 = (
        before.get("type") == "ByteLevel"
        and not before.get("add_prefix_space")
        and before.get("use_regex", True)
    )
    if not plain or not gpt2 or len(added) != 1 or added[0].get("content") != END_OF_TEXT:
        return None
    return _checked(model.get("vocab"), _pairs(model), added[0].get("id"))


def of_model(model: Mapping[str, Any], specials: Collection[str]) -> ByteBpe | None:
    """The byte-level BPE of a tokenizer.json's model, less its control tokens; None if it is of another kind.

    Its end-of-text id is the next free one: nothing here says which control token that is.
    """
    vocab = {token: rank for token, rank in model["vocab"].items() if token not in specials}
    return _checked(vocab, _pairs(model), max(vocab.values(), default=0) + 1)


def _pairs(model: Mapping[str, Any]) -> list[Any]:
    return [each.split(" ") if isinstance(each, str) else each for each in model.get("merges", [])]


def read_json(path: Path) -> Any:
    """Parse a JSON file; DataError if it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})") from None


def _checked(vocab: object, merges: Sequence[Any], end_of_text: object) -> ByteBpe | None:
    if not isinstance(vocab, dict) or type(end_of_text) is not int or not 0 <= end_of_text < 1 << 31:
        return None
    tokens = {token: rank for token, rank in vocab.items() if token != END_OF_TEXT}
    alphabet = set(byte_alphabet())
    ids = list(tokens.values())
    if not alphabet <= set(tokens) or any(type(i) is not int or not 0 <= i < 1 << 31 for i in ids):
        return None
    pairs = [tuple(pair) for pair in merges if isinstance(pair, list) and len(pair) == 2]
    known = all(a in tokens and b in tokens and a + b in tokens for a, b in pairs)
    if len(pairs) != len(merges) or not known or not set().union(*tokens) <= alphabet:
        return None
    if len({*ids, end_of_text}) != len(ids) + 1:
        return None
    return ByteBpe(vocab=tokens, merges=tuple(pairs), end_of_text=end_of_text)

"""The kinds of tokenizer.json that a fast engine encodes exactly, and what each kind allows.

A scheme says which text the fast engine is given, with which document, and where a long text may be cut.
Nothing here encodes.
"""

import functools
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.bpe import byte_alphabet

Kind = Literal["gpt2", "starcoder", "llama2"]

DIGIT_PIECES = r"'(?:[sdmt]|ll|ve|re)|\p{N}| ?\p{L}++| ?[^\s\p{L}\p{N}]++|\s++(?=\p{N})|\s++$|\s+(?!\S)|\s"
"""Starcoder's pre-tokenizer, which sets every digit apart and then cuts as GPT-2 does, as one pattern: white
space before a digit is a piece of its own, since the digit has been taken away before GPT-2's rule looks.
Only for texts that `is_settled`: the library that matches it has its own table of characters."""

SPACE = "▁"
"""What Llama-2's vocabulary writes for a space (U+2581)."""

_BOUNDARY = re.compile(r"(?<=\S)(?=[ \n])")
_PLAIN_BPE = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One tokenizer of a known kind."""

    kind: Kind
    document: Mapping[str, Any]
    """Its parsed tokenizer.json."""

    def fast_document(self, one_pattern: bool = True) -> dict[str, Any]:
        """A tokenizer.json that gives the same ids for `prepared` text, made of what fast engines do best.

        With `one_pattern`, starcoder's is for settled texts alone, and three times as fast.
        Control tokens are spelled as no text can be: prepared text has no U+2581, and a text in GPT-2's byte
        alphabet has neither that nor a space.
        """
        controls = {token["content"]: f"{SPACE}{token['id']}" for token in self.document["added_tokens"]}
        model, spelled = self.document["model"], self._spelled
        vocab = {controls.get(token) or spelled(token): rank for token, rank in model["vocab"].items()}
        merges = [[spelled(part) for part in _pair(merge)] for merge in model["merges"]]
        document: dict[str, Any] = {**self.document, "added_tokens": []}
        document |= dict.fromkeys(("normalizer", "post_processor", "decoder", "truncation", "padding"))
        document["model"] = {**model, "vocab": vocab, "merges": merges, "unk_token": None}
        if self.kind == "starcoder" and one_pattern:
            split = {"type": "Split", "pattern": {"Regex": DIGIT_PIECES}, "behavior": "Isolated"}
            as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
            document["pre_tokenizer"] = {
                "type": "Sequence",
                "pretokenizers": [{**split, "invert": False}, {**as_bytes, "use_regex": False}],
            }
        return document

    def _spelled(self, token: str) -> str:
        # With spaces for U+2581 a text needs no normalizer, which is half of the time.
        return token.replace(SPACE, " ") if self.kind == "llama2" else token

    def prepared(self, text: str, first: bool = True) -> str:
        """What `fast_document` is given for a text, or for a part of one that is not its `first`."""
        if self.kind != "llama2":
            return text
        text = text.replace(SPACE, " ")
        return " " + text if first and text else text

    def token_bytes(self) -> NDArray[np.int64]:
        """Bytes of prepared text that each id stands for, by id."""
        vocab: dict[str, int] = self.document["model"]["vocab"]
        sizes = np.zeros(max(vocab.values()) + 1, dtype=np.int64)
        for token, rank in vocab.items():
            if self.kind != "llama2":
                sizes[rank] = len(token)  # in the byte alphabet
            else:
                sizes[rank] = 1 if _BYTE.fullmatch(token) else len(self._spelled(token).encode())
        return sizes

    def boundary(self, text: str, start: int, stop: int) -> int | None:
        """The first place of `text[start:stop]` where pieces always end, whatever surrounds them."""
        found = _BOUNDARY.search(text, start, stop) if self.kind != "llama2" else None
        return None if found is None else found.start()

    def may_resume(self, text: str, place: int) -> bool:
        """Whether pre-tokenizing `text[place:]` finds the pieces that it finds in the whole text.

        The first piece may be the rest of one. Without a pre-tokenizer, anywhere. Otherwise not between
        white space and what follows, which may belong together, nor near an apostrophe, since a
        contraction is looked for only where a piece starts.
        """
        if self.kind == "llama2":
            return True
        before = text[place - 1]
        return (not before.isspace() or before == text[place]) and "'" not in text[place - 3 : place + 1]


_BYTE = re.compile("<0x[0-9A-F]{2}>")


def is_settled(text: str) -> bool:
    """Whether every character is a letter, a number, white space or neither by every version of Unicode."""
    if text.isascii():
        return True
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    return not bool(_unsettled()[codes].any())


@functools.cache
def _unsettled() -> NDArray[np.bool_]:
    """By code point: not assigned yet, or of another class now than in Unicode 3.2, the oldest at hand."""
    table = np.zeros(0x110000, dtype=np.bool_)
    table[0x20000:0xF0000] = True  # rare ideographs and what is to come
    vowel_separator = 0x180E  # white space from Unicode 4.0 to 6.2, and still to some libraries
    for point in range(0x20000):
        now, then = (data.category(chr(point)) for data in (unicodedata, unicodedata.ucd_3_2_0))
        classes = [category[0] if category[0] in "LNZ" else "" for category in (now, then)]
        table[point] = now == "Cn" or classes[0] != classes[1]
    table[vowel_separator] = True
    return table


def scheme_of(document: object) -> Scheme | None:
    """The scheme of a parsed tokenizer.json; None if it is not one of those known."""
    if not isinstance(document, dict):
        return None
    model, added = document.get("model"), document.get("added_tokens")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(added, list):
        return None
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list) or any(model.get(k) for k in _PLAIN_BPE):
        return None
    # Any other added token is searched for in the text, which the fast engines are not asked to do.
    if not all(isinstance(each, dict) and each.get("special") is True for each in added):
        return None
    kind = _kind(document, model, vocab)
    return None if kind is None else Scheme(kind=kind, document=document)


def _kind(document: dict[str, Any], model: dict[str, Any], vocab: dict[str, int]) -> Kind | None:
    before, normalizer = document.get("pre_tokenizer"), document.get("normalizer")
    if normalizer is None and isinstance(before, dict) and not model.get("byte_fallback"):
        if not set(byte_alphabet()) <= set(vocab):
            return None
        if _is_byte_level(before):
            return "gpt2"
        parts = before.get("pretokenizers") if before.get("type") == "Sequence" else None
        digits = {"type": "Digits", "individual_digits": True}
        if isinstance(parts, list) and len(parts) == 2 and parts[0] == digits and _is_byte_level(parts[1]):
            return "starcoder"
    spaces = [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    if normalizer == {"type": "Sequence", "normalizers": spaces} and before is None:
        controls = {token["content"] for token in document["added_tokens"]}
        pieces = {token for token in vocab if token not in controls}
        # Every byte has a token, so nothing is unknown; no token is spelled with a space already. fastokens
        # finds a token that no merge makes, as <0x41>, in a text unless each of its characters is a token.
        all_bytes = all(f"<0x{byte:02X}>" in pieces for byte in range(256))
        no_space = not any(" " in token for token in pieces)
        if model.get("byte_fallback") and all_bytes and no_space and set().union(*pieces) <= pieces:
            return "llama2"
    return None


def _is_byte_level(part: object) -> bool:
    if not isinstance(part, dict) or part.get("type") != "ByteLevel":
        return False
    return part.get("add_prefix_space") is False and part.get("use_regex", True) is True


def _pair(merge: Any) -> list[str]:
    return merge.split(" ") if isinstance(merge, str) else merge


def can_spell(document: Mapping[str, Any], token: str) -> bool:
    """Whether a BPE could make `token` out of ordinary text: by a merge, or as a single symbol."""
    model = document["model"]
    made = any("".join(_pair(merge)) == token for merge in model["merges"])
    return made or len(token) == 1 or bool(_BYTE.fullmatch(token)) or token == model.get("unk_token")

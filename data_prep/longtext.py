"""Encoding one very long text in parts, with the ids of the whole and memory for a part.

Byte-pair encoding has a local test: tokens next to each other are the encoding of their joint text if and
only if each neighbouring pair is (van Antwerpen and Neubeck, "So many tokens, so little time", 2024). So a
part is encoded a little further than needed, some of its last tokens are dropped, and the next part starts
where they did: if its first token is the first dropped one, that pair has stood side by side in an encoding
already, and the two parts join into the encoding of the whole.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from data_prep.schemes import Scheme

Ids = NDArray[np.uint32]
EncodePart = Callable[[str, bool], Ids]
"""Ids of a part of a text; whether it is the first part."""

PART = 1 << 20
"""Characters of a part. Texts up to this length are encoded whole."""
MARGIN = 1 << 12
"""Characters encoded twice where a part ends inside a piece."""
TRIES = 64


def encode_long(text: str, scheme: Scheme, encode: EncodePart, part: int = PART, margin: int = MARGIN) -> Ids:
    """Ids of a text of any length. Twice the part if some place cannot be proved, at worst the whole text."""
    sizes = scheme.token_bytes()
    while True:
        found = _in_parts(text, scheme, encode, sizes, part, margin)
        if found is not None:
            return np.frombuffer(found, dtype=np.uint32)
        part *= 2


def _in_parts(
    text: str, scheme: Scheme, encode: EncodePart, sizes: NDArray[np.int64], part: int, margin: int
) -> bytearray | None:
    # A bytearray grows in place; joining arrays at the end would hold every id twice.
    ids_so_far, start, expected = bytearray(), 0, None
    while True:
        place = len(text)
        if start + part < len(text):
            place = scheme.boundary(text, start + part, start + 2 * part) or 0
        stop = place or min(start + part + margin, len(text))
        ids = encode(text[start:stop], start == 0)
        if expected is not None and (len(ids) == 0 or int(ids[0]) != expected):
            return None
        expected = None
        if not place and stop < len(text):
            join = _join(text, stop, ids, scheme, encode, sizes, margin)
            if join is None:
                return None
            kept, stop = join
            expected, ids = int(ids[kept]), ids[:kept]
        ids_so_far += ids.data
        if stop == len(text):
            return ids_so_far
        start = stop


def _join(
    text: str,
    stop: int,
    ids: Ids,
    scheme: Scheme,
    encode: EncodePart,
    sizes: NDArray[np.int64],
    margin: int,
) -> tuple[int, int] | None:
    """How many ids to keep and the place in the text where the next part starts; None if none is found."""
    tail = scheme.prepared(text[stop - margin : stop], first=False).encode()
    back = np.cumsum(sizes[ids[: -len(tail) - 1 : -1]])
    tried = 0
    for dropped in range(int(np.searchsorted(back, len(tail) // 2)) + 1, len(back)):
        cut = len(tail) - int(back[dropped - 1])
        if cut <= 0 or tried == TRIES:
            break
        if tail[cut] & 0xC0 == 0x80:  # inside a character
            continue
        place = stop - len(tail[cut:].decode())
        if not scheme.may_resume(text, place):
            continue
        tried += 1
        kept = len(ids) - dropped
        if int(encode(text[place:stop], False)[0]) == int(ids[kept]):
            return kept, place
    return None

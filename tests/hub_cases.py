"""Everything that may go wrong with a hub, and how a preparation must end."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from hub_place import LARGE, README, SMALL


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault: where it strikes, and how a preparation must end."""

    faults: tuple[Mapping[str, object], ...]
    """`path` is searched for after the name of the repository."""
    ends: str | None = None
    """Regular expression for the cause that is given; None for success."""
    data: bytes = SMALL
    call: Mapping[str, object] = field(default_factory=dict)
    made: str | None = None
    """Pattern of requests that are counted ..."""
    most: int = 0
    """... and how many there may be."""


API, TREE, HEAD, BODY = "/revision/", "/tree/", "/resolve/.*parquet", "^/lfs/"


def one(path: str, kind: str, **settings: object) -> tuple[Mapping[str, object], ...]:
    return ({"path": path, "kind": kind, **settings},)


def answer(document: object, **headers: str) -> dict[str, object]:
    return {"kind": "status", "status": 200, "body": json.dumps(document).encode(), "headers": headers}


def entry(path: object, size: object = 5, sha256: object = "0" * 64) -> dict[str, object]:
    lfs = {"oid": sha256, "size": 5, "pointerSize": 1}
    return {"type": "file", "path": path, "size": size, "oid": "0" * 40, "lfs": lfs}


def listing(*entries: object, **headers: str) -> tuple[Mapping[str, object], ...]:
    return ({"path": TREE, **answer(list(entries), **headers)},)


CASES: dict[str, Case] = {
    # Refused: said at once, never tried again.
    "unauthorized": Case(faults=one(API, "status", status=401), ends="refuses the token", made=API, most=1),
    "forbidden": Case(faults=one(API, "status", status=403), ends="HTTP 403", made=API, most=1),
    "no-revision": Case(faults=(), call={"revision": "nowhere"}, ends="no such revision", made=API, most=1),
    "no-commit": Case(faults=(), call={"revision": "f" * 40}, ends="no such revision"),
    "no-folder": Case(faults=(), call={"below": "nowhere"}, ends="no such file or folder"),
    "no-file": Case(
        faults=one(HEAD, "status", status=404, headers={"X-Error-Code": "EntryNotFound"}), ends="no such file"
    ),
    "body-gone": Case(faults=one(BODY, "status", status=404), ends="HTTP 404", made=BODY, most=1),
    # Too many requests.
    "limited-api": Case(faults=one(API, "status", status=429, headers={"Retry-After": "1"}, times=1)),
    "limited-tree": Case(faults=one(TREE, "status", status=429, headers={"Retry-After": "1"}, times=1)),
    "limited-body": Case(faults=one(BODY, "status", status=429, headers={"Retry-After": "1"}, times=1)),
    "limited-long": Case(
        faults=one(TREE, "status", status=429, headers={"Retry-After": "3600"}), ends=r"asks to wait 3,600 s"
    ),
    "limited-long-body": Case(
        faults=one(BODY, "status", status=429, headers={"Retry-After": "3600"}), ends=r"asks to wait 3,600 s"
    ),
    "limited-reset": Case(
        faults=one(API, "status", status=429, headers={"RateLimit": '"api";r=0;t=300'}),
        ends=r"asks to wait 300 s",
    ),
    # The server fails, once and for ever.
    "500-once-api": Case(faults=one(API, "status", times=1)),
    "500-once-tree": Case(faults=one(TREE, "status", times=1)),
    "500-once-head": Case(faults=one(HEAD, "status", times=1)),
    "500-once-body": Case(faults=one(BODY, "status", times=1)),
    "500-api": Case(faults=one(API, "status"), ends="HTTP 500", made=API, most=3),
    "500-tree": Case(faults=one(TREE, "status"), ends="HTTP 500"),
    "503-head": Case(faults=one(HEAD, "status", status=503), ends="HTTP 503"),
    "500-body": Case(faults=one(BODY, "status"), ends="HTTP 500", made=BODY, most=3),
    "500-tree-page-2": Case(faults=one("cursor=2", "status"), ends="HTTP 500"),
    "old-address": Case(faults=one(BODY, "status", status=403, times=1)),
    # The connection fails.
    "drop-once-api": Case(faults=one(API, "drop", times=1)),
    "drop-once-head": Case(faults=one(HEAD, "drop", times=1)),
    "drop-head": Case(faults=one(HEAD, "drop"), ends="breaks the connection off", made=HEAD, most=3),
    "drop-body": Case(faults=one(BODY, "drop"), ends="breaks the connection off|less than 64 KiB"),
    "silent-api": Case(faults=one(API, "silence"), ends="does not answer|less than 64 KiB"),
    "silent-head": Case(faults=one(HEAD, "silence"), ends="does not answer|less than 64 KiB"),
    "slow-head": Case(faults=one(API, "slow_head"), ends="less than 64 KiB"),
    "reset-once": Case(faults=one(BODY, "reset", after=11_000_000, times=1), data=LARGE, made=BODY, most=2),
    "reset-early": Case(
        faults=one(BODY, "reset", after=3_000_000), data=LARGE, ends="less than 64 KiB|breaks"
    ),
    "cut-once": Case(faults=one(BODY, "cut", after=11_000_000, times=1), data=LARGE, made=BODY, most=2),
    "cut": Case(faults=one(BODY, "cut", after=1000), ends="breaks the connection off|less than 64 KiB"),
    "stall": Case(faults=one(BODY, "stall", after=100_000), ends="does not answer|less than 64 KiB"),
    "drip": Case(faults=one(BODY, "drip", after=100_000), ends="less than 64 KiB of anything new in"),
    "no-range": Case(
        faults=(
            {"path": BODY, "kind": "cut", "after": 11_000_000, "times": 1},
            {"path": BODY, "kind": "no_range"},
        ),
        data=LARGE,
    ),
    # The body is wrong.
    "short-once": Case(faults=one(BODY, "short", after=1000, times=1)),
    "short": Case(faults=one(BODY, "short", after=1000), ends="incomplete", made=BODY, most=3),
    "flip-twice": Case(faults=one(BODY, "flip", times=2), made=BODY, most=3),
    "flip": Case(faults=one(BODY, "flip"), ends="arrived damaged 3 times", made=BODY, most=3),
    "flip-blind": Case(faults=one(BODY, "flip"), call={"blind": True}, ends="arrived damaged 3 times"),
    "flip-small": Case(
        faults=one("/resolve/.*README", "flip"), call={"only": README}, ends="arrived damaged 3 times"
    ),
    "flip-cached": Case(faults=one(BODY, "flip"), call={"cached": True}, ends="arrived damaged 3 times"),
    "endless": Case(faults=one(BODY, "endless"), ends="more than it announced"),
    "endless-blind": Case(faults=one(BODY, "endless"), call={"blind": True}, ends="more than it announced"),
    # The hub is no hub, or an enemy.
    "no-json": Case(faults=({"path": TREE, **answer(0), "body": b"<html>"},), ends="that no hub gives"),
    "deep-json": Case(
        faults=({"path": TREE, **answer(0), "body": b"[" * 100_000},), ends="that no hub gives"
    ),
    "no-list": Case(faults=({"path": TREE, **answer({"a": 1})},), ends="that no hub gives"),
    "no-entry": Case(faults=listing("text"), ends="that no hub gives"),
    "no-sha": Case(faults=({"path": API, **answer({"id": "a/b"})},), ends="names no commit"),
    "odd-sha": Case(faults=({"path": API, **answer({"id": "a/b", "sha": "../x"})},), ends="names no commit"),
    "packed": Case(
        faults=listing(entry("a"), **{"Content-Encoding": "gzip"}), ends="compressed answer that nobody asked"
    ),
    "path-out": Case(faults=listing(entry("../../x")), ends=r"'../../x', no path of a file"),
    "path-absolute": Case(faults=listing(entry("/etc/passwd")), ends="no path of a file"),
    "path-nul": Case(faults=listing(entry("a\0b")), ends="no path of a file"),
    "path-surrogate": Case(faults=listing(entry("a\ud800b")), ends="no path of a file"),
    "path-long": Case(faults=listing(entry("a" * 300)), ends="too long"),
    "path-number": Case(faults=listing(entry(7)), ends="it is no text"),
    "path-ours": Case(faults=listing(entry(".arriving-1/x")), ends="kept for downloads"),
    "path-twice": Case(faults=listing(entry("a"), entry("a")), ends="lists a twice"),
    "path-clash": Case(faults=listing(entry("a/b"), entry("a/b/c/d")), ends="a/b as a file and as a folder"),
    "path-elsewhere": Case(
        faults=listing(entry("other/x")), call={"below": "data"}, ends="other/x below data"
    ),
    "size-negative": Case(faults=listing(entry("a", -1)), ends="a size of '-1'"),
    "size-text": Case(faults=listing(entry("a", "5")), ends="a size of '5'"),
    "size-true": Case(faults=listing(entry("a", True)), ends="a size of 'True'"),
    "sha-odd": Case(faults=listing(entry("a", 5, "xyz")), ends="a sha256 that is none"),
    "pages-same": Case(
        faults=listing(entry("a"), Link='<{url}/tree/same>; rel="next"'), ends="100 answers|less than 64 KiB"
    ),
    "pages-empty": Case(
        faults=listing(Link='<{url}/tree/empty>; rel="next"'), ends="100 answers|less than 64 KiB"
    ),
    "redirects": Case(
        faults=one(HEAD, "status", status=307, headers={"Location": "train-00000.parquet"}),
        ends="TooManyRedirects",
    ),
    "etag-out": Case(
        faults=one(HEAD, "status", status=200, headers={"X-Repo-Commit": "0" * 40, "ETag": '"../../../x"'}),
        ends="another commit|identity .* that is none",
    ),
    "etag-none": Case(
        faults=one(HEAD, "status", status=200, headers={"X-Repo-Commit": "{commit}", "ETag": '"/tmp/x"'}),
        call={"cached": True},
        ends="identity .* that is none",
    ),
    "no-hub": Case(faults=one(HEAD, "status", status=200), ends="lacks what a hub says of a file"),
    "length-odd": Case(
        faults=one(BODY, "status", status=200, headers={"Content-Length": "many"}),
        ends="breaks the connection off|less than",
    ),
    # The plain way is taken although the hub offers Xet, whose connections nothing here can watch.
    "xet": Case(
        faults=one(HEAD, "header", headers={"X-Xet-Hash": "a" * 64, "X-Xet-Refresh-Route": "{url}/xet"}),
        made="/xet",
        most=0,
    ),
}


def repository(case: str) -> str:
    return f"cases/{case}"

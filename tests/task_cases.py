"""Everything that may go wrong between a task and its data, and how it must end."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
from task_sets import Repository

API, TREE, CARD, BODY = "/revision/", "/tree/", "/resolve/.*README", "^/lfs/"
SIZES = {"train": 30, "validation": 4, "test": 200}
TEST = "data/test-00000-of-00001.parquet"
MENDED = "name that in eval/suites.yaml"
Faults = tuple[Mapping[str, object], ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault, and how it must end."""

    ends: str | None = None
    """Regular expression for the line; None for success."""
    code: int = 4
    faults: Faults = ()
    spoil: Callable[[Repository], object] | None = None
    """What is wrong with the repository itself."""
    most: int | None = None
    """How many requests may be made that meet the fault."""
    waits: bool = False
    """Ends with patience only, as others do that are tried always."""


def one(path: str, kind: str, **settings: object) -> Faults:
    return ({"path": path, "kind": kind, **settings},)


def status(path: str, number: int, **settings: object) -> Faults:
    return one(path, "status", status=number, **settings)


def refused(path: str, number: int, code: str) -> Faults:
    return status(path, number, headers={"X-Error-Code": code, "X-Error-Message": code})


def lines(*, old: str, new: str) -> Callable[[Repository], None]:
    """Change the text of README.md."""

    def change(repository: Repository) -> None:
        card = repository.folder / "README.md"
        text = card.read_text()
        assert old in text
        card.write_text(text.replace(old, new))

    return change


def garbage(repository: Repository) -> None:
    """A parquet file that is broken in the middle, with a right digest: the hub has it so."""
    data = (repository.folder / TEST).read_bytes()
    repository.write(TEST, data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])


def picture(repository: Repository) -> None:
    """A column of pictures, which may name any file of this machine."""
    features = {"question": {"dtype": "string", "_type": "Value"}, "odd": {"_type": "Image"}}
    kind = pa.schema(
        [("question", pa.string()), ("odd", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for split in SIZES:
        row = {"question": "q", "odd": {"bytes": None, "path": "/etc/passwd"}}
        repository.parquet(f"data/{split}-00000-of-00001.parquet", [row], kind)
    (repository.folder / "README.md").unlink()


CASES: dict[str, Case] = {
    # Refused.
    "unauthorized": Case(faults=status(API, 401), ends="refuses the token .HTTP 401", most=1),
    "forbidden": Case(faults=status(API, 403), ends="HTTP 403", most=1),
    "no-repository": Case(faults=refused(API, 404, "RepoNotFound"), ends="no such repository", most=1),
    "gated": Case(faults=refused("/resolve/", 401, "GatedRepo"), ends="gated: .*hf auth login"),
    "gated-403": Case(faults=refused("/resolve/", 403, "GatedRepo"), ends="gated: .*wait until access"),
    "no-revision": Case(
        faults=refused(API, 404, "RevisionNotFound"), ends=f"no such revision; .*{MENDED}", most=1
    ),
    "no-listing": Case(faults=refused(TREE, 404, "EntryNotFound"), ends="no such file or folder"),
    # Too busy, or broken: once, and for ever.
    "limited": Case(faults=status(BODY, 429, headers={"Retry-After": "1"}, times=1)),
    "limited-long": Case(faults=status(API, 429, headers={"Retry-After": "999"}), ends="asks to wait 999 s"),
    "503-once": Case(faults=status(BODY, 503, times=1)),
    "503-api": Case(faults=status(API, 503), ends="HTTP 503", most=3),
    "503-card": Case(faults=status(CARD, 503), ends="README.md: .*HTTP 503", waits=True),
    "503-body": Case(faults=status(BODY, 503), ends=r"parquet: .*HTTP 503", most=3),
    "reset-once": Case(faults=one(BODY, "reset", after=2000, times=1)),
    "reset": Case(faults=one(BODY, "reset", after=2000), ends="breaks|less than 64 KiB", waits=True),
    "drop": Case(faults=one(TREE, "drop"), ends="breaks the connection off|less than 64 KiB", waits=True),
    "hang-api": Case(faults=one(API, "silence"), ends="does not answer|less than 64 KiB", waits=True),
    "hang-body": Case(faults=one(BODY, "stall", after=1000), ends="does not answer|less than 64 KiB"),
    # The body is wrong.
    "flip-once": Case(faults=one(BODY, "flip", times=1)),
    "flip": Case(faults=one(BODY, "flip"), ends="arrived damaged 3 times", most=3),
    "flip-card": Case(faults=one(CARD, "flip"), ends="README.md: arrived damaged 3 times"),
    "short-once": Case(faults=one(BODY, "short", after=500, times=1)),
    "short": Case(faults=one(BODY, "short", after=500), ends="incomplete", most=3),
    # The hub has it so.
    "script": Case(
        spoil=lambda r: r.write("script.py", b""), code=3, ends=f"a loading script .script.py.*{MENDED}"
    ),
    "no-split": Case(
        spoil=lines(old="split: test\n", new="split: exam\n"),
        code=3,
        ends=f"configuration default lacks the split test; it has train, validation, exam.*{MENDED}",
    ),
    "no-file": Case(
        spoil=lambda r: (r.folder / TEST).unlink(),
        code=3,
        ends=f"`datasets` does not find its data as README.md describes it.*{MENDED}",
    ),
    "no-data": Case(
        spoil=lambda r: [path.unlink() for path in r.folder.rglob("*.parquet")], code=3, ends=MENDED
    ),
    "zero-bytes": Case(spoil=lambda r: r.write(TEST, b""), code=3, ends=f"cannot read its data.*{MENDED}"),
    "garbage": Case(spoil=garbage, code=3, ends=f"cannot read its data.*{MENDED}"),
    "fewer-rows": Case(
        spoil=lines(old="num_examples: 200", new="num_examples: 201"),
        code=3,
        ends=f"other numbers of rows than its README.md states.*{MENDED}",
    ),
    "other-columns": Case(
        spoil=lines(old="dtype: string", new="dtype: int64"), code=3, ends=f"cannot read its data.*{MENDED}"
    ),
    "odd-type": Case(
        spoil=lines(old="dtype: string", new="dtype: odd"), code=3, ends=f"cannot read its data.*{MENDED}"
    ),
    "outside": Case(
        spoil=lines(old="data/test-*", new="../../../*/*"), code=3, ends="'../../../.*not inside"
    ),
    "elsewhere": Case(
        spoil=lines(old="data/test-*", new="https://example.org/x.parquet"), code=3, ends="not inside"
    ),
    "long-card": Case(
        spoil=lambda r: r.write("README.md", b"x" * (2 << 20)), code=3, ends="README.md is larger than 1 MiB"
    ),
    "bomb-card": Case(
        spoil=lines(old="license: other", new="a: &a {x: y}\nb: {<<: *a}"), code=3, ends="not readable YAML"
    ),
    "picture": Case(spoil=picture, code=3, ends=f"column 'odd' of .* no text or numbers.*{MENDED}"),
}  # fmt: skip

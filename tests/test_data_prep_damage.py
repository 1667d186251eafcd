"""Damaged stores: every damage is found, the named repair mends just it, and nothing leads outside."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prep_inputs
import pytest
from prep_cli import Cli, fill, one_line, tiny
from prep_inputs import everything

from data_prep.token_store import verify_store

pytestmark = pytest.mark.usefixtures("no_sync")


def _flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def _swap(one: Path, other: Path) -> None:
    a, b = one.read_bytes(), other.read_bytes()
    assert len(a) == len(b)
    assert a != b
    one.write_bytes(b)
    other.write_bytes(a)


def _edit(path: Path, keys: tuple[Any, ...], value: Any, refit: bool) -> None:
    """Change one value of a manifest, and its digest with it if `refit`."""
    from data_prep.files import canonical_json, sha256_text

    document = json.loads(path.read_text())
    parent = document
    for key in keys[:-1]:
        parent = parent[key]
    parent[keys[-1]] = value(parent[keys[-1]])
    if refit:
        content = {key: each for key, each in document.items() if key != "digest"}
        document["digest"] = sha256_text(canonical_json(content))
    path.write_text(json.dumps(document, indent=1) + "\n")


X, TRUTH = "train/x/00001", "manifest.json"
SHARD_KEYS = ("splits", "train", "x", "shards", 0)

Damage = Callable[[Path], object]
SHARD_DAMAGES: dict[str, Damage] = {
    **{
        f"{file}, {name}": lambda s, f=file, d=damage: d(s / f)  # type: ignore[misc]
        for file in (f"{X}.npy", f"{X}.documents.npy", "validation/x/00000.npy")
        for name, damage in {
            "cut by a byte": lambda p: p.write_bytes(p.read_bytes()[:-1]),
            "cut to nothing": lambda p: p.write_bytes(b""),
            "cut in its header": lambda p: p.write_bytes(p.read_bytes()[:40]),
            "a byte more": lambda p: p.write_bytes(p.read_bytes() + b"\0"),
            "flipped at the start": lambda p: _flip(p, 0.0),
            "flipped in the middle": lambda p: _flip(p, 0.6),
            "flipped at the end": lambda p: _flip(p, 1.0),
            "zeroed": lambda p: p.write_bytes(bytes(p.stat().st_size)),
            "its second half zeroed": lambda p: p.write_bytes(
                p.read_bytes()[: p.stat().st_size // 2] + bytes(p.stat().st_size - p.stat().st_size // 2)
            ),
            "gone": lambda p: p.unlink(),
            "renamed": lambda p: p.rename(p.with_name("00007.npy")),
            "a link": lambda p: (
                p.rename(p.parents[3] / "elsewhere"),
                p.symlink_to(p.parents[3] / "elsewhere"),
            ),
        }.items()
    },
    "two shards exchanged": lambda s: _swap(s / f"{X}.npy", s / "train/x/00002.npy"),
    "two files of starts exchanged": lambda s: _swap(
        s / f"{X}.documents.npy", s / "train/x/00002.documents.npy"
    ),
}
OTHER_DAMAGES: dict[str, Damage] = {
    "a shard too many": lambda s: shutil.copy(s / f"{X}.npy", s / "train/x/00009.npy"),
    "tokenizer flipped": lambda s: _flip(s / "tokenizer.json", 0.5),
    "tokenizer gone": lambda s: (s / "tokenizer.json").unlink(),
    "manifest cut": lambda s: (s / TRUTH).write_bytes((s / TRUTH).read_bytes()[:-20]),
    "manifest flipped": lambda s: _flip(s / TRUTH, 0.5),
    **{
        f"manifest: {'.'.join(map(str, keys))}{', its digest made to fit' if refit else ''}": (
            lambda s, k=keys, v=value, r=refit: _edit(s / TRUTH, k, v, r)  # type: ignore[misc]
        )
        for refit in (False, True)
        for keys, value in {
            ("dtype",): lambda _: "uint32",
            ("tokenizer", "vocab_size"): lambda v: v + 70_000,
            (*SHARD_KEYS, "name"): lambda _: "00001.npy",
            (*SHARD_KEYS, "tokens"): lambda v: v + 1,
            (*SHARD_KEYS, "documents"): lambda v: v + 1,
            (*SHARD_KEYS, "sha256"): lambda _: "0" * 64,
            (*SHARD_KEYS, "documents_sha256"): lambda _: "0" * 64,
            ("splits", "train", "x", "documents"): lambda v: v + 1,
            ("splits", "train", "x", "tokens"): lambda v: v - 1,
            ("splits", "train", "x", "lengths"): lambda v: [*v, 1],
            ("tokenizer", "file_sha256"): lambda _: "1" * 64,
            ("format",): lambda v: v + 1,
        }.items()
    },
    **{
        f"manifest: {'.'.join(map(str, keys))}": lambda s, k=keys, v=value: _edit(s / TRUTH, k, v, False)  # type: ignore[misc]
        for keys, value in {
            ("dataset",): lambda _: "other",
            ("tokenizer", "end_of_text"): lambda v: v - 1,
            ("splits", "train", "x", "bytes"): lambda v: v + 1,
            ("splits", "train", "x", "duplicates"): lambda v: v + 1,
            ("splits", "train", "x", "longest"): lambda v: v + 1,
            ("source", "inputs", 0, "sha256"): lambda _: "2" * 64,
            ("source", "limit_tokens"): lambda _: 5,
            ("source", "revision"): lambda _: "main",
            ("digest",): lambda _: "0" * 64,
        }.items()
    },
}


@pytest.fixture
def whole(reweight: Cli, tmp_path: Path, vocab: Path) -> Path:
    """A store of three training files whose shards are of equal size, and one of validation."""
    for number in range(3):
        fill(tmp_path / "in", f"train/x/{number}.jsonl", tiny([{"text": f"{number} {n}"} for n in range(9)]))
    source = ("--input", tmp_path / "in", "--tokenizer", vocab, "--workers", 1)
    assert reweight("prep", "local", *source, "--out", tmp_path / "store")[0] == 0
    return tmp_path / "store"


def inodes(store: Path) -> dict[str, int]:
    """Shards -> inode: another one where the file was made anew."""
    return {p.relative_to(store).as_posix(): p.stat().st_ino for p in store.rglob("*.npy") if p.is_file()}


@pytest.mark.parametrize("name", [*SHARD_DAMAGES, *OTHER_DAMAGES])
def test_every_damage_is_found_and_the_named_command_rebuilds_only_it(
    reweight: Cli, whole: Path, name: str
) -> None:
    before, content = inodes(whole), everything(whole)
    made_again = name in SHARD_DAMAGES
    ({**SHARD_DAMAGES, **OTHER_DAMAGES}[name])(whole)
    code, _, err = reweight("prep", "--verify", whole)
    assert code == 3, err
    *problems, last = err.splitlines()
    assert last.startswith(f"reweight: {whole}: ")
    assert len(problems) == int(last.removeprefix(f"reweight: {whole}: ").split()[0]) >= 1
    named = {line.partition(": ")[0] for line in problems}
    damaged = {str(whole / path) for path, data in everything(whole).items() if content.get(path) != data}
    damaged |= {str(whole / path) for path in content if not (whole / path).is_file()}
    if name.endswith("made to fit"):  # then what it names is found to be something else
        damaged.discard(str(whole / TRUTH))
    assert named >= damaged, (named, damaged)
    command = last.split("`")[1]
    assert command == f"reweight prep --repair {whole}"
    code, _, err = reweight(*command.split()[1:])
    assert code == 0, err
    assert everything(whole) == content
    assert verify_store(whole) == []
    # Only the damaged input files are made again, with all of their shards.
    after = inodes(whole)
    changed = {path for path in before if before[path] != after[path]}
    if not made_again:
        assert changed == set()
    else:
        stems = {Path(path).name.split(".")[0] + path.split("/")[0] for path in changed}
        assert 1 <= len(stems) <= (2 if "exchanged" in name else 1), changed


def test_the_damages_are_fifty_at_least() -> None:
    assert len(SHARD_DAMAGES) + len(OTHER_DAMAGES) >= 50


def test_a_repair_needs_no_source_for_what_the_rest_tells(reweight: Cli, whole: Path, tmp_path: Path) -> None:
    content = everything(whole)
    shutil.rmtree(tmp_path / "in")
    _flip(whole / "manifest.json", 0.5)
    assert reweight("prep", "--repair", whole)[0] == 0
    assert everything(whole) == content


def test_a_repair_that_cannot_be_done_leaves_what_there_is(
    reweight: Cli, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").rename(tmp_path / "away")
    _flip(whole / "train/x/00001.npy", 0.9)
    content = everything(whole)
    code, shown, err = reweight("prep", "--repair", whole)
    assert (code, shown) == (3, "")
    one_line(err, "no such file or folder")
    assert everything(whole) == content
    (tmp_path / "away").rename(tmp_path / "in")
    assert reweight("prep", "--repair", whole)[0] == 0
    assert verify_store(whole) == []


def test_a_repair_of_merged_shares_under_a_bound(reweight: Cli, tmp_path: Path, vocab: Path) -> None:
    for number in range(6):
        fill(tmp_path / "in", f"train/x/{number}.jsonl", tiny([{"text": f"{number} {n}"} for n in range(9)]))
    source = ("--input", tmp_path / "in", "--tokenizer", vocab, "--workers", 1, "--limit-tokens", 90)
    store = tmp_path / "store"
    for part in (1, 2):
        code, _, err = reweight("prep", "local", *source, "--out", store, "--shard", f"{part}/2")
        assert code == 0, err
    assert reweight("prep", "--merge", store)[0] == 0
    content = everything(store)
    _flip(store / "train/x/00001.npy", 0.9)
    code, _, err = reweight("prep", "--repair", store)
    assert code == 0, err
    assert everything(store) == content
    assert verify_store(store) == []


def test_a_merge_while_a_share_is_at_work(reweight: Cli, whole: Path) -> None:
    import multiprocessing

    from data_prep.lock import locked
    from data_prep.spec import Share

    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()

    def hold() -> None:
        with locked(whole / ".prep", Share(part=1, parts=2)):
            ready.set()
            done.wait()

    holder = context.Process(target=hold)
    holder.start()
    try:
        assert ready.wait(20)
        code, shown, err = reweight("prep", "--merge", whole)
        assert (code, shown) == (7, "")
        one_line(err, f"being prepared by process {holder.pid}@")
    finally:
        done.set()
        holder.join()


@pytest.mark.parametrize("field", ["split", "path", "domain"])
def test_a_plan_cannot_lead_out_of_its_folder(reweight: Cli, whole: Path, tmp_path: Path, field: str) -> None:
    """A merge deletes the shards that its manifest does not name, wherever a plan says they lie."""
    precious = prep_inputs.write(tmp_path / "thesis/x/00000.npy", b"precious")
    path = whole / ".prep/plan.json"
    document = json.loads(path.read_text())
    document["plan"]["items"][0][field] = "../thesis"
    path.write_text(json.dumps(document))
    (whole / "manifest.json").unlink()
    for mode in ("--merge", "--repair"):
        code, shown, err = reweight("prep", mode, whole)
        assert (code, shown) == (3, "")
        one_line(err, "plan.json: damaged", f"items[0].{field}")
    assert precious.read_bytes() == b"precious"


@pytest.mark.parametrize("level", ["split", "domain"])
def test_a_record_cannot_lead_out_of_its_folder(
    reweight: Cli, whole: Path, tmp_path: Path, level: str
) -> None:
    precious = prep_inputs.write(tmp_path / "thesis/x/00000.npy", b"precious")
    path, content = whole / ".prep/files/train-00000.json", everything(whole)
    document = json.loads(path.read_text())
    domains = document["domains"]
    if level == "split":
        domains["../thesis"] = domains.pop("train")
    else:
        domains["train"]["../../thesis/x"] = domains["train"].pop("x")
    path.write_text(json.dumps(document))
    code, _, err = reweight("prep", "--repair", whole)
    assert code == 0, err
    assert everything(whole) == content
    assert precious.read_bytes() == b"precious"

"""Bad options of `reweight prep`, and odd ones that it takes: names, usage, limits, domains, paths, disks."""

import os
from pathlib import Path

import numpy as np
import prep_inputs
import pytest
from prep_cli import GOOD, Cli, fill, one_line, tiny

from data_prep.token_store import TokenStore, verify_store

pytestmark = pytest.mark.usefixtures("no_sync")


NAMES = [
    "../x",
    "..",
    ".",
    "a/b",
    "/etc",
    "x" * 97,
    "a\nb",
    "\u202eabc",
    "a b",
    "",
    "%2e%2e",
    "a\0b",
    "~",
    "$HOME",
]


@pytest.mark.parametrize("name", NAMES, ids=[repr(name)[:20] for name in NAMES])
def test_a_domain_that_tries_to_leave_the_folder(prep: Cli, tmp_path: Path, name: str) -> None:
    fill(tmp_path / "in", data=tiny([{"text": "a", "site": name}]))
    (tmp_path / "in/validation/x/v.jsonl").write_bytes(tiny([{"text": "a", "site": "fine"}]))
    before = {path for path in tmp_path.rglob("*") if "store" not in path.parts}
    code, _, err = prep("--domain-from", "site")
    assert code == 3
    one_line(err, "a.jsonl line 1: site")
    assert {path for path in tmp_path.rglob("*") if "store" not in path.parts} == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("local", "--repo", "../../etc/passwd"), "--repo"),
        (("local", "--repo", "a/../b"), "--repo"),
        (("local", "--repo", "/a/b"), "--repo"),
        (("local", "--repo", "a/b/c"), "--repo"),
        (("local", "--repo", "justname"), "--repo"),
        (("local", "--repo", "a/b", "--subset", "../x"), "--subset"),
        (("local", "--repo", "a/b", "--subset", "/etc"), "--subset"),
        (("local", "--repo", "a/b", "--revision", "../../x"), ""),
        (("local", "--repo", "a/b", "--input", "x"), "--repo and --input exclude each other"),
        (("embedded", "--repo", "a/b"), "embedded is the text of this machine"),
        (("fineweb", "--subset", "../../x"), "--subset"),
        (("../../etc",), "no data set"),
        (("local", "--input", "x", "--split-map", "../x=train"), "a split is 1 to 96"),
        (("local", "--input", "x", "--split-map", ".prep=train"), "a split is 1 to 96"),
        (("local", "--input", "x", "--split-map", "=train"), "write OURS=THEIRS"),
        (("local", "--input", "x", "--limit-tokens", "0"), "--limit-tokens 0: 1 to"),
        (("local", "--input", "x", "--limit-tokens", "-1"), "--limit-tokens -1: 1 to"),
        (("local", "--input", "x", "--limit-tokens", "abc"), "'abc' is no number of tokens"),
        (("local", "--input", "x", "--limit-tokens", "1e9"), "write 1000000, 300M or 100B"),
        (("local", "--input", "x", "--limit-tokens", "1.0005K"), "is no number of tokens"),
        (("local", "--input", "x", "--limit-tokens", "9" * 31), "is no number of tokens"),
        (("local", "--input", "x", "--limit-tokens", "10b"), "is no number of tokens"),
        (("local", "--input", "x", "--limit-tokens", "١"), "is no number of tokens"),
        (("local", "--input", "x", "--limit-tokens", "999999T"), "--limit-tokens 9999"),
        (("local", "--input", "x", "--shard", "0/3"), "--shard 0/3: I/N with I from 1 to N"),
        (("local", "--input", "x", "--shard", "4/3"), "--shard 4/3: I/N with I from 1 to N"),
        (("local", "--input", "x", "--shard", "1/0"), "--shard 1/0: I/N with I from 1 to N"),
        (("local", "--input", "x", "--shard", "a/b"), "write I/N, as 3/16"),
        (("local", "--input", "x", "--shard", "1/3/5"), "write I/N, as 3/16"),
        (("local", "--input", "x", "--shard", "-1/3"), "write I/N, as 3/16"),
        (("local", "--input", "x", "--shard", "1"), "write I/N, as 3/16"),
        (("local", "--input", "x", "--sample-seed", "-1"), "--sample-seed -1: a whole number from 0"),
        (("local", "--input", "x", "--sample-seed", "x"), "--sample-seed"),
        (("local", "--input", "x", "--sample-seed", "9" * 30), "--sample-seed"),
        (("local", "--input", "x", "--workers", "0"), "--workers 0: 1 to 1024"),
        (("local", "--input", "x", "--workers", "99999"), "--workers 99999: 1 to 1024"),
        (("local", "--input", "x", "--validation-share", "nan"), "--validation-share nan"),
        (("local", "--input", "x", "--validation-share", "1"), "--validation-share 1.0: 0.0001 to 0.5"),
        (("local", "--input", "x", "--domain-from", ""), "--domain-from: name a field"),
        (("local", "--input", "x", "--text-from", ""), "--text-from: name a field"),
        (("local", "--input", "x", "--tokenizer", "bpe:9999999999"), "bpe:VOCAB takes"),
        (("local", "--input", "x", "--revision", "main"), "are for the hub"),
        (("--merge", "--verify", "x"), "--verify and --merge exclude each other"),
        (("--shard", "1/2", "--verify", "x"), "--verify and --shard exclude each other"),
        (("--shard", "1/2", "--merge", "x"), "--merge and --shard exclude each other"),
        (("--plot", "x.svg", "x"), "--plot goes with --stat"),
    ],
)
def test_bad_usage(
    reweight: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.txt").write_text("a")
    code, shown, err = reweight("prep", *arguments, *(() if "--out" in arguments else ("--out", "o")))
    assert (code, shown) == (2, ""), err
    one_line(err, says)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "x"]


@pytest.mark.parametrize("limit", ["10B", "1.5K"])
def test_a_limit_beyond_the_source_is_told(prep: Cli, tmp_path: Path, limit: str) -> None:
    fill(tmp_path / "in")
    code, _, err = prep("--limit-tokens", limit)
    assert code == 0
    number = {"10B": "10,000,000,000", "1.5K": "1,500"}[limit]
    assert f"--limit-tokens {number} is beyond what was there" in err
    assert TokenStore.open(tmp_path / "store").manifest.source.limit_reached is False


def test_a_domain_that_ends_up_empty(prep: Cli, tmp_path: Path) -> None:
    fill(tmp_path / "in")
    prep_inputs.write(tmp_path / "in/train/y/a.jsonl", b'{"text": null}\n')
    code, shown, err = prep()
    assert code == 0
    assert "train: nothing in y" in err
    store = TokenStore.open(tmp_path / "store")
    assert store.domains("train") == ("x", "y")
    assert store.tokens("train", "y") == 0
    assert store.windows("train", "y", 8) == 0
    assert verify_store(tmp_path / "store") == []
    assert "train / y" in shown


def test_all_of_train_empty_leaves_nothing(prep: Cli, tmp_path: Path) -> None:
    fill(tmp_path / "in", data=b'{"text": null}\n')
    code, shown, err = prep()
    assert (code, shown) == (3, "")
    one_line(err, "no training documents")
    assert not (tmp_path / "store").exists()


def test_a_vocabulary_beyond_16_bits(reweight: Cli, tmp_path: Path) -> None:
    import tokenizers

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = [f"w{n}" for n in range(70_000)]
    vocab = {token: place for place, token in enumerate(["<|endoftext|>", *alphabet, *words])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="a"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    model.save(str(tmp_path / "tokenizer.json"))
    fill(tmp_path / "in", data=tiny([{"text": "w0 w69999 w65279 w65280"}]))
    source = ("--input", tmp_path / "in", "--tokenizer", tmp_path / "tokenizer.json")
    code, _, err = reweight("prep", "local", *source, "--out", tmp_path / "store")
    assert code == 0, err
    store = TokenStore.open(tmp_path / "store")
    ids = store.read_windows("train", "x", np.arange(5), 1).ravel().tolist()
    # Words follow the end-of-text id and the 256 bytes.
    assert ids == [257, 257 + 69_999, 257 + 65_279, 257 + 65_280, 0]
    assert store.manifest.dtype == "uint32"
    assert np.load(tmp_path / "store/train/x/00000.npy").dtype == np.uint32


def test_spaces_and_other_scripts_in_every_path(reweight: Cli, tmp_path: Path) -> None:
    root = tmp_path / "mein Ordner/東京 🙂"
    vocab = prep_inputs.tokenizer_folder(root / "vo cab")
    fill(root / "in put")
    prep_inputs.write(root / "in put/train/x/文 書.jsonl", GOOD)
    store = root / "the store"
    code, _, err = reweight(
        "prep", "local", "--input", root / "in put", "--tokenizer", vocab, "--out", store, "--workers", 1
    )
    assert code == 0, err
    assert reweight("prep", "--verify", store)[0] == 0
    assert reweight("prep", "--stat", store)[0] == 0
    (store / "manifest.json").write_text("{")
    code, _, err = reweight("prep", "--verify", store)
    assert code == 3
    # The command it names runs as it stands.
    import shlex

    command = err.splitlines()[-1].split("`")[1]
    assert reweight(*shlex.split(command)[1:])[0] == 0
    assert reweight("prep", "--verify", store)[0] == 0


def test_a_folder_whose_name_cannot_be_a_domain(prep: Cli, tmp_path: Path) -> None:
    fill(tmp_path / "in", "train/my notes/a.jsonl")
    code, shown, err = prep()
    assert (code, shown) == (3, "")
    one_line(err, "my notes", "--domain-from")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_file_system_that_is_full_or_read_only(prep: Cli, tmp_path: Path, kind: str) -> None:
    import subprocess

    fill(tmp_path / "in", data=tiny([{"text": f"{n} " * 200} for n in range(2000)]))
    place = tmp_path / "disk"
    place.mkdir()
    options = "size=300k" if kind == "full" else "size=300k,ro"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=False).returncode:
        pytest.skip("no mounts here")
    try:
        # The later --out counts.
        code, shown, err = prep("--out", place / "store")
        assert (code, shown) == (7, "")
        one_line(err, str(place), "free" if kind == "full" else "Read-only")
        assert [path.name for path in place.rglob("*.tmp")] == []
        assert not (place / "store/manifest.json").exists()
        if kind == "full":
            subprocess.run(["mount", "-o", "remount,size=100m", place], check=True)
            assert prep("--out", place / "store")[0] == 0
            assert verify_store(place / "store") == []
    finally:
        subprocess.run(["umount", place], check=True)

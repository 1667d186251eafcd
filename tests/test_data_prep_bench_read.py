"""The reading benchmark measures a real store, says how cold it was, and leaves nothing behind."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep import bench_read
from data_prep.bench_read import cached_share, drop_cached, make_store, measure_reading, process_memory
from data_prep.token_store import TokenStore, verify_store


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """8 documents of 128 KiB a domain, in shards of 2 to 4."""
    monkeypatch.setattr(bench_read, "SHARD_BYTES", (2 << 17, 5 << 17))
    make_store(tmp_path / "s", 7 * 8 << 17)
    return tmp_path / "s"


def test_the_store_that_is_made_is_whole(small: Path) -> None:
    assert verify_store(small) == []
    store = TokenStore.open(small)
    assert len(store.domains("train")) == 7
    assert all(store.tokens("train", domain) == 8 << 16 for domain in store.domains("train"))
    assert store.document_starts("train", "c4").tolist() == [n << 16 for n in range(8)]
    assert all(len(domain.shards) > 1 for domain in store.manifest.splits["train"].values())
    windows = store.read_windows("train", "c4", np.arange(8), 1 << 16)
    assert (windows[:, -1] == 50256).all()
    assert windows[:, :-1].max() < 50256


@pytest.mark.parametrize("order", ["shuffled", "file"])
def test_a_measurement_counts_what_it_read(small: Path, order: str) -> None:
    timing = measure_reading(
        small,
        "train",
        order=order,  # type: ignore[arg-type]
        sequence=64,
        global_batch=32,
        seconds=0.2,
    )
    assert timing.seconds >= 0.2
    assert timing.tokens > 0
    assert timing.tokens % (32 * 64) == 0
    assert timing.tokens_per_s == timing.tokens / timing.seconds
    if hasattr(os, "posix_fadvise"):
        assert timing.bare_tokens_per_s is not None
        assert timing.bare_tokens_per_s > 0


def test_what_is_cached_is_asked_of_the_system(small: Path) -> None:
    files = sorted(small.glob("train/*/0*.npy"))
    for file in files:
        file.read_bytes()
    assert cached_share(files) in (None, 1.0)
    if drop_cached(files):
        share = cached_share(files)
        # A file system in memory keeps everything.
        assert share is None or share == 1.0 or share < 0.1


def test_memory_is_of_this_process() -> None:
    memory = process_memory()
    assert 10 << 20 < memory.peak < 1 << 36
    assert memory.anonymous + memory.files <= memory.peak


def test_the_command_makes_measures_and_deletes(
    reweight: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("--size", "2M", "--sequence", 64, "--seconds", 0.1, "--global-batch", 8)
    code, out, _ = reweight("bench", "read", *arguments, "--json")
    assert code == 0
    document = json.loads(out)
    assert [read["order"] for read in document["reads"]] == ["shuffled", "file"]
    assert document["memory"]["peak"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_command_reads_a_store_that_is_there(
    reweight: Callable[..., tuple[int, str, str]], small: Path
) -> None:
    code, out, _ = reweight(
        *("bench", "read", "--data", small, "--order", "file", "--sequence", 64, "--seconds", 0.1)
    )
    assert code == 0
    assert "file, 64 tokens, batch 512" in out
    assert (small / "manifest.json").exists()


@pytest.mark.parametrize("size", ["20", "0.5M", "G", "-1G", "1e9G", "20 G", "999999999G", "²G"])
def test_sizes_that_are_none_are_refused(reweight: Callable[..., tuple[int, str, str]], size: str) -> None:
    code, _, err = reweight("bench", "read", f"--size={size}")
    assert code == 2
    assert "size" in err


def test_a_store_that_does_not_fit_is_refused_before_it_is_begun(
    reweight: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = reweight("bench", "read", "--size", "90000T")
    assert code == 7
    assert "choose a smaller --size" in err
    assert list(tmp_path.iterdir()) == []

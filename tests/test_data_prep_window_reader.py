"""Windows come from the right places, whatever the disk does, with few files open and memory that stays."""

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from data_prep import shard_files
from data_prep.batches import Batches, BatchPlan
from data_prep.bench_read import process_memory
from data_prep.errors import DataError
from data_prep.manifest import TokenizerInfo, read_manifest
from data_prep.shard_files import check_shards
from data_prep.shards import ShardWriter, check_shard, disk_dtype, shard_header
from data_prep.token_store import TokenStore, write_store

SMALL = TokenizerInfo(name="small", sha256="0" * 64, vocab_size=1000, end_of_text=999)
WIDE = TokenizerInfo(name="wide", sha256="0" * 64, vocab_size=1 << 20, end_of_text=999)


def random_store(path: Path, info: TokenizerInfo, shards: int = 12, longest: int = 40) -> TokenStore:
    rng = np.random.default_rng(7)
    tokens = {
        name: [rng.integers(0, info.vocab_size, rng.integers(1, longest)) for _ in range(shards)]
        for name in ("b", "a", "c")
    }
    return write_store(path, {"train": tokens}, tokenizer=info)


def laid_out(store: TokenStore, domain: str) -> np.ndarray:
    """The domain's ids as numpy's own reader gives them."""
    files = sorted((store.path / "train" / domain).glob("[0-9][0-9][0-9][0-9][0-9].npy"))
    return np.concatenate([np.load(file) for file in files]).astype(np.int32)


@pytest.mark.parametrize("info", [SMALL, WIDE])
@pytest.mark.parametrize("length", [1, 3, 8, 50, 101])
def test_any_windows_in_any_order_are_the_shards_laid_end_to_end(
    tmp_path: Path, info: TokenizerInfo, length: int
) -> None:
    store = random_store(tmp_path / "s", info)
    rng = np.random.default_rng(length)
    for domain in store.domains("train"):
        count = store.windows("train", domain, length)
        windows = laid_out(store, domain)[: count * length].reshape(count, length)
        for indices in (rng.integers(0, count, 40), np.arange(count), np.arange(count)[::-1]):
            assert np.array_equal(store.read_windows("train", domain, indices, length), windows[indices])
    assert store.read_windows("train", "a", np.array([], dtype=int), length).shape == (0, length)


def test_the_header_is_numpys_for_any_number_of_ids() -> None:
    for tokens in (0, 1, 9, 10, 99, 100, 65_536, 10**9, 2**40 + 1, 10**18):
        for dtype in ("uint16", "uint32"):
            assert shard_header(tokens, dtype) == _numpy_header(tokens, dtype)  # type: ignore[arg-type]


def _numpy_header(tokens: int, dtype: str) -> bytes:
    from io import BytesIO

    stream = BytesIO()
    fields = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": (tokens,)}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_few_files_are_open_and_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "MAX_OPEN_FILES", 3)
    store = random_store(tmp_path / "s", SMALL)
    before = open_files()
    count = store.windows("train", "a", 5)
    for _ in range(3):
        store.read_windows("train", "a", np.random.default_rng(1).permutation(count), 5)
    assert before < open_files() <= before + 3
    del store
    assert open_files() == before


def test_the_bound_on_open_files_follows_what_the_process_may_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((256, 64), (1024, 256), (1 << 20, 1024), (2, 1)):
        monkeypatch.setattr(shard_files.resource, "getrlimit", lambda _, soft=soft: (soft, 1 << 20))
        assert shard_files._allowed_files() == most


def test_threads_and_forks_share_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "MAX_OPEN_FILES", 2)
    store = random_store(tmp_path / "s", SMALL)
    count = store.windows("train", "a", 7)
    windows = laid_out(store, "a")[: count * 7].reshape(count, 7)

    def right(seed: int) -> bool:
        indices = np.random.default_rng(seed).permutation(count)
        return np.array_equal(store.read_windows("train", "a", indices, 7), windows[indices])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, range(100)))
    child = os.fork()
    if child == 0:
        os._exit(0 if right(1) else 1)
    assert right(2)
    assert os.waitpid(child, 0)[1] == 0


def test_short_reads_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = random_store(tmp_path / "s", SMALL)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, place: real(file, [views[0][:3]], place))
    count = store.windows("train", "a", 9)
    windows = laid_out(store, "a")[: count * 9].reshape(count, 9)
    assert np.array_equal(store.read_windows("train", "a", np.arange(count), 9), windows)


def damage_missing(file: Path) -> None:
    file.unlink()


def damage_truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 2)


def damage_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def damage_header(file: Path) -> None:
    file.write_bytes(b"\x93NUMPZ" + file.read_bytes()[6:])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (damage_missing, "missing"),
        (damage_truncated, r"\d+ bytes, expected \d+"),
        (damage_pipe, "not an ordinary file"),
        (damage_header, "its header is not that of"),
    ],
)
def test_a_shard_that_is_damaged_after_the_store_was_opened_is_one_clear_line(
    tmp_path: Path, damage: Callable[[Path], None], complaint: str
) -> None:
    store = random_store(tmp_path / "s", SMALL)
    damage(store.path / "train/a/00003.npy")
    count = store.windows("train", "a", 2)
    with pytest.raises(DataError, match=rf"a/00003\.npy: {complaint}.*; rebuild .*--repair") as caught:
        store.read_windows("train", "a", np.arange(count), 2)
    assert "\n" not in str(caught.value)


def test_a_shard_that_shrinks_or_fails_while_it_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = random_store(tmp_path / "s", SMALL)
    count = store.windows("train", "a", 2)
    store.read_windows("train", "a", np.arange(count), 2)
    damage_truncated(store.path / "train/a/00003.npy")
    with pytest.raises(DataError, match=r"00003\.npy: ends before its last id; rebuild"):
        store.read_windows("train", "a", np.arange(count), 2)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(DataError, match=r"00000\.npy: cannot be read \(Input/output error\); check the disk"):
        store.read_windows("train", "a", np.arange(1), 2)


def test_of_many_shards_the_first_wrong_one_is_named(tmp_path: Path) -> None:
    store = random_store(tmp_path / "s", SMALL, shards=100)
    for name in ("a/00090.npy", "b/00070.npy", "b/00099.npy"):
        damage_truncated(store.path / "train" / name)
    with pytest.raises(DataError, match=r"b/00070\.npy: .*--repair"):
        TokenStore.open(store.path)
    entry = read_manifest(store.path).splits["train"]["c"]
    good = [(f"{store.path}/train/c/{shard.name}", shard.tokens) for shard in entry.shards]
    check_shards(good * 10, "uint16")
    with pytest.raises(DataError, match="expected"):
        check_shards(good * 10, "uint32")


def test_reading_half_a_gigabyte_leaves_memory_as_it_was(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not say what a process holds")
    store = write_store(tmp_path / "s", {"train": {"a": [np.array([1, 999])]}}, tokenizer=SMALL)
    tokens = 1 << 28
    shard = store.path / "train/a/00000.npy"
    # A hole in a file: no disk is filled, and read it is like any other.
    shard.write_bytes(_numpy_header(tokens, "uint16"))
    os.truncate(shard, 128 + 2 * tokens)
    assert check_shard(shard, tokens, "uint16") == 128
    manifest = read_manifest(store.path)
    entry = manifest.splits["train"]["a"]
    for each, name in ((entry, "tokens"), (entry.shards[0], "tokens")):
        object.__setattr__(each, name, tokens)
    large = TokenStore(store.path, manifest)
    indices = np.random.default_rng(0).permutation(tokens // 1024)
    large.read_windows("train", "a", indices[:512], 1024)
    before = process_memory()
    for start in range(0, len(indices), 4096):
        large.read_windows("train", "a", indices[start : start + 512], 1024)
        large.read_windows("train", "a", np.arange(start, start + 4096), 1024)
    after = process_memory()
    # A mapping would count the pages it touched: 512 MiB.
    assert after.anonymous + after.files < before.anonymous + before.files + (64 << 20)


class Disk:
    """Answers each request for a window 1 ms after it was made, however many there are, on its own clock."""

    LATENCY = 1.0
    WINDOW_BYTES = 32
    READ = os.preadv

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._arrives: dict[tuple[int, int], float] = {}
        monkeypatch.setattr(os, "posix_fadvise", self._advise)
        monkeypatch.setattr(os, "preadv", self._read)

    @property
    def requests(self) -> int:
        """Windows that were asked for, each counted once."""
        return len(self._arrives)

    def _advise(self, file: int, place: int, size: int, advice: int) -> None:
        if advice == os.POSIX_FADV_WILLNEED:
            self._request(file, place, size)

    def _request(self, file: int, place: int, size: int) -> float:
        windows = range(place // self.WINDOW_BYTES, -(-(place + size) // self.WINDOW_BYTES))
        return max(self._arrives.setdefault((file, each), self.now + self.LATENCY) for each in windows)

    def _read(self, file: int, views: Sequence[memoryview], place: int) -> int:
        self.now = max(self.now, self._request(file, place, len(views[0])))
        return Disk.READ(file, views, place)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("the system takes no advice")
    return Disk(monkeypatch)


def make_batches(path: Path, global_batch: int) -> Batches:
    rng = np.random.default_rng(3)
    tokens = {name: [rng.integers(0, 999, 40_000) for _ in range(2)] for name in ("a", "b")}
    return Batches(
        write_store(path, {"train": tokens}, tokenizer=SMALL),
        split="train",
        domain_weights="uniform",
        global_batch=global_batch,
        sequence=16,
        seed=0,
    )


def test_the_next_steps_are_read_while_this_one_is(tmp_path: Path, disk: Disk) -> None:
    """32 windows a step, 512 asked ahead: 16 steps, renewed when half of them are used, so every 8 steps.

    One request after another, 64 steps would wait 64 * 32 ms. A step's own requests at once: 64 ms. Here the
    clock moves when the first step is waited for, and for what each of the 8 renewals asked: about 9 ms.
    """
    batches = make_batches(tmp_path / "s", 32)
    for step in range(1, 65):
        batches.tokens(batches.plan(step))
    assert disk.requests > 60 * 32
    assert disk.now <= 10.0


def test_windows_of_no_step_are_asked_for_together(tmp_path: Path, disk: Disk) -> None:
    batches = make_batches(tmp_path / "s", 32)
    for step in range(1, 21):
        plan = batches.plan(step)
        batches.tokens(BatchPlan(domains_M=plan.domains_M, windows_M=plan.windows_M))
    assert disk.requests > 19 * 32
    assert disk.now <= 20.0


def test_a_rank_reads_ahead_only_its_own_samples(tmp_path: Path, disk: Disk) -> None:
    batches = make_batches(tmp_path / "s", 64)
    own = np.arange(8, 24)
    for step in range(1, 33):
        batches.tokens(batches.plan(step).part(own))
    # 32 steps and at most 512 samples ahead, of 16 samples each; the whole batches would be 2048 and more.
    assert 31 * 16 <= disk.requests <= 32 * 16 + 512
    assert disk.now <= 10.0


def test_threads_read_ahead_where_advice_does_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that ignores advice and takes 2 ms for what nobody read yet."""
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("the system takes no advice")
    batches = make_batches(tmp_path / "s", 64)
    cached: set[tuple[int, int]] = set()
    waiting, most, in_main = 0, 0, 0
    lock = threading.Lock()
    real = os.preadv

    def read(file: int, views: Sequence[memoryview], place: int) -> int:
        nonlocal waiting, most, in_main
        with lock:
            fresh = (file, place) not in cached
            waiting += fresh
            most = max(most, waiting)
            in_main += fresh and threading.current_thread() is threading.main_thread()
        if fresh:
            time.sleep(2e-3)
            with lock:
                waiting -= 1
                cached.add((file, place))
        return real(file, views, place)

    monkeypatch.setattr(os, "posix_fadvise", lambda *_: None)
    monkeypatch.setattr(os, "preadv", read)
    for step in range(1, 4):
        batches.tokens(batches.plan(step))
    assert most == 1
    in_main = 0
    for step in range(4, 40):
        batches.tokens(batches.plan(step))
        time.sleep(10e-3)  # a training step
    assert most > 8
    # Steps 4 to 12 were asked for by advice that nobody heeded; after them hardly a read is waited for.
    assert in_main < 14 * 64


def test_a_written_shard_is_what_the_reader_takes_it_for(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "00000.npy", "uint16")
    writer.append(np.arange(5, dtype=np.uint16), np.array([5]), [1])
    shard = writer.finish()
    writer.place()
    content = (tmp_path / "00000.npy").read_bytes()
    assert content == shard_header(5, "uint16") + np.arange(5).astype(disk_dtype("uint16")).tobytes()
    check_shards([(f"{tmp_path}/00000.npy", shard.tokens)], "uint16")

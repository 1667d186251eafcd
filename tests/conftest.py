"""Shared fixtures: a tiny token store, a tiny recipe, the command line.

No network, one thread, nothing outside tmp_path.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

# Before torch is imported, and for subprocesses too: bitwise claims hold for a fixed number of threads, and
# two busy cores slow each other down.
os.environ["OMP_NUM_THREADS"] = "1"

# A shell starts what runs in the background with these ignored, and children inherit that; tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

import numpy as np
import pytest

from data_prep.manifest import TokenizerInfo
from data_prep.token_store import TokenStore, write_store

# So that its assertions too say what they compared.
pytest.register_assert_rewrite("prep_cli")

DOMAINS = ("code", "prose", "tables")
VOCAB = 64

TINY_RECIPE = """\
model: {family: gpt2, layers: 2, heads: 2, width: 16, context: 32, vocab: 64}
data: {dataset: tiny, tokenizer: tiny}
train:
  steps: 8
  global_batch: 6
  sequence: 32
  log_every_steps: 1
  checkpoint_every_steps: 3
optimizer: {lr: 1e-2, end_lr: 1e-3, warmup_steps: 2}
reweighting: {strategy: linupper, r: 0.4, warmup_steps: 2, warmup: uniform}
evaluation: {every_steps: 4, samples: 9, batch: 4}
"""


def tiny_tokenizer(vocab: int = VOCAB, name: str = "tiny") -> TokenizerInfo:
    return TokenizerInfo(name=name, sha256="0" * 64, vocab_size=vocab, end_of_text=vocab - 1)


def domain_tokens(domain: str, count: int, seed: int) -> np.ndarray:
    """Ids with a structure a model can learn, another one in each domain."""
    rng = np.random.default_rng([seed, DOMAINS.index(domain)])
    stride = 1 + DOMAINS.index(domain)
    ids = (np.arange(count) * stride + rng.integers(0, 3 + 4 * stride, count)) % (VOCAB - 1)
    ids[::97] = VOCAB - 1
    return ids.astype(np.uint16)


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "tiny"
    tokens = {
        "train": {d: [domain_tokens(d, 3000, 1), domain_tokens(d, 1500, 2)] for d in DOMAINS},
        "validation": {d: [domain_tokens(d, 700, 3)] for d in DOMAINS},
    }
    write_store(path, tokens, tokenizer=tiny_tokenizer())
    return path


@pytest.fixture
def store(store_path: Path) -> TokenStore:
    return TokenStore.open(store_path)


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny_linupper.yaml"
    path.write_text(TINY_RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def reweight(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: (exit code, stdout, stderr)."""
    from reproduce.cli.root import run

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = int(run([str(a) for a in arguments]))
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncing is for power cuts: after a kill the kernel still holds everything."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    """A tokenizer folder of 265 ids."""
    import prep_inputs

    return prep_inputs.tokenizer_folder(tmp_path / "vocab")


@pytest.fixture
def prep(
    reweight: Callable[..., tuple[int, str, str]], tmp_path: Path, vocab: Path
) -> Callable[..., tuple[int, str, str]]:
    """`reweight prep` of a data set in tmp_path/in into tmp_path/store, with further arguments."""

    def call(*arguments: object, dataset: str = "local") -> tuple[int, str, str]:
        source = ("--input", tmp_path / "in", "--tokenizer", vocab, "--workers", 1)
        return reweight("prep", dataset, *source, "--out", tmp_path / "store", *arguments)

    return call

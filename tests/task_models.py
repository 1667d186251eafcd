"""Small models with a tokenizer of their own, and a hub that is a folder: tasks without a network."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import torch
from task_sets import Grammar
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from eval.errors import EvaluationError
from eval.task_folders import HubFile

VOCAB = 320
END = "<|endoftext|>"


def tokenizer_json(path: Path, vocab: int = VOCAB) -> Path:
    """Train a byte-level BPE on invented text, its last id the end of text."""
    tokenizer = ByteLevelBPETokenizer()
    text = [" ".join(g.sentence() for _ in range(20)) for g in (Grammar(f"bpe/{n}") for n in range(30))]
    tokenizer.train_from_iterator(text, vocab_size=vocab - 1, min_frequency=1, show_progress=False)
    tokenizer.add_special_tokens([END])
    assert tokenizer.get_vocab_size() == vocab
    tokenizer.save(str(path))
    return path


def model_folder(
    folder: Path,
    *,
    context: int = 2048,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    spread: float = 0.2,
) -> Path:
    """A random GPT-2 as `save_pretrained` writes it."""
    folder.mkdir(parents=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_json(folder / "bpe.json")), bos_token=END, eos_token=END, unk_token=END
    )
    (folder / "bpe.json").unlink()
    torch.manual_seed(seed)
    end = VOCAB - 1
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": end, "eos_token_id": end}
    network = GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_positions=context, initializer_range=spread, **shape)
    )
    network.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def llama_folder(folder: Path) -> Path:
    """A random Llama beside the tokenizer of `model_folder`."""
    model_folder(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=2048,
        bos_token_id=VOCAB - 1,
        eos_token_id=VOCAB - 1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class FolderHub:
    """What `task_sets.add_all` has made, as a hub that makes no request."""

    offline = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.broken: dict[str, EvaluationError] = {}
        """Repository -> how it fails."""
        self.asked: list[str] = []

    def _folder(self, repository: str, commit: str) -> Path:
        revision = self._revisions(repository)[commit]
        root = self.root if revision == "main" else self.root / "revisions" / quote(revision, safe="")
        return root / "datasets" / repository

    def _revisions(self, repository: str) -> dict[str, str]:
        names = ("main", "refs/pr/6", "refs/convert/parquet")
        return {hashlib.sha1(f"{repository} {name}".encode()).hexdigest(): name for name in names}

    def resolve_commit(self, repository: str, revision: str) -> str | None:
        self.asked.append(repository)
        if repository in self.broken:
            raise self.broken[repository]
        commit = next(c for c, name in self._revisions(repository).items() if name == revision)
        return commit if self._folder(repository, commit).is_dir() else None

    def list_files(self, repository: str, commit: str) -> Sequence[HubFile]:
        folder = self._folder(repository, commit)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return [
            HubFile(path=path.relative_to(folder).as_posix(), bytes=path.stat().st_size) for path in paths
        ]

    def held(self, repository: str, commit: str) -> Sequence[HubFile]:
        return []

    def download(self, repository: str, commit: str, file: HubFile) -> Path:
        return self._folder(repository, commit) / file.path

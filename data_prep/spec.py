"""What is prepared and what is trained on, as data. No torch, no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The `data` section of a recipe: which token store, and how a batch draws from it."""

    dataset: str = "slimpajama"
    """Name of the prepared data set, as `reweight prep NAME` calls it."""

    tokenizer: str = "gpt2"
    """Tokenizer the store must have been made with: gpt2, bpe:VOCAB, or the name in its manifest."""

    domain_weights: str | Mapping[str, float] = "uniform"
    """Probability of each domain: uniform, natural (token share), a published set's name, or a mapping
    domain -> weight (normalised to sum 1)."""

    order: Literal["shuffled", "file"] = "shuffled"
    """Order of a domain's windows: a seeded permutation, or file order as the released code does."""

    repeat: bool = False
    """Start a domain again when its windows run out; otherwise running out is an error before step 1."""

    train_split: str = "train"
    """Split of the store that batches are drawn from."""

    eval_split: str = "validation"
    """Split of the store that log-perplexity is measured on."""

    @property
    def default_path(self) -> Path:
        """Where `reweight prep` puts this store when --out is not given."""
        return default_store(self.dataset, self.tokenizer)


def default_store(dataset: str, tokenizer: str) -> Path:
    """Folder of a token store under ./data, e.g. data/slimpajama-gpt2, data/slimpajama-bpe4096."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "", tokenizer.replace("bpe:", "bpe"))
    return Path("data") / f"{dataset}-{slug}"

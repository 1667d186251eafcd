"""What is prepared and what is trained on, as data. No torch, no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Dataset = Literal["slimpajama", "slimpajama-627b", "fineweb", "local", "embedded"]
DATASETS: tuple[Dataset, ...] = ("slimpajama", "slimpajama-627b", "fineweb", "local", "embedded")
"""What `reweight prep` can prepare; data_prep.sources says where each comes from."""


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The `data` section of a recipe: which token store, and how a batch draws from it."""

    dataset: str = "slimpajama"
    """Name of the prepared data set, as `reweight prep NAME` calls it."""

    tokenizer: str = "gpt2"
    """Tokenizer the store must have been made with: gpt2, bpe:VOCAB, or the name in its manifest."""

    domain_weights: str | Mapping[str, float] = "uniform"
    """Probability of each domain: uniform, natural (token share), a set's name or file, or a mapping
    domain -> weight (normalised to sum 1). In a recipe that learns weights (`domains`): what a doremi
    reference model is trained with, or what a doge proxy draws by."""

    order: Literal["shuffled", "file"] = "shuffled"
    """Order of a domain's windows: a seeded permutation, or file order as the released code does."""

    repeat: bool = False
    """Start a domain again when its windows run out; otherwise running out is an error before step 1."""

    train_split: str = "train"
    """Split of the store that batches are drawn from."""

    eval_split: str = "validation"
    """Split of the store that log-perplexity is measured on."""

    weights_tokenizer_sha256: str | None = None
    """Set by loading where domain_weights names a set: digest of the tokenizer that it was learned with. The
    store must have been made with that one, and have the set's domains. null: bound to none."""

    @property
    def default_path(self) -> Path:
        """Where `reweight prep` puts this store when --out is not given."""
        return default_store(self.dataset, self.tokenizer)


TOKENIZERS = ("gpt2", "llama2", "starcoder")
"""Tokenizers that have a name of their own."""


def names_tokenizer(tokenizer: str) -> bool:
    """Whether this is a name (gpt2, bpe:VOCAB, hub:OWNER/NAME) and not a path."""
    return tokenizer in TOKENIZERS or tokenizer.startswith(("bpe:", "hub:"))


def default_store(dataset: str, tokenizer: str) -> Path:
    """Folder of a token store under ./data, e.g. data/slimpajama-gpt2, data/slimpajama-bpe4096."""
    names = (dataset, tokenizer.replace("bpe:", "bpe").removeprefix("hub:"))
    # Either may be OWNER/NAME of the hub.
    slugs = [re.sub(r"[^A-Za-z0-9._-]+", "", name.replace("/", "--")).strip(".") for name in names]
    return Path("data") / "-".join(slugs)


@dataclass(frozen=True, kw_only=True)
class PrepSpec:
    """One preparation: which text, which tokenizer, where to."""

    dataset: Dataset
    """Layout and, without `inputs`, hub repository of the text."""

    inputs: tuple[Path, ...] = ()
    """Local files and folders in the data set's layout; empty reads the hub (or this machine's own text)."""

    out: Path | None = None
    """Folder of the store; None is `default_store(dataset, tokenizer name)`."""

    tokenizer: str = "gpt2"
    """gpt2 (from the hub), bpe:VOCAB (trained on the text), or a local file or folder."""

    split_map: tuple[tuple[str, str], ...] = ()
    """(ours, theirs): our split is read from that split of the source."""

    domain_from: str | None = None
    """Field of a record, dotted, that holds its domain; None takes it from the data set's own rule."""

    repository: str | None = None
    """Hub data set to read, as OWNER/NAME: any for `local`, a copy in the same layout for the others; None
    for the data set's own, or `inputs`."""

    text_from: str = "text"
    """Field of a record, dotted, that holds its text."""

    subset: str | None = None
    """Named part of a hub data set, as sample-100BT of fineweb; None is its default."""

    sample_seed: int | None = None
    """Take the files in the random order of this seed instead of the order of their paths: with
    `limit_tokens`, a random sample of files."""

    revision: str | None = None
    """Commit, tag or branch of the hub repository; None is the commit that this version of reweight knows,
    or main of a repository it does not. Branches are pinned to their commit on the first run."""

    validation_share: float = 0.01
    """Share of documents, chosen by the hash of their text, held out when the source has no validation."""

    limit_tokens: int | None = None
    """At most this many training tokens, whole documents, in the order of the input files."""

    keep_downloads: bool = False
    """Keep hub files in the hub client's cache instead of deleting each once its shards are committed."""

    workers: int | None = None
    """Processes; None is one for each core this process may use. The result does not depend on it."""

    @property
    def held_out_per_10000(self) -> int:
        """`validation_share` in whole ten-thousandths, as a manifest records it."""
        return round(self.validation_share * 10_000)


@dataclass(frozen=True, kw_only=True)
class Share:
    """One of several equal parts of a preparation, for machines that do not talk to each other."""

    part: int
    """1 to `parts`: every `parts`-th input file, from this one."""
    parts: int

    @property
    def label(self) -> str:
        """Name of the share's own files in the work folder."""
        return f"{self.part}-of-{self.parts}"

    def takes(self, place: int) -> bool:
        """Whether the input file at this place of the plan, from 0, is this share's."""
        return place % self.parts == self.part - 1

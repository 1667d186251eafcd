"""Data sets whose layout is known: where the hub keeps them, and how a record tells its domain."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from data_prep.documents import SLIMPAJAMA_DOMAINS, RecordRule
from data_prep.errors import UserError
from data_prep.spec import Dataset, PrepSpec


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """A data set of the hub."""

    repository: str
    revision: str | None = None
    """Commit that is read when none is named, so that the same command means the same text next year."""
    folders: Mapping[str, str] = field(default_factory=dict)
    """Subset name -> folder of the repository."""
    default: str | None = None
    """Subset that is read when none is named; None for the whole repository."""
    sampled: str | None = None
    """Subset whose files are sampled at random when none is named and a bound on tokens is given."""
    folder_pattern: re.Pattern[str] | None = None
    """Further subsets: names of folders below data/."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is known about a data set wherever its files lie."""

    hub: HubDataset | None = None
    rule: RecordRule = field(default_factory=RecordRule)
    domain: str | None = None
    """The one domain of a data set without any."""
    split_map: Mapping[str, str] = field(default_factory=dict)
    """Ours -> theirs, where theirs exists."""


SLIMPAJAMA_RULE = RecordRule(domain="meta.redpajama_set_name", names=SLIMPAJAMA_DOMAINS)

LAYOUTS: Mapping[Dataset, Layout] = {
    # The authors measure log-perplexity on SlimPajama-6B's test split.
    "slimpajama": Layout(
        hub=HubDataset(
            repository="DKYoon/SlimPajama-6B", revision="b5f90f419b7489cdba26fdbc8c022fcb5562f968"
        ),
        rule=SLIMPAJAMA_RULE,
        split_map={"validation": "test"},
    ),
    "slimpajama-627b": Layout(
        hub=HubDataset(
            repository="cerebras/SlimPajama-627B", revision="2d0accdd58c5d5511943ca1f5ff0e3eb5e293543"
        ),
        rule=SLIMPAJAMA_RULE,
    ),
    "fineweb": Layout(
        hub=HubDataset(
            repository="HuggingFaceFW/fineweb",
            # Its release 1.4.0; new dumps are added to main from time to time.
            revision="9bb295ddab0e05d785b879661af7260fed5140fc",
            folders={
                "sample-10BT": "sample/10BT",
                "sample-100BT": "sample/100BT",
                "sample-350BT": "sample/350BT",
                "all": "data",
            },
            default="sample-100BT",
            sampled="all",
            folder_pattern=re.compile(r"CC-MAIN-[0-9]{4}-[0-9]{2}"),
        ),
        domain="fineweb",
    ),
    "local": Layout(),
    "embedded": Layout(),
}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which files of a hub data set are taken, and in which order."""

    folder: str | None
    """None for the whole repository."""
    sample_seed: int | None


def hub_dataset(spec: PrepSpec) -> HubDataset | None:
    """Where the hub keeps the data set: the repository that `spec` names, or its own; None for neither."""
    own = LAYOUTS[spec.dataset].hub
    if spec.repository is None:
        return own
    # A copy of a known data set has its layout, and a history of its own.
    return replace(own or HubDataset(repository=""), repository=spec.repository, revision=None)


def select(spec: PrepSpec, hub: HubDataset) -> Selection:
    """The folder and the order of files that `spec` asks for. UserError for an unknown subset."""
    seed, subset = spec.sample_seed, spec.subset
    if subset is None and hub.sampled is not None and spec.limit_tokens is not None:
        subset, seed = hub.sampled, seed or 0
    subset = subset or hub.default
    if subset is None:
        return Selection(folder=None, sample_seed=seed)
    folder = hub.folders.get(subset)
    if folder is None and hub.folder_pattern is not None and hub.folder_pattern.fullmatch(subset):
        folder = f"data/{subset}"
    if folder is None and spec.dataset == "local":
        folder = _folder(subset)
    if folder is None:
        known = ", ".join(hub.folders) or "none"
        raise UserError(f"--subset {subset:.100}: {spec.dataset} has {known}")
    return Selection(folder=folder, sample_seed=seed)


def _folder(subset: str) -> str:
    """A folder of somebody's repository, given as --subset."""
    parts = subset.split("/")
    if not all(parts) or any(part in (".", "..") for part in parts) or "\0" in subset:
        raise UserError(f"--subset {subset:.100}: not a folder of a repository, as data/en")
    return subset

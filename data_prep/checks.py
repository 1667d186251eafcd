"""Settings of a preparation that cannot work."""

import re

from data_prep.errors import UserError
from data_prep.spec import PrepSpec, Share
from data_prep.tokenizers import bpe_size

MAX_LIMIT = 10**15
"""Training tokens, at most: far above any corpus."""

REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")

MAX_SHARES = 100_000

SPLIT = re.compile(r"[A-Za-z0-9_-]{1,96}")
"""What a split of ours may be called: no dot, for beside the splits lie .prep, manifest.json and the like."""


def check_spec(spec: PrepSpec) -> None:
    """Refuse settings that cannot work before anything is touched. UserError names the option."""
    if spec.limit_tokens is not None and not 1 <= spec.limit_tokens <= MAX_LIMIT:
        raise UserError(f"--limit-tokens {str(spec.limit_tokens)[:40]}: 1 to {MAX_LIMIT:,}")
    if spec.workers is not None and not 1 <= spec.workers <= 1024:
        raise UserError(f"--workers {spec.workers}: 1 to 1024")
    if not 0.0001 <= spec.validation_share <= 0.5:  # NaN neither
        raise UserError(f"--validation-share {spec.validation_share}: 0.0001 to 0.5")
    for ours, theirs in spec.split_map:
        if SPLIT.fullmatch(ours) is None:
            raise UserError(f"--split-map {ours}={theirs}: a split is 1 to 96 of A-Z a-z 0-9 _ -")
    if spec.domain_from == "":
        raise UserError("--domain-from: name a field, as meta.site")
    if spec.text_from == "":
        raise UserError("--text-from: name a field, as text or content")
    if spec.sample_seed is not None and not 0 <= spec.sample_seed < 1 << 62:
        raise UserError(f"--sample-seed {spec.sample_seed}: a whole number from 0")
    _check_hub_options(spec)
    bpe_size(spec.tokenizer)


def check_share(share: Share) -> None:
    """Refuse a share that is none. UserError."""
    if not 1 <= share.part <= share.parts <= MAX_SHARES:
        raise UserError(f"--shard {share.part}/{share.parts}: I/N with I from 1 to N, N up to {MAX_SHARES:,}")


def _check_hub_options(spec: PrepSpec) -> None:
    if spec.repository is not None and spec.dataset == "embedded":
        raise UserError(f"--repo {spec.repository:.200}: embedded is the text of this machine")
    if spec.repository is not None and REPOSITORY.fullmatch(spec.repository) is None:
        raise UserError(f"--repo {spec.repository!r:.200}: write OWNER/NAME, as HuggingFaceFW/fineweb-edu")
    if spec.repository is not None and spec.inputs:
        raise UserError("--repo and --input exclude each other: read the hub or this machine")
    if spec.inputs and (spec.revision is not None or spec.keep_downloads or spec.subset is not None):
        raise UserError(
            "--revision, --subset and --keep-downloads are for the hub; --input reads this machine"
        )

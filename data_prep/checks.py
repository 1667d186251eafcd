"""Settings of a preparation that cannot work."""

import re

from data_prep.errors import UserError
from data_prep.spec import PrepSpec
from data_prep.tokenizers import bpe_size

MAX_LIMIT = 10**15
"""Training tokens, at most: far above any corpus."""

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
    bpe_size(spec.tokenizer)

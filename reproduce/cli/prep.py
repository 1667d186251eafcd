"""`reweight prep`: text to token shards, their verification, their repair, and the joining of shares."""

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from data_prep.errors import UserError
from data_prep.spec import DATASETS, Dataset, PrepSpec, Share, default_store
from reproduce.cli.console import UserPath, json_option
from reproduce.cli.prep_run import run_merge, run_repair, run_share, run_verify, run_whole
from reproduce.cli.prep_stat import show_stat

EXAMPLES = """\b
Examples:
  reweight prep slimpajama                             # SlimPajama-6B from the hub, GPT-2 tokenizer
  reweight prep slimpajama --input DIR --tokenizer VOCAB_DIR      # offline
  reweight prep slimpajama-627b --tokenizer llama2 --shard 3/16 --out DIR     # one of 16 machines
  reweight prep --merge DIR                            # when all 16 are done
  reweight prep fineweb --subset sample-10BT
  reweight prep fineweb --limit-tokens 100B            # a random sample of its files, seed 0
  reweight prep embedded --tokenizer bpe:2048          # text this machine already has
  reweight prep local --input texts/ --tokenizer bpe:4096 --out data/mine
  reweight prep local --input posts.jsonl --domain-from meta.site
  reweight prep local --repo OWNER/NAME --text-from content       # any data set of the hub
  reweight prep --verify data/slimpajama-gpt2          # read every shard against its digest
  reweight prep --repair data/slimpajama-gpt2          # rebuild only what is damaged
  reweight prep --stat data/slimpajama-gpt2            # documents, tokens, duplicates, lengths

\b
Input files: .jsonl .jsonl.zst .jsonl.gz .json.gz .parquet (a column or key `text`), .txt .txt.zst (one
document a file).
Splits come from the names of folders and files: train, validation (valid, val), test. Without a
validation split, --validation-share of the documents is held out by the hash of their text.
slimpajama takes the source's test split as validation where there is one, as the paper does.
Domains of `local`: --domain-from FIELD, or one folder a domain.

\b
Writes DIR/manifest.json, DIR/tokenizer.json, DIR/<split>/<domain>/<NNNNN>.npy and, beside each, where its
documents start. Running the same command again continues; a complete store is left as it is.
Exit codes: 0 done · 2 usage · 3 data missing or corrupt · 4 hub · 5 the folder holds something else ·
7 disk, memory, lock
"""


class TokenCount(click.ParamType[int]):
    """A number of tokens, as 1000000, 300M or 100B."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Refuse what is no number."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(-?[0-9]{1,30}(?:\.[0-9]{1,9})?)([KMBT]?)", str(value), re.ASCII)
        factor = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
        count = Decimal(found.group(1)) * factor[found.group(2)] if found else None
        if count is None or count != int(count):
            self.fail(f"{str(value)[:60]!r} is no number of tokens; write 1000000, 300M or 100B", param, ctx)
        return int(count)


class ShareParam(click.ParamType[Share]):
    """One of several equal parts, as 3/16."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Share:
        """Refuse what is no part of a whole."""
        if isinstance(value, Share):
            return value
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", str(value), re.ASCII)
        if found is None:
            self.fail(f"{str(value)[:60]!r}: write I/N, as 3/16 for the third of 16 shares", param, ctx)
        return Share(part=int(found.group(1)), parts=int(found.group(2)))


@click.command(epilog=EXAMPLES)
@click.argument("source", required=False, metavar="[DATASET|DIR]")
@click.option("--input", "inputs", multiple=True, type=UserPath(), help="File or folder; repeatable.")
@click.option(
    "--repo",
    "repository",
    metavar="OWNER/NAME",
    help="Data set of the hub: any for `local`, a copy for others.",
)
@click.option("--out", type=UserPath(), help="Folder of the store  [default: data/DATASET-TOKENIZER]")
@click.option(
    "--tokenizer",
    default="gpt2",
    show_default=True,
    help="gpt2, llama2, starcoder, hub:OWNER/NAME, a file or folder, or bpe:VOCAB.",
)
@click.option(
    "--split-map", "split_map", multiple=True, metavar="OURS=THEIRS", help="As validation=test; repeatable."
)
@click.option("--text-from", metavar="FIELD", default="text", show_default=True, help="Field of the text.")
@click.option("--domain-from", metavar="FIELD", help="Field of a record that holds its domain, as meta.site.")
@click.option(
    "--subset", help="Part of a hub data set: sample-10BT, all, CC-MAIN-2024-10; a folder of --repo."
)
@click.option("--revision", help="Commit, tag or branch on the hub  [default: a known commit, or main]")
@click.option(
    "--validation-share", default=0.01, show_default=True, help="Held out if there is no validation split."
)
@click.option("--limit-tokens", type=TokenCount(), help="At most N training tokens, as 300M, in file order.")
@click.option("--sample-seed", type=int, metavar="N", help="Take the files in a random order of this seed.")
@click.option("--keep-downloads", is_flag=True, help="Keep hub files in the hub client's cache.")
@click.option("--workers", type=int, metavar="N", help="Processes  [default: one a core]")
@click.option("--shard", "share", type=ShareParam(), help="Do only the I-th of N shares; then --merge.")
@click.option("--merge", "join", is_flag=True, help="Check the shares in DIR and make the store of them.")
@click.option("--verify", is_flag=True, help="Check every shard of a store instead of making one.")
@click.option("--repair", "mend", is_flag=True, help="Rebuild only the damaged parts of a store.")
@click.option("--stat", is_flag=True, help="Show what a store holds.")
@click.option("--plot", type=UserPath(), help="With --stat: draw the document lengths, .svg or .png.")
@json_option
def command(
    source: str | None,
    inputs: tuple[Path, ...],
    repository: str | None,
    out: Path | None,
    tokenizer: str,
    split_map: tuple[str, ...],
    text_from: str,
    domain_from: str | None,
    subset: str | None,
    revision: str | None,
    validation_share: float,
    limit_tokens: int | None,
    sample_seed: int | None,
    keep_downloads: bool,
    workers: int | None,
    share: Share | None,
    join: bool,
    verify: bool,
    mend: bool,
    stat: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Turn text into token shards.

    DATASET is slimpajama, slimpajama-627b, fineweb, local or embedded. Without --input, slimpajama and
    fineweb are downloaded from the hub, one file at a time.
    """
    mode = _mode(verify, mend, join, stat, share, plot)
    if mode is not None:
        _attend(mode, _store_to_check(source, repository, out, tokenizer), workers, plot, as_json)
        return
    spec = PrepSpec(
        dataset=_dataset(source),
        inputs=inputs,
        repository=repository,
        out=out,
        tokenizer=tokenizer,
        split_map=tuple(_pair(each) for each in split_map),
        text_from=text_from,
        domain_from=domain_from,
        subset=subset,
        revision=revision,
        validation_share=validation_share,
        limit_tokens=limit_tokens,
        sample_seed=sample_seed,
        keep_downloads=keep_downloads,
        workers=workers,
    )
    if share is None:
        run_whole(spec, as_json)
    else:
        run_share(spec, share, as_json)


def _attend(mode: str, store: Path, workers: int | None, plot: Path | None, as_json: bool) -> None:
    """Do what `_mode` says with a store that is there."""
    if mode == "--verify":
        run_verify(store, as_json)
    elif mode == "--repair":
        run_repair(store, workers, as_json)
    elif mode == "--merge":
        run_merge(store, workers, as_json)
    else:
        show_stat(store, plot, as_json)


def _mode(
    verify: bool, mend: bool, join: bool, stat: bool, share: Share | None, plot: Path | None
) -> str | None:
    """What is to be done with a store that is there; None to prepare one. UserError if told several."""
    modes = {"--verify": verify, "--repair": mend, "--merge": join, "--stat": stat}
    chosen = [option for option, given in modes.items() if given]
    if len(chosen) > 1 or (share is not None and chosen):
        both = [*chosen, *(["--shard"] if share is not None else [])]
        raise UserError(f"{' and '.join(both)} exclude each other: one at a time")
    if plot is not None and not stat:
        raise UserError("--plot goes with --stat")
    return chosen[0] if chosen else None


def _dataset(source: str | None) -> Dataset:
    if source is None:
        raise UserError(f"name a data set: {', '.join(DATASETS)}")
    for name in DATASETS:
        if name == source:
            return name
    raise UserError(
        f"no data set {source[:200]!r}; there is {', '.join(DATASETS)} (your own files: local --input PATH)"
    )


def _pair(text: str) -> tuple[str, str]:
    ours, separator, theirs = text.partition("=")
    if not separator or not ours or not theirs:
        raise UserError(f"--split-map {text!r}: write OURS=THEIRS, as validation=test")
    return ours, theirs


def _store_to_check(source: str | None, repository: str | None, out: Path | None, tokenizer: str) -> Path:
    if out is not None:
        return out
    if source is None:
        raise UserError("name the store, as in `reweight prep --verify DIR`")
    if source in DATASETS:
        return default_store(repository or source, tokenizer)
    return Path(UserPath().convert(source, None, None))

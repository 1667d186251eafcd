"""`reweight prep`: text to token shards, their verification, their repair, and the joining of shares."""

import re
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_prep.errors import DataError, UserError
from data_prep.spec import DATASETS, PrepSpec, Share, default_store
from reproduce.cli.console import (
    Progress,
    UserPath,
    duration,
    emit_json,
    json_option,
    note,
    quantity,
)
from reproduce.cli.prep_stat import print_store, show_stat, store_document

if TYPE_CHECKING:
    from data_prep import reports
    from data_prep.manifest import Manifest

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
Input files: .jsonl .jsonl.zst .parquet (a column or key `text`), .txt .txt.zst (one document a file).
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
@click.option("--repo", "repository", metavar="OWNER/NAME", help="Data set of the hub, for `local`.")
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
@click.option("--revision", help="Commit, tag or branch on the hub  [default: main, pinned at first use]")
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
    chosen = [
        option
        for option, given in (("--verify", verify), ("--repair", mend), ("--merge", join), ("--stat", stat))
        if given
    ]
    if len(chosen) > 1 or (share is not None and chosen):
        both = [*chosen, *(["--shard"] if share is not None else [])]
        raise UserError(f"{' and '.join(both)} exclude each other: one at a time")
    if plot is not None and not stat:
        raise UserError("--plot goes with --stat")
    if chosen:
        store = _store_to_check(source, repository, out, tokenizer)
        if verify:
            _verify(store, as_json)
        elif mend:
            _repair(store, workers, as_json)
        elif join:
            _merge(store, workers, as_json)
        else:
            show_stat(store, plot, as_json)
        return
    if source is None:
        raise UserError(f"name a data set: {', '.join(DATASETS)}")
    dataset = next((name for name in DATASETS if name == source), None)
    if dataset is None:
        raise UserError(
            f"no data set {source!r}; there is {', '.join(DATASETS)} (your own files: local --input PATH)"
        )
    spec = PrepSpec(
        dataset=dataset,
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
        _prepare(spec, as_json)
    else:
        _prepare_share(spec, share, as_json)


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


def _prepare(spec: PrepSpec, as_json: bool) -> None:
    from data_prep.pipeline import prepare

    with _Reporter("prep") as reporter:
        prepared = prepare(spec, reporter.prepared)
    _show(prepared, as_json)


def _prepare_share(spec: PrepSpec, share: Share, as_json: bool) -> None:
    from data_prep.pipeline import prepare_share

    with _Reporter(f"prep {share.part}/{share.parts}") as reporter:
        done = prepare_share(spec, share, reporter.prepared)
    if as_json:
        emit_json(
            {
                "path": str(done.path),
                "share": [share.part, share.parts],
                "files": done.files,
                "built_files": done.built_files,
                "text_bytes": done.text_bytes,
                "seconds": done.seconds,
                "workers": done.workers,
            }
        )
        return
    click.echo(
        f"share {share.part}/{share.parts} is done: {done.files} input files, {done.built_files} of them now, "
        f"{_rate(done.text_bytes, done.seconds)}\n"
        f"when all {share.parts} are: reweight prep --merge {done.path}"
    )


def _merge(store: Path, workers: int | None, as_json: bool) -> None:
    from data_prep.merge import merge

    with _Reporter("merge") as reporter:
        merged = merge(store, workers, reporter.prepared)
    if as_json:
        emit_json({"path": str(store), **store_document(merged.manifest), "seconds": merged.seconds})
        return
    _print_manifest(merged.path, merged.manifest)
    click.echo(f"merged: every shard matches its digest ({duration(merged.seconds)})")


class _Reporter:
    """Turns reports into the progress line, which opens with the first report: only that knows the total."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._line: Progress | None = None

    def __enter__(self) -> "_Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._line is not None:
            self._line.close()

    def bytes(self, done: int, total: int, detail: str = "") -> None:
        """Report bytes behind us and bytes in all."""
        if self._line is None:
            self._line = Progress(self._label, total / 1e6, "MB")
        self._line.update(done / 1e6, detail)

    def prepared(self, report: "reports.Progress") -> None:
        """Report what the pipeline tells: input read, and the documents and tokens made of it."""
        if report.note:
            note(f"{self._label}: {report.note}")
            return
        detail = f"{quantity(report.documents)} documents, {quantity(report.tokens)} tokens"
        self.bytes(report.done_bytes, report.total_bytes, detail)


def _repair(store: Path, workers: int | None, as_json: bool) -> None:
    from data_prep.repair import repair

    with _Reporter("repair") as reporter:
        repaired = repair(store, workers, reporter.prepared)
    _show(repaired, as_json)


def _verify(store: Path, as_json: bool) -> None:
    from data_prep.token_store import verify_store

    started = time.monotonic()
    with _Reporter("verify") as reporter:
        problems = verify_store(store, reporter.bytes)
    if as_json:
        rows = [{"path": str(each.path), "what": each.what, "remedy": each.remedy} for each in problems]
        emit_json({"path": str(store), "ok": not problems, "problems": rows})
    elif not problems:
        click.echo(f"{store}: every shard matches its digest ({duration(time.monotonic() - started)})")
    for each in problems:
        note(f"{each.path}: {each.what.removeprefix(f'{each.path}: ')}")
    if problems:
        raise DataError(f"{store}: {len(problems)} damaged; {problems[0].remedy}")


def _show(prepared: "reports.Prepared", as_json: bool) -> None:
    rate = prepared.text_bytes / 1e6 / prepared.seconds if prepared.seconds > 0 else 0.0
    if as_json:
        emit_json(
            {
                "path": str(prepared.path),
                **store_document(prepared.manifest),
                "already_complete": prepared.built_files == 0,
                "built_files": prepared.built_files,
                "text_bytes": prepared.text_bytes,
                "seconds": prepared.seconds,
                "mb_per_s": rate,
                "workers": prepared.workers,
            }
        )
        return
    _print_manifest(prepared.path, prepared.manifest)
    if prepared.built_files == 0:
        click.echo(f"already complete: {prepared.path} (nothing to do)")
        return
    click.echo(
        f"{_rate(prepared.text_bytes, prepared.seconds)}, {prepared.workers} workers, "
        f"{prepared.built_files} input files"
    )


def _rate(text_bytes: int, seconds: float) -> str:
    return f"{text_bytes / 1e6:.1f} MB of text in {seconds:.1f} s: {text_bytes / 1e6 / max(seconds, 1e-9):.1f} MB/s"


def _print_manifest(path: Path, manifest: "Manifest") -> None:
    """The store's table, and what about it may surprise."""
    print_store(f"{manifest.dataset}, tokenizer {manifest.tokenizer.name}: {path}", manifest)
    skipped = sum(domain.skipped for domains in manifest.splits.values() for domain in domains.values())
    if skipped:
        note(f"prep: {skipped:,} records with null text were left out")
    limit = manifest.source.limit_tokens
    train = sum(domain.tokens for domain in manifest.splits.get("train", {}).values())
    if limit is not None and not manifest.source.limit_reached:
        note(
            f"prep: --limit-tokens {limit:,} is beyond what was there: the store has {train:,} training tokens"
        )
    for split, domains in manifest.splits.items():
        empty = [name for name, domain in domains.items() if domain.tokens == 0]
        if empty:
            note(f"prep: {split}: nothing in {', '.join(sorted(empty))}")

"""`reweight prep`: text to token shards, their verification, and their repair."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_prep.errors import DataError, UserError
from data_prep.spec import DATASETS, PrepSpec, default_store
from reproduce.cli.console import (
    Progress,
    UserPath,
    duration,
    emit_json,
    json_option,
    note,
    print_table,
    quantity,
)

if TYPE_CHECKING:
    from data_prep import pipeline
    from data_prep.manifest import Manifest

EXAMPLES = """\b
Examples:
  reweight prep slimpajama                             # SlimPajama-6B from the hub, GPT-2 tokenizer
  reweight prep slimpajama --input DIR --tokenizer VOCAB_DIR      # offline
  reweight prep embedded --tokenizer bpe:2048          # text this machine already has
  reweight prep local --input texts/ --tokenizer bpe:4096 --out data/mine
  reweight prep local --input posts.jsonl --domain-from meta.site
  reweight prep fineweb --subset sample-10BT --limit-tokens 1000000000
  reweight prep --verify data/slimpajama-gpt2          # read every shard against its digest
  reweight prep --repair data/slimpajama-gpt2          # rebuild only what is damaged

\b
Input files: .jsonl .jsonl.zst .parquet (a column or key `text`), .txt .txt.zst (one document a file).
Splits come from the names of folders and files: train, validation (valid, val), test. Without a
validation split, --validation-share of the documents is held out by the hash of their text.
slimpajama takes the source's test split as validation where there is one, as the paper does.

\b
Writes DIR/manifest.json, DIR/tokenizer.json, DIR/<split>/<domain>/<NNNNN>.npy. Running the same command
again continues; a complete store is left as it is.
Exit codes: 0 done · 2 usage · 3 data missing or corrupt · 4 hub · 5 the folder holds something else ·
7 disk, memory, lock
"""


@click.command(epilog=EXAMPLES)
@click.argument("source", required=False, metavar="[DATASET|DIR]")
@click.option("--input", "inputs", multiple=True, type=UserPath(), help="File or folder; repeatable.")
@click.option("--out", type=UserPath(), help="Folder of the store  [default: data/DATASET-TOKENIZER]")
@click.option("--tokenizer", default="gpt2", show_default=True, help="gpt2, a file or folder, or bpe:VOCAB.")
@click.option(
    "--split-map", "split_map", multiple=True, metavar="OURS=THEIRS", help="As validation=test; repeatable."
)
@click.option("--domain-from", metavar="FIELD", help="Field of a record that holds its domain, as meta.site.")
@click.option("--subset", help="Named part of a hub data set, as sample-10BT of fineweb.")
@click.option("--revision", help="Commit, tag or branch on the hub  [default: main, pinned at first use]")
@click.option(
    "--validation-share", default=0.01, show_default=True, help="Held out if there is no validation split."
)
@click.option("--limit-tokens", type=int, metavar="N", help="At most N training tokens, in file order.")
@click.option("--workers", type=int, metavar="N", help="Processes  [default: one a core]")
@click.option("--verify", is_flag=True, help="Check every shard of a store instead of making one.")
@click.option("--repair", "mend", is_flag=True, help="Rebuild only the damaged parts of a store.")
@json_option
def command(
    source: str | None,
    inputs: tuple[Path, ...],
    out: Path | None,
    tokenizer: str,
    split_map: tuple[str, ...],
    domain_from: str | None,
    subset: str | None,
    revision: str | None,
    validation_share: float,
    limit_tokens: int | None,
    workers: int | None,
    verify: bool,
    mend: bool,
    as_json: bool,
) -> None:
    """Turn text into token shards.

    DATASET is slimpajama, slimpajama-627b, fineweb, local or embedded. Without --input, slimpajama and
    fineweb are downloaded from the hub, one file at a time.
    """
    if verify and mend:
        raise UserError("--verify and --repair exclude each other: --repair verifies first")
    if verify or mend:
        store = _store_to_check(source, out, tokenizer)
        if verify:
            _verify(store, as_json)
        else:
            _repair(store, workers, as_json)
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
        out=out,
        tokenizer=tokenizer,
        split_map=tuple(_pair(each) for each in split_map),
        domain_from=domain_from,
        subset=subset,
        revision=revision,
        validation_share=validation_share,
        limit_tokens=limit_tokens,
        workers=workers,
    )
    _prepare(spec, as_json)


def _pair(text: str) -> tuple[str, str]:
    ours, separator, theirs = text.partition("=")
    if not separator or not ours or not theirs:
        raise UserError(f"--split-map {text!r}: write OURS=THEIRS, as validation=test")
    return ours, theirs


def _store_to_check(source: str | None, out: Path | None, tokenizer: str) -> Path:
    if out is not None:
        return out
    if source is None:
        raise UserError("name the store: `reweight prep --verify DIR`")
    return default_store(source, tokenizer) if source in DATASETS else UserPath().convert(source, None, None)


def _prepare(spec: PrepSpec, as_json: bool) -> None:
    from data_prep import pipeline

    with _Reporter("prep") as reporter:
        prepared = pipeline.prepare(spec, reporter.prepared)
    _show(prepared, as_json)


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

    def prepared(self, report: "pipeline.Progress") -> None:
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


def _show(prepared: "pipeline.Prepared", as_json: bool) -> None:
    manifest, seconds = prepared.manifest, prepared.seconds
    rate = prepared.text_bytes / 1e6 / seconds if seconds > 0 else 0.0
    if as_json:
        emit_json(_document(prepared, rate))
        return
    title = f"{manifest.dataset}, tokenizer {manifest.tokenizer.name}: {prepared.path}"
    print_table(title, ["split / domain", "documents", "tokens", "bytes/token", "shards"], _rows(manifest))
    skipped = sum(domain.skipped for domains in manifest.splits.values() for domain in domains.values())
    if skipped:
        note(f"prep: {skipped:,} records with null text were left out")
    if prepared.built_files == 0:
        click.echo(f"already complete: {prepared.path} (nothing to do)")
        return
    text = f"{prepared.text_bytes / 1e6:.1f} MB of text in {seconds:.1f} s: {rate:.1f} MB/s"
    click.echo(f"{text}, {prepared.workers} workers, {prepared.built_files} input files")


def _rows(manifest: "Manifest") -> list[list[str]]:
    rows: list[list[str]] = []
    for split, domains in sorted(manifest.splits.items()):
        entries = [(f"{split} / {name}", [domain]) for name, domain in sorted(domains.items())]
        entries.append((f"{split}, all", list(domains.values())))
        for label, parts in entries:
            documents, tokens, size, shards = (
                sum(part.documents for part in parts),
                sum(part.tokens for part in parts),
                sum(part.bytes for part in parts),
                sum(len(part.shards) for part in parts),
            )
            ratio = f"{size / tokens:.2f}" if tokens else "-"
            rows.append([label, f"{documents:,}", f"{tokens:,}", ratio, f"{shards:,}"])
    return rows


def _document(prepared: "pipeline.Prepared", rate: float) -> dict[str, Any]:
    manifest = prepared.manifest
    return {
        "path": str(prepared.path),
        "dataset": manifest.dataset,
        "fingerprint": manifest.fingerprint,
        "tokenizer": {
            "name": manifest.tokenizer.name,
            "sha256": manifest.tokenizer.sha256,
            "vocab_size": manifest.tokenizer.vocab_size,
            "end_of_text": manifest.tokenizer.end_of_text,
        },
        "source": {
            "name": manifest.source.name,
            "revision": manifest.source.revision,
            "inputs": len(manifest.source.inputs),
            "held_out_per_10000": manifest.source.held_out_per_10000,
            "limit_tokens": manifest.source.limit_tokens,
        },
        "splits": {
            split: {
                name: {
                    "documents": domain.documents,
                    "tokens": domain.tokens,
                    "bytes": domain.bytes,
                    "bytes_per_token": domain.bytes / domain.tokens if domain.tokens else None,
                    "skipped": domain.skipped,
                    "shards": len(domain.shards),
                }
                for name, domain in sorted(domains.items())
            }
            for split, domains in sorted(manifest.splits.items())
        },
        "already_complete": prepared.built_files == 0,
        "built_files": prepared.built_files,
        "text_bytes": prepared.text_bytes,
        "seconds": prepared.seconds,
        "mb_per_s": rate,
        "workers": prepared.workers,
    }

"""What `reweight prep` does once its options are read: progress on stderr, the result on stdout."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from data_prep.errors import DataError
from data_prep.spec import PrepSpec, Share
from reproduce.cli.console import Progress, duration, emit_json, note, quantity
from reproduce.cli.prep_stat import print_store, store_document

if TYPE_CHECKING:
    from data_prep import reports
    from data_prep.manifest import Manifest


def run_whole(spec: PrepSpec, as_json: bool) -> None:
    """Prepare a store and show what it holds."""
    from data_prep.pipeline import prepare

    with _Reporter("prep") as reporter:
        prepared = prepare(spec, reporter.prepared)
    _note_commit(spec, prepared.manifest)
    _show(prepared, as_json)


def _note_commit(spec: PrepSpec, manifest: "Manifest") -> None:
    """Say so where the hub has not the commit that this version knows."""
    from data_prep.layouts import hub_dataset

    known = hub_dataset(spec)
    if known is None or known.revision is None or spec.revision is not None or spec.inputs:
        return
    if manifest.source.revision != known.revision:
        note(
            f"prep: read {manifest.source.name} at {manifest.source.revision}: "
            f"the hub has not {known.revision}, which this version of reweight knows"
        )


def run_share(spec: PrepSpec, share: Share, as_json: bool) -> None:
    """Do one share's input files."""
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
        f"share {share.part}/{share.parts} is done: {done.files} input files, {done.built_files} now, "
        f"{_rate(done.text_bytes, done.seconds)}\n"
        f"when all {share.parts} are: reweight prep --merge {shlex.quote(str(done.path))}"
    )


def run_merge(store: Path, workers: int | None, as_json: bool) -> None:
    """Join the shares in a folder."""
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


def run_repair(store: Path, workers: int | None, as_json: bool) -> None:
    """Rebuild what is damaged."""
    from data_prep.repair import repair

    with _Reporter("repair") as reporter:
        repaired = repair(store, workers, reporter.prepared)
    _show(repaired, as_json)


def run_verify(store: Path, as_json: bool) -> None:
    """Check every shard; DataError if any is damaged."""
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
    if as_json:
        emit_json(
            {
                "path": str(prepared.path),
                **store_document(prepared.manifest),
                "already_complete": prepared.built_files == 0,
                "built_files": prepared.built_files,
                "text_bytes": prepared.text_bytes,
                "seconds": prepared.seconds,
                "mb_per_s": prepared.text_bytes / 1e6 / max(prepared.seconds, 1e-9),
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
    megabytes = text_bytes / 1e6
    return f"{megabytes:.1f} MB of text in {seconds:.1f} s: {megabytes / max(seconds, 1e-9):.1f} MB/s"


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
            f"prep: --limit-tokens {limit:,} is beyond what was there: "
            f"the store has {train:,} training tokens"
        )
    for split, domains in manifest.splits.items():
        empty = [name for name, domain in domains.items() if domain.tokens == 0]
        if empty:
            note(f"prep: {split}: nothing in {', '.join(sorted(empty))}")

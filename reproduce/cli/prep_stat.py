"""What a token store holds: the tables and the picture of `reweight prep` and `reweight prep --stat`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reproduce.cli.console import emit_json, print_table

if TYPE_CHECKING:
    from data_prep.manifest import Domain, Manifest

BAR = 40
"""Characters of the longest bar."""


def show_stat(store: Path, plot: Path | None, as_json: bool) -> None:
    """Print a store's table and the picture of its document lengths; DataError if it is none."""
    from data_prep.manifest import read_manifest

    manifest = read_manifest(store)
    if plot is not None:
        from data_prep.pictures import draw_lengths

        draw_lengths(manifest, plot)
    if as_json:
        emit_json({"path": str(store), **store_document(manifest)})
        return
    print_store(f"{manifest.dataset}, tokenizer {manifest.tokenizer.name}: {store}", manifest)
    for split, domains in sorted(manifest.splits.items()):
        click.echo(f"\n{split}: documents by their number of tokens")
        for line in length_lines(list(domains.values())):
            click.echo(line)


def print_store(title: str, manifest: "Manifest") -> None:
    """The table by split and domain."""
    columns = ["split / domain", "documents", "tokens", "bytes/token", "duplicates", "in train", "longest"]
    print_table(title, columns, _rows(manifest))


def length_lines(domains: "list[Domain]") -> list[str]:
    """Bars of a histogram whose bins double in width, summed over the domains."""
    bins = max((len(domain.lengths) for domain in domains), default=0)
    counts = [sum(d.lengths[k] for d in domains if k < len(d.lengths)) for k in range(bins)]
    first = next((k for k, count in enumerate(counts) if count), 0)
    most = max(counts, default=0)
    lines = []
    for k in range(first, bins):
        bar = "█" * round(BAR * counts[k] / most) or ("▏" if counts[k] else "")
        lines.append(f"{f'{1 << k:,} - {(2 << k) - 1:,}':>23}  {bar:<{BAR}} {counts[k]:,}")
    return lines


def _rows(manifest: "Manifest") -> list[list[str]]:
    rows: list[list[str]] = []
    for split, domains in sorted(manifest.splits.items()):
        entries = [(f"{split} / {name}", [domain]) for name, domain in sorted(domains.items())]
        entries.append((f"{split}, all", list(domains.values())))
        for label, parts in entries:
            documents, tokens, size, duplicates, in_train = (
                sum(part.documents for part in parts),
                sum(part.tokens for part in parts),
                sum(part.bytes for part in parts),
                sum(part.duplicates for part in parts),
                sum(part.in_train for part in parts),
            )
            rows.append(
                [
                    label,
                    f"{documents:,}",
                    f"{tokens:,}",
                    f"{size / tokens:.2f}" if tokens else "-",
                    f"{duplicates:,}",
                    "-" if split == "train" else f"{in_train:,}",
                    f"{max((part.longest for part in parts), default=0):,}",
                ]
            )
    return rows


def store_document(manifest: "Manifest") -> dict[str, Any]:
    """What `--json` tells about a store."""
    tokenizer, source = manifest.tokenizer, manifest.source
    return {
        "dataset": manifest.dataset,
        "fingerprint": manifest.fingerprint,
        "tokenizer": {
            "name": tokenizer.name,
            "sha256": tokenizer.sha256,
            "vocab_size": tokenizer.vocab_size,
            "end_of_text": tokenizer.end_of_text,
            "repository": tokenizer.repository,
            "revision": tokenizer.revision,
        },
        "source": {
            "name": source.name,
            "revision": source.revision,
            "inputs": len(source.inputs),
            "held_out_per_10000": source.held_out_per_10000,
            "limit_tokens": source.limit_tokens,
            "sample_seed": source.sample_seed,
            "shares": source.shares,
        },
        "splits": {
            split: {name: _domain(domain) for name, domain in sorted(domains.items())}
            for split, domains in sorted(manifest.splits.items())
        },
    }


def _domain(domain: "Domain") -> dict[str, Any]:
    return {
        "documents": domain.documents,
        "tokens": domain.tokens,
        "bytes": domain.bytes,
        "bytes_per_token": domain.bytes / domain.tokens if domain.tokens else None,
        "skipped": domain.skipped,
        "duplicates": domain.duplicates,
        "in_train": domain.in_train,
        "longest": domain.longest,
        "lengths": list(domain.lengths),
        "shards": len(domain.shards),
    }

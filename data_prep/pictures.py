"""The picture of a store's document lengths."""

import io
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.files import atomic_file
from data_prep.manifest import Domain, Manifest

SUFFIXES = (".svg", ".png")


def draw_lengths(manifest: Manifest, path: Path) -> None:
    """Draw, for each split, the share of a domain's documents by their length in tokens.

    Same store, same bytes. Raises UserError for a name that ends neither in .svg nor in .png, OSError.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--plot {path}: name a file that ends in {' or '.join(SUFFIXES)}")
    # No pyplot: its figures belong to a window system.
    import matplotlib
    from matplotlib.figure import Figure

    splits = sorted(manifest.splits.items())
    with matplotlib.rc_context({"svg.hashsalt": "reweight", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 2.8 * len(splits)), layout="constrained")
        for place, (split, domains) in enumerate(splits, start=1):
            axes = figure.add_subplot(len(splits), 1, place)
            for number, (name, domain) in enumerate(sorted(domains.items())):
                _line(axes, name, domain, number)
            axes.set_xscale("log", base=2)
            axes.set_title(f"{manifest.dataset}, {split}")
            axes.set_xlabel(f"tokens of a document ({manifest.tokenizer.name})")
            axes.set_ylabel("share of documents")
            axes.legend(fontsize="small", ncols=2)
        stream = io.BytesIO()
        kind = path.suffix.lower()[1:]
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(stream, format=kind, metadata=metadata)
    with atomic_file(path) as file:
        file.write(stream.getvalue())


def _line(axes: Any, name: str, domain: Domain, number: int) -> None:
    styles, marks = ("-", "--", "-.", ":"), "osD^vP*"
    shares = [count / max(1, domain.documents) for count in domain.lengths]
    # A bin holds 2^k to 2^(k+1) - 1 tokens: drawn at its geometric middle.
    middles = [2**k * 2**0.5 for k in range(len(shares))]
    axes.plot(
        middles,
        shares,
        label=name,
        linestyle=styles[number % len(styles)],
        marker=marks[number % len(marks)],
        markersize=3,
    )

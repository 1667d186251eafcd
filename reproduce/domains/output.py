"""What learning leaves beside its runs: weights.yaml, and the weights' way there as a figure."""

from collections.abc import Iterator
from pathlib import Path

from data_prep.files import read_ordinary_file
from reproduce.domains.figures import history_figure
from reproduce.domains.result import WEIGHTS
from reproduce.paper.output_files import write_files
from reproduce.paper.study_output import figure_files
from reproduce.recipe.weight_set import WeightSet
from reproduce.recipe.weight_sets import weight_set_text


def write_learned(folder: Path, weights: WeightSet) -> Path:
    """Write FOLDER/weights.yaml, and weights.svg, .png and .csv; the same weights give the same bytes.

    What is there already is left alone: a complete folder may be read-only.

    Raises:
        StorageError: a file cannot be written.
    """
    changed = [(name, content) for name, content in _contents(weights) if not _holds(folder / name, content)]
    write_files(folder, changed, "make the folder writable; then run the same command again")
    return folder / WEIGHTS


def _holds(path: Path, content: bytes) -> bool:
    try:
        return read_ordinary_file(path) == content
    except OSError:
        return False


def _contents(weights: WeightSet) -> Iterator[tuple[str, bytes]]:
    yield from figure_files(history_figure(weights))
    yield WEIGHTS, weight_set_text(weights).encode()

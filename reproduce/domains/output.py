"""What learning leaves beside its runs: weights.yaml, and the weights' way there as a figure."""

from collections.abc import Iterator
from pathlib import Path

from data_prep.files import atomic_file
from reproduce.domains.figures import history_figure
from reproduce.domains.result import WEIGHTS
from reproduce.errors import StorageError
from reproduce.paper.study_figures import draw_figure
from reproduce.paper.study_output import figure_csv
from reproduce.recipe.weight_set import WeightSet
from reproduce.recipe.weight_sets import weight_set_text


def write_learned(folder: Path, weights: WeightSet) -> Path:
    """Write FOLDER/weights.yaml, and weights.svg, .png and .csv; the same weights give the same bytes.

    Raises:
        StorageError: a file cannot be written.
    """
    for name, content in _contents(weights):
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(content)
        except OSError as error:
            raise StorageError(
                f"cannot write {path}: {error.strerror}; free space, and run the same command again"
            ) from error
    return folder / WEIGHTS


def _contents(weights: WeightSet) -> Iterator[tuple[str, bytes]]:
    figure = history_figure(weights)
    drawn = draw_figure(figure)
    yield "weights.svg", drawn.svg.encode()
    yield "weights.png", drawn.png
    yield "weights.csv", figure_csv(figure).encode()
    yield WEIGHTS, weight_set_text(weights).encode()

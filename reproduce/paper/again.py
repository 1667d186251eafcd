"""Where a command that is shown makes a run or a study again: a folder of its own, never the one shown."""

import os
from pathlib import Path

HOME = "again"
"""Apart from ./runs: there, `compare` and `report` would meet a recipe and seed twice."""


def again_folder(folder: Path) -> Path:
    """A folder below ./again for what lies in `folder`, where the same command would find its work done.

    Folders that differ in name get folders that differ: `again` stands before the whole path.
    """
    parts = Path(os.path.normpath(folder)).parts
    # A path from the root, or from above, must not lead out of ./again.
    inside = ["up" if part == os.pardir else part for part in parts if part != os.sep * len(part)]
    return Path(HOME, *(inside or ["run"]))

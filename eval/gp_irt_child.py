"""The process that gp_irt.py starts: scores on standard input, the package's estimate on standard output.

Run by its path, so it imports nothing of this project. Exit code 3: the package is not installed.
"""

import importlib
import importlib.util
import json
import sys


def main() -> int:
    """Ask the package, which reads its file from this working directory."""
    question = json.load(sys.stdin)
    if importlib.util.find_spec("tinyBenchmarks") is None:
        return 3
    package = importlib.import_module("tinyBenchmarks")
    import numpy as np

    estimates = package.evaluate(np.array(question["correct"]), question["benchmark"])
    # A line of its own, whatever the package wrote.
    print("\n" + json.dumps({"gpirt": float(estimates[question["benchmark"]]["gpirt"])}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

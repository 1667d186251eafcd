"""The `reweight` command. One module a subcommand, imported when it is called.

Importing this package must not import torch: `reweight --help` answers in under 0.3 s.
"""

import sys

from reproduce.cli.root import cli, run

__all__ = ["cli", "main"]


def main() -> None:
    """Entry point: run the command line and leave with its exit code."""
    sys.exit(run(sys.argv[1:]))

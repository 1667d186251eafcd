"""`python -m reproduce.cli`: what `reweight` does, and how a launcher starts its ranks."""

import os

from reproduce.cli import main
from reproduce.training.supervisor import LAUNCHER, end_with

if __name__ == "__main__":
    if launcher := os.environ.get(LAUNCHER):
        end_with(int(launcher))
    main()

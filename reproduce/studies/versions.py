"""What a study's numbers were computed with."""

import platform
from importlib.metadata import version

from reproduce import __version__


def versions(*more: str) -> dict[str, str]:
    """This project, Python, torch, numpy, and the packages named besides. Loads none of them."""
    packages = ("torch", "numpy", *more)
    return {
        "reweight": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }

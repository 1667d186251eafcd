"""gp-IRT: a full benchmark's score estimated from 100 items, which the paper printed for the tiny* tasks.

The estimator and its fitted item parameters are other people's: the package `tinyBenchmarks`, and a file
tinyBenchmarks.pkl that the package unpickles, which runs whatever the file says. So the file is taken only
with the sha256 that the user vouches for, and the package runs in a process of its own, in a folder that
holds nothing but a copy of the bytes that were checked. That process is not confined: a pin is trust.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.errors import EvaluationError

ITEMS = 100
FILE_NAME = "tinyBenchmarks.pkl"
"""What the package opens, in its working directory."""

HOME = "github.com/felipemaiapolo/tinyBenchmarks"
CHILD = Path(__file__).with_name("gp_irt_child.py")
SECONDS = 300.0
"""Time for the estimate, which takes a few seconds."""

MAX_BYTES = 1 << 30
"""The published file has a few megabytes."""

OTHER_FILE = f"check that {FILE_NAME} is its own"
NOT_INSTALLED = 3
"""Exit code of the child where it cannot import the package."""


@dataclass(frozen=True, kw_only=True)
class GpIrt:
    """The estimate, or why there is none: one of the two is None."""

    value: float | None
    """In [0, 1]."""

    why_not: str | None
    """One line with the remedy."""


def gp_irt(
    correct: Sequence[float],
    benchmark: str,
    irt_file: Path | None,
    sha256: str | None,
    *,
    seconds: float = SECONDS,
) -> GpIrt:
    """Estimate the full benchmark's score.

    Args:
        correct: `acc_norm` of the items, 0 or 1 each, in the data set's order.
        benchmark: the package's name for it: arc, winogrande.
        irt_file: the item parameters, tinyBenchmarks.pkl; None: not given.
        sha256: digest that the user vouches for, 64 hexadecimal digits.
        seconds: time limit.

    Raises:
        EvaluationError: 2 for a file without a digest, a digest without a file or of another form; 3 for a
            file that cannot be read or has another digest, and for a package that fails or gives no share;
            7 for no room for its copy.
    """
    if irt_file is None and sha256 is None:
        return _none(f"no item parameters; give --irt-file ({FILE_NAME} of {HOME}) and --irt-sha256")
    content = _pinned(irt_file, sha256)
    if len(correct) != ITEMS:
        return _none(f"it needs all {ITEMS} items and {len(correct)} were scored; score without a limit")
    if any(value not in (0.0, 1.0) for value in correct):
        return _none("an item's score is neither 0 nor 1; score the task again")
    try:
        with tempfile.TemporaryDirectory(prefix="gp-irt-") as name:
            folder = Path(name)
            (folder / FILE_NAME).write_bytes(content)
            return _estimate([float(value) for value in correct], benchmark, folder, seconds)
    except OSError as error:
        raise EvaluationError(
            f"gp-IRT: cannot work in {tempfile.gettempdir()} ({error.strerror}); make room or set TMPDIR",
            7,
        ) from error


def check_irt_file(irt_file: Path | None, sha256: str | None) -> None:
    """Before anything is scored: refuse what `gp_irt` would refuse afterwards.

    Raises:
        EvaluationError: as gp_irt for the file and its digest. Neither given is fine.
    """
    if irt_file is not None or sha256 is not None:
        _pinned(irt_file, sha256)


def _none(why: str) -> GpIrt:
    return GpIrt(value=None, why_not=why)


def _pinned(irt_file: Path | None, sha256: str | None) -> bytes:
    """The file's bytes, digest checked: read once, so what is checked is what is used."""
    if irt_file is None:
        raise EvaluationError("gp-IRT: a sha256 without a file; give --irt-file too", 2)
    if sha256 is None:
        raise EvaluationError(
            f"{irt_file}: is a pickle, which can run anything; give the digest you trust (--irt-sha256)",
            2,
        )
    wanted = sha256.strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", wanted):
        raise EvaluationError(f"--irt-sha256: {sha256[:80]!r} is not 64 hexadecimal digits", 2)
    try:
        if not irt_file.is_file():  # reading a pipe would wait for ever
            raise EvaluationError(f"{irt_file}: no such file; give the path of {FILE_NAME}", 3)
        if irt_file.stat().st_size > MAX_BYTES:
            raise EvaluationError(f"{irt_file}: larger than {MAX_BYTES} bytes, so not {FILE_NAME}", 3)
        content = irt_file.read_bytes()
    except OSError as error:
        raise EvaluationError(
            f"{irt_file}: cannot be read ({error.strerror}); check its rights", 3
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise EvaluationError(
            f"{irt_file}: its sha256 is {found}, not {wanted} as given; fetch it again or correct the digest",
            3,
        )
    return content


def _estimate(correct: list[float], benchmark: str, folder: Path, seconds: float) -> GpIrt:
    """Run the package in the folder. Raises OSError if no process can be started."""
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
    try:
        done = subprocess.run(
            # -P: the folder of the child's own file is no place to import from.
            [sys.executable, "-P", str(CHILD)],
            cwd=folder,
            env={**os.environ, **offline},
            input=json.dumps({"correct": correct, "benchmark": benchmark}),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(f"took more than {seconds:g} s; try on an idle machine") from error
    if done.returncode == NOT_INSTALLED:
        return _none(f"the package tinyBenchmarks is not installed; pip install git+https://{HOME}")
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise _failed(f"failed ({said[:200]}); {OTHER_FILE}")
    return _checked(done.stdout)


def _checked(output: str) -> GpIrt:
    """The last line of what the child wrote; the package may write before it."""
    last = (output.strip().splitlines() or ["nothing"])[-1]
    try:
        value = float(json.loads(last)["gpirt"])
    except (ValueError, TypeError, KeyError):
        raise _failed(f"answered {last[:40]!r}; check its version") from None
    if not 0.0 <= value <= 1.0:  # NaN neither
        raise _failed(f"answered {value}, no share; {OTHER_FILE}")
    return GpIrt(value=value, why_not=None)


def _failed(what: str) -> EvaluationError:
    return EvaluationError(f"gp-IRT: the package tinyBenchmarks {what}, or leave out --irt-file", 3)

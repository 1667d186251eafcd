"""sample_losses.npz: the loss of every held-out window, whose means are results.json's log-perplexities.

With them two models are compared window by window, which takes out what makes a window hard for both.
Read strictly, without pickle, and written atomically; equal losses give equal bytes. Loads without torch.

n windows of a domain, in the evaluation set's fixed order.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.json_files import SHA256, write_bytes_atomically
from eval.results import ResultsError

FILE_NAME = "sample_losses.npz"

STEP, EVAL_SET = "meta/step", "meta/eval_set_sha256"
"""Two arrays beside the domains' own; a domain is a folder's name, so none has a slash."""

MAX_BYTES = 64 * 1024 * 1024
"""Four bytes a window: the paper's 20,000 windows are 80 kB."""

MAX_ARRAYS = 1000
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every entry: a clock would make equal losses give different bytes."""


@dataclass(frozen=True, kw_only=True)
class SampleLosses:
    """What sample_losses.npz holds."""

    step: int
    """Optimizer steps behind the model."""

    eval_set_sha256: str
    """Of the windows: losses are paired only where it is equal."""

    losses: Mapping[str, NDArray[np.float32]]
    """Domain -> losses (n,), nats a token, in the order of results.json."""


def write_sample_losses(path: Path, found: SampleLosses) -> None:
    """Write the file: whole or not at all.

    Raises:
        ResultsError: a loss that is not finite.
        OSError: naming the file.
    """
    if not all(np.isfinite(losses_n).all() for losses_n in found.losses.values()):
        raise ResultsError(f"{path}: not written, a loss is NaN or infinite; look at the model")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for domain, losses_n in found.losses.items():
            _put(archive, domain, np.ascontiguousarray(losses_n, dtype="<f4"))
        _put(archive, STEP, np.array(found.step, dtype="<i8"))
        _put(archive, EVAL_SET, np.array(found.eval_set_sha256, dtype="<U64"))
    write_bytes_atomically(path, buffer.getvalue())


def read_sample_losses(path: Path) -> SampleLosses:
    """Read the file; nothing in it is unpickled or unpacked.

    Raises:
        ResultsError: missing, damaged, or not as `write_sample_losses` writes it.
    """
    arrays = _arrays(path)
    step, digest = arrays.pop(STEP, None), arrays.pop(EVAL_SET, None)
    if step is None or step.dtype != np.dtype("<i8") or step.shape != () or int(step.item()) < 0:
        raise _broken(path, f"{STEP} is not one step")
    if digest is None or digest.dtype != np.dtype("<U64") or digest.shape != ():
        raise _broken(path, f"{EVAL_SET} is not one sha256")
    if not SHA256.fullmatch(_text(digest)):
        raise _broken(path, f"{EVAL_SET} is not a sha256 in hexadecimal")
    if not arrays:
        raise _broken(path, "has no domain")
    losses: dict[str, NDArray[np.float32]] = {}
    for domain, losses_n in arrays.items():
        if losses_n.dtype != np.dtype("<f4") or losses_n.ndim != 1 or not len(losses_n):
            raise _broken(path, f"{domain!r:.60} is not a list of float32 losses")
        if not np.isfinite(losses_n).all():
            raise _broken(path, f"{domain!r:.60} has a loss that is NaN or infinite")
        losses[domain] = losses_n.astype(np.float32, copy=False)
    return SampleLosses(step=int(step.item()), eval_set_sha256=_text(digest), losses=losses)


def _text(digest: NDArray[np.generic]) -> str:
    try:
        return str(digest.item())
    except ValueError:  # code points that are no text
        return ""


def _put(archive: zipfile.ZipFile, name: str, array: NDArray[np.generic]) -> None:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
    entry = zipfile.ZipInfo(f"{name}.npy", date_time=EPOCH)
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content.getvalue())


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Entries by name, in the file's order."""
    if path.exists() and not path.is_file():
        raise _broken(path, "is not an ordinary file")  # reading a pipe would wait for ever
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _broken(path, f"is larger than {MAX_BYTES} bytes, so not written by this project")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ARRAYS or sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise _broken(path, "holds more than a set of windows")
            if len({entry.filename for entry in entries}) != len(entries):
                raise _broken(path, "gives a domain twice")
            return {entry.filename[:-4]: _array(path, archive, entry) for entry in entries}
    except OSError as error:
        raise ResultsError(
            f"{path}: cannot be read ({error.strerror or error}); `reweight eval RUN` writes it"
        ) from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        said = " ".join(str(error).split())[:100]
        raise _broken(path, f"is not a complete archive of arrays ({said})") from error


def _array(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[np.generic]:
    """One .npy entry, its header read as literals, its content taken as it is."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise _broken(path, "is packed or encrypted")  # a few bytes could become gigabytes
    if not entry.filename.endswith(".npy"):
        raise _broken(path, f"holds {entry.filename!r:.60}, which is no array")
    content = io.BytesIO(archive.read(entry))
    if np.lib.format.read_magic(content) != (1, 0):
        raise _broken(path, f"{entry.filename!r:.60} is of another version of .npy")
    shape, _, dtype = np.lib.format.read_array_header_1_0(content)
    rest = content.getbuffer()[content.tell() :]
    if dtype not in (np.dtype("<f4"), np.dtype("<i8"), np.dtype("<U64")) or len(shape) > 1:
        raise _broken(path, f"{entry.filename!r:.60} is not an array of this project ({dtype!s:.40})")
    count = shape[0] if shape else 1
    if count < 0 or count * dtype.itemsize != len(rest):
        raise _broken(path, f"{entry.filename!r:.60} does not hold what its header says")
    return np.frombuffer(rest, dtype=dtype).reshape(shape)


def _broken(path: Path, what: str) -> ResultsError:
    return ResultsError(f"{path}: {what}; run `reweight eval` on its run folder again")

"""One save on one rank, in a thread of its own: the rank's files, and on rank 0 the checkpoint of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from safetensors import SafetensorError

from data_prep.files import write_text_atomically
from reproduce.training.checkpoint_files import commit, prune
from reproduce.training.checkpoint_manifest import Manifest, dump, merge, parse
from reproduce.training.checkpoint_ranks import NotSharedError, Ranks
from reproduce.training.checkpoint_tensors import Held, write_tensors

VISIBLE_SECONDS = 90.0
"""How long a network file system may hide from one node what another has written (NFS: up to 60 s)."""
LOOK_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a part of a save went."""

    failure: str = ""
    """Empty where it went well."""
    hopeless: bool = False
    """The next save would fail too."""


class Job:
    """A save that is going on. It has no collective: events and part files settle who waits for whom."""

    def __init__(
        self,
        temporary: Path,
        step: int,
        tensors: Mapping[str, Held],
        ranks: Ranks,
        *,
        keep: int,
        writers: list[int],
        background: bool,
    ) -> None:
        """Begin to write.

        Args:
            temporary: folder that rank 0 has made among the checkpoints.
            step: of the checkpoint.
            tensors: what this rank writes, in host memory that nobody changes.
            ranks: who saves.
            keep: newest checkpoints that stay.
            writers: the ranks that write something.
            background: rank 0 commits as soon as it sees that all have written, before it is told so.
        """
        self.temporary, self.step = temporary, step
        self.own, self.commit = Verdict(), Verdict()
        self.bug: Exception | None = None
        """What no failing disk explains; to be raised once the other ranks know that this one failed."""
        self.notice = ""
        """Worth a warning, though the checkpoint is complete."""
        self.written = Event()
        self._tensors, self._ranks = tensors, ranks
        self._keep, self._background = keep, background
        self._others = [temporary / f"part-{rank:05d}.json" for rank in writers if rank > 0]
        self._own_part = temporary / f"part-{ranks.rank:05d}.json"
        self._manifest: Manifest | None = None
        self._told = Event()
        self._wanted = True
        # As a daemon it cannot keep a failed process alive; what it leaves then is a temporary folder.
        self._thread = Thread(target=self._run, name=f"checkpoint-{step}", daemon=True)
        self._thread.start()

    def finish(self, *, wanted: bool) -> None:
        """On rank 0: say whether all ranks have written, and wait until it has committed or given up."""
        self._wanted = wanted
        self._told.set()
        self._thread.join()

    def wait(self, seconds: float) -> None:
        """Wait for what can end without being told anything."""
        self._thread.join(seconds)

    def _run(self) -> None:
        self.own = self._attempt(self._write)
        self._tensors = {}
        self.written.set()
        if self._ranks.rank == 0 and not self.own.failure:
            self.commit = self._attempt(self._commit)

    def _attempt(self, action: Callable[[], None]) -> Verdict:
        who = f"rank {self._ranks.rank}: " if self._ranks.world > 1 else ""
        try:
            action()
        except NotSharedError as error:
            return Verdict(failure=str(error), hopeless=True)
        except (OSError, SafetensorError, MemoryError) as error:
            return Verdict(failure=f"{who}{str(error) or type(error).__name__}")
        except Exception as error:
            self.bug = error
            return Verdict(failure=f"{who}{type(error).__name__}: {error}", hopeless=True)
        return Verdict()

    def _write(self) -> None:
        if not self.temporary.is_dir():
            raise NotSharedError(self.temporary.parent, self._ranks.rank)
        self._manifest = write_tensors(
            self.temporary, self.step, self._ranks.rank, self._ranks.world, self._tensors
        )
        if self._own_part in self._others:
            write_text_atomically(self._own_part, dump(self._manifest))

    def _commit(self) -> None:
        if not self._all_written():
            return
        assert self._manifest is not None
        parts = [self._manifest, *(parse(path.read_bytes()) for path in self._others)]
        for path in self._others:
            path.unlink()
        commit(self.temporary.parent, self.temporary, merge(parts))
        self.notice = prune(self.temporary.parent, self.step, self._keep)

    def _all_written(self) -> bool:
        """Wait for the other ranks; False where one of them failed."""
        if not self._background:
            self._told.wait()  # to look for a file too early makes NFS remember that it is not there
        missing, deadline = self._others, None
        while True:
            told = self._told.is_set()
            missing = [path for path in missing if not path.exists()]
            if not self._wanted or not missing:
                return self._wanted
            if not told:
                self._told.wait(LOOK_SECONDS)
                continue
            deadline = deadline or time.monotonic() + VISIBLE_SECONDS
            if time.monotonic() > deadline:
                raise NotSharedError(self.temporary.parent, self._ranks.rank)
            time.sleep(LOOK_SECONDS)

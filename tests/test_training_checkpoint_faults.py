"""A save broken off at every place where it touches the disk, disks that fill up, and bytes that change."""

import os
import random
import resource
import shutil
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from reproduce.errors import StorageError
from reproduce.training import checkpoint, checkpoint_tensors
from reproduce.training.checkpoint import Saver
from tests.checkpoint_net import digest, flip, loaded, names, newest, silent, state, trained, write

CALLS = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir")
DIED = 77


class Points:
    """Notes the calls by which a save changes the disk; breaks off at one of them, a write half done."""

    def __init__(
        self, patch: pytest.MonkeyPatch, at: int | None = None, break_off: Callable[[], None] | None = None
    ) -> None:
        self.seen: list[tuple[str, Path]] = []
        self._at, self._break_off = at, break_off
        for name in CALLS:
            patch.setattr(os, name, self._noted(name, getattr(os, name)))
        patch.setattr(checkpoint_tensors, "save_file", self._written(checkpoint_tensors.save_file))
        patch.setattr(Path, "open", self._opened(Path.open))

    def _reached(self, name: str, subject: Any, options: dict[str, Any] | None = None) -> bool:
        if isinstance(subject, int):
            subject = Path(f"/proc/self/fd/{subject}").readlink()
        elif (options or {}).get("dir_fd") is not None:
            subject = Path(f"/proc/self/fd/{options['dir_fd']}").readlink() / subject
        self.seen.append((name, Path(subject)))
        return len(self.seen) - 1 == self._at

    def _noted(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(subject: Any, *others: Any, **options: Any) -> Any:
            if self._reached(name, subject, options):
                self._break_off()
            return call(subject, *others, **options)

        return noted

    def _written(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def written(tensors: Any, path: Path) -> None:
            reached = self._reached("write", path)
            call(tensors, path)
            if reached:
                os.truncate(path, path.stat().st_size // 2)
                self._break_off()

        return written

    def _opened(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Path, mode: str = "r", *others: Any, **options: Any) -> Any:
            if mode[0] != "w":
                return call(path, mode, *others, **options)
            reached = self._reached("write", path)
            stream = call(path, mode, *others, **options)
            if reached:
                stream.write('{"half": ')
                stream.close()
                self._break_off()
            return stream

        return opened


def full() -> None:
    raise OSError(28, "No space left on device")


def die() -> None:
    os._exit(DIED)


def forked(action: Callable[[], None]) -> int:
    """Exit code of a child process that does this; 1 where it raised."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Scene:
    """What is there before the checkpoint of step 3 is written, and what may be there afterwards."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._template = folder, folder.with_name("template")
        write(self._template, 1)
        self._before = {2: write(self._template, 2)}
        if kind == "again":
            # It is there already, with other content; at no moment may both it and the new one be missing.
            self._before = {3: write(self._template, 3, seed=33)}
        self.steps = {*self._before, 3}
        net, optimizer = trained(seed=3)
        self._state, self.written = (net, optimizer), digest(state(net, optimizer))

    def reset(self) -> Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._template, self._folder)
        return self._folder

    def saver(self, warn: Callable[[str], None]) -> Callable[[int], None]:
        saver = Saver(self._folder, keep=2, warn=warn)
        return lambda step: saver.save(step, *self._state, {})

    def recovered(self) -> int:
        """The step that a restart continues from, its content checked; nothing else is left."""
        checkpoint.discard_temporaries(self._folder)
        assert all(name.startswith("step-") for name in names(self._folder))
        return self.newest()

    def newest(self) -> int:
        """The step of the newest checkpoint, its content checked; none is damaged."""
        every = checkpoint.checkpoints(self._folder)
        assert [checkpoint.damage(each) for each in every] == [None] * len(every)
        found = checkpoint.latest(self._folder, silent)
        assert found is not None
        content = loaded(found)
        assert content == self._before.get(found.step) or (found.step, content) == (3, self.written)
        return found.step


@pytest.fixture(params=["new", "again"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return Scene(tmp_path / "checkpoints", request.param)


def trace(scene: Scene) -> list[tuple[str, Path]]:
    scene.reset()
    with pytest.MonkeyPatch.context() as patch:
        points = Points(patch)
        scene.saver(silent)(3)
    return points.seen


def test_everything_is_synced_before_the_rename_and_deleted_after_it(scene: Scene) -> None:
    folder = scene.reset()
    seen = trace(scene)
    # The rename that commits: the only one of the folder in which files were written.
    temporary = next(path for name, path in seen if name == "mkdir")
    commit = seen.index(("rename", temporary))
    written = [path for name, path in seen if name == "write"]
    assert len(written) == len(set(written)) == 3
    for path in written:
        assert path.parent == temporary
        assert seen.index(("write", path)) < seen.index(("fsync", path)) < commit
    assert seen.index(("write", temporary / "MANIFEST.json")) > max(
        seen.index(("fsync", path)) for path in written[:2]
    )
    assert seen.index(("fsync", temporary / "MANIFEST.json")) < seen.index(("fsync", temporary)) < commit
    assert seen.index(("fsync", folder)) > commit
    deleted = [i for i, (name, _) in enumerate(seen) if name in ("unlink", "rmdir")]
    assert len(deleted) == 4  # three files and the folder of the one that is superfluous
    assert min(deleted) > seen.index(("fsync", folder))


def test_dying_at_any_point_leaves_the_checkpoint_before_or_the_new_one(scene: Scene) -> None:
    steps = []
    for at in range(len(trace(scene))):
        folder = scene.reset()

        def broken_off(at: int = at) -> None:
            with pytest.MonkeyPatch.context() as patch:
                Points(patch, at, die)
                scene.saver(silent)(3)

        assert forked(broken_off) == DIED
        steps.append(scene.recovered())
        scene.saver(silent)(4)
        assert loaded(newest(folder)) == scene.written
    assert len(steps) >= 14
    assert set(steps) == scene.steps


def test_an_error_at_any_point_leaves_the_checkpoint_before_or_the_new_one(scene: Scene) -> None:
    for at in range(len(trace(scene))):
        folder = scene.reset()
        said: list[str] = []
        save = scene.saver(said.append)
        with pytest.MonkeyPatch.context() as patch:
            Points(patch, at, full)
            save(3)
        assert len(said) == 1
        assert "No space left on device" in said[0]
        # The run goes on, so what was moved aside must be back without a restart.
        assert scene.newest() in scene.steps
        assert scene.recovered() in scene.steps
        save(4)
        assert newest(folder).step == 4
        assert loaded(newest(folder)) == scene.written


def test_two_failing_saves_in_a_row_end_the_run_with_everything_older_intact(scene: Scene) -> None:
    folder = scene.reset()
    before = names(folder)
    said: list[str] = []
    save = scene.saver(said.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_tensors, "save_file", lambda *_: full())
        save(3)
        with pytest.raises(StorageError, match=r"step 4 was not written: .*No space left.*run the same"):
            save(4)
    assert len(said) == 1
    assert names(folder) == before
    assert scene.recovered() == max(scene.steps - {3}, default=3)


# Disks that are full.


def limits() -> list[int]:
    """Sizes from nothing to just below the largest file of a checkpoint."""
    return list(range(0, 2400, 120))


@pytest.mark.parametrize("background", [False, True])
def test_a_limit_on_file_size_never_hurts_what_is_there(background: bool, tmp_path: Path) -> None:
    before = write(tmp_path, 1)
    sizes = {path.stat().st_size for path in newest(tmp_path).path.iterdir()}
    assert max(sizes) > limits()[-1]
    net, optimizer = trained(seed=2)

    def limited(limit: int) -> None:
        said: list[str] = []
        saver = Saver(tmp_path, keep=1, warn=said.append, background=background)

        def save(step: int) -> None:
            saver.save(step, net, optimizer, {})
            saver.settle()

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        save(2)
        assert len(said) == 1
        assert names(tmp_path) == ["step-0000001"]
        with pytest.raises(StorageError, match="step 3 was not written"):
            save(3)

    assert len(limits()) == 20
    for limit in limits():
        assert forked(lambda limit=limit: limited(limit)) == 0, limit
        assert names(tmp_path) == ["step-0000001"]
        assert loaded(newest(tmp_path)) == before


@contextmanager
def small_disk(kibibytes: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", place]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("a file system cannot be mounted here")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_keeps_the_checkpoints_that_are_there() -> None:
    with small_disk(64) as disk:
        folder = disk / "checkpoints"
        digests = {step: write(folder, step) for step in (1, 2)}
        for filled in range(20):
            ballast = disk / "ballast"
            free = shutil.disk_usage(disk).free
            # A third checkpoint takes three files of a page or more.
            ballast.write_bytes(b"x" * (free - 4096 * (filled % 3)))
            said: list[str] = []
            net, optimizer = trained(seed=3)
            saver = Saver(folder, keep=2, warn=said.append)
            saver.save(3, net, optimizer, {})
            assert len(said) == 1, filled
            with pytest.raises(StorageError, match="No space left on device"):
                saver.save(4, net, optimizer, {})
            ballast.unlink()
            assert names(folder) == ["step-0000001", "step-0000002"]
            assert {each.step: loaded(each) for each in checkpoint.checkpoints(folder)} == digests
        write(folder, 5)
        assert names(folder) == ["step-0000002", "step-0000005"]


# Bytes that change.


def test_fifty_flipped_bits_of_fifty_are_found_named_and_passed_over(tmp_path: Path) -> None:
    before = write(tmp_path, 1)
    write(tmp_path, 2)
    files = sorted(newest(tmp_path).path.iterdir())
    rng = random.Random(0)
    hit = []
    for number in range(50):
        # Each file in turn: the manifest is small and would hardly ever be hit.
        path = files[number % len(files)]
        position, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
        flip(path, position, bit)
        said: list[str] = []
        found = checkpoint.latest(tmp_path, said.append)
        hit.append(len(said) == 1 and said[0].startswith(f"checkpoint passed over: {path}: "))
        assert found is not None
        assert found.step == 1
        assert loaded(found) == before
        flip(path, position, bit)
        assert checkpoint.damage(newest(tmp_path)) is None
    assert hit == [True] * 50
    assert len(files) == 3


@pytest.mark.parametrize("how", ["cut", "emptied", "missing", "longer", "exchanged"])
def test_files_that_are_not_as_they_were_written_are_found(how: str, tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    path = newest(tmp_path).path / "model.safetensors"
    size = path.stat().st_size
    if how == "missing":
        path.unlink()
    elif how == "exchanged":
        shutil.copy(tmp_path / "step-0000001" / path.name, path)
    else:
        os.truncate(path, {"cut": size - 1, "emptied": 0, "longer": size + 1}[how])
    assert str(path) in str(checkpoint.damage(newest(tmp_path)))

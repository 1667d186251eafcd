"""sample_losses.npz: the very losses behind results.json, the same bytes each time, hostile files refused."""

import io
import os
import pickle
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.perplexity import EvaluationSet, log_perplexity
from eval.results import Results, ResultsError, read_results, write_results
from eval.sample_losses import FILE_NAME, SampleLosses, read_sample_losses, write_sample_losses
from reproduce.errors import DataError
from reproduce.paper.runs import read_run
from reproduce.paper.sample_losses import has_sample_losses, sample_losses
from tests.conftest import DOMAINS
from tests.paper_runs import make_run
from tests.ranks import free_port, run_ranks

Cli = Callable[..., tuple[int, str, str]]
SHA = "ab" * 32


def losses(**domains: list[float]) -> SampleLosses:
    arrays = {name: np.array(values, dtype=np.float32) for name, values in domains.items()}
    return SampleLosses(step=600, eval_set_sha256=SHA, losses=arrays)


def test_round_trip_and_equal_losses_give_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = losses(web=[1.5, 2.25, 0.1], book=[3.0])
    write_sample_losses(tmp_path / "a.npz", found)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    write_sample_losses(tmp_path / "b.npz", found)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    again = read_sample_losses(tmp_path / "a.npz")
    assert (again.step, again.eval_set_sha256, list(again.losses)) == (600, SHA, ["web", "book"])
    for name, values in found.losses.items():
        assert again.losses[name].dtype == np.float32
        assert again.losses[name].tolist() == values.tolist()
    # Anybody's numpy reads it.
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["book", "meta/eval_set_sha256", "meta/step", "web"]
        assert (int(arrays["meta/step"]), str(arrays["meta/eval_set_sha256"])) == (600, SHA)


def test_a_window_takes_four_bytes(tmp_path: Path) -> None:
    domains = {f"d{i}": np.ones(2857, dtype=np.float32) for i in range(7)}
    write_sample_losses(tmp_path / "x.npz", SampleLosses(step=1, eval_set_sha256=SHA, losses=domains))
    assert 80_000 < (tmp_path / "x.npz").stat().st_size < 84_000


def test_losses_are_those_of_the_mean() -> None:
    windows = {
        "a": np.array([[1, 1], [2, 2], [6, 6]], dtype=np.int32),
        "b": np.array([[4, 4]], dtype=np.int32),
    }
    scores = log_perplexity(EvaluationSet(windows=windows), lambda t: t[:, 0].astype(np.float32), 2)
    assert scores["a"].losses_n is not None
    assert scores["a"].losses_n.tolist() == [1.0, 2.0, 6.0]
    assert scores["mean"].losses_n is None


def check_run(run: Path) -> bytes:
    """The stored values are the float64 means of the stored losses, to the last bit."""
    results = read_results(run / "results.json")
    found = read_sample_losses(run / FILE_NAME)
    assert (found.step, found.eval_set_sha256) == (results.step, results.eval_set_sha256)
    assert list(found.losses) == list(DOMAINS)
    means = {name: float(each.astype(np.float64).mean()) for name, each in found.losses.items()}
    assert results.log_perplexity() == {**means, "mean": sum(means.values()) / 3}
    assert {len(each) for each in found.losses.values()} == {3}
    assert sample_losses(read_run(run)).keys() == means.keys()
    return (run / FILE_NAME).read_bytes()


def test_training_and_eval_write_them(
    reweight: Cli, recipe_path: Path, store_path: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert reweight("train", "--recipe", recipe_path, "--data", store_path, "--out", run)[0] == 0
    written = check_run(run)
    (run / FILE_NAME).unlink()
    assert not has_sample_losses(read_run(run))
    with pytest.raises(DataError, match=r"sample_losses.npz: cannot be read \(No such file"):
        sample_losses(read_run(run))
    # Neither a checkpoint's scores nor limited ones are results.json's.
    assert reweight("eval", run, "--checkpoint", "6")[0] == 0
    assert reweight("eval", run, "--limit", "3")[0] == 0
    assert not (run / FILE_NAME).exists()
    assert reweight("eval", run)[0] == 0
    first = check_run(run)
    assert reweight("eval", run)[0] == 0
    assert check_run(run) == first
    assert len(first) == len(written)


def test_of_two_ranks_the_first_writes_all(recipe_path: Path, store_path: Path, tmp_path: Path) -> None:
    import json

    arguments = ["--recipe", str(recipe_path), "--data", str(store_path), "--out", str(tmp_path / "run")]
    arguments += ["--set", "parallel.sharding=full"]
    plan = tmp_path / "plan.json"
    plan.write_text(
        json.dumps([{"fault": "none", "rank": 0, "step": 0, "port": free_port(), "arguments": arguments}])
    )
    run_ranks(2, ["-m", "tests.rank_train", str(plan)])
    check_run(tmp_path / "run")


def test_a_loss_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="not written, a loss is NaN or infinite"):
        write_sample_losses(tmp_path / FILE_NAME, losses(web=[1.0, float("nan")]))
    assert list(tmp_path.iterdir()) == []


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, allow_pickle=pickled)
    return content.getvalue()


def archive(
    entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED, *, whole: bool = True
) -> bytes:
    """A file with these entries, and (whole) the two that tell step and evaluation set."""
    more = [("meta/step.npy", npy(np.array(600))), ("meta/eval_set_sha256.npy", npy(np.array(SHA)))]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        for name, data in [*entries, *(more if whole else [])]:
            file.writestr(name, data)
    return content.getvalue()


class Trap:
    """What unpickling would do."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return (os.system, ("touch trapped",))


GOOD = npy(np.ones(3, dtype=np.float32))


def lying(shape: str) -> bytes:
    """Twelve bytes of content under a header that says otherwise."""
    return GOOD.replace(b"(3,)", shape.encode())


def meta(digest: str) -> list[tuple[str, bytes]]:
    return [("meta/step.npy", npy(np.array(1))), ("meta/eval_set_sha256.npy", npy(np.array(digest)))]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not a complete archive"),
        (b"PK\x03\x04" + b"\0" * 100, "not a complete archive"),
        (archive([("web.npy", GOOD)])[:-30], "not a complete archive"),
        (archive([]), "has no domain"),
        (archive([("web.npy", GOOD)], whole=False), "meta/step is not one step"),
        (archive([("web.txt", GOOD)]), "which is no array"),
        (archive([("web.npy", GOOD)], zipfile.ZIP_DEFLATED), "packed or encrypted"),
        (archive([("web.npy", b"\x80\x04N.")]), "not a complete archive of arrays"),
        (archive([("web.npy", pickle.dumps(Trap()))]), "not a complete archive of arrays"),
        (archive([("web.npy", npy(np.array([Trap()], dtype=object), pickled=True))]), "not an array of this"),
        (archive([("web.npy", npy(np.ones(3)))]), "not an array of this project (float64)"),
        (archive([("web.npy", npy(np.ones((2, 2), dtype=np.float32)))]), "not an array of this project"),
        (archive([("web.npy", npy(np.array(1.0, dtype=np.float32)))]), "not a list of float32 losses"),
        (archive([("web.npy", npy(np.zeros(0, dtype=np.float32)))]), "not a list of float32 losses"),
        (archive([("web.npy", npy(np.array([1, np.nan], dtype=np.float32)))]), "NaN or infinite"),
        (archive([("web.npy", npy(np.array([1, np.inf], dtype=np.float32)))]), "NaN or infinite"),
        (archive([("web.npy", lying("(9,)"))]), "does not hold what its header says"),
        (archive([("web.npy", lying("(-3,)"))]), "web"),
        (archive([("web.npy", lying("(1" + "0" * 20 + ",)"))]), "web"),
        (archive([(f"{i}.npy", GOOD) for i in range(1001)]), "more than a set of windows"),
        (archive([("meta/step.npy", npy(np.array(-1)))], whole=False), "meta/step is not one step"),
        (archive(meta("g" * 64), whole=False), "not a sha256"),
        (archive(meta("ab"), whole=False), "not an array of this project"),
    ],
)
def test_hostile_files_are_one_line(
    tmp_path: Path, content: bytes, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(ResultsError) as caught:
        read_sample_losses(path)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "trapped").exists()


def test_pipes_folders_giants_and_flipped_bytes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ResultsError, match="not an ordinary file"):
        read_sample_losses(tmp_path / "pipe")
    with pytest.raises(ResultsError, match="not an ordinary file"):
        read_sample_losses(tmp_path)
    giant = tmp_path / "giant"
    with giant.open("wb") as file:
        file.truncate(64 * 1024 * 1024 + 1)
    with pytest.raises(ResultsError, match="larger than"):
        read_sample_losses(giant)
    write_sample_losses(tmp_path / "x", losses(web=[1.0, 2.0]))
    content = bytearray((tmp_path / "x").read_bytes())
    content[content.index(np.float32(2.0).tobytes())] ^= 1
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ResultsError, match="Bad CRC"):
        read_sample_losses(tmp_path / "x")


def ones(**counts: int) -> dict[str, np.ndarray]:
    return {name: np.ones(n, dtype=np.float32) for name, n in counts.items()}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, ""),
        ({"step": 599}, "is of step 599"),
        ({"eval_set_sha256": "cd" * 32}, "another evaluation set"),
        ({"losses": ones(web=2)}, "other domains"),
        ({"losses": ones(web=3, book=2)}, "3 windows"),
        ({"losses": ones(web=2, book=2)}, "another mean"),
    ],
)
def test_losses_of_something_else_than_results_json(
    tmp_path: Path, change: dict[str, object], text: str
) -> None:
    folder = make_run(tmp_path, "uniform", 1, {"web": 1.5, "book": 3.0, "mean": 2.25}, eval_set=SHA)
    results = read_results(folder / "results.json")
    exact = tuple(replace(score, n=4 if score.task == "mean" else 2) for score in results.scores)
    write_results(folder / "results.json", replace(results, scores=exact))
    found = losses(web=[1.0, 2.0], book=[2.5, 3.5])
    write_sample_losses(folder / FILE_NAME, replace(found, **change))  # type: ignore[arg-type]
    run = read_run(folder)
    assert isinstance(run.results, Results)
    if not text:
        assert sample_losses(run)["web"].tolist() == [1.0, 2.0]
        return
    with pytest.raises(DataError, match=text) as caught:
        sample_losses(run)
    assert "\n" not in str(caught.value)

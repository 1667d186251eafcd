"""gp-IRT: only from a pinned file, only through the package, and otherwise one line that says why not."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from eval.errors import EvaluationError
from eval.gp_irt import GpIrt, check_irt_file, gp_irt

CORRECT = [1.0] * 37 + [0.0] * 63
CONTENT = b"item parameters 0.5"

# Reads the file as the real package does, from the working directory, but as bytes. Its estimate: the file's
# last word times the mean of the scores weighted by place, so order and file both matter.
STUB = """
import os

def evaluate(y, benchmark):
    with open("tinyBenchmarks.pkl", "rb") as handle:
        half = float(handle.read().split()[-1])
    assert y.shape == (100,) and y.dtype.kind == "f"
    print("a word of its own")
    weights = [place / 5050 for place in range(1, 101)]
    value = half * sum(weight * score for weight, score in zip(weights, y.tolist()))
    %s
    return {benchmark: {"irt": 9.0, "pirt": 9.0, "gpirt": value}}
"""


@pytest.fixture
def irt_file(tmp_path: Path) -> Path:
    path = tmp_path / "parameters.pkl"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def sha256() -> str:
    return hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stub of the package on the path of child processes; the real one would be in site-packages."""
    folder = tmp_path / "path" / "tinyBenchmarks"
    folder.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    install(folder, "")
    return folder


def install(folder: Path, more: str) -> None:
    (folder / "__init__.py").write_text(STUB % more)


def refusal(irt_file: Path | None, sha256: str | None) -> EvaluationError:
    """The error of the check, which that of the estimate must equal."""
    with pytest.raises(EvaluationError) as early:
        check_irt_file(irt_file, sha256)
    with pytest.raises(EvaluationError) as late:
        gp_irt(CORRECT, "arc", irt_file, sha256)
    assert (str(early.value), early.value.exit_code) == (str(late.value), late.value.exit_code)
    assert "\n" not in str(late.value)
    return late.value


def reason(correct: Sequence[float], irt_file: Path | None, sha256: str | None) -> str:
    """Why there is no estimate."""
    found = gp_irt(correct, "arc", irt_file, sha256)
    assert found.value is None
    assert found.why_not
    assert "\n" not in found.why_not
    return found.why_not


def failure(irt_file: Path, sha256: str, **seconds: float) -> str:
    """The line of a package that fails on a pinned file."""
    with pytest.raises(EvaluationError) as error:
        gp_irt(CORRECT, "arc", irt_file, sha256, **seconds)
    assert error.value.exit_code == 3
    assert str(error.value).startswith("gp-IRT: the package tinyBenchmarks ")
    assert str(error.value).endswith("or leave out --irt-file")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("benchmark", ["arc", "winogrande"])
def test_the_packages_estimate_of_the_items_in_their_order(
    package: Path, irt_file: Path, sha256: str, benchmark: str
) -> None:
    # 1 + ... + 37 = 37 * 38 / 2 = 703 of 5050, halved by the file.
    found = gp_irt(CORRECT, benchmark, irt_file, sha256)
    assert found == GpIrt(value=pytest.approx(703 / 5050 / 2), why_not=None)
    # The same scores from the end: 64 + ... + 100 = 37 * 82 = 3034.
    turned = gp_irt(CORRECT[::-1], benchmark, irt_file, sha256.upper())
    assert turned.value == pytest.approx(3034 / 5050 / 2)


def test_nothing_given_nothing_estimated(package: Path) -> None:
    why_not = reason(CORRECT, None, None)
    assert "--irt-file" in why_not
    assert "--irt-sha256" in why_not
    check_irt_file(None, None)


def test_a_file_without_a_digest_is_never_opened(irt_file: Path, sha256: str, tmp_path: Path) -> None:
    error = refusal(irt_file, None)
    assert error.exit_code == 2
    assert "--irt-sha256" in str(error)
    assert refusal(tmp_path / "none.pkl", None).exit_code == 2
    assert refusal(None, sha256).exit_code == 2


@pytest.mark.parametrize("digest", ["", "abc", "g" * 64, "0" * 63, "0" * 65])
def test_a_digest_of_another_form_is_a_mistake_of_usage(irt_file: Path, digest: str) -> None:
    assert refusal(irt_file, digest).exit_code == 2


def test_another_file_than_the_pinned_one_is_refused(package: Path, irt_file: Path, sha256: str) -> None:
    irt_file.write_bytes(CONTENT + b"0")
    error = refusal(irt_file, sha256)
    assert error.exit_code == 3
    assert sha256 in str(error)
    assert hashlib.sha256(CONTENT + b"0").hexdigest() in str(error)


def test_a_missing_file_and_a_folder_are_refused(irt_file: Path, sha256: str, tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.pkl", sha256).exit_code == 3
    assert refusal(tmp_path, sha256).exit_code == 3
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe", sha256).exit_code == 3


def test_a_pickle_is_not_loaded_by_this_project(package: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    bomb = tmp_path / "bomb.pkl"
    bomb.write_bytes(f"cos\nmkdir\n(V{mark}\ntR.".encode())  # protocol 0: os.mkdir(mark)
    with pytest.raises(EvaluationError):
        gp_irt(CORRECT, "arc", bomb, "0" * 64)
    # Pinned, it reaches the package; this stub reads bytes, so only we could have made the mark.
    failure(bomb, hashlib.sha256(bomb.read_bytes()).hexdigest())
    assert not mark.exists()


@pytest.mark.parametrize("n", [0, 4, 99, 101])
def test_another_number_of_items_has_no_estimate(package: Path, irt_file: Path, sha256: str, n: int) -> None:
    assert f"{n} were scored" in reason([1.0] * n, irt_file, sha256)


@pytest.mark.parametrize("odd", [0.5, 2.0, float("nan")])
def test_scores_other_than_right_and_wrong_have_no_estimate(
    package: Path, irt_file: Path, sha256: str, odd: float
) -> None:
    assert "neither 0 nor 1" in reason([*CORRECT[:-1], odd], irt_file, sha256)


def test_without_the_package_there_is_no_estimate(
    irt_file: Path, sha256: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # Where the user stands is no place to import from, unlike with `python -c`.
    (tmp_path / "here" / "tinyBenchmarks").mkdir(parents=True)
    install(tmp_path / "here" / "tinyBenchmarks", "")
    monkeypatch.chdir(tmp_path / "here")
    why_not = reason(CORRECT, irt_file, sha256)
    assert "not installed" in why_not
    assert "pip install git+https://github.com/felipemaiapolo/tinyBenchmarks" in why_not


@pytest.mark.parametrize(
    "answer", ["float('nan')", "float('inf')", "-float('inf')", "1.0000001", "-1e-9", "36.17"]
)
def test_what_is_no_share_is_refused(package: Path, irt_file: Path, sha256: str, answer: str) -> None:
    install(package, f"value = {answer}")
    assert "no share" in failure(irt_file, sha256)


def test_a_failing_package_is_told_in_one_line(package: Path, irt_file: Path, sha256: str) -> None:
    install(package, "raise RuntimeError('scores of another shape')")
    assert "RuntimeError: scores of another shape" in failure(irt_file, sha256)
    install(package, "os._exit(3 + 6)")
    assert "exit code 9" in failure(irt_file, sha256)
    for said in ("not a word", "0.5", "[0.5]", "{}"):  # on its own, a number is no answer
        install(package, f"print({said!r}, flush=True); os._exit(0)")
        assert f"answered {said!r}" in failure(irt_file, sha256)


def test_a_package_that_lacks_a_package_is_not_called_missing(
    package: Path, irt_file: Path, sha256: str
) -> None:
    install(package, "import tinyBenchmarks_of_scipy")
    assert "No module named 'tinyBenchmarks_of_scipy'" in failure(irt_file, sha256)


def test_a_package_that_hangs_is_given_up(package: Path, irt_file: Path, sha256: str) -> None:
    install(package, "import time; time.sleep(60)")
    assert "more than 1 s" in failure(irt_file, sha256, seconds=1.0)


def test_the_package_sees_only_the_copy_and_no_network_client(
    package: Path, irt_file: Path, sha256: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "tinyBenchmarks.pkl").write_bytes(b"another one 0.1")
    monkeypatch.chdir(tmp_path / "here")
    seen = tmp_path / "seen"
    offline = "os.environ['HF_HUB_OFFLINE'], os.environ['HF_DATASETS_OFFLINE']"
    install(package, f"open({str(seen)!r}, 'w').write(repr([os.listdir('.'), os.getcwd(), {offline}]))")
    assert gp_irt(CORRECT, "arc", irt_file, sha256).value == pytest.approx(703 / 5050 / 2)
    text = seen.read_text()
    assert "['tinyBenchmarks.pkl']" in text
    assert text.endswith("'1', '1']")
    # Nothing is left behind.
    assert not Path(text.split("'")[3]).exists()

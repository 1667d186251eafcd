"""`reweight toy`: files, repetition, and one clear line for what cannot be run."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]

QUICK = ("--steps", 20, "--seeds", 4, "--samples", 50, "--test-samples", 30, "--features", 3)
SWEEP = (
    "--sweep", *QUICK, "--outlier-share", "0,0.2", "--outlier-scale", 1, "--noise", 0.1, "--lr", "0.01,0.05",
    "--batch", 4, "--r", 0.4, "--threshold", 0.5,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_regression_writes_every_kind_of_file_and_says_where(reweight: Cli, tmp_path: Path) -> None:
    code, out, _ = reweight("toy", "regression", *QUICK)
    assert code == 0
    assert out.splitlines()[-1] == "runs/toy/regression"
    assert "LinUpper converges fastest (r = 0.4)" in out.replace("\n", " ") or "LinUpper converges" in out
    files = contents(tmp_path / "runs" / "toy" / "regression")
    endings = {name.partition(".")[2] for name in files}
    assert endings == {"json", "csv", "png", "svg"}
    assert {"study.json", "figure7.png", "figure7.svg", "figure7.csv", "final.csv", "steps.csv"} <= set(files)
    assert files["figure7.png"].startswith(b"\x89PNG")
    document = json.loads(files["study.json"])
    assert (
        document["command"]
        == "reweight toy regression --features 3 --samples 50 --test-samples 30 --steps 20 --seeds 4"
    )
    assert document["settings"]["seeds"] == 4


@pytest.mark.parametrize("arguments", [("regression", *QUICK), ("regression", *SWEEP)], ids=["one", "sweep"])
def test_the_printed_command_gives_the_same_bytes(
    reweight: Cli, tmp_path: Path, arguments: tuple[object, ...]
) -> None:
    assert reweight("toy", *arguments, "--workers", 1, "--out", "a")[0] == 0
    command = json.loads(Path("a/study.json").read_text())["command"].split()
    assert command[0] == "reweight"
    assert reweight(*command[1:], "--workers", 3, "--out", "b")[0] == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_json_is_one_document_with_the_study(reweight: Cli) -> None:
    code, out, _ = reweight("toy", "regression", *QUICK, "--json")
    assert code == 0
    document = json.loads(out)
    assert document["study"] == "regression"
    assert "study.json" in document["files"]
    assert {finding["outcome"] for finding in document["findings"]} <= {
        "holds",
        "does_not",
        "only_where",
        "unresolved",
    }


def test_a_finished_study_is_not_run_again_and_another_is_not_replaced(reweight: Cli, tmp_path: Path) -> None:
    assert reweight("toy", "regression", *QUICK)[0] == 0
    before = contents(tmp_path / "runs/toy/regression")
    (tmp_path / "runs/toy/regression/figure7.png").unlink()
    code, out, err = reweight("toy", "regression", *QUICK)
    assert code == 0
    assert "already complete" in err
    assert "Verdicts" in out
    assert contents(tmp_path / "runs/toy/regression") == before  # the lost picture is drawn again
    code, _, err = reweight("toy", "regression", *QUICK, "--lr", 0.02)
    assert code == 5
    assert err.strip().count("\n") == 0
    assert "holds another study (lr is 0.01 there, 0.02 here)" in err
    assert contents(tmp_path / "runs/toy/regression") == before


def test_a_seed_changes_the_numbers(reweight: Cli) -> None:
    reweight("toy", "regression", *QUICK, "--out", "a")
    reweight("toy", "regression", *QUICK, "--seed", 100, "--out", "b")
    one, other = (Path(folder, "final.csv").read_text() for folder in "ab")
    assert one.splitlines()[0] == other.splitlines()[0]
    assert one != other


def test_divergence_is_a_result(reweight: Cli) -> None:
    code, _, _ = reweight("toy", "regression", *QUICK, "--lr", 1e5, "--steps", 200, "--out", "a")
    assert code == 0
    header, *rows = (line.split(",") for line in Path("a/final.csv").read_text().splitlines())
    diverged, overflowed = header.index("diverged"), header.index("overflowed")
    assert all(row[diverged] == row[overflowed] == "4" for row in rows)  # every seed of every method


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("regression", "--outlier-share", "1"), "--outlier-share 1: expected a share, in [0, 1)"),
        (("regression", "--outlier-share", "-0.1"), "--outlier-share -0.1"),
        (("regression", "--outlier-share", "nan"), "--outlier-share nan"),
        (("regression", "--outlier-share", "0.1,0.2"), "several values go with --sweep"),
        (("regression", "--outlier-share", "0.999", "--samples", "10"), "leaves no clean one"),
        (("regression", "--samples", "0"), "--samples 0: expected a whole number from 1"),
        (("regression", "--test-samples", "0"), "--test-samples 0"),
        (("regression", "--noise", "-1"), "--noise -1"),
        (("regression", "--noise", "inf"), "--noise inf"),
        (("regression", "--noise", "x"), "expected numbers, separated by commas"),
        (
            ("regression", "--strategy", "linuper"),
            "--strategy 'linuper': unknown; there is uniform, linupper",
        ),
        (("regression", "--strategy", ""), "unknown"),
        (("regression", "--strategy", "linupper,linupper"), "the same value twice"),
        (("regression", "--r", "0"), "--r 0"),
        (("regression", "--lr", "0"), "--lr 0"),
        (("regression", "--momentum", "1"), "--momentum 1"),
        (("regression", "--batch", "1.5"), "expected whole numbers"),
        (("regression", "--steps", "0"), "--steps 0"),
        (("regression", "--seeds", "999999999999"), "--seeds 999999999999"),
        (("regression", "--seed", "-1"), "--seed -1"),
        (("regression", "--threshold", "0"), "--threshold 0"),
        (("regression", "--samples", "9000000", "--seeds", "90000"), "GB of memory"),
        (("regression", "--sweep", "--seeds", "9000000"), "GB of memory"),
        (
            ("regression", "--sweep", "--lr", ",".join(str(0.01 + i / 1e7) for i in range(100_000))),
            "GB of memory",
        ),
        (("dro", "--lambda", "0"), "--lambda 0"),
        (("dro", "--lr", "-1"), "--lr -1"),
        (("dro", "--outlier-share", "1"), "--outlier-share 1"),
        (("dro", "--search-lr", "1"), "--search-lr 1: expected two learning rates"),
        (("dro", "--search-lr", "1,2,3"), "--search-lr 1,2,3: expected two learning rates"),
        (("dro", "--search-lr", "1,0.1"), "--search-lr 1,0.1: expected a rate and one more"),
        (("bounds", "--samples", "0"), "--samples 0"),
        (("bounds", "--batch", "1000"), "--batch 1000"),
        (("bounds", "--cap-size", "1"), "--cap-size 1"),
        (("bounds", "--seeds", "9000000"), "GB of memory"),
        (("bounds", "--r", "nan"), "--r nan"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_exit_2(
    reweight: Cli, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    code, out, err = reweight("toy", *arguments)
    assert (code, out) == (2, "")
    assert text in err
    assert err.strip().count("\n") == 0
    assert len(err) < 1200
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_used_is_said_before_the_work(reweight: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    code, _, err = reweight("toy", "regression", *QUICK, "--out", "file/below")
    assert code == 7
    assert err.strip().count("\n") == 0
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.json").write_text('{"schema": 1')
    code, _, err = reweight("toy", "regression", *QUICK, "--out", "broken")
    assert code == 3
    assert "study.json" in err
    assert err.strip().count("\n") == 0


@pytest.mark.parametrize("verb", ["regression", "dro", "bounds", "docs"])
def test_help_needs_no_torch(verb: str) -> None:
    code = (
        f"import sys; from reproduce.cli.root import run; run(['toy', '{verb}', '--help']); "
        "heavy = {'torch', 'scipy', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"reweight toy {verb}" in done.stdout

"""The GPU benchmark at toy size on a CPU: every part runs, and one that fails costs only itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Gpu = Any


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import gpu

    return gpu


def run(gpu: Gpu, out: Path, *arguments: str) -> dict[str, Any]:
    gpu.main(["--device", "cpu", "--tiny", "--out", str(out), *arguments])
    (written,) = out.glob("gpu-cpu-*-tiny.json")
    return json.loads(written.read_text())


def test_a_part_compares_variants_and_names_the_machine(gpu: Gpu, tmp_path: Path) -> None:
    document = run(gpu, tmp_path, "--only", "gpt2_mini compiled, dropout 0.1")
    assert document["environment"]["hardware"].startswith("cpu ")
    (found,) = document["parts"].values()
    ratio = found["time of linupper over uniform"]
    # The ratio of the medians lies within the range of the rounds' ratios; both are of the same seconds.
    assert ratio["low"] <= ratio["median"] <= ratio["high"]
    assert len(ratio["values"]) == 2
    assert found["finite"] is True
    # 4 samples of 16 tokens a step.
    assert found["linupper"]["tokens_per_s"] == pytest.approx(64 / (found["linupper"]["ms_a_step"] / 1e3))


def test_a_part_that_fails_is_recorded_and_the_others_run(
    gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(bench: object) -> dict[str, Any]:
        raise RuntimeError("out of memory, say")

    parts: dict[str, Callable[[Any], dict[str, Any]]] = {"one": fails, "two": lambda bench: {"ms": 1.5}}
    monkeypatch.setattr(gpu, "PARTS", parts)
    document = run(gpu, tmp_path)
    assert document["parts"]["one"]["error"] == "RuntimeError: out of memory, say"
    assert "in fails" in document["parts"]["one"]["traceback"]
    assert document["parts"]["two"]["ms"] == 1.5
    assert "out of memory, say" in capsys.readouterr().out
    late = run(gpu, tmp_path, "--budget", "-1")
    assert late["parts"]["two"] == {"left_out": "no time left"}


@pytest.mark.slow
def test_every_part_runs(gpu: Gpu, tmp_path: Path) -> None:
    document = run(gpu, tmp_path)
    assert list(document["parts"]) == list(gpu.PARTS)
    assert not [name for name, found in document["parts"].items() if "error" in found]

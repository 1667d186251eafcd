"""`reweight weights`: numbers by hand, JSON, standard input, Figure 1."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., tuple[int, str, str]]


def test_json_has_the_weights_of_eq_4(reweight: Cli) -> None:
    code, out, err = reweight("weights", "--strategy", "linupper", "--r", "0.5", "--json", 1, 2, 3, 5)
    assert (code, err) == (0, "")
    document = json.loads(out)
    # h = -1, -1/2, 0, 1; s = 0, 1/2, 1, 1; exp(s/0.5) = 1, e, e^2, e^2
    exponentials = [1, math.e, math.e**2, math.e**2]
    expected = [e / sum(exponentials) for e in exponentials]
    assert document["weights"] == pytest.approx(expected, rel=1e-6)
    assert document["normalised"] == [-1.0, -0.5, 0.0, 1.0]
    assert document["effective_sample_size"] == pytest.approx(1 / sum(w * w for w in expected), rel=1e-5)
    assert document["max_weight_times_m"] == pytest.approx(4 * expected[2], rel=1e-5)
    assert document["ratio_bound"] == pytest.approx(math.exp(2), rel=1e-5)


def test_standard_input_and_table(reweight: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("2 2\n2\n"))
    code, out, _ = reweight("weights", "--strategy", "quadratic", "-")
    assert code == 0
    assert out.count("0.333333") == 3
    assert "effective sample size  3.00 of 3" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((), 2, "give losses"),
        (("1", "x"), 2, "losses are numbers"),
        (("1", "nan"), 6, "loss of sample 1 is nan"),
        (("1", "--r", "0"), 2, "--r"),
        (("1", "--strategy", "upper"), 2, "--strategy"),
    ],
)
def test_bad_input(reweight: Cli, arguments: tuple[str, ...], code: int, text: str) -> None:
    got, out, err = reweight("weights", *arguments)
    assert (got, out) == (code, "")
    assert text in err


def test_plot_draws_figure_1(reweight: Cli, tmp_path: Path) -> None:
    figure = tmp_path / "f.svg"
    assert reweight("weights", "--plot", "--r", "1", "--out", figure)[0] == 0
    text = figure.read_text(encoding="utf-8")
    assert text.lstrip().startswith("<svg")
    for name in ("uniform", "linupper", "quadratic", "extremes"):
        assert name in text

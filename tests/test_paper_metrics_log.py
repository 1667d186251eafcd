"""metrics.jsonl: what a kill leaves behind is tolerated, what cannot be the run's is an error at its line."""

import json
from pathlib import Path

import numpy as np
import pytest

from reproduce.errors import DataError
from reproduce.paper.metrics_log import LARGEST_STEP, MAX_LINE, read_metrics


def train(step: object, **fields: object) -> str:
    return json.dumps({"kind": "train", "step": step, "loss": 5.0, **fields}) + "\n"


def evaluation(step: int) -> str:
    return json.dumps({"kind": "eval", "step": step, "log_perplexity": {"c4": 4.0, "mean": 4.0}}) + "\n"


def test_a_rewound_run_counts_each_step_once_as_written_last(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    steps = [(1, 5.0), (2, 4.0), (3, 3.0), (2, 4.5), (3, 3.5)]
    text = "".join(f'{{"kind": "train", "step": {s}, "loss": {x}}}\n' for s, x in steps)
    path.write_text(text + '{"kind": "train", "step": 4, "lo')
    read = read_metrics(path)
    assert read.step.tolist() == [1, 2, 3]
    assert read.loss.tolist() == [5.0, 4.5, 3.5]
    assert np.isnan(read.ess).all()


def test_what_a_rewound_run_had_written_further_on_counts_no_more(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    before = evaluation(0) + "".join(train(s) + evaluation(s) for s in (1, 2, 3))
    path.write_text(before + train(2))
    read = read_metrics(path)
    assert (read.step.tolist(), read.eval_step.tolist()) == ([1, 2], [0, 1])
    path.write_text(before + evaluation(0))
    read = read_metrics(path)
    assert (read.step.tolist(), read.eval_step.tolist()) == ([], [0])


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[1]",
        '{"kind": "train"}',
        '{"kind": "train", "step": "x"}',
        '{"kind": "train", "step": 2, "loss": "5"}',
        '{"kind": "train", "step": 2, "loss": true}',
        '{"kind": "eval", "step": 1}',
    ],
)
def test_a_broken_line_names_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "train", "step": 1, "loss": 5}\n' + line + "\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl:2:") as caught:
        read_metrics(path)
    assert caught.value.exit_code == 3


def test_a_giant_line_in_the_middle_is_no_torn_last_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for size in (MAX_LINE, MAX_LINE + 1, 2 * MAX_LINE):
        path.write_text(train(1) + "x" * size + "\n" + train(3))
        with pytest.raises(DataError, match=r"metrics\.jsonl:2: a line of over 1000000 bytes"):
            read_metrics(path)
    # A line of exactly so many bytes is read; and the last one without its end is left out.
    filled = train(2, pad="")
    path.write_text(train(1) + train(2, pad="x" * (MAX_LINE - len(filled))) + train(3)[:-5])
    assert path.stat().st_size > MAX_LINE
    assert read_metrics(path).step.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("lines", "number", "said"),
    [
        ([train(1), '{"kind": "train", "step": 1e23, "loss": 5}\n'], 2, "expected an integer"),
        ([train(1), train(10**23)], 2, "expected 0 to 2^53"),
        ([train(-1)], 1, "expected 0 to 2^53"),
        ([train(True)], 1, "expected an integer"),
        ([train(1), train(601)], 2, "step is 601, beyond the 600 of the run's recipe"),
        ([evaluation(700)], 1, "step is 700, beyond the 600"),
        ([train(1), train(5), train(3)], 3, "step 3 stands after step 5, and steps rise"),
        ([evaluation(0), evaluation(200), evaluation(100)], 3, "step 100 stands after step 200"),
    ],
)
def test_a_step_that_the_run_cannot_have_had(
    tmp_path: Path, lines: list[str], number: int, said: str
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(lines))
    with pytest.raises(DataError) as caught:
        read_metrics(path, steps=600)
    assert str(caught.value).startswith(f"{path}:{number}: ")
    assert said in str(caught.value)
    path.write_text(train(600) + evaluation(600))
    assert read_metrics(path, steps=600).step.tolist() == [600]


def test_without_a_recipe_steps_go_as_far_as_floats_tell_them_apart(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(train(LARGEST_STEP))
    assert read_metrics(path).step.tolist() == [2.0**53]
    path.write_text(train(LARGEST_STEP + 1))
    with pytest.raises(DataError, match=r":1: step is 9007199254740993"):
        read_metrics(path)


def test_a_weight_above_the_whole_batch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    # One sample with all of the weight has M times the uniform one; weights are float32.
    path.write_text(train(1, max_weight=32.00001))
    assert read_metrics(path, global_batch=32).max_weight.tolist() == [32.00001]
    for value, said in ((32.1, "max_weight is 32.1, and no weight times M exceeds M = 32"), (-1, "below 0")):
        path.write_text(train(1) + train(2, max_weight=value))
        with pytest.raises(DataError, match=r"metrics\.jsonl:2: ") as caught:
            read_metrics(path, global_batch=32)
        assert said in str(caught.value)


def test_numbers_that_are_none_are_counted_and_told_from_missing_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    nan, inf = float("nan"), float("inf")
    path.write_text(
        train(1, loss=nan, max_weight=inf)
        + train(2, max_weight=nan, seconds={"data": inf})
        + train(3, loss=None, max_weight=None)
        + train(4, max_weight=2.5)
        + '{"kind": "eval", "step": 4, "log_perplexity": {"c4": NaN, "mean": 1e999}}\n'
    )
    read = read_metrics(path, global_batch=32)
    assert dict(read.not_finite) == {"loss": 1, "max_weight": 2, "log_perplexity": 1}
    assert np.isnan(read.loss).tolist() == [True, False, True, False]
    assert read.max_weight[[0, 1, 3]].tolist() == [inf, inf, 2.5]
    assert np.isnan(read.max_weight[2])
    assert np.isnan(read.seconds["data"]).all()
    assert np.isnan(read.log_perplexity["mean"]).all()

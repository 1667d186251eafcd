"""results.json: exact round trip, atomic writing, and one clear line for every broken file."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from eval.results import (
    RANGES,
    Results,
    ResultsError,
    Score,
    log_perplexity_score,
    merged,
    read_results,
    write_results,
)
from eval.suites import load_suites

ACCURACY = Score(
    suite="gpt2_qa", task="sciq", metric="acc", value=0.518, stderr=0.0158, n=1000, num_fewshot=5
)

PROMPTED = replace(
    ACCURACY,
    limit=4,
    requests=16,
    truncated=3,
    shots_kept=4.25,
    context=512,
    prompt_sha256="a" * 64,
    model_sha256="b" * 64,
    dataset="allenai/sciq@main",
    batch_size=8,
    seeds={"random": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234},
    versions={"lm_eval": "0.4.13"},
)


def example() -> Results:
    return Results(
        recipe="gpt2_nano_linupper",
        seed=1,
        step=200,
        scores=(
            log_perplexity_score("arxiv", 2.4949, stderr=0.01, n=50, version="abc"),
            log_perplexity_score("mean", 3.1, stderr=None, n=350, version="abc"),
            ACCURACY,
        ),
        eval_set_sha256="abc",
        versions={"torch": "2.13.0", "numpy": "2.4.6"},
    )


def document() -> dict[str, object]:
    return {
        "schema": 1,
        "recipe": "r",
        "seed": 0,
        "step": 1,
        "scores": [
            {
                "suite": "perplexity",
                "task": "mean",
                "metric": "log_perplexity",
                "value": 3.0,
                "stderr": None,
                "n": 4,
                "num_fewshot": None,
                "task_version": None,
                "higher_is_better": False,
            }
        ],
    }


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    write_results(path, example())
    assert read_results(path) == example()
    assert read_results(path).log_perplexity() == {"arxiv": 2.4949, "mean": 3.1}
    assert read_results(path).score("gpt2_qa", "sciq", "acc") == ACCURACY
    assert read_results(path).score("gpt2_qa", "piqa", "acc") is None


def test_the_file_has_the_fields_that_others_rely_on(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", example())
    raw = json.loads((tmp_path / "results.json").read_text())
    assert raw["schema"] == 1
    assert {"recipe", "seed", "step", "scores"} <= set(raw)
    expected = {"suite", "task", "metric", "value", "stderr", "n", "num_fewshot", "task_version"}
    assert set(raw["scores"][0]) == expected | {"higher_is_better"}
    assert raw["scores"][0]["higher_is_better"] is False


def test_writing_leaves_one_file_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, example())
    write_results(path, replace(example(), step=400))
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    assert read_results(path).step == 400


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_not_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "results.json"
    write_results(path, example())
    bad = replace(example(), scores=(replace(ACCURACY, value=value),))
    with pytest.raises(ResultsError, match="NaN or infinite"):
        write_results(path, bad)
    assert read_results(path) == example()
    assert len(list(tmp_path.iterdir())) == 1


SCORE_EDITS = [
    ("value", "3.0", "finite number"),
    ("value", True, "finite number"),
    ("value", 10**400, "finite number"),
    ("value", 2e307, r"\(perplexity/mean/log_perplexity\)\.value is 2e\+307"),
    ("value", -0.01, r"value is -0\.01, expected a number from 0"),
    ("stderr", 1e200, r"stderr is 1e\+200"),
    ("n", 10**30, "an integer of at most"),
    ("truncated", 10**30, "an integer of at most"),
    ("stderr", -0.1, "a number from 0 to"),
    ("n", 0, "integer >= 1"),
    ("n", 2.5, "integer >= 1"),
    ("n", True, "integer >= 1"),
    ("task", "", "expected a text"),
    ("higher_is_better", 1, "true or false"),
    ("num_fewshot", -5, "integer >= 0"),
    ("surprise", 1, "unknown key 'surprise'"),
    ("limit", 0, "integer >= 1"),
    ("truncated", -1, "integer >= 0"),
    ("shots_kept", "5", "finite number"),
    ("context", 512.0, "integer >= 1"),
    ("model_sha256", 7, "expected a text"),
    ("seeds", {"random": 0}, "the four seeds"),
    ("seeds", {"random": 0, "numpy": 1, "torch": 2, "fewshot": True}, "fewshot is True"),
    ("versions", {"torch": 2}, "does not map names to strings"),
]


@pytest.mark.parametrize(("key", "value", "message"), SCORE_EDITS)
def test_a_wrong_score_names_its_place(tmp_path: Path, key: str, value: object, message: str) -> None:
    raw = document()
    raw["scores"][0][key] = value  # type: ignore[index]
    (tmp_path / "results.json").write_text(json.dumps(raw))
    with pytest.raises(ResultsError, match=message) as caught:
        read_results(tmp_path / "results.json")
    assert "scores[0]" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        *(
            (share, value)
            for share in ("acc", "acc_norm", "exact_match", "gp_irt")
            for value in (1.001, -0.2)
        ),
        ("acc", 51.8),
        ("perplexity", 0.5),
        ("perplexity", 1e151),
        ("brier", -1e151),
    ],
)
def test_a_value_that_its_metric_cannot_have_is_refused(tmp_path: Path, metric: str, value: float) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(ResultsError) as caught:
        write_results(path, replace(example(), scores=(replace(ACCURACY, metric=metric, value=value),)))
    assert not path.exists()
    assert str(caught.value).startswith(
        f"{path}: scores[0] (gpt2_qa/sciq/{metric}).value is {value!r}, expected"
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("acc", 1.0000000002),
        ("acc_norm", -1e-12),
        ("perplexity", 7e6),
        ("brier", -3.0),
        ("log_perplexity", -1e-7),
    ],
)
def test_float_noise_and_metrics_without_a_range_pass(tmp_path: Path, metric: str, value: float) -> None:
    path = tmp_path / "results.json"
    write_results(path, replace(example(), scores=(replace(ACCURACY, metric=metric, value=value),)))
    assert read_results(path).scores[0].value == value


def test_every_metric_of_the_suites_has_a_range() -> None:
    metrics = {name for suite in load_suites().values() for task in suite.tasks for name in task.metrics}
    assert metrics | {"gp_irt", "log_perplexity"} == set(RANGES)


def perplexities(values: Mapping[str, float], n_mean: int) -> Results:
    scores = [
        log_perplexity_score(task, value, stderr=None, n=n_mean if task == "mean" else 50, version="1")
        for task, value in values.items()
    ]
    return replace(example(), scores=tuple(scores))


def test_a_mean_that_is_not_its_domains_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    # Mean of 2.48, 4.21, 3.32: 3.33667; by hand 3.34.
    domains = {"arxiv": 2.48, "book": 4.21, "c4": 3.32}
    for mean in (10.01 / 3, 3.34, 3.33):
        write_results(path, perplexities({**domains, "mean": mean}, 150))
    with pytest.raises(
        ResultsError, match=r"perplexity/mean/log_perplexity is 3, .* 3 domains .* mean 3\.33667"
    ):
        write_results(path, perplexities({**domains, "mean": 3.0}, 150))
    # 350 windows are not these domains' 150: others are not listed, and the mean is theirs too.
    write_results(path, perplexities({**domains, "mean": 3.0}, 350))
    assert read_results(path).log_perplexity()["mean"] == 3.0


TOP_EDITS = [
    ("schema", 2, "schema 2"),
    ("schema", True, "schema True"),
    ("seed", "1", "integer >= 0"),
    ("step", -1, "integer >= 0"),
    ("recipe", None, "expected a text"),
    ("scores", {}, "not a list"),
    ("scores", ["x"], "not an object"),
    ("versions", {"torch": 2}, "versions"),
    ("surprise", 1, "unknown key"),
]


@pytest.mark.parametrize(("key", "value", "message"), TOP_EDITS)
def test_a_wrong_top_level_is_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    (tmp_path / "results.json").write_text(json.dumps(document() | {key: value}))
    with pytest.raises(ResultsError, match=message):
        read_results(tmp_path / "results.json")


def test_a_score_given_twice_is_refused(tmp_path: Path) -> None:
    raw = document()
    raw["scores"] = raw["scores"] * 2  # type: ignore[operator]
    (tmp_path / "results.json").write_text(json.dumps(raw))
    with pytest.raises(ResultsError, match="perplexity/mean/log_perplexity twice"):
        read_results(tmp_path / "results.json")


@pytest.mark.parametrize(
    "content",
    [b"", b'{"schema": 1, "rec', b"[]", b"null", b"\xff\xfe", b'{"schema": 1, "value": NaN}', b"[" * 100_000],
)
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ResultsError) as caught:
        read_results(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "reweight eval" in str(caught.value)


def test_every_truncation_of_a_good_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, example())
    whole = path.read_bytes()
    for length in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ResultsError):
            read_results(path)


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="reweight eval"):
        read_results(tmp_path / "results.json")


def test_loads_without_the_heavy_libraries() -> None:
    code = "import eval.results, sys; print([m for m in ('torch','numpy','lm_eval') if m in sys.modules])"
    root = Path(__file__).parents[1]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert out.stdout.strip() == "[]"


def test_a_score_from_prompts_comes_back_whole(tmp_path: Path) -> None:
    results = replace(example(), scores=(PROMPTED,))
    write_results(tmp_path / "results.json", results)
    assert read_results(tmp_path / "results.json") == results
    raw = json.loads((tmp_path / "results.json").read_text())
    assert raw["scores"][0]["shots_kept"] == 4.25
    assert len(raw["scores"][0]) == 20


def test_every_file_of_the_evidence_still_reads() -> None:
    evidence = Path(__file__).parents[1] / "docs" / "results"
    kinds = ("*/runs/**/results.json", "gpt2_nano/earlier/*.json", "llama_nano/*.json")
    files = [path for kind in kinds for path in sorted(evidence.glob(kind))]
    assert len(files) >= 57
    assert all(read_results(path).log_perplexity() for path in files)


def names(results: Results) -> list[tuple[str, str, float]]:
    return [(s.suite, f"{s.task}-{s.metric}-{s.num_fewshot}", s.value) for s in results.scores]


WHOLE = replace(PROMPTED, limit=None, n=1000)


def test_new_scores_replace_those_of_their_name() -> None:
    piqa = replace(WHOLE, task="piqa", value=0.6)
    old = replace(example(), scores=(*example().scores[:2], WHOLE, replace(WHOLE, suite="llama_qa"), piqa))
    again = replace(WHOLE, value=0.7)
    zero = replace(WHOLE, value=0.1, num_fewshot=0)
    assert names(merged(old, [again, zero])) == [
        ("perplexity", "arxiv-log_perplexity-None", 2.4949),
        ("perplexity", "mean-log_perplexity-None", 3.1),
        ("gpt2_qa", "sciq-acc-5", 0.7),
        ("gpt2_qa", "piqa-acc-5", 0.6),
        ("gpt2_qa", "sciq-acc-0", 0.1),
        ("llama_qa", "sciq-acc-5", 0.518),
    ]
    assert merged(old, []).scores == tuple(sorted(old.scores, key=lambda s: s.suite == "llama_qa"))


def test_a_limited_score_never_replaces_a_whole_one_of_the_same_model() -> None:
    whole = replace(example(), scores=(WHOLE,))
    limited = [replace(PROMPTED, value=1.0), replace(PROMPTED, metric="acc_norm", value=1.0)]
    # Not even beside it: acc over 1000 items and acc_norm over 4 would look like one evaluation.
    assert merged(whole, limited) == whole
    other = [replace(score, model_sha256="c" * 64) for score in limited]
    assert names(merged(whole, other)) == [
        ("gpt2_qa", "sciq-acc-5", 1.0),
        ("gpt2_qa", "sciq-acc_norm-5", 1.0),
    ]
    assert names(merged(replace(whole, scores=tuple(limited)), [WHOLE]))[0] == (
        "gpt2_qa",
        "sciq-acc-5",
        0.518,
    )


def test_another_models_scores_leave_none_of_the_old_ones_of_a_task() -> None:
    estimate = replace(WHOLE, metric="gp_irt", value=0.4)
    old = replace(example(), scores=(WHOLE, estimate, replace(WHOLE, task="piqa")))
    new = replace(WHOLE, value=0.7, model_sha256="c" * 64)
    assert names(merged(old, [new])) == [("gpt2_qa", "sciq-acc-5", 0.7), ("gpt2_qa", "piqa-acc-5", 0.518)]


def test_one_score_twice_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="twice"):
        merged(example(), [WHOLE, replace(WHOLE, value=0.1)])

"""`bench eval`: what is run, what is compared, what is refused. Stand-ins run; nothing is timed."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import DataError
from eval.records import Key, Metric, Seeds, TaskRecord, write_record
from eval.suites import EvalTask, load_suites
from reproduce.errors import UserError
from reproduce.scoring import bench
from reproduce.scoring.bench import OURS, THEIRS, Round, Run, Work, command_line, comparable, ratios
from reproduce.scoring.bench_numbers import their_numbers
from reproduce.training.bench_ratios import Seconds

Cli = Callable[..., tuple[int, str, str]]
GPT2_QA = load_suites()["gpt2_qa"]
LUR = load_suites()["llama_lur"]
SCIQ = {"acc": 0.75, "acc_norm": 0.1 + 0.2}
PIQA = {"acc": 1 / 3, "acc_norm": 0.5}

STAND_IN = """\
import json, shutil, sys
from pathlib import Path

words = sys.argv[1:]
def after(option):
    return words[words.index(option) + 1]
who = "theirs" if "--model_args" in words else "ours"
root = Path(__file__).parent
with (root / "asked.jsonl").open("a") as log:
    log.write(json.dumps([who, *words]) + "\\n")
if (root / f"{who}-fails").exists():
    print("some progress")
    print("reweight: hub: no answer", file=sys.stderr)
    sys.exit(4)
shutil.copytree(root / who / after("--limit"), after("--output_path" if who == "theirs" else "--out"))
"""


def ours(folder: Path, task: str, limit: int, values: Mapping[str, float], stderr: float | None) -> None:
    key = Key(model_sha256="0" * 64, task=task, task_version="1.0", num_fewshot=5, limit=limit, seeds=Seeds())
    record = TaskRecord(
        key=key,
        metrics=tuple(
            Metric(name=name, value=value, stderr=stderr, higher_is_better=True)
            for name, value in values.items()
        ),
        n=limit,
        requests=4 * limit,
        truncated=0,
        shots_kept=5.0,
        context=1024,
        prompt_sha256="1" * 64,
        dataset="made/up@0123",
        dtype="float32",
        batch_size=8,
        device="cpu",
        ranks=1,
        seconds=0.1,
        versions={},
        items={},
        gp_irt=None,
        gp_irt_note=None,
    )
    write_record(folder / "evaluations" / "model", record)


def their_document(limit: int, values: Mapping[str, Mapping[str, float]], stderr: object) -> dict[str, Any]:
    """A results file's parts that matter, as lm-eval 0.4.13 writes them."""
    results = {
        task: {"alias": task}
        | {f"{metric},none": value for metric, value in each.items()}
        | {f"{metric}_stderr,none": stderr for metric in each}
        for task, each in values.items()
    }
    return {
        "results": results,
        "n-samples": {task: {"original": 300, "effective": limit} for task in values},
        "n-shot": dict.fromkeys(values, 5),
    }


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both programs by one that copies what was prepared here: equal numbers for 1 and for 3 items."""
    root = tmp_path / "stand_ins"
    root.mkdir()
    (root / "program.py").write_text(STAND_IN, encoding="utf-8")
    monkeypatch.setattr(bench, "PROGRAMS", dict.fromkeys((OURS, THEIRS), (str(root / "program.py"),)))
    for limit, stderr in ((1, None), (3, 0.125)):
        for task, values in (("sciq", SCIQ), ("piqa", PIQA)):
            ours(root / "ours" / str(limit), task, limit, values, stderr)
        document = their_document(limit, {"sciq": SCIQ, "piqa": PIQA}, "N/A" if stderr is None else stderr)
        write_theirs(root / "theirs" / str(limit), document)
    return root


def write_theirs(folder: Path, document: dict[str, Any]) -> Path:
    file = folder / "__some__model" / "results_2026-01-01T00-00-00.000000.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def asked(root: Path) -> list[list[str]]:
    return [json.loads(line) for line in (root / "asked.jsonl").read_text(encoding="utf-8").splitlines()]


def limit_of(words: list[str]) -> str:
    return words[words.index("--limit") + 1]


def test_runs_alternate_and_equal_numbers_pass(reweight: Cli, stand_ins: Path, model: Path) -> None:
    code, out, err = reweight("bench", "eval", model, "--limit", 3, "--rounds", 2, "--clock", "cpu", "--json")
    assert code == 0, err
    order = [(words[0], limit_of(words)) for words in asked(stand_ins)]
    warm = [("ours", "1"), ("theirs", "1")]
    first = [("ours", "1"), ("theirs", "1"), ("ours", "3"), ("theirs", "3")]
    second = [("theirs", "1"), ("ours", "1"), ("theirs", "3"), ("ours", "3")]
    assert order == warm + first + second
    document = json.loads(out)
    assert document["differences"] == []
    assert document["tasks"] == ["sciq", "piqa"]
    # Of each task two metrics, their errors, the items and the shots.
    assert document["numbers_compared"] == 2 * 6
    assert len(document["rounds"]) == 2
    whole = document["ratios"][0]
    for turn, value in zip(document["rounds"], whole["values"], strict=True):
        assert value == turn["whole"][OURS]["cpu"] / turn["whole"][THEIRS]["cpu"]
    assert "logiqa, logiqa2" in err


def test_a_number_that_differs_is_named_and_the_exit_code_is_8(
    reweight: Cli, stand_ins: Path, model: Path
) -> None:
    # 0.1 + 0.2 is 0.30000000000000004: the last digit counts.
    document = their_document(3, {"sciq": {**SCIQ, "acc_norm": 0.3}, "piqa": PIQA}, 0.125)
    write_theirs(stand_ins / "theirs" / "3", document)
    code, out, _ = reweight("bench", "eval", model, "--limit", 3, "--rounds", 2)
    assert code == 8
    wrong = [line for line in out.splitlines() if line.startswith("not equal")]
    assert wrong == ["not equal: sciq acc_norm: reweight eval 0.30000000000000004, lm_eval 0.3"]


def test_a_number_that_only_one_has_is_a_difference(reweight: Cli, stand_ins: Path, model: Path) -> None:
    ours(stand_ins / "ours" / "3", "piqa", 3, PIQA, None)
    code, out, _ = reweight("bench", "eval", model, "--limit", 3, "--rounds", 1)
    assert code == 8
    assert "not equal: piqa acc_stderr: reweight eval nothing, lm_eval 0.125" in out


def test_a_table_for_people(reweight: Cli, stand_ins: Path, model: Path) -> None:
    code, out, _ = reweight("bench", "eval", model, "--limit", 3, "--rounds", 1, "--task", "piqa")
    assert code == 0
    assert "piqa; the first 3 items, 5 shots, batch 8" in out
    assert "unresolved" in out
    assert "all 6 numbers are equal" in out


@pytest.mark.parametrize(("who", "code"), [("ours", 4), ("theirs", 1)])
def test_a_run_that_fails_ends_it_in_one_line(
    reweight: Cli, stand_ins: Path, model: Path, who: str, code: int
) -> None:
    (stand_ins / f"{who}-fails").touch()
    found, out, err = reweight("bench", "eval", model, "--limit", 3, "--task", "sciq")
    assert (found, out) == (code, "")
    (line,) = [line for line in err.splitlines() if "ended with code 4" in line]
    assert line.endswith("reweight: hub: no answer")


def test_the_same_work_in_both_command_lines(model: Path, tmp_path: Path) -> None:
    work = Work(
        model=model,
        suite="gpt2_qa",
        tasks=(GPT2_QA.task("sciq"), GPT2_QA.task("piqa")),
        limit=None,
        batch_size=16,
        device="cuda",
    )
    mine, other = (command_line(who, work, 40, tmp_path / "o") for who in (OURS, THEIRS))
    assert mine[0] == other[0] == sys.executable
    assert mine[mine.index("eval") + 1 :] == [
        *("--suite", "gpt2_qa", "--task=sciq", "--task=piqa", "--limit", "40", "--out", str(tmp_path / "o")),
        *("--batch-size", "16", "--nproc", "1", "--", str(model)),
    ]
    assert other[other.index("run") + 1 :] == [
        *("--model", "hf", "--model_args", f"pretrained={model}", "--tasks", "sciq,piqa"),
        *("--num_fewshot", "5", "--limit", "40", "--batch_size", "16", "--device", "cuda"),
        *("--output_path", str(tmp_path / "o")),
    ]
    assert "--limit" not in command_line(THEIRS, work, None, tmp_path)
    assert "--limit" not in command_line(OURS, work, None, tmp_path)


def test_tasks_without_shots_keep_lm_eval_s_default(model: Path, tmp_path: Path) -> None:
    work = Work(
        model=model, suite="llama_lur", tasks=(LUR.task("copa"),), limit=2, batch_size=1, device="cpu"
    )
    assert "--num_fewshot" not in command_line(THEIRS, work, 2, tmp_path)


def names(tasks: list[EvalTask]) -> list[str]:
    return [task.name for task in tasks]


def test_only_what_lm_eval_ships_is_comparable() -> None:
    chosen, others = comparable("gpt2_qa", GPT2_QA.tasks)
    assert (names(chosen), names(others)) == (["sciq", "piqa"], ["logiqa", "logiqa2"])
    chosen, others = comparable("llama_lur", LUR.tasks)
    assert (len(chosen), names(others)) == (11, ["tinyArc", "tinyWinogrande"])
    with pytest.raises(UserError, match=r"0 shots: copa; 5 shots: sciq"):
        comparable("both", [LUR.task("copa"), GPT2_QA.task("sciq")])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "logiqa", "--task", "sciq"], "cannot load logiqa as shipped"),
        (["--task", "logiqa2"], "loads none of these tasks"),
        (["--suite", "llama_lur", "--task", "tinyArc"], "loads none of these tasks"),
        (["--task", "copa"], "suite gpt2_qa has logiqa, logiqa2, sciq, piqa"),
        (["--limit", "1"], "--limit"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_compared_is_refused(
    reweight: Cli, stand_ins: Path, model: Path, arguments: list[str], said: str
) -> None:
    code, out, err = reweight("bench", "eval", model, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (stand_ins / "asked.jsonl").exists()


def test_folders_that_the_two_would_read_differently_are_refused(
    reweight: Cli, stand_ins: Path, model: Path, tmp_path: Path
) -> None:
    empty, odd, run = tmp_path / "empty", tmp_path / "a,b=c", tmp_path / "run"
    for folder in (empty, odd, run):
        folder.mkdir()
    (odd / "config.json").write_text("{}", encoding="utf-8")
    (run / "recipe.yaml").write_text("", encoding="utf-8")
    for folder, code, said in ((empty, 3, "config.json"), (odd, 2, "splits at"), (run, 3, "run/model")):
        found, _, err = reweight("bench", "eval", folder, "--task", "sciq")
        assert found == code
        assert said in err
        assert len(err.splitlines()) == 1
    assert not (stand_ins / "asked.jsonl").exists()


def rounds_of(*seconds: tuple[float, float, float, float]) -> list[Round]:
    """Rounds of (whole ours, whole theirs, start ours, start theirs) seconds, the CPU's half of each."""

    def run(wall: float) -> Run:
        return Run(seconds=Seconds(wall, wall / 2), numbers={})

    return [
        Round(whole={OURS: run(a), THEIRS: run(b)}, start={OURS: run(c), THEIRS: run(d)})
        for a, b, c, d in seconds
    ]


def test_ratios_are_taken_within_rounds() -> None:
    # whole 50/40, 60/60, 66/60 = 1.25, 1, 1.1; start 10/20 each; beyond 40/20, 50/40, 56/40 = 2, 1.25, 1.4.
    whole, start, beyond = ratios(rounds_of((50, 40, 10, 20), (60, 60, 10, 20), (66, 60, 10, 20)), "wall")
    assert whole.values == pytest.approx((1.25, 1.0, 1.1))
    assert (whole.median, whole.low, whole.high) == pytest.approx((1.1, 1.0, 1.25))
    assert (whole.ours_s, whole.theirs_s) == (60, 60)
    assert (whole.ci_low, whole.verdict) == (None, "unresolved")
    assert start.values == (0.5, 0.5, 0.5)
    assert start.verdict is None
    assert beyond.values == pytest.approx((2.0, 1.25, 1.4))
    assert beyond.wall_median == pytest.approx(1.4)


def test_the_clock_that_is_asked_for_decides() -> None:
    one = rounds_of((40, 40, 10, 10))[0]
    # Somebody else had the core for most of our run: 40 s by the wall clock, 8 s of work against 20 s.
    busy = Run(seconds=Seconds(40.0, 8.0), numbers={})
    whole, _, beyond = ratios([Round(whole={OURS: busy, THEIRS: one.whole[THEIRS]}, start=one.start)], "cpu")
    assert (whole.median, whole.wall_median) == (0.4, 1.0)
    # Start-up: 5 s each, so (8 - 5) / (20 - 5).
    assert beyond.median == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("ours_s", "verdict"), [((99, 104), "met"), ((106, 110), "missed"), ((100, 110), "unresolved")]
)
def test_the_whole_interval_decides(ours_s: tuple[int, int], verdict: str) -> None:
    # Of six values the interval runs from the smallest to the largest: 2 x 1/64 is below 5%, 2 x 7/64 is not.
    low, high = ours_s
    middle = [(low + high) / 2] * 4
    whole, *_ = ratios(rounds_of(*[(value, 100.0, 1.0, 1.0) for value in (low, *middle, high)]), "cpu")
    assert (whole.ci_low, whole.ci_high) == (low / 100, high / 100)
    assert whole.verdict == verdict


def test_runs_too_short_to_tell_have_no_ratio_beyond_start_up() -> None:
    found = ratios(rounds_of((50, 40, 10, 20), (50, 20, 10, 21)), "wall")
    assert [ratio.of for ratio in found] == ["whole run", "start-up, one item a task"]


def test_a_group_counts_the_items_of_its_parts(tmp_path: Path) -> None:
    mmlu = LUR.task("mmlu")
    document = {
        "results": {"mmlu": {"acc,none": 0.25, "acc_stderr,none": 0.01}},
        "n-samples": {name: {"original": 9, "effective": 2} for name in mmlu.subtasks},
        "n-shot": dict.fromkeys(mmlu.subtasks, 0),
    }
    write_theirs(tmp_path, document)
    # 57 subjects of two items.
    numbers = {"items": 114, "shots": 0, "acc": 0.25, "acc_stderr": 0.01}
    assert their_numbers([mmlu], tmp_path) == {("mmlu", name): value for name, value in numbers.items()}


def test_perplexity_s_error_is_not_compared_for_theirs_is_drawn(tmp_path: Path) -> None:
    task = LUR.task("lambada_openai")
    document = their_document(2, {task.name: {"acc": 0.5, "perplexity": 12.5}}, 0.5)
    write_theirs(tmp_path, document)
    assert {name for _, name in their_numbers([task], tmp_path)} == {
        *("items", "shots", "acc", "acc_stderr", "perplexity")
    }


def test_a_results_file_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="left 0 results files"):
        their_numbers([GPT2_QA.task("sciq")], tmp_path)
    write_theirs(tmp_path, {"results": {}})
    with pytest.raises(DataError, match=r"not as lm-eval .* writes it \(KeyError\('sciq'\)\)"):
        their_numbers([GPT2_QA.task("sciq")], tmp_path)

"""The suites as data: what the paper's tables hold, and what the printed numbers say about it."""

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from eval.suites import SUITES, DataSource, EvalTask, load_suites, read_suites
from reproduce.paper.tables import NUMBERS, Table, load_tables

# Items of the published splits, from the data sets' own descriptions; not read from suites.yaml.
SIZES = {
    "gpt2_qa": {"logiqa": 651, "logiqa2": 1572, "sciq": 1000, "piqa": 1838},
    "llama_lur": {
        "arc_challenge": 1172,
        "arc_easy": 2376,
        "copa": 100,
        "lambada_openai": 5153,
        "lambada_standard": 5153,
        "mmlu": 14042,
        "mnli": 9815,
        "mnli_mismatch": 9832,
        "rte": 277,
        "sst2": 872,
        "tinyArc": 100,
        "tinyWinogrande": 100,
        "winogrande": 1267,
    },
    "llama_qa": {
        "boolq": 3270,
        "logiqa": 651,
        "logiqa2": 1572,
        "sciq": 1000,
        "social_iqa": 1954,
        "triviaqa": 17944,
    },
}
CHOICES = {
    **dict.fromkeys(["logiqa", "logiqa2", "sciq", "mmlu", "tinyArc"], 4),
    **dict.fromkeys(["mnli", "mnli_mismatch", "social_iqa"], 3),
    **dict.fromkeys(["piqa", "copa", "rte", "sst2", "tinyWinogrande", "winogrande", "boolq"], 2),
    **dict.fromkeys(["lambada_openai", "lambada_standard", "triviaqa"], 1),
}
LLAMA_TABLES = ("llama1b_lur", "llama7b_lur", "llama1b_qa", "llama7b_qa")
GPT2_TABLES = ("table2", "table3", "table12")
EVERY = [task for suite in load_suites().values() for task in suite.tasks]


# ------------------------------------------------------------------------------------ what the suites hold
def test_tasks_and_sizes_in_the_papers_order() -> None:
    found = {name: {t.name: t.n for t in suite.tasks} for name, suite in load_suites().items()}
    assert found == SIZES
    assert [list(tasks) for tasks in found.values()] == [list(tasks) for tasks in SIZES.values()]


@pytest.mark.parametrize("table", [*GPT2_TABLES, *LLAMA_TABLES])
def test_tables_and_suites_name_the_same_tasks(table: str) -> None:
    raw = yaml.safe_load((NUMBERS / f"{table}.yaml").read_text(encoding="utf-8"))
    tasks = {t.name: t for t in load_suites()[raw["suite"]].tasks}
    columns = {name: entry for name, entry in raw["columns"].items() if name != "mean"}
    assert list(columns) == list(tasks)
    for column in load_tables()[table].columns:
        if not column.mean_of:
            (key,) = column.parts
            task = tasks[column.name]
            assert (key.suite, key.task, key.n, key.num_fewshot) == (
                raw["suite"],
                task.name,
                task.n,
                task.num_fewshot,
            )


def test_shots_are_the_papers_five_for_gpt2_and_lm_evals_defaults_for_the_llamas() -> None:
    shots = {name: {t.name: t.num_fewshot for t in suite.tasks} for name, suite in load_suites().items()}
    assert shots["gpt2_qa"] == dict.fromkeys(SIZES["gpt2_qa"], 5)
    assert shots["llama_lur"] == {**dict.fromkeys(SIZES["llama_lur"], 0), "tinyArc": 25, "tinyWinogrande": 5}
    assert shots["llama_qa"] == dict.fromkeys(SIZES["llama_qa"], 0)


def test_a_task_of_two_suites_differs_only_in_how_it_is_scored() -> None:
    own = {"suite", "num_fewshot", "paper_metric", "why"}
    by_name: dict[str, list[EvalTask]] = {}
    for task in EVERY:
        by_name.setdefault(task.name, []).append(task)
    twice = {name: tasks for name, tasks in by_name.items() if len(tasks) > 1}
    assert set(twice) == {"logiqa", "logiqa2", "sciq"}
    for first, second in twice.values():
        differing = {field for field, value in vars(first).items() if value != vars(second)[field]}
        assert differing <= own


@pytest.mark.parametrize("task", EVERY, ids=lambda t: f"{t.suite}-{t.name}")
def test_requests_are_one_a_choice(task: EvalTask) -> None:
    if task.name.startswith("arc_"):  # nearly all items have four choices, a few three or five
        assert abs(task.requests / task.n - 4) < 0.01
    else:
        assert task.requests == CHOICES[task.name] * task.n
    assert task.tokens_a_request == task.tokens_an_item * (1 + task.num_fewshot)
    assert task.generated == (256 if task.name == "triviaqa" else 0)
    assert task.higher_is_better == {metric: metric != "perplexity" for metric in task.metrics}


def test_the_gpt2_suite_costs_what_was_estimated_before() -> None:
    """About 13 million tokens with five shots, of which LogiQA2 alone has half."""
    tokens = {t.name: t.requests * t.tokens_a_request for t in load_suites()["gpt2_qa"].tasks}
    assert 10e6 < sum(tokens.values()) < 16e6
    assert tokens["logiqa2"] > sum(tokens.values()) / 2


def test_mmlu_runs_57_subjects() -> None:
    mmlu = load_suites()["llama_lur"].task("mmlu")
    assert len(set(mmlu.subtasks)) == len(set(mmlu.configs)) == 57
    assert mmlu.subtasks == tuple(f"mmlu_{subject}" for subject in mmlu.configs)
    assert all(t.subtasks == (t.name,) and len(t.configs) == 1 for t in EVERY if t.name != "mmlu")


def test_where_logiqa_lies() -> None:
    logiqa, logiqa2 = load_suites()["gpt2_qa"].tasks[:2]
    assert logiqa.sources == (
        DataSource(repository="EleutherAI/logiqa"),
        DataSource(repository="EleutherAI/logiqa", revision="refs/convert/parquet", configured=False),
    )
    assert [source.revision for source in logiqa2.sources] == ["main", "refs/pr/6"]
    assert logiqa.raw_text is not None
    assert {file.split: (file.name, file.items) for file in logiqa.raw_text.files} == {
        "train": ("Train.txt", 7376),
        "validation": ("Eval.txt", 651),
        "test": ("Test.txt", 651),
    }
    assert [t.name for t in EVERY if t.raw_text is not None] == ["logiqa", "logiqa"]
    assert {t.name for t in EVERY if t.shipped is None} == {"logiqa", "logiqa2", "tinyArc", "tinyWinogrande"}


def test_an_unknown_task_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="hellaswag"):
        load_suites()["llama_lur"].task("hellaswag")


# ------------------------------------------------------- what the printed numbers say: shares of n items?
def rounded_shares(printed: str, n: int) -> list[int]:
    """Every k for which 100 k / n, rounded to the printed places, is the printed number (a tie may go either
    way): |100 k / n - p| <= half a unit, in whole numbers."""
    unit = 10 ** len(printed.partition(".")[2])
    p = int(printed.replace(".", ""))  # in units
    return [k for k in range(n + 1) if abs(2 * (100 * unit * k - p * n)) <= n]


def cut_shares(printed: str, n: int) -> list[int]:
    """The same for digits that were cut off: p <= 100 k / n < p + one unit."""
    unit = 10 ** len(printed.partition(".")[2])
    p = int(printed.replace(".", ""))
    return [k for k in range(n + 1) if p * n <= 100 * unit * k < (p + 1) * n]


def printed_numbers(table: Table) -> list[tuple[str, str]]:
    """(task, number as printed) of every cell that is no mean."""
    return [
        (column.name, value.text)
        for row in table.rows
        for column, value in zip(table.columns, row.values, strict=True)
        if not column.mean_of
    ]


def unlike_shares(tables: tuple[str, ...]) -> tuple[int, set[tuple[str, str]]]:
    """How many numbers there are, and those that are no share of the task's items."""
    sizes = {**SIZES["gpt2_qa"], **SIZES["llama_lur"], **SIZES["llama_qa"]}
    cells = [cell for name in tables for cell in printed_numbers(load_tables()[name])]
    return len(cells), {(task, p) for task, p in cells if not rounded_shares(p, sizes[task])}


def test_the_arithmetic_itself() -> None:
    # 1/3 = 33.33..., 2/3 = 66.67 rounded and 66.66 cut; 1/8 = 12.5, a tie at no place, rounds to 12 or 13.
    assert rounded_shares("33.33", 3) == [1]
    assert rounded_shares("66.67", 3) == cut_shares("66.66", 3) == [2]
    assert rounded_shares("66.66", 3) == cut_shares("66.67", 3) == []
    assert rounded_shares("12", 8) == rounded_shares("13", 8) == [1]
    for k in range(278):
        assert k in rounded_shares(f"{float(Fraction(100 * k, 277)):.2f}", 277)


def test_finding_of_the_llama_numbers_only_the_tiny_ones_are_no_shares() -> None:
    """So they are single runs over the whole split, and the tiny ones are lm-eval's gp-IRT estimate."""
    # 2 models x 2 rows x (13 + 6) tasks = 76 numbers; 2 x 2 x 2 of them are tiny ones.
    assert unlike_shares(LLAMA_TABLES) == (
        76,
        {
            *(("tinyArc", p) for p in ("40.46", "40.85", "36.17", "32.80")),
            *(("tinyWinogrande", p) for p in ("56.17", "62.11", "49.09", "44.20")),
        },
    )


@pytest.mark.parametrize(
    "task", ["copa", "rte", "logiqa", "sst2", "sciq", "arc_challenge", "winogrande", "logiqa2"]
)
def test_finding_the_llama_numbers_would_not_fit_one_item_more_or_less(task: str) -> None:
    numbers = [p for name in LLAMA_TABLES for t, p in printed_numbers(load_tables()[name]) if t == task]
    n = {**SIZES["llama_lur"], **SIZES["llama_qa"]}[task]
    assert len(numbers) == 4
    assert all(rounded_shares(p, n) for p in numbers)
    assert not all(rounded_shares(p, n - 1) for p in numbers)
    assert not all(rounded_shares(p, n + 1) for p in numbers)


def test_finding_four_logiqa_numbers_of_the_gpt2_tables_are_cut_and_not_rounded() -> None:
    """Or averages. The larger tasks say nothing: of their n, any number with one decimal is some share."""
    cut = {"25.9": 169, "26.5": 173, "26.8": 175, "27.9": 182}
    # 4 + 4 + 7 rows of 4 tasks.
    assert unlike_shares(GPT2_TABLES) == (60, {("logiqa", p) for p in cut})
    assert {p: cut_shares(p, 651) for p in cut} == {p: [k] for p, k in cut.items()}
    # Yet not all were cut: 167/651 = 25.653 and 166/651 = 25.499, which cut gives 25.6 and 25.4.
    assert rounded_shares("25.7", 651) == [167]
    assert rounded_shares("25.5", 651) == [166]
    assert cut_shares("25.7", 651) == cut_shares("25.5", 651) == []


# --------------------------------------------------------------------------------------- the strict loader
def swap(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (swap("    n: 651\n", ""), "tasks.logiqa.n: is missing"),
        (swap("    n: 651\n", "    n: 0\n"), "tasks.logiqa.n: must be at least 1"),
        (swap("    n: 651\n", "    n: true\n"), "tasks.logiqa.n: must be a non-empty int"),
        (swap("    n: 651\n", '    n: "651"\n'), "tasks.logiqa.n: must be a non-empty int"),
        (swap("    n: 651\n", "    n: 651\n    n: 652\n"), "n: given twice"),
        (swap("    n: 651\n", "    n: 651\n    items: 651\n"), "tasks.logiqa.items: is not a key"),
        (swap('version: "1.0"', "version: 1.0"), "tasks.logiqa.version: must be a non-empty str"),
        (swap("[acc, acc_norm]", "[acc, acc]"), "tasks.logiqa.metrics: must be different"),
        (swap("configs: [logiqa]", "configs: [logiqa, two]"), "tasks.logiqa.configs: must name one"),
        (
            swap("configs: [logiqa]", "configs: [logiqa, null]"),
            "tasks.logiqa.configs: must be different texts",
        ),
        (swap("mmlu_{config}", "mmlu_all"), "tasks.mmlu.subtask: must hold {config}"),
        (swap("allenai/sciq", "sciq"), "tasks.sciq.sources[0].repository: must be owner/name"),
        (
            swap("configured: false", "configured: 0"),
            "tasks.logiqa.sources[1].configured: must be a non-empty bool",
        ),
        (swap("sha256: 7d5bb", "sha256: 7D5BB"), "tasks.logiqa.raw_text[0].sha256: must be 64 lower-case"),
        (swap("- task: logiqa2", "- task: logiqa3"), "suites.gpt2_qa.tasks[1].task: 'logiqa3' is not among"),
        (
            swap("num_fewshot: 5", "num_fewshot: -1"),
            "suites.gpt2_qa.tasks[0].num_fewshot: must be at least 0",
        ),
        (
            swap("paper_metric: acc_norm", "paper_metric: f1"),
            "suites.gpt2_qa.tasks[0].paper_metric: 'f1' is not",
        ),
        (swap("- task: logiqa2", "- task: logiqa"), "suites.gpt2_qa.tasks: names a task twice"),
        (swap("  gpt2_qa:\n", "  gpt2_qa:\n    title: x\n"), "suites.gpt2_qa.title: is not a key"),
        (swap("\ntasks:\n", "\nversion: 1\ntasks:\n"), "version: is not a key"),
        (lambda text: text.partition("\nsuites:")[0], "suites: must be a mapping"),
        (lambda text: "- 1\n", "the file: must be a mapping"),
        (lambda text: "", "the file: must be a mapping"),
        (lambda text: "a: [", "is not YAML"),
        (lambda text: re.sub(r"  llama_qa:.*", "", text, flags=re.S), "tasks.boolq: is in no suite"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(tmp_path: Path, edit: Callable[[str], str], message: str) -> None:
    file = tmp_path / "edited.yaml"
    file.write_text(edit(SUITES.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_suites(file)
    assert str(error.value).startswith("edited.yaml: ")
    assert "\n" not in str(error.value)


def test_the_shipped_file_is_read_once_and_cannot_be_changed() -> None:
    suites = load_suites()
    assert suites is load_suites()
    assert read_suites(SUITES) == suites
    with pytest.raises(TypeError):
        suites["own"] = suites["gpt2_qa"]  # type: ignore[index]

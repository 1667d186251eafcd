"""The paper's evaluation suites as data: which tasks, shots, metrics, splits, and where their items lie.

File: suites.yaml. Loads without torch, datasets and lm_eval; scores nothing and fetches nothing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eval.yaml_sections import Section, read_sections

SUITES = Path(__file__).parent / "suites.yaml"
LOWER_IS_BETTER = frozenset({"perplexity"})


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A data set repository of the hub at a revision."""

    repository: str
    """Owner and name: allenai/sciq."""

    revision: str = "main"
    """Branch, or refs/pr/6, refs/convert/parquet."""

    configured: bool = True
    """False: this revision is loaded without a configuration's name."""


@dataclass(frozen=True, kw_only=True)
class RawFile:
    """A published text file that holds one split."""

    split: str
    name: str
    bytes: int
    sha256: str
    items: int


@dataclass(frozen=True, kw_only=True)
class RawText:
    """A data set as its authors published it; logiqa_text.py reads it."""

    files: tuple[RawFile, ...]


@dataclass(frozen=True, kw_only=True)
class EvalTask:
    """One task as one suite scores it."""

    suite: str
    name: str
    """lm-eval's task name."""

    paper_name: str
    num_fewshot: int
    paper_metric: str
    """The metric that the paper most likely printed."""

    why: str
    """What speaks for it, in a sentence."""

    metrics: tuple[str, ...]
    """Every metric that lm-eval gives, without the filter's name."""

    filter: str
    split: str
    """Split that is scored."""

    n: int
    """Items of that split."""

    version: str
    """lm-eval's version of the task (metadata.version) as text."""

    shipped: str | None
    """Folder below lm_eval/tasks that holds it; None: eval/tasks of ours does."""

    subtasks: tuple[str, ...]
    """lm-eval tasks that run: the task itself; for mmlu one a subject."""

    configs: tuple[str | None, ...]
    """The data set's configuration for each subtask; None where it has none to name."""

    sources: tuple[DataSource, ...]
    """Where the items lie; tried in this order."""

    raw_text: RawText | None
    """What to fall back on where no source loads."""

    requests: int
    """Requests to the model for all n items: one a choice, one a generation."""

    tokens_an_item: int
    """Estimate of ours, in GPT-2 tokens: an item with one answer, which is also what a shot adds."""

    generated: int
    """Tokens that a request generates at most; 0: it generates none."""

    @property
    def tokens_a_request(self) -> int:
        """Estimate of ours, in GPT-2 tokens: the prompt with all shots, before truncation."""
        return self.tokens_an_item * (1 + self.num_fewshot)

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """Metric -> whether a higher value is a better one."""
        return MappingProxyType({metric: metric not in LOWER_IS_BETTER for metric in self.metrics})


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks that the paper reports in one table."""

    name: str
    caption: str
    tasks: tuple[EvalTask, ...]
    """In the order of the paper's columns."""

    def task(self, name: str) -> EvalTask:
        """The task of that name; KeyError otherwise."""
        found = next((task for task in self.tasks if task.name == name), None)
        if found is None:
            raise KeyError(name)
        return found


@cache
def load_suites() -> Mapping[str, Suite]:
    """Name -> suite of the shipped suites.yaml."""
    return read_suites(SUITES)


def read_suites(file: Path) -> Mapping[str, Suite]:
    """Name -> suite.

    Raises:
        ValueError: names the file, the key and what is wrong with it.
    """
    root = read_sections(file)
    facts = dict(zip(root.names("tasks"), map(_facts, root.take_sections("tasks")), strict=True))
    names = root.names("suites")
    suites = {
        name: _suite(name, section, facts)
        for name, section in zip(names, root.take_sections("suites"), strict=True)
    }
    root.end()
    used = {task.name for suite in suites.values() for task in suite.tasks}
    for name in facts:
        if name not in used:
            raise ValueError(f"{file.name}: tasks.{name}: is in no suite")
    return MappingProxyType(suites)


def _facts(section: Section) -> dict[str, Any]:
    """EvalTask's fields that do not depend on the suite; `subtask` is the pattern of their names, or None."""
    facts: dict[str, Any] = {
        "paper_name": section.take("paper_name", str),
        "metrics": _texts(section, "metrics"),
        "filter": section.take_or("filter", str, "none"),
        "split": section.take("split", str),
        "n": section.take_count("n"),
        "version": section.take("version", str),
        "shipped": section.take_text_or_null("shipped"),
        "subtask": section.take_or("subtask", str, ""),
        "configs": _configs(section),
        "sources": tuple(_source(source) for source in section.take_sections("sources")),
        "raw_text": _raw_text(section),
        "requests": section.take_count("requests"),
        "tokens_an_item": section.take_count("tokens_an_item"),
        "generated": section.take_or("generated", int, 0),
    }
    if not facts["subtask"] and len(facts["configs"]) != 1:
        raise section.wrong("configs", "must name one, unless `subtask` says how the subtasks are called")
    if facts["subtask"] and "{config}" not in facts["subtask"]:
        raise section.wrong("subtask", "must hold {config}")
    section.end()
    return facts


def _texts(section: Section, key: str) -> tuple[str, ...]:
    values = section.take(key, list)
    if not all(isinstance(value, str) and value for value in values) or len(set(values)) != len(values):
        raise section.wrong(key, f"must be different texts, found {values!r}")
    return tuple(values)


def _configs(section: Section) -> tuple[str | None, ...]:
    values = section.take("configs", list)
    if values == [None]:
        return (None,)
    if not all(isinstance(value, str) and value for value in values) or len(set(values)) != len(values):
        raise section.wrong("configs", f"must be different texts, or one null, found {values!r}")
    return tuple(values)


def _source(section: Section) -> DataSource:
    source = DataSource(
        repository=section.take("repository", str),
        revision=section.take_or("revision", str, "main"),
        configured=section.take_or("configured", bool, True),
    )
    if source.repository.count("/") != 1:
        raise section.wrong("repository", f"must be owner/name, found {source.repository!r}")
    section.end()
    return source


def _raw_text(section: Section) -> RawText | None:
    files = section.take_sections("raw_text") if section.holds("raw_text") else ()
    return RawText(files=tuple(_raw_file(file) for file in files)) if files else None


def _raw_file(section: Section) -> RawFile:
    file = RawFile(
        split=section.take("split", str),
        name=section.take("name", str),
        bytes=section.take_count("bytes"),
        sha256=section.take("sha256", str),
        items=section.take_count("items"),
    )
    if not re.fullmatch("[0-9a-f]{64}", file.sha256):
        raise section.wrong("sha256", "must be 64 lower-case hexadecimal digits")
    section.end()
    return file


def _suite(name: str, section: Section, facts: Mapping[str, Mapping[str, Any]]) -> Suite:
    suite = Suite(
        name=name,
        caption=section.take("caption", str),
        tasks=tuple(_task(name, task, facts) for task in section.take_sections("tasks")),
    )
    section.end()
    names = [task.name for task in suite.tasks]
    if len(set(names)) != len(names):
        raise section.wrong("tasks", "names a task twice")
    return suite


def _task(suite: str, section: Section, facts: Mapping[str, Mapping[str, Any]]) -> EvalTask:
    name = section.take("task", str)
    if name not in facts:
        raise section.wrong("task", f"{name!r} is not among the tasks of this file")
    shared = dict(facts[name])
    subtask = shared.pop("subtask") or name
    shots = section.take("num_fewshot", int)
    if shots < 0:
        raise section.wrong("num_fewshot", f"must be at least 0, found {shots}")
    task = EvalTask(
        suite=suite,
        name=name,
        num_fewshot=shots,
        paper_metric=section.take("paper_metric", str),
        why=section.take("why", str),
        subtasks=tuple(subtask.replace("{config}", config or "") for config in shared["configs"]),
        **shared,
    )
    if task.paper_metric not in task.metrics:
        raise section.wrong("paper_metric", f"{task.paper_metric!r} is not one of {', '.join(task.metrics)}")
    section.end()
    return task

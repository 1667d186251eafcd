"""docs/evaluation.md says what the code does: its commands are parsed, its tables are the suites'."""

import re
import shlex
from pathlib import Path

import pytest
from doc_commands import commands, parse

from eval.suites import load_suites
from reproduce.paper.tables import load_tables

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", commands(TEXT))
def test_commands_are_understood(text: str) -> None:
    parse(shlex.split(text)[1:])


def test_every_suite_is_listed_with_its_tasks() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", TEXT, flags=re.MULTILINE))
    assert list(rows) == list(load_suites())
    # MNLI's two sets, ARC's two and Lambada's two are each named once.
    short = {"MNLI mismatched": "mismatched", "ARC Easy": "Easy", "Lambada (Standard)": "Standard"}
    for name, suite in load_suites().items():
        for task in suite.tasks:
            shown = short.get(task.paper_name, task.paper_name)
            assert shown.replace("Lambada (OpenAI)", "OpenAI") in rows[name], task.paper_name


def test_no_printed_number_of_a_tiny_task_is_a_mean_over_100_items() -> None:
    printed = [
        row.values[table.column_index(task)].value
        for name, table in load_tables().items()
        if name.endswith("_lur")
        for task in ("tinyArc", "tinyWinogrande")
        for row in table.rows
    ]
    assert len(printed) == 8
    assert not any(value == round(value) for value in printed)

"""What the YAML files here ask of an item: its prompt, its choices, the right one.

The prompts are lm-eval's character by character; tests/test_eval_tasks.py holds them against those it ships.
Only the standard library: lm-eval loads this file by its path.
"""

from collections.abc import Mapping
from typing import Any

Item = Mapping[str, Any]

LABELS = ("a", "b", "c", "d")


def logiqa_prompt(item: Item) -> str:
    """Passage, question and the lettered options; at most four, as the letters of the data set."""
    return _passage(item["context"], f"{item['question']}\nChoices:", item["options"])


def logiqa_answer(item: Item) -> int:
    """Index of the right option; ValueError for a label that is none of a to d."""
    return LABELS.index(item["label"].strip())


def logiqa2_prompt(item: Item) -> str:
    """As LogiQA's, without the line `Choices:`."""
    return _passage(item["text"], item["question"], item["options"])


def arc_prompt(item: Item) -> str:
    """The question alone; the choices are what is scored."""
    return f"Question: {item['question']}\nAnswer:"


def arc_choices(item: Item) -> list[str]:
    """The texts of the choices."""
    return list(item["choices"]["text"])


def arc_answer(item: Item) -> int:
    """Index of the right choice; some items are labelled 1 to 4 rather than A to D."""
    return list(item["choices"]["label"]).index(item["answerKey"])


def winogrande_answer(item: Item) -> int:
    """Index of the name that fills the blank: where prompts differ, lm-eval takes this in place of one."""
    return {"1": 0, "2": 1}[item["answer"]]


def winogrande_beginnings(item: Item) -> list[str]:
    """The sentence up to its blank, filled with either name: the two prompts."""
    before, _ = item["sentence"].split("_", 1)
    return [before + name for name in (item["option1"], item["option2"])]


def winogrande_ending(item: Item) -> str:
    """The sentence after its blank: what is scored."""
    _, after = item["sentence"].split("_", 1)
    return str(after).strip()


def _passage(passage: str, question: str, options: list[str]) -> str:
    lettered = [f"{label.upper()}. {option}" for label, option in zip(LABELS, options, strict=False)]
    return "\n".join([f"Passage: {passage}", f"Question: {question}", *lettered, "Answer:"])

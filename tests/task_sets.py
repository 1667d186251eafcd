"""Tiny data sets of the paper's 20 tasks for the stand-in hub, in the shape of the real repositories.

Names of repositories, files and configurations, columns and their types are the real ones; every sentence
is made up by the grammar below.

    add_all(hub.root)
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from eval.suites import load_suites

NAMES = ["Anselm", "Brida", "Corvin", "Delphine", "Egbert", "Fenna", "Gisbert", "Hedda"]
THINGS = ["bucket", "candle", "drum", "flute", "hammer", "jar", "kite", "pebble", "rope", "spoon"]
PLACES = ["barn", "cellar", "forge", "garden", "harbor", "loft", "meadow", "tower"]
VERBS = ["broke", "cleaned", "drew", "found", "kept", "mended", "sold", "washed"]
KINDS = ["blue", "broad", "cheap", "dusty", "green", "narrow", "plain", "warm"]

Row = dict[str, Any]
Splits = Mapping[str, Sequence[Row]]


class Grammar(random.Random):
    """Sentences that nobody has written."""

    def thing(self) -> str:
        return f"{self.choice(KINDS)} {self.choice(THINGS)}"

    def sentence(self) -> str:
        return f"{self.choice(NAMES)} {self.choice(VERBS)} the {self.thing()} in the {self.choice(PLACES)}."

    def text(self, sentences: int) -> str:
        return " ".join(self.sentence() for _ in range(sentences))

    def question(self) -> str:
        return f"What has {self.choice(NAMES)} seen in the {self.choice(PLACES)}?"


# ------------------------------------------------------------------------------------------------ rows
def sciq(g: Grammar, _: int) -> Row:
    wrong = dict(zip(("distractor3", "distractor1", "distractor2"), g.sample(THINGS, 3), strict=True))
    return {"question": g.question(), **wrong, "correct_answer": g.choice(KINDS), "support": g.text(2)}


def piqa(g: Grammar, _: int) -> Row:
    thing = g.thing()
    one, other = f"Wash the {thing} in the {g.choice(PLACES)}.", f"Leave the {thing} to {g.choice(NAMES)}."
    return {"goal": f"Make the {thing} shine.", "sol1": one, "sol2": other, "label": g.randrange(2)}


def logiqa(g: Grammar, _: int) -> Row:
    options = [g.sentence() for _ in range(4)]
    return {"label": g.choice("abcd"), "context": g.text(3), "question": g.question(), "options": options}


def logiqa2(g: Grammar, n: int) -> Row:
    rest = {
        "type": '{"made up": true}',
        "question": g.question(),
        "options": [g.sentence() for _ in range(4)],
    }
    return {"id": n, "answer": g.randrange(4), "text": g.text(3), **rest}


def arc(g: Grammar, n: int) -> Row:
    labels = list("1234" if n % 5 == 4 else "ABCD")
    choices = {"text": [g.sentence() for _ in labels], "label": labels}
    return {"id": f"made_up_{n}", "question": g.question(), "choices": choices, "answerKey": g.choice(labels)}


def tiny(make: Callable[[Grammar, int], Row]) -> Callable[[Grammar, int], Row]:
    return lambda g, n: {**make(g, n), "input_formatted": g.text(1)}


def winogrande(g: Grammar, _: int) -> Row:
    one, other = g.sample(NAMES, 2)
    text = f"{one} gave {other} the {g.thing()} because _ was going to the {g.choice(PLACES)}."
    return {"sentence": text, "option1": one, "option2": other, "answer": g.choice("12")}


def copa(g: Grammar, n: int) -> Row:
    row = {"premise": g.sentence(), "choice1": g.sentence(), "choice2": g.sentence()}
    return {**row, "question": g.choice(("cause", "effect")), "idx": n, "label": g.randrange(2)}


def boolq(g: Grammar, n: int) -> Row:
    row = {"question": f"did {g.choice(NAMES).lower()} keep the {g.thing()}", "passage": g.text(3)}
    return {**row, "idx": n, "label": g.randrange(2)}


def super_rte(g: Grammar, n: int) -> Row:
    return {"premise": g.text(2), "hypothesis": g.sentence(), "idx": n, "label": g.randrange(2)}


def lambada(g: Grammar, _: int) -> Row:
    thing = g.choice(THINGS)
    return {"text": f"{g.text(2)} {g.choice(NAMES)} looked for the {thing} and found no {thing}"}


def lambada_standard(g: Grammar, n: int) -> Row:
    return {**lambada(g, n), "domain": "made_up"}


def mmlu(g: Grammar, _: int) -> Row:
    choices = [str(each) for each in g.sample(range(90), 4)]
    return {"question": g.question(), "subject": "made_up", "choices": choices, "answer": g.randrange(4)}


def mnli(g: Grammar, n: int) -> Row:
    return {"premise": g.sentence(), "hypothesis": g.sentence(), "label": g.randrange(3), "idx": n}


def rte(g: Grammar, n: int) -> Row:
    return {"sentence1": g.text(2), "sentence2": g.sentence(), "label": g.randrange(2), "idx": n}


def sst2(g: Grammar, n: int) -> Row:
    return {"sentence": f"a {g.choice(KINDS)} film about a {g.thing()} ", "label": g.randrange(2), "idx": n}


def siqa(g: Grammar, _: int) -> Row:
    answers = {f"answer{letter}": g.sentence() for letter in "ABC"}
    return {"context": g.sentence(), "question": g.question(), **answers, "label": g.choice("123")}


def trivia(g: Grammar, n: int) -> Row:
    thing = g.thing()
    answer = {
        "aliases": [thing, thing.title()],
        "normalized_aliases": [thing],
        "matched_wiki_entity_name": "",
        "normalized_matched_wiki_entity_name": "",
        "normalized_value": thing,
        "type": "WikipediaEntity",
        "value": thing.title(),
    }
    pages = {"entity_pages": {"title": [], "wiki_context": []}}
    found = {"search_results": {"title": [], "search_context": []}}
    row = {"question": g.question(), "question_id": f"mu_{n}", "question_source": "made up"}
    return {**row, **pages, **found, "answer": answer}


STRINGS = pa.list_(pa.string())
TRIVIA = pa.schema(
    [
        ("question", pa.string()),
        ("question_id", pa.string()),
        ("question_source", pa.string()),
        ("entity_pages", pa.struct([("title", STRINGS), ("wiki_context", STRINGS)])),
        ("search_results", pa.struct([("title", STRINGS), ("search_context", STRINGS)])),
        ("answer", pa.struct([(key, STRINGS if "aliases" in key else pa.string())
                              for key in trivia(Grammar(0), 0)["answer"]])),
    ]
)  # fmt: skip
LABELS: Mapping[str, tuple[str, ...]] = {
    "copa": ("choice1", "choice2"),
    "boolq": ("False", "True"),
    "super_rte": ("entailment", "not_entailment"),
    "mnli": ("entailment", "neutral", "contradiction"),
    "rte": ("entailment", "not_entailment"),
    "sst2": ("negative", "positive"),
    "piqa": ("0", "1"),
}
"""Columns called `label` that are classes."""


def rows(make: Callable[[Grammar, int], Row], sizes: Mapping[str, int], salt: str = "") -> Splits:
    """So many rows of every split, the same at every call."""
    name = f"{make.__name__}{salt}"
    return {s: [make(Grammar(f"{name}/{s}/{n}"), n) for n in range(count)] for s, count in sizes.items()}


# ------------------------------------------------------------------------------------------ repositories
@dataclass
class Repository:
    """One revision of a repository on its way to disk."""

    root: Path
    name: str
    revision: str = "main"
    configs: list[Row] = field(default_factory=list)
    infos: list[Row] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        main = self.revision == "main"
        base = self.root if main else self.root / "revisions" / quote(self.revision, safe="")
        return base / "datasets" / self.name

    def write(self, path: str, data: bytes) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(data)

    def parquet(self, path: str, rows: Sequence[Row], schema: pa.Schema | None = None) -> pa.Table:
        table = pa.Table.from_pylist(list(rows), schema=schema)
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, self.folder / path)
        return table

    def config(
        self,
        name: str,
        splits: Splits,
        folder: str | None = None,
        *,
        labels: Sequence[str] | None = None,
        schema: pa.Schema | None = None,
        default: bool = False,
    ) -> None:
        """A configuration as `push_to_hub` writes it: FOLDER/SPLIT-00000-of-00001.parquet, and its card."""
        where, sizes, features = folder or name, [], []
        for split, each in splits.items():
            table = self.parquet(f"{where}/{split}-00000-of-00001.parquet", each, schema)
            sizes.append({"name": split, "num_bytes": table.nbytes, "num_examples": table.num_rows})
            features = [_feature(column.name, column.type, labels) for column in table.schema]
        total = sum(each["num_bytes"] for each in sizes)
        info = {"features": features, "splits": sizes, "download_size": total, "dataset_size": total}
        self.infos.append({"config_name": name, **info})
        self.entry(name, {split: f"{where}/{split}-*" for split in splits}, default=default)

    def entry(self, name: str, patterns: Mapping[str, str], *, default: bool = False) -> None:
        files = [{"split": split, "path": path} for split, path in patterns.items()]
        self.configs.append(
            {"config_name": name, "data_files": files} | ({"default": True} if default else {})
        )

    def card(self) -> None:
        header: Row = {"license": "other"}
        if self.infos:
            header["dataset_info"] = self.infos if len(self.infos) > 1 else self.infos[0]
        if self.configs:
            header["configs"] = self.configs
        # As the hub's client writes it: without anchors.
        plain = json.loads(json.dumps(header))
        text = yaml.dump(plain, sort_keys=False, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
        self.write("README.md", f"---\n{text}---\n# Made up\n".encode())
        self.write(".gitattributes", b"*.parquet filter=lfs\n")


def _feature(name: str, kind: pa.DataType, labels: Sequence[str] | None) -> Row:
    """A column in the words of README.md."""
    if labels is not None and name == "label":
        return {"name": name, "dtype": {"class_label": {"names": {str(n): e for n, e in enumerate(labels)}}}}
    if pa.types.is_struct(kind):
        return {"name": name, "struct": [_feature(each.name, each.type, None) for each in kind]}
    if pa.types.is_list(kind):
        return {"name": name, "list": str(kind.value_type)}
    return {"name": name, "dtype": str(kind)}


def add_qa(root: Path, three: Mapping[str, int], two: Mapping[str, int]) -> None:
    for name, make, sizes in (
        ("allenai/sciq", sciq, three),
        ("baber/piqa", piqa, two),
        ("lighteval/siqa", siqa, two),
    ):
        one = Repository(root, name)
        one.config("default", rows(make, sizes), "data", labels=LABELS.get(make.__name__))
        one.card()
    arcs = Repository(root, "allenai/ai2_arc")
    for name in ("ARC-Challenge", "ARC-Easy"):
        arcs.config(name, rows(arc, three, name))
    arcs.card()
    grande = Repository(root, "allenai/winogrande")
    for name in ("winogrande_debiased", "winogrande_xl"):
        grande.config(name, rows(winogrande, three, name))
    grande.card()
    trivias = Repository(root, "mandarjoshi/trivia_qa")
    for name in ("rc", "rc.nocontext"):
        trivias.config(name, rows(trivia, three, name), schema=TRIVIA)
    trivias.card()


def add_tiny(root: Path) -> None:
    """The 100 items that the tiny tasks have."""
    one = Repository(root, "tinyBenchmarks/tinyAI2_arc")
    one.config("ARC-Challenge", rows(tiny(arc), {"train": 30, "test": 100, "validation": 30}, "arc"))
    one.card()
    other = Repository(root, "tinyBenchmarks/tinyWinogrande")
    other.config("winogrande_xl", rows(tiny(winogrande), {"train": 10, "validation": 100}, "wino"))
    other.card()


def add_glue(root: Path, three: Mapping[str, int]) -> None:
    glue = Repository(root, "nyu-mll/glue")
    few = {**dict.fromkeys(("validation_matched", "validation_mismatched"), three["validation"])}
    glue.config("mnli", rows(mnli, {"train": three["train"], **few}), labels=LABELS["mnli"])
    glue.config("rte", rows(rte, three), labels=LABELS["rte"])
    glue.config("sst2", rows(sst2, three), labels=LABELS["sst2"])
    glue.card()
    more = Repository(root, "aps/super_glue")
    for name, make in (("boolq", boolq), ("copa", copa), ("rte", super_rte)):
        more.config(name, rows(make, three), labels=LABELS[make.__name__])
    more.card()


def add_logiqa(root: Path, three: Mapping[str, int]) -> None:
    """Loading scripts on main; data where the hub has converted it, or somebody has asked to put it."""
    for name, script in (("EleutherAI/logiqa", "logiqa.py"), ("baber/logiqa2", "logiqa2.py")):
        old = Repository(root, name)
        old.write(script, b"raise SystemExit('nobody runs this')\n")
        old.card()
    converted = Repository(root, "EleutherAI/logiqa", "refs/convert/parquet")
    for split, each in rows(logiqa, three).items():
        converted.parquet(f"logiqa/{split}/0000.parquet", each)
        converted.write(f"logiqa/{split}/index.duckdb", b"not for us")
    wanted = Repository(root, "baber/logiqa2", "refs/pr/6")
    wanted.config("logiqa2", rows(logiqa2, three), default=True)
    wanted.card()


def add_lambada(root: Path, three: Mapping[str, int]) -> None:
    openai = Repository(root, "EleutherAI/lambada_openai")
    for name, file in (("default", "lambada_test.jsonl"), ("de", "lambada_test_de.jsonl")):
        made = rows(lambada, {"test": three["test"]}, name)["test"]
        openai.write(f"data/{file}", "".join(f"{json.dumps(row)}\n" for row in made).encode())
        openai.entry(name, {"test": f"data/{file}"})
    openai.card()
    standard = Repository(root, "cimec/lambada")
    standard.config("plain_text", rows(lambada_standard, three), default=True)
    standard.card()


def add_mmlu(root: Path) -> None:
    """All 57 subjects, few rows of each; and what nobody may fetch: `all` and `auxiliary_train`."""
    task = next(task for suite in load_suites().values() for task in suite.tasks if task.name == "mmlu")
    one = Repository(root, "cais/mmlu")
    made = rows(mmlu, {"test": 2, "validation": 1, "dev": 5})
    for subject in [*task.configs, "all"]:
        assert subject is not None
        one.config(subject, {s: [{**row, "subject": subject} for row in each] for s, each in made.items()})
    one.config("auxiliary_train", {"train": made["dev"]})
    one.card()


def add_all(root: Path, items: int = 8) -> None:
    """Every task's repository below the root of a stand-in hub; `items` a split, training splits 12 more."""
    two = {"train": items + 12, "validation": items}
    three = {**two, "test": items}
    add_qa(root, three, two)
    add_tiny(root)
    add_glue(root, three)
    add_logiqa(root, three)
    add_lambada(root, three)
    add_mmlu(root)

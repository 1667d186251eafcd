"""docs/data.md says what the code does: commands are parsed, its Python is run, commits are the code's."""

import re
import shlex
import string
from pathlib import Path

import numpy as np
import prep_inputs
import pytest
from doc_commands import BLOCK, commands, parse

from data_prep.layouts import LAYOUTS
from data_prep.pipeline import prepare
from data_prep.spec import TOKENIZERS, PrepSpec
from data_prep.tokenizers import REPOSITORIES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TEXT = (DOCS / "data.md").read_text(encoding="utf-8")
BLOCKS = BLOCK.findall(TEXT)
VARIABLES = {"DATASET": "fineweb", "TOKENIZER": "gpt2", "OUT": "/a folder/store", "INPUT": "/some text"}


def test_the_text_has_commands() -> None:
    assert len(commands(TEXT)) > 15


@pytest.mark.parametrize("text", commands(TEXT))
def test_every_command_is_one_that_the_command_line_understands(text: str) -> None:
    options = parse(shlex.split(text)[1:])
    if text.startswith("reweight prep ") and not any(
        options[key] for key in ("verify", "mend", "join", "stat")
    ):
        assert options["source"] in LAYOUTS


@pytest.mark.parametrize("name", ["prep-array", "prep-merge"])
def test_the_command_of_an_sbatch_file_is_understood(name: str) -> None:
    script = (DOCS / "sbatch" / f"{name}.sbatch").read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(line for line in script.splitlines() if line.startswith("srun "))
    # What the shell would make of it; test_cluster_prep.py has it run by one.
    line = re.sub(r'\$\{INPUT:\+--input "\$INPUT"\}', '--input "$INPUT"', line)
    line = re.sub(r"\$\{MORE:-\}", "--limit-tokens 100B", line)
    line = re.sub(r"\$\{([A-Z]+):-[^}]*\}", r"$\1", line)
    task = {"SLURM_CPUS_PER_TASK": "8", "SLURM_ARRAY_TASK_ID": "3", "SHARES": "16"}
    words = [string.Template(word).substitute(VARIABLES | task) for word in shlex.split(line)]
    options = parse(words[words.index("reweight") + 1 :])
    assert options["workers"] == 8
    if name == "prep-array":
        expected = {"source": "fineweb", "tokenizer": "gpt2", "out": Path("/a folder/store")}
        assert {key: options[key] for key in expected} == expected
        assert options["inputs"] == (Path("/some text"),)
        assert options["limit_tokens"] == 10**11
        assert (options["share"].part, options["share"].parts) == (3, 16)  # type: ignore[attr-defined]
    else:
        assert (options["join"], options["source"]) == (True, "/a folder/store")


def test_the_data_sets_and_their_commits_are_the_codes() -> None:
    table = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.*?) \|", TEXT, flags=re.MULTILINE))
    assert list(LAYOUTS) == [name for name in table if name in LAYOUTS]
    for name, layout in LAYOUTS.items():
        if layout.hub is not None:
            assert layout.hub.revision is not None
            assert f"`{layout.hub.repository}` at {layout.hub.revision[:12]}" in table[name]
    for name in TOKENIZERS:
        assert f"`{REPOSITORIES[name][0]}`" in table[name]


def test_the_downloads_for_offline_work_are_of_the_pinned_commits() -> None:
    found = re.findall(r"^hf download (\S+) .*--revision ([0-9a-f]{40})$", TEXT, flags=re.MULTILINE)
    known = {each.hub.repository: each.hub.revision for each in LAYOUTS.values() if each.hub}
    known |= dict(REPOSITORIES.values())
    assert len(found) == 2
    assert dict(found).items() <= known.items()


def test_the_example_reads_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prep_inputs.tokenizer_folder(tmp_path / "vocab")
    inputs = (prep_inputs.slimpajama(tmp_path / "in"),)
    store = tmp_path / "data/slimpajama-gpt2"
    manifest = prepare(
        PrepSpec(dataset="slimpajama", inputs=inputs, out=store, tokenizer=str(folder))
    ).manifest
    monkeypatch.chdir(tmp_path)
    (example,) = (block for language, block in BLOCKS if language == "python")
    assert sum(bool(line.strip()) for line in example.splitlines()) <= 6
    names: dict[str, object] = {}
    exec(compile(example, "data.md", "exec"), names)
    documents: list[np.ndarray] = names["documents"]  # type: ignore[assignment]
    # Every third of a file's 40 records is of arxiv, from the first: 14.
    assert len(documents) == 14
    end = manifest.tokenizer.end_of_text
    assert all(document[-1] == end and end not in document[:-1] for document in documents)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(links) >= 2
    for link in links:
        assert (DOCS / link).is_file(), link

"""The README says what the code does: its tree, commands, recipes and example are checked here."""

import re
import shlex
from pathlib import Path

import pytest

from reproduce.cli.root import COMMANDS, cli
from reproduce.recipe import shipped_recipes

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_first_code_block_is_the_two_commands() -> None:
    assert [line.split("#")[0].strip() for line in BLOCKS[0][1].strip().splitlines()] == [
        "make demo",
        "make test",
    ]


def test_every_path_of_the_tree_exists_and_no_package_is_missing() -> None:
    tree = next(block for _, block in BLOCKS if block.startswith("recipes/"))
    folders: list[str] = []
    shown = set()
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name]
        path = "/".join(part.rstrip("/") for part in folders)
        assert (ROOT / path).exists(), path
        shown.add(path)
    packages = {
        str(p.parent.relative_to(ROOT)) for p in ROOT.glob("*/**/__init__.py") if ".venv" not in p.parts
    }
    assert packages - {"tests"} <= shown


def commands() -> list[str]:
    found = re.findall(r"`(reweight [^`\n]+)`", TEXT)
    found += [
        line.strip()
        for _, block in BLOCKS
        for line in block.splitlines()
        if line.strip().startswith("reweight ")
    ]
    return sorted({command.split("#")[0].strip() for command in found})


@pytest.mark.parametrize("text", commands())
def test_every_command_is_one_that_the_command_line_understands(text: str) -> None:
    words = shlex.split(text)[1:]
    assert words[0] in COMMANDS, text
    command = cli.get_command(cli.make_context("reweight", [], resilient_parsing=True), words[0])
    assert command is not None
    # Parsing only: unknown options and missing arguments raise here, nothing runs.
    with command.make_context(words[0], words[1:], resilient_parsing=False) as context:
        recipe = context.params.get("name")
    if words[0] == "train":
        assert recipe in shipped_recipes()


def test_every_table_and_figure_has_its_command() -> None:
    from reproduce.paper.needs import PAPER

    assert set(re.findall(r"`reweight reproduce (\w+)`", TEXT)) == set(PAPER)


def test_recipes_named_in_tables_exist() -> None:
    for name in re.findall(r"`((?:gpt2|demo)_[a-z0-9_.]+)`", TEXT):
        assert name in shipped_recipes(), name


def test_the_example_of_the_method_alone_runs_and_has_ten_lines() -> None:
    example = next(block for language, block in BLOCKS if language == "python")
    assert len(example.strip().splitlines()) <= 10
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=8, n_positions=16, vocab_size=20, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    before = model.transformer.wte.weight.detach().clone()
    loader = [torch.randint(0, 20, (4, 16)) for _ in range(3)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    exec(compile(example, "README.md", "exec"), {"model": model, "loader": loader, "optimizer": optimizer})
    assert not torch.equal(model.transformer.wte.weight, before)

"""The commands that a page of docs/ shows, and what click makes of them. Nothing runs."""

import re
from collections.abc import Mapping

import click

from reproduce.cli.root import COMMANDS, cli

BLOCK = re.compile(r"```(\w*)\n(.*?)```", flags=re.DOTALL)


def commands(text: str) -> list[str]:
    """Every `reweight ...` of a page, inline or in a block, without what stands before it."""
    inline = re.findall(r"`(?:[A-Z_]+=\S+ )*(reweight [^`\n]+)`", text)
    lines = (line for _, block in BLOCK.findall(text) for line in block.splitlines())
    found = (re.match(r"(?:[A-Z_]+=\S+ )*(reweight .*)", line) for line in lines)
    return sorted({each.split("#")[0].strip() for each in [*inline, *(m[1] for m in found if m)]})


def parse(words: list[str]) -> Mapping[str, object]:
    """The options that click understands; an unknown one, or a missing value, raises."""
    assert words[0] in COMMANDS, words
    command = cli.get_command(cli.make_context("reweight", [], resilient_parsing=True), words[0])
    assert command is not None
    if isinstance(command, click.Group) and words[2:] and words[1] in command.commands:
        command, words = command.commands[words[1]], words[1:]
    with command.make_context(words[0], words[1:], resilient_parsing=False) as context:
        return dict(context.params)

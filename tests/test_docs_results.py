"""docs/results/gpt2_nano.md: below each `$ reweight ...` stands what it prints on the committed runs."""

import re
import shlex
from pathlib import Path

import pytest

from reproduce.cli import main

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "gpt2_nano.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n\$ (reweight [^\n]*)\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_page_has_its_commands() -> None:
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=[command[:60] for command, _ in BLOCKS])
def test_a_block_is_what_its_command_prints(
    command: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        main()
    out, _ = capsys.readouterr()
    assert ended.value.code == 0
    said = "\n".join(line.rstrip() for line in out.splitlines()).strip()
    assert shown.strip() == said, f"paste this below `$ {command}`:\n{said}"


def test_every_interval_of_the_findings_is_one_that_a_command_prints() -> None:
    printed = [
        (float(low), float(high))
        for _, shown in BLOCKS
        for low, high in re.findall(r"\[([+-]\d\.\d{4}), ([+-]\d\.\d{4})\]", shown)
    ]
    printed += [(-high, -low) for low, high in printed]  # "better by": the other way round
    findings = TEXT[TEXT.index("## What this says") : TEXT.index("## Beside the paper")]
    said = re.findall(r"\[(-?\d\.\d{3}), (-?\d\.\d{3})\]", findings)
    assert len(said) >= 12
    for low, high in said:
        near = [
            pair for pair in printed if max(abs(pair[0] - float(low)), abs(pair[1] - float(high))) <= 6e-4
        ]
        assert near, f"[{low}, {high}] is printed by no command of the page"

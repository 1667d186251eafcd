"""Which files of a repository a configuration is, whatever its README.md says; folders and notes on disk."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval import task_folders
from eval.task_folders import HubFile, Note, configuration, make_folder, read_note, write_note
from eval.task_layout import LayoutError, find_layouts, read_header


def card(**header: object) -> bytes:
    return f"---\n{json.dumps(header)}\n---\n".encode()


def named(*patterns: object) -> dict[str, object]:
    return {"configs": [{"config_name": "c", "data_files": [{"split": "test", "path": list(patterns)}]}]}


LISTED = ["README.md", "c/test-00000.parquet", "c/a.bin", "x.zip", "c/odd[1].parquet", "c/new\nline.parquet"]


def layout_of(readme: bytes, *names: str | None) -> Any:
    return find_layouts(LISTED, read_header(readme), names or ("c",), None)


@pytest.mark.parametrize(
    ("patterns", "why"),
    [
        (["/etc/passwd"], "not inside the repository"),
        (["../*/x.parquet"], "not inside the repository"),
        (["c/../../x.parquet"], "not inside the repository"),
        (["~/x.parquet"], "not inside the repository"),
        (["http://127.0.0.1:1/x.parquet"], "not inside the repository"),
        (["hf://datasets/a/b/x.parquet"], "not inside the repository"),
        (["zip://a.parquet::x.zip"], "not inside the repository"),
        (["file:///etc/passwd"], "not inside the repository"),
        (["c\\test*"], "not inside the repository"),
        (["c/\0"], "not inside the repository"),
        (["*a*a*a*a*b"], "too many wildcards"),
        (["**/a/**/b/**/c/**/d"], "too many wildcards"),
        (["c/" + "a" * 500], "no pattern of files"),
        ([7], "no pattern of files"),
        ([""], "no pattern of files"),
        (["nowhere/*"], "does not find its data"),
        (["c/odd*"], "reads as a pattern"),
        (["x.zip"], "does not find its data"),
        (["c/a.bin"], "does not find its data"),
    ],
)
def test_no_pattern_leaves_the_repository(patterns: list[object], why: str) -> None:
    with pytest.raises(LayoutError, match=why) as caught:
        layout_of(card(**named(*patterns)))
    assert "\n" not in str(caught.value)
    assert "reweight-layout-" not in str(caught.value)


def test_a_folder_of_a_configuration_is_held_to_the_same() -> None:
    for folder in ("/etc", "..", "http://x", "c/../.."):
        with pytest.raises(LayoutError, match="not inside the repository"):
            layout_of(card(configs=[{"config_name": "c", "data_dir": folder}]))
    paths = ["README.md", "c/test-00000.parquet", "d/test-00000.parquet"]
    header = read_header(card(configs=[{"config_name": "c", "data_dir": "c"}]))
    found = find_layouts(paths, header, ["c"], None)["c"]
    assert found.splits == {"test": ("c/test-00000.parquet",)}


BOMB = "---\n" + "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    "readme",
    [
        BOMB.encode() + b"\n---\n",
        b"---\na: &a {x: 1}\nb: {<<: *a}\n---\n",
        b"---\n" + b"[" * 20_000 + b"\n---\n",
        b"---\na: &a [*a]\n---\n",
        b"---\na: 1\n b: [\n---\n",
        b"---\na: !!python/object/apply:os.system ['true']\n---\n",
        b"---\n" + b"a: b\n" * 60_000 + b"---\n",
        b"---\n\xff\n---\n",
        b"---\n[1, 2]\n---\n",
        b"---\na: " + b"9" * 5000 + b"\n---\n",
    ],
    ids=["bomb", "merge", "deep", "loop", "broken", "object", "long", "bytes", "list", "digits"],
)
def test_a_header_that_is_an_attack_or_no_header_is_refused(readme: bytes) -> None:
    with pytest.raises(LayoutError, match=r"the header of its README\.md"):
        read_header(readme)


def test_aliases_of_an_ordinary_header_are_read() -> None:
    assert read_header(b"---\na: &x [1, 2]\nb: *x\n---\ntext") == {"a": [1, 2], "b": [1, 2]}
    assert read_header(b"# no header") == {}


@pytest.mark.parametrize(
    ("header", "name", "why"),
    [
        ({"configs": "c"}, "c", "have no names"),
        ({"configs": [{"data_files": "c/*"}]}, "c", "have no names"),
        (named("c/test-*"), "d", "no configuration d; its README.md names c"),
        ({"configs": [{**named("c/*")["configs"][0], "config_name": n} for n in "ab"]}, None, "no default"),  # type: ignore[index]
        (
            {"configs": [{"config_name": "c", "data_files": "c/*", "encoding": {}}]},
            "c",
            "sets 'encoding'",
        ),
        ({**named("c/test-*"), "dataset_info": [7]}, "c", "dataset_info"),
        ({}, "d", "no configuration d"),
    ],
)
def test_configurations_that_are_not_there_or_odd(header: Any, name: str | None, why: str) -> None:
    with pytest.raises(LayoutError, match=why):
        layout_of(card(**header), name)


def test_columns_that_older_repositories_state_in_a_file_of_their_own() -> None:
    from datasets import DatasetInfo, Features, Value
    from datasets.info import DatasetInfosDict

    stated = DatasetInfosDict({"c": DatasetInfo(features=Features({"a": Value("int8")}))})
    legacy = json.dumps({name: vars(info) | {"features": {"a": {"dtype": "int8", "_type": "Value"}}}
                         for name, info in stated.items()}, default=str).encode()  # fmt: skip
    found = find_layouts(LISTED, read_header(card(**named("c/test-*"))), ["c"], legacy)["c"]
    assert found.info is not None
    assert found.info["features"] == [{"name": "a", "dtype": "int8"}]
    with pytest.raises(LayoutError, match=r"dataset_infos\.json"):
        find_layouts(LISTED, read_header(card(**named("c/test-*"))), ["c"], b"[]")


# ------------------------------------------------------------------------------------------------ notes
@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Note:
    monkeypatch.setattr(task_folders, "home", lambda: tmp_path / "home")
    files = (HubFile(path="c/t.parquet", bytes=3, sha256="a" * 64), HubFile(path="c/u.json", bytes=0))
    config = configuration(
        {"test": files}, None, {"splits": [{"name": "test", "num_examples": 1, "num_bytes": 2}]}
    )
    return Note(repository="a/b", revision="refs/pr/6", commit="c" * 40, configs={"c": config})


def test_a_note_is_read_as_it_was_written_and_damage_is_no_note(note: Note) -> None:
    assert read_note("a/b", "refs/pr/6", ["c"]) is None
    write_note(note)
    assert read_note("a/b", "refs/pr/6", ["c"]) == note
    assert read_note("a/b", "main", ["c"]) is None
    path = task_folders.note_path("a/b", "refs/pr/6", ["c"])
    text = path.read_text()
    for old, new in (
        ("c/t.parquet", "../t.parquet"),
        ("c/t.parquet", "/t.parquet"),
        ("c/t.parquet", "c//t.parquet"),
        ("c/t.parquet", "c/*.parquet"),
        ('"bytes": 3', '"bytes": -3'),
        ('"bytes": 3', '"bytes": true'),
        ("a" * 64, "a" * 63),
        ("c" * 40, "C" * 40),
        ('"version": 1', '"version": 2'),
        ('"repository": "a/b"', '"repository": "a/c"'),
        ('"name": "c"', '"name": "d"'),
        ('"name": "c"', '"name": 7'),
        ('"splits": [{"split"', '"splits": [{"spilt"'),
        ('"info": {', '"info": [], "odd": {'),
        ("}]}", ""),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        assert read_note("a/b", "refs/pr/6", ["c"]) is None, (old, new)


def test_a_folder_is_made_once_and_mended(note: Note, tmp_path: Path) -> None:
    places = {"c/t.parquet": tmp_path / "t", "c/u.json": tmp_path / "u"}
    for place in places.values():
        place.touch()
    folder = make_folder(note, "c", places)
    made = (folder / "README.md").stat().st_mtime_ns
    assert make_folder(note, "c", places) == folder
    assert (folder / "README.md").stat().st_mtime_ns == made
    for damage in (
        lambda: (folder / "README.md").write_text("else"),
        lambda: (folder / "c/t.parquet").unlink(),
        lambda: shutil.rmtree(folder / "c"),
    ):
        damage()
        assert make_folder(note, "c", places) == folder
        assert (folder / "c/t.parquet").readlink() == tmp_path / "t"
        assert "else" not in (folder / "README.md").read_text()
    assert list(folder.parent.iterdir()) == [folder]
    # Another content is another folder, for `datasets` would not see the difference.
    other = replace(note.configs["c"].files["test"][0], sha256="b" * 64)
    info = note.configs["c"].layout.info
    changed = configuration({"test": (other, note.configs["c"].files["test"][1])}, None, info)
    assert make_folder(replace(note, configs={"c": changed}), "c", places) != folder
    assert make_folder(replace(note, commit="d" * 40), "c", places) != folder

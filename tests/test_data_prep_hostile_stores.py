"""Modes of `reweight prep` on what is no store, and on stores with hostile plans, records and manifests."""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from prep_cli import Cli, fill, one_line
from prep_inputs import everything

pytestmark = pytest.mark.usefixtures("no_sync")


class TestStores:
    """--merge, --stat, --verify and --repair on what is no store, or a hostile one."""

    @pytest.fixture
    def store(self, prep: Cli, tmp_path: Path) -> Path:
        fill(tmp_path / "in")
        assert prep()[0] == 0
        return tmp_path / "store"

    @pytest.mark.parametrize("mode", ["--merge", "--stat", "--verify", "--repair"])
    @pytest.mark.parametrize("what", ["missing", "empty", "foreign", "file", "fifo", "loop", "work"])
    def test_what_is_no_store(self, reweight: Cli, tmp_path: Path, mode: str, what: str) -> None:
        path = tmp_path / "thing"
        if what in ("empty", "foreign", "work"):
            path.mkdir()
        if what == "foreign":
            (path / "thesis.txt").write_text("precious")
        elif what == "file":
            path.write_text("precious")
        elif what == "fifo":
            os.mkfifo(path)
        elif what == "loop":
            path.symlink_to("thing")
        elif what == "work":
            (path / ".prep").mkdir()
        before = sorted(tmp_path.rglob("*"))
        code, shown, err = reweight("prep", mode, path)
        assert (code, shown) == (3, ""), err
        one_line(err, str(path))
        assert sorted(tmp_path.rglob("*")) == before

    def test_merge_of_a_finished_store_changes_nothing(self, reweight: Cli, store: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in store.rglob("*.npy")}
        whole = everything(store)
        assert reweight("prep", "--merge", store)[0] == 0
        assert everything(store) == whole
        assert {path: path.stat().st_mtime_ns for path in store.rglob("*.npy")} == before

    def test_stat_needs_a_picture_name(self, reweight: Cli, store: Path, tmp_path: Path) -> None:
        code, shown, err = reweight("prep", "--stat", store, "--plot", tmp_path / "x.jpg")
        assert (code, shown) == (2, "")
        one_line(err, "name a file that ends in .svg or .png")
        assert not (tmp_path / "x.jpg").exists()

    @pytest.mark.parametrize("name", ["plan.json", "files/train-00000.json", "../manifest.json"])
    @pytest.mark.parametrize(
        "damage",
        [
            "{",
            "",
            "[]",
            "null",
            "3",
            '"x"',
            "{}",
            '{"plan": 3, "request": []}',
            '{"format": 1e999}',
            "[" * 100_000,
            "\0",
            "9" * 5000,
            '{"plan": {}, "request": {}}',
            "\ufeff{}",
        ],
    )
    def test_records_that_are_damaged(
        self, reweight: Cli, prep: Cli, store: Path, name: str, damage: str
    ) -> None:
        whole = everything(store)
        path = store / ".prep" / name
        path.write_text(damage)
        for arguments in (("--verify", store), ("--stat", store), ("--merge", store), ("--repair", store)):
            code, _, err = reweight("prep", *arguments)
            assert code in (0, 3), (arguments, err)
            if code:
                assert "Traceback" not in err
                assert f"{store}" in err.splitlines()[-1]
        code, _, err = prep()
        if name == "plan.json":
            assert code == 3
            one_line(err, "plan.json", "delete")
            assert {k: v for k, v in everything(store).items() if k.endswith(".npy")} == {
                k: v for k, v in whole.items() if k.endswith(".npy")
            }
        else:
            assert code == 0, err
            assert everything(store) == whole


def _edits(document: dict[str, Any], path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON document."""
    found: list[tuple[Any, ...]] = [path] if path else []
    if isinstance(document, dict):
        for key, value in document.items():
            found += _edits(value, (*path, key))
    elif isinstance(document, list) and document:
        found += _edits(document[0], (*path, 0))
    return found


HOSTILE_VALUES: list[Any] = [
    None,
    True,
    -1,
    1 << 61,
    10**400,
    1.5,
    float("nan"),
    "",
    "../../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "x" * 10_000,
    "\ud800",
    [],
    {},
    [[]],
    {"../x": {}},
    [1] * 10_000,
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plan.json", "files/train-00000.json", "../manifest.json"])
def test_every_value_of_every_record_replaced_by_hostile_ones(
    prep: Cli, reweight: Cli, tmp_path: Path, name: str
) -> None:
    """Any value of a plan, a record or a manifest (its digest made to fit): no traceback, nothing outside."""
    from data_prep.files import canonical_json, sha256_text

    fill(tmp_path / "in")
    assert prep()[0] == 0
    store, kept = tmp_path / "store", tmp_path / "kept"
    shutil.copytree(store, kept)
    outside = sorted(path for path in tmp_path.rglob("*") if store not in path.parents)
    original = json.loads((store / ".prep" / name).read_text())
    places = _edits(original)
    assert len(places) > 15
    number = 0
    for place in places:
        # Not every value at every place: each place meets some, and each value many places.
        for value in [HOSTILE_VALUES[(number + k) % len(HOSTILE_VALUES)] for k in (0, 7, 13)]:
            document = json.loads(json.dumps(original))
            parent = document
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = value
            if "digest" in document and place != ("digest",):
                content = {key: each for key, each in document.items() if key != "digest"}
                with contextlib.suppress(ValueError):
                    document["digest"] = sha256_text(canonical_json(content))
            (store / ".prep" / name).write_text(json.dumps(document))
            modes = ["--stat", "--verify", "--merge", "--repair"]
            for mode in (modes[number % 4], modes[(number + 1) % 4]):
                code, _, err = reweight("prep", mode, store)
                assert code in (0, 2, 3, 5, 7), (place, value, mode, code, err)
                assert "Traceback" not in err, (place, value, mode, err)
            code, _, err = prep()
            assert code in (0, 3, 5), (place, value, code, err)
            shutil.rmtree(store)
            shutil.copytree(kept, store)
            number += 1
    assert sorted(path for path in tmp_path.rglob("*") if store not in path.parents) == outside

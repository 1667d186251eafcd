"""A task's data, from the hub to rows: the same rows as `datasets` itself, and without its network code."""

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hub_place import Place
from hub_stand_in import HubStandIn
from task_place import call_tasks
from task_sets import Repository, add_all, rows, sciq

from eval import task_data, task_folders
from eval.errors import EvaluationError
from eval.suites import load_suites
from eval.task_data import fetch, locate
from eval.task_folders import HubFile

TASKS = {task.name: task for suite in load_suites().values() for task in suite.tasks}
TWO = ["anatomy", "world_religions"]
OFFLINE = "1"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """All data sets on a hub."""
    root = tmp_path_factory.mktemp("sets")
    add_all(root / "hub")
    with HubStandIn(root / "hub") as hub:
        yield Place(hub, root)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Place]:
    """A hub without data sets."""
    with HubStandIn(tmp_path / "hub") as hub:
        yield Place(hub, tmp_path)


def bodies(place: Place, since: int) -> list[str]:
    """Files whose content was sent."""
    asked = [each for each in place.hub.log[since:] if each.method == "GET" and "/api/" not in each.path]
    return [each.path for each in asked]


@pytest.fixture(scope="module")
def loaded(sets: Place) -> Sequence[dict[str, Any]]:
    """Every task fetched and loaded, by us and by `datasets`, then by us offline; of mmlu two subjects."""
    steps = ["locate", "fetch", "load", "reference"]
    cache = str(sets.root / "theirs")
    calls: list[dict[str, Any]] = [
        {"task": name, **({"configs": TWO} if name == "mmlu" else {})} for name in TASKS
    ]
    online = [{**call, "steps": steps, "reference_cache": cache} for call in calls]
    return call_tasks(sets, [*online, *({**call, "offline": True} for call in calls)])


def test_every_task_loads_as_datasets_loads_it(loaded: Sequence[dict[str, Any]]) -> None:
    online = {result["name"]: result for result in loaded[:20]}
    assert len(online) == 20
    for name, result in online.items():
        assert result["error"] is None, result
        # Rows, columns and their types, order of splits and rows.
        assert result["loaded"] == result["reference"], name
        assert all(TASKS[name].split in splits for splits in result["loaded"].values())
        # mnli_mismatch has its files from mnli.
        assert result["missing"] == (0 if name == "mnli_mismatch" else result["bytes"])
        assert (result["left"], result["told"]) == (0, result["bytes"])
        assert not re.search(r"\.py|duckdb|winogrande_debiased|/rc/", " ".join(result["paths"]))
    places = {name: result["revision"] for name, result in online.items()}
    assert {name: place for name, place in places.items() if place != "main"} == {
        "logiqa": "refs/convert/parquet",
        "logiqa2": "refs/pr/6",
    }


def test_what_was_fetched_loads_offline_without_a_request(loaded: Sequence[dict[str, Any]]) -> None:
    for online, offline in zip(loaded[:20], loaded[20:], strict=True):
        assert offline["error"] is None, offline
        same = ("name", "dataset", "folders", "loaded")
        assert [offline[key] for key in same] == [online[key] for key in same]


def test_a_preflight_fetches_no_data_and_what_is_known_is_not_listed_again(
    sets: Place, tmp_path: Path
) -> None:
    since = len(sets.hub.log)
    calls: list[dict[str, Any]] = [
        {"task": name, "steps": ["locate"]} for name in ("mmlu", "logiqa2", "triviaqa")
    ]
    calls += [{"task": "boolq", "steps": ["locate", "fetch"]}] * 2
    results = call_tasks(sets, calls, HF_HOME=str(tmp_path / "home"))
    assert all(result["missing"] == result["bytes"] > 0 for result in results[:4])
    # 57 subjects with test, validation and dev; neither `all` nor `auxiliary_train`.
    assert len(results[0]["paths"]) == 57 * 3
    assert not re.search("all/|auxiliary", " ".join(results[0]["paths"]))
    assert all("boolq" in path for path in bodies(sets, since) if not path.endswith("/README.md"))
    asked = [each.path for each in sets.hub.log[since:]]
    assert len([path for path in asked if "mmlu/tree" in path]) == 1
    assert len([path for path in asked if "super_glue/tree" in path]) == 1
    # What was fetched before is asked for its revision only.
    revision = "/api/datasets/aps/super_glue/revision/main"
    assert asked.count(revision) == 2
    assert asked[-1] == revision
    assert results[4]["folders"] == results[3]["folders"]
    # Of ours: one note, and one folder.
    kept = (tmp_path / "home/reweight").glob("*/*")
    assert sorted(path.parent.name for path in kept) == ["folders", "located"]


@pytest.mark.slow
def test_every_subject_of_mmlu_loads_as_datasets_loads_it(sets: Place) -> None:
    steps = ["locate", "fetch", "load", "reference"]
    cache = str(sets.root / "theirs-57")
    (result,) = call_tasks(sets, [{"task": "mmlu", "steps": steps, "reference_cache": cache}])
    assert result["error"] is None
    assert len(result["loaded"]) == 57
    assert result["loaded"] == result["reference"]


def test_offline_takes_what_datasets_has_cached(
    sets: Place, loaded: Sequence[dict[str, Any]], tmp_path: Path
) -> None:
    filled = {
        "sciq": ("allenai/sciq", "default", "main"),
        "arc_easy": ("allenai/ai2_arc", "ARC-Easy", "main"),
        "logiqa2": ("baber/logiqa2", "logiqa2", "refs/pr/6"),
        "lambada_openai": ("EleutherAI/lambada_openai", "default", "main"),
    }
    calls = [{"task": name, "fill": source} for name, source in filled.items()]
    calls += [{"task": name, "offline": True} for name in filled]
    results = call_tasks(sets, calls, HF_HOME=str(tmp_path / "home"))[4:]
    assert [result["error"] for result in results] == [None] * 4
    expected = {result["name"]: result["loaded"] for result in loaded}
    assert all(result["loaded"] == expected[result["name"]] for result in results)


def card(**header: object) -> bytes:
    return f"---\n{json.dumps(header)}\n---\n".encode()


class Held:
    """A hub that is offline, and a cache that holds these files."""

    offline = True

    def __init__(self, folder: Path, paths: Sequence[str], readme: bytes | None = None) -> None:
        self.folder, self.paths = folder, [*paths, *(["README.md"] if readme is not None else [])]
        (folder / "README.md").write_bytes(readme or b"")

    def resolve_commit(self, repository: str, revision: str) -> str:
        return "c" * 40

    def held(self, repository: str, commit: str) -> Sequence[HubFile]:
        return [HubFile(path=path, bytes=1) for path in self.paths]

    def list_files(self, repository: str, commit: str) -> Sequence[HubFile]:
        raise AssertionError("a request")

    def download(self, repository: str, commit: str, file: HubFile) -> Path:
        return self.folder / file.path


def test_offline_a_part_of_a_configuration_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_folders, "home", lambda: tmp_path)
    parts = [f"data/{split}-0000{n}-of-00002.parquet" for split in ("train", "test") for n in range(2)]
    located = locate(TASKS["sciq"], Held(tmp_path, parts))
    assert [file.path for file in located.files] == sorted(parts)
    stated = card(dataset_info={"splits": [{"name": each} for each in ("train", "test")]})
    files = [{"split": each, "path": f"data/{each}-*"} for each in ("train", "test")]
    described = card(configs=[{"config_name": "default", "data_files": files}])
    for paths, readme, why in (
        (parts[:3], None, r"of data/test only 1 of 2 files are cached"),
        (parts[2:], stated, r"the split train is not cached"),
        (parts[2:], described, r"not cached, or not whole \(configuration default: .*\)"),
    ):
        remedy = "`hf download allenai/sciq --repo-type dataset` fetches it where there is a network"
        line = rf"sciq: hub repository allenai/sciq at main: {why}; offline mode is on .*; {remedy}$"
        with pytest.raises(EvaluationError, match=line) as caught:
            locate(TASKS["sciq"], Held(tmp_path, paths, readme))
        assert caught.value.exit_code == 4


def test_a_home_whose_name_is_a_pattern_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (task_folders, task_data):
        monkeypatch.setattr(module, "home", lambda: tmp_path / "a[b]" / "reweight")
    located = locate(TASKS["sciq"], Held(tmp_path, ["test.parquet"]))
    with pytest.raises(EvaluationError, match="reads as a pattern") as caught:
        fetch(located, Held(tmp_path, []))
    assert caught.value.exit_code == 2


def test_offline_without_data_is_one_line_a_task(empty: Place) -> None:
    results = call_tasks(empty, [{"task": name} for name in TASKS], HF_HUB_OFFLINE=OFFLINE)
    for result in results:
        last = TASKS[result["name"]].sources[-1]
        assert result["exit_code"] == 4, result
        assert "\n" not in result["error"]
        assert f"`hf download {last.repository} --repo-type dataset" in result["error"]
        assert ("--logiqa-text DIR" in result["error"]) == (result["name"] == "logiqa")
    assert len(empty.hub.log) == 0


def test_repositories_of_one_name_and_changed_content_are_not_mixed_up(empty: Place) -> None:
    """`datasets` keeps what it has prepared by the name of the folder and the names of the files alone."""
    calls = []
    for name, revision in (("one/sciq", "main"), ("two/sciq", "main"), ("one/sciq", "refs/pr/1")):
        made = rows(sciq, {"test": 4}, name + revision)["test"]
        # Without README.md nothing but the rows differs.
        Repository(empty.hub.root, name, revision).parquet("data/test-00000-of-00001.parquet", made)
        calls.append({"task": "sciq", "sources": [[name, revision, True]]})
    results = call_tasks(empty, calls)
    assert [each["paths"] for each in results] == [["data/test-00000-of-00001.parquet"]] * 3
    assert len({each["loaded"]["None"]["test"]["sha256"] for each in results}) == 3


@pytest.mark.slow
def test_two_processes_may_fetch_the_same_at_once(sets: Place, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    with ThreadPoolExecutor(2) as pool:
        calls = [{"task": name} for name in ("sciq", "triviaqa")]
        one, two = pool.map(lambda _: call_tasks(sets, calls, HF_HOME=home), range(2))
    for mine, yours in zip(one, two, strict=True):
        assert (mine["error"], yours["error"]) == (None, None)
        assert mine["folders"] == yours["folders"]
        assert mine["loaded"] == yours["loaded"]
    assert len(list((tmp_path / "home/reweight/folders").iterdir())) == 2


def test_a_home_that_cannot_be_written_is_one_line(sets: Place, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    home = str(tmp_path / "file" / "home")
    (result,) = call_tasks(sets, [{"task": "sciq"}], HF_HOME=home)
    assert result["exit_code"] == 7
    assert "HF_HOME and HF_DATASETS_CACHE must be folders that can be written" in result["error"]
    assert "\n" not in result["error"]

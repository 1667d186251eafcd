"""Everything that may go wrong between a task and its data: success, or one line; nothing broken is kept."""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_place import QUICK, Place
from hub_stand_in import HubStandIn
from task_cases import BODY, CASES, MENDED, SIZES, TEST, Case
from task_place import call_tasks
from task_sets import Repository, rows, sciq

from eval import task_data, task_folders
from eval.errors import EvaluationError
from eval.suites import DataSource, load_suites
from eval.task_data import locate
from eval.task_folders import HubFile, Note, configuration, write_note
from reproduce.scoring.hub import REMEDY


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with HubStandIn(tmp_path / "hub") as hub:
        yield Place(hub, tmp_path)


def set_up(place: Place, name: str, case: Case, data: Mapping[str, Any]) -> dict[str, Any]:
    """Make the repository of a case and its faults; the call that meets them."""
    repository = Repository(place.hub.root, f"cases/{name}")
    repository.config("default", data, "data")
    repository.card()
    if case.spoil is not None:
        case.spoil(repository)
    for fault in case.faults:
        place.hub.fault(**{**fault, "path": pattern(name, str(fault["path"]))})
    return {"name": name, "task": "sciq", "sources": [[f"cases/{name}", "main", True]]}


def pattern(name: str, path: str) -> str:
    # One file of the three, so that the fault is met after another file has come.
    return f"^/lfs/.*cases/{name}/.*test-" if path == BODY else f"cases/{name}(?=/).*{path}"


def judge(name: str, case: Case, result: Mapping[str, Any], place: Place, limit_s: float) -> list[str]:
    """What is wrong with the outcome of a case."""
    error, wrong = result["error"], []
    if result["seconds"] > limit_s:
        wrong.append(f"{name}: took {result['seconds']:.1f} s")
    if case.ends is None:
        if error is not None or result["loaded"]["None"]["test"]["rows"] != SIZES["test"]:
            wrong.append(f"{name}: no success: {error}")
    else:
        line = rf"sciq: hub repository cases/{name} at (main|[0-9a-f]{{40}})[:,] [^\n]*({case.ends})[^\n]*"
        if error is None or not re.fullmatch(line, error) or len(error) > 700:
            wrong.append(f"{name}: does not say {line!r}: {error}")
        elif result["exit_code"] != case.code:
            wrong.append(f"{name}: exit code {result['exit_code']}")
        elif case.code == 4 and not re.search(f"{re.escape(REMEDY)}$|{MENDED}$", error):
            wrong.append(f"{name}: no remedy: {error}")
    if case.most is not None:
        met = [
            re.search(pattern(name, str(fault["path"])), each.path)
            for fault in case.faults
            for each in list(place.hub.log)
        ]
        if sum(each is not None for each in met) > case.most:
            wrong.append(f"{name}: too many requests")
    return wrong  # fmt: skip


def sweep(
    place: Place, cases: Mapping[str, Case], processes: int, limit_s: float, constants: Mapping[str, float]
) -> None:
    """Meet every fault, then do the same again without it. All that goes wrong is told at once."""
    data = rows(sciq, SIZES)
    calls = {name: set_up(place, name, case, data) for name, case in cases.items()}
    # Those that wait for the end of patience are spread evenly.
    waiting = sorted(calls, key=lambda name: "less than" not in (cases[name].ends or ""))
    shares = [[calls[name] for name in waiting[n::processes]] for n in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        run = pool.map(lambda share: call_tasks(place, share, constants=constants), shares)
        results = {result["name"]: result for share in run for result in share}
    assert results.keys() == cases.keys()
    wrong = [
        line for name, case in cases.items() for line in judge(name, case, results[name], place, limit_s)
    ]
    assert not wrong, "\n".join(wrong)
    place.hub.faults.clear()
    failed = [name for name, case in cases.items() if case.faults and case.ends is not None]
    healed = call_tasks(place, [calls[name] for name in failed])
    expected = results["503-once"]["loaded"]
    assert [(each["name"], each["error"]) for each in healed] == [(name, None) for name in failed]
    assert all(each["loaded"] == expected for each in healed)
    assert not list((place.root / "hf_home").rglob(".making-*"))


@pytest.mark.slow
def test_every_fault_ends_in_success_or_in_one_line_and_is_forgotten(place: Place) -> None:
    cases = {name: case for name, case in CASES.items() if not case.waits}
    sweep(place, cases, processes=3, limit_s=25.0, constants={**QUICK, "hub_watch.PATIENCE_S": 3.0})


@pytest.mark.slow
def test_every_fault_ends_within_a_minute(place: Place) -> None:
    sweep(place, CASES, processes=8, limit_s=60.0, constants={})


class Sources:
    """A hub of a few listings, by repository and revision."""

    offline = False

    def __init__(self, listings: Mapping[tuple[str, str], Sequence[str]]) -> None:
        self.listings = listings

    def resolve_commit(self, repository: str, revision: str) -> str | None:
        return f"{revision:a<40}" if (repository, revision) in self.listings else None

    def list_files(self, repository: str, commit: str) -> Sequence[HubFile]:
        return [HubFile(path=path, bytes=1) for path in self.listings[repository, commit.rstrip("a")]]

    def held(self, repository: str, commit: str) -> Sequence[HubFile]:
        return []

    def download(self, repository: str, commit: str, file: HubFile) -> Path:
        raise AssertionError("nothing is to be fetched")


def test_the_next_source_is_tried_and_all_are_named_where_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_folders, "home", lambda: tmp_path)
    tasks = load_suites()["gpt2_qa"]
    script, nowhere, good = (
        DataSource(repository=repository, revision=revision)
        for repository, revision in (("o/script", "main"), ("o/good", "refs/pr/6"), ("o/good", "main"))
    )
    hub = Sources({("o/script", "main"): ["script.py", "test.parquet"], ("o/good", "main"): ["test.parquet"]})
    located = locate(replace(tasks.task("sciq"), sources=(script, nowhere, good)), hub)
    assert located.dataset == f"o/good@{'main':a<40}"
    for name, sources, code, line in (
        (
            "sciq",
            (script, nowhere),
            3,
            "sciq: hub repository o/script at main: it holds a loading script (script.py), which `datasets` "
            "no longer runs; hub repository o/good at refs/pr/6: no such revision; look for its new place on "
            "the hub and name that in eval/suites.yaml",
        ),
        (
            "logiqa",
            (nowhere,),
            4,
            "logiqa: hub repository o/good at refs/pr/6: no such revision; or give its authors' files by "
            "--logiqa-text DIR",
        ),
    ):
        with pytest.raises(EvaluationError, match=f"^{re.escape(line)}$") as caught:
            locate(replace(tasks.task(name), sources=sources), hub)
        assert caught.value.exit_code == code


def test_a_revision_that_has_moved_is_located_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (task_folders, task_data):
        monkeypatch.setattr(module, "home", lambda: tmp_path)
    task = load_suites()["gpt2_qa"].task("sciq")
    old = configuration({"test": (HubFile(path="old.parquet", bytes=1),)}, None, None)
    repository = task.sources[0].repository
    write_note(Note(repository=repository, revision="main", commit="0" * 40, configs={None: old}))
    located = locate(task, Sources({(repository, "main"): ["test.parquet"]}))
    assert located.dataset == f"{repository}@{'main':a<40}"
    assert [file.path for file in located.files] == ["test.parquet"]


def test_a_cached_file_that_was_damaged_is_not_used_but_fetched_again(place: Place) -> None:
    good = Repository(place.hub.root, "cases/good")
    good.config("default", rows(sciq, SIZES), "data")
    good.card()
    call = {"task": "sciq", "sources": [["cases/good", "main", True]]}
    damaged = {**call, "offline": True, "flip": f"hub/*good/snapshots/*/{TEST}"}
    first, offline, online = call_tasks(place, [call, damaged, call])
    assert offline["exit_code"] == 4
    command = "`hf download cases/good .*--force-download`"
    assert re.search(f"lacks an undamaged {TEST}; {command}", offline["error"])
    assert online["error"] is None
    assert online["loaded"] == first["loaded"]

"""Every fault of a hub, through the real client: success, or one line and exit code 4."""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hub_cases import BODY, CASES, Case, repository
from hub_place import DATA, QUICK, README, Place
from hub_stand_in import TOKEN, HubStandIn


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with HubStandIn(tmp_path / "hub", page_size=2) as stand_in:
        yield Place(stand_in, tmp_path)


def set_up(place: Place, name: str, case: Case) -> dict[str, object]:
    """Make the repository of a case and its faults; the call that meets them."""
    commit = place.add(repository(name), {README: b"# made up\n" * 50, DATA: case.data, "z.txt": b"z"})
    for fault in case.faults:
        path = str(fault["path"])
        start = f"^/lfs/.*{repository(name)}/" if path == BODY else f"{repository(name)}(?=/).*{path}"
        given = fault.get("headers") or {}
        assert isinstance(given, dict)
        url = f"{place.hub.url}/api/datasets/{repository(name)}"
        headers = {
            key: value.replace("{url}", url).replace("{commit}", commit) for key, value in given.items()
        }
        place.hub.fault(**{**fault, "path": start, "headers": headers})
    return {
        "name": name,
        "repository": repository(name),
        "folder": str(place.root / "out" / name),
        "only": DATA,
        **case.call,
    }


def judge(name: str, case: Case, result: Mapping[str, Any], place: Place, limit_s: float) -> list[str]:
    """What is wrong with the outcome of a case."""
    wrong: list[str] = []

    def check(right: bool, what: str) -> None:
        if not right:
            wrong.append(f"{name}: {what}: {result}")

    check(result["seconds"] < limit_s, f"took {result['seconds']:.1f} s")
    error = result["error"]
    if case.ends is None:
        held = place.root / "out" / name / DATA
        check(error is None and result["held"] == [DATA] and held.read_bytes() == case.data, "no success")
    else:
        check(error is not None and result["exit_code"] == 4, "no hub error")
        check(not result["held"], "holds a file")
        revision = case.call.get("revision") or "main"
        begins = rf"hub repository {repository(name)} at ({revision}|[0-9a-f]{{40}}): "
        line = f"{begins}.*({case.ends}).*; then do this"
        check(re.fullmatch(line, error or "") is not None, f"does not say {line!r}")
        check(result["chain"] == [], "carries the client's error along")
    if case.made is not None:
        pattern = (
            f"lfs/.*{repository(name)}/" if case.made == BODY else f"{repository(name)}(?=/).*{case.made}"
        )
        made = sum(re.search(pattern, each.path) is not None for each in list(place.hub.log))
        check(made <= case.most, f"{made} requests")
    return wrong


def sweep(place: Place, processes: int, limit_s: float, constants: Mapping[str, float]) -> dict[str, float]:
    """Run every case; seconds by name. All that goes wrong is told at once."""
    calls = {name: set_up(place, name, case) for name, case in CASES.items()}
    # Those that wait for the end of patience are spread evenly.
    waiting = sorted(calls, key=lambda name: "less than" not in (CASES[name].ends or ""))
    shares = [[calls[name] for name in waiting[n::processes]] for n in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        run = pool.map(
            lambda share: place.call(share, constants=constants, environment={"HF_TOKEN": TOKEN}), shares
        )
        results = {result["name"]: result for share in run for result in share}
    assert results.keys() == CASES.keys()
    wrong = [
        line for name, case in CASES.items() for line in judge(name, case, results[name], place, limit_s)
    ]
    assert not wrong, "\n".join(wrong)
    assert any(each.token == TOKEN for each in place.hub.log)
    # The token goes to the hub, and not to where its files lie.
    assert not [each for each in place.hub.log if each.host.startswith("localhost") and each.token]
    for path in [*(place.root / "out").rglob("*"), *(place.root / "hf_home").rglob("*")]:
        assert not path.name.endswith(".incomplete")
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    return {name: result["seconds"] for name, result in results.items()}


def test_every_fault_ends_in_success_or_in_one_line(place: Place) -> None:
    seconds = sweep(place, processes=8, limit_s=25.0, constants=QUICK)
    # Something has waited for the end of patience.
    assert max(seconds.values()) > QUICK["hub_watch.PATIENCE_S"]


@pytest.mark.slow
def test_every_fault_ends_within_a_minute(place: Place) -> None:
    seconds = sweep(place, processes=12, limit_s=60.0, constants={})
    for name, took in sorted(seconds.items(), key=lambda each: -each[1]):
        print(f"{took:6.1f} s  {CASES[name].ends or 'success':40} {name}")

"""The hub layer through the real client: access, cache, offline, names, folders, processes."""

import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import prep_inputs
import pytest
from hub_place import DATA, LARGE, QUICK, README, SCRIPT, SMALL, Place
from hub_stand_in import TOKEN, HubStandIn

from data_prep import hub, hub_names
from data_prep.errors import HubError, UserError


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with HubStandIn(tmp_path / "hub", page_size=2) as stand_in:
        yield Place(stand_in, tmp_path)


def only_error(results: list[dict[str, Any]]) -> str:
    """The one error of one call, which is the hub's."""
    (result,) = results
    assert result.get("exit_code") == 4, result
    return str(result["error"])


def test_a_gated_and_a_hidden_repository_say_what_to_do(place: Place) -> None:
    place.add("o/gated", {DATA: SMALL})
    place.hub.gated.add("o/gated")
    calls: list[dict[str, object]] = [{"repository": "o/gated"}, {"repository": "o/none"}]
    gated, hidden = place.call(calls)
    at = f"at {place.hub.commit('datasets', 'o/gated')}: {DATA}"
    login = "gated: accept its terms on the hub, and log in with `hf auth login`; then do this"
    assert gated["error"] == f"hub repository o/gated {at}: {login}"
    private = "no such repository, or it is private: `hf auth login` logs in; then do this"
    assert hidden["error"] == f"hub repository o/none at main: {private}"
    opened, hidden = place.call(calls, environment={"HF_TOKEN": TOKEN})
    assert opened["error"] is None
    assert hidden["error"] == f"hub repository o/none at main: {private}"
    place.hub.refused.add("o/gated")
    calls[0]["folder"] = str(place.root / "other")
    waits = only_error(place.call(calls[:1], environment={"HF_TOKEN": TOKEN}))
    assert "gated: accept its terms on the hub, and wait until access is granted; then do this" in waits
    assert "refuses the token" in only_error(place.call(calls[:1], environment={"HF_TOKEN": "hf_wrong"}))


@pytest.mark.parametrize("token", [f"{TOKEN}\x01", f"{TOKEN}é", f"{TOKEN} {TOKEN}"])
def test_a_token_that_is_none_is_not_shown(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("asked the network"))
    with pytest.raises(
        UserError, match=r"the hub token \(HF_TOKEN, or the login\) holds characters"
    ) as caught:
        hub.resolve_commit("o/n", None, "r")
    assert caught.value.exit_code == 2
    assert TOKEN not in str(caught.value)


def test_a_hub_that_is_not_there(place: Place) -> None:
    (refused,) = place.call(
        [{"repository": "o/n"}], environment={"HF_ENDPOINT": "http://127.0.0.1:9"}, constants=QUICK
    )
    assert re.fullmatch(
        r"hub repository o/n at main: the hub cannot be reached \(.*refused.*\); then do this",
        refused["error"],
    )
    (nowhere,) = place.call([{"repository": "o/n"}], environment={"HF_ENDPOINT": "nowhere"})
    assert "an address is none: check HF_ENDPOINT; then do this" in nowhere["error"]


def test_a_link_may_be_slow_as_long_as_it_moves(place: Place) -> None:
    place.add("o/slow", {DATA: random.Random(3).randbytes(1_500_000)})
    # 100 kB in 0.2 s: 3 s in all, three times the patience.
    place.hub.fault(path="^/lfs/", kind="slow", after=100_000, seconds=0.2)
    (result,) = place.call([{"repository": "o/slow"}], constants={"hub_watch.PATIENCE_S": 1.0})
    assert (result["error"], result["held"]) == (None, [DATA])
    assert result["seconds"] > 2.5


def fill_cache(place: Place, *words: str) -> None:
    """Run the client's own download command."""
    command = [sys.executable, "-m", "huggingface_hub.cli.hf", "download", *words]
    subprocess.run(command, env=place.environment, check=True, capture_output=True, timeout=60)


def content(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


OFFLINE = {"HF_HUB_OFFLINE": "1"}
FILES = {README: b"# made up\n", DATA: SMALL, "data/test-00000.parquet": b"PAR1"}


def test_offline_the_cache_answers_or_the_command_that_fills_it_is_named(place: Place) -> None:
    commit = place.add("o/n", FILES)
    error = only_error(place.call([{"repository": "o/n"}], environment=OFFLINE))
    told = r"hub repository o/n at main: offline mode is on .* the cache lacks it; `(.*)` fetches .*; then .*"
    command = re.fullmatch(told, error)
    assert command is not None, error
    assert command[1] == "hf download o/n --repo-type dataset"
    fill_cache(place, *command[1].split()[2:])
    before, asked = content(place.root / "hf_home"), len(place.hub.log)
    (result,) = place.call([{"repository": "o/n"}], environment=OFFLINE)
    assert (result["error"], result["commit"]) == (None, commit)
    digest = hashlib.sha256(SMALL).hexdigest()
    assert [DATA, len(SMALL), digest] in result["listed"]
    assert [Path(path).read_bytes() for path in result["paths"]] == [FILES[path] for path in sorted(FILES)]
    # Used where it lies: nothing is asked, copied or deleted.
    assert (result["held"], len(place.hub.log)) == ([], asked)
    assert content(place.root / "hf_home") == before
    # A pinned commit goes on where the hub is down, and main, which may have moved, does not.
    down = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    pinned, moved = place.call(
        [{"repository": "o/n", "revision": commit}, {"repository": "o/n"}], environment=down, constants=QUICK
    )
    assert (pinned["error"], pinned["held"]) == (None, [])
    assert "cannot be reached" in moved["error"]
    # One file is missing, then damaged.
    cached = Path(next(path for path in result["paths"] if path.endswith(DATA)))
    cached.resolve().write_bytes(SMALL[:-1] + bytes([SMALL[-1] ^ 1]))
    error = only_error(place.call([{"repository": "o/n", "only": DATA}], environment=OFFLINE))
    assert f"the cache lacks an undamaged {DATA}; " in error
    assert f"--revision {commit} --include {DATA} --force-download` fetches it" in error
    damaged = content(place.root / "hf_home")
    (healed,) = place.call([{"repository": "o/n", "only": DATA}])
    assert healed["held"] == [DATA]
    assert content(place.root / "hf_home") == damaged
    cached.unlink()
    error = only_error(place.call([{"repository": "o/n"}], environment=OFFLINE))
    assert (
        f"at {commit}: offline mode is on (HF_HUB_OFFLINE) and the cache lacks {DATA} (1 missing in all)"
        in error
    )
    assert f"`hf download o/n --repo-type dataset --revision {commit}` fetches" in error


def test_offline_a_part_of_a_commit_is_not_taken_for_the_whole(place: Place) -> None:
    commit = place.add("o/n", FILES)
    (kept,) = place.call([{"repository": "o/n", "revision": commit, "only": DATA, "keep": True}])
    assert kept["held"] == []
    assert kept["paths"][0].startswith(str(place.root / "hf_home"))
    error = only_error(place.call([{"repository": "o/n", "revision": commit}], environment=OFFLINE))
    assert "the cache lacks the list of its files" in error
    main = only_error(place.call([{"repository": "o/n"}], environment=OFFLINE))
    assert f"the cache lacks it, but has {commit} (--revision)" in main
    # Online what was kept is not fetched again, and not copied.
    bodies = sum(each.path.startswith("/lfs/") for each in place.hub.log)
    (again,) = place.call([{"repository": "o/n", "only": DATA}])
    assert (again["held"], again["paths"]) == ([], kept["paths"])
    assert sum(each.path.startswith("/lfs/") for each in place.hub.log) == bodies
    fill_cache(place, "o/n", "--repo-type", "dataset", "--include", "data/*")
    (below,) = place.call([{"repository": "o/n", "below": "data"}], environment=OFFLINE)
    assert [path for path, _, _ in below["listed"]] == ["data/test-00000.parquet", DATA]


BAD_NAMES = [
    "", "../../etc/passwd", "a/b/c", "a b/c", "a/b c", "/a", "a/", "https://hub.invalid/datasets/a/b",
    "a/..", "a/b..c", ".a/b", "a/-b", "a\0/b", "a/b\n", "é/b", "a\\b", "x" * 97, "o/" + "x" * 200,
]  # fmt: skip
BAD_REVISIONS = [
    "",
    "../x",
    "a..b",
    " main",
    "a b",
    "-x",
    "a\0",
    "a\n",
    "x" * 201,
    "main?x=1",
    "a%2fb",
    "a\\b",
    "é",
]


@pytest.mark.parametrize(
    ("repository", "revision"),
    [*((name, None) for name in BAD_NAMES), *(("o/n", name) for name in BAD_REVISIONS)],
)
def test_a_name_that_is_none_is_refused_before_any_request(
    repository: str, revision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("asked the network"))
    commit = "main" if revision is None else revision
    calls: list[Callable[[], object]] = [
        lambda: hub.resolve_commit(repository, revision, "r"),
        lambda: hub.list_files(repository, commit, None, "r"),
        lambda: hub.download(repository, "dataset", commit, "x", "r", folder=tmp_path),
    ]
    for call in calls:
        with pytest.raises(UserError) as caught:
            call()
        assert caught.value.exit_code == 2
        assert str(caught.value).isprintable()


def test_names_that_are_some_are_not_refused() -> None:
    for name in ("gpt2", "a/b", "DKYoon/SlimPajama-6B", "cerebras/SlimPajama-627B", "a_b/c.d-e", "1/2"):
        for revision in (None, "main", "refs/pr/6", "refs/convert/parquet", "v1.0", "a" * 40, "x@y+z"):
            hub_names.check_names(name, revision)


@pytest.mark.parametrize(
    "path",
    ["../x", "/x", "a/../x", "a//x", "a/./x", "", "a\\..\\x", "a\0", "a/" + "x" * 256, ".arriving-1/x"],
)
def test_a_path_that_leaves_the_folder_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="is no path of a file"):
        hub.download("o/n", "dataset", "a" * 40, path, "r", folder=tmp_path)
    assert not list(tmp_path.iterdir())


def start(place: Place, call: dict[str, object]) -> subprocess.Popen[str]:
    """A call in a process that is not waited for."""
    settings = json.dumps({"calls": [{"name": "x", **call}]})
    command = [sys.executable, str(SCRIPT), settings]
    return subprocess.Popen(command, env=place.environment, stdout=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_two_processes_use_one_folder_and_a_killed_one_leaves_nothing_that_counts(place: Place) -> None:
    other = "data/test-00000.parquet"
    place.add("o/n", {DATA: LARGE, other: SMALL})
    place.hub.fault(path=f"^/lfs/.*{DATA}", kind="stall", after=11_000_000, times=2)
    folder = place.root / "shared"
    first = start(place, {"repository": "o/n", "only": DATA, "folder": str(folder)})
    wait_for(lambda: any(path.stat().st_size > 10_000_000 for path in folder.rglob("*.incomplete")))
    (second,) = place.call([{"repository": "o/n", "only": other, "folder": str(folder)}])
    assert (second["error"], (folder / other).read_bytes()) == (None, SMALL)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    left = [path for path in folder.rglob("*") if path.is_file() and path != folder / other]
    assert left
    assert all(path.relative_to(folder).parts[0].startswith(hub_names.ARRIVING) for path in left)
    # A rerun that is not alone takes nothing of it, one that is alone deletes it.
    place.hub.faults.clear()
    again = start(place, {"repository": "o/n", "only": DATA, "folder": str(folder)})
    assert json.loads(again.communicate(timeout=60)[0])["error"] is None
    assert (folder / DATA).read_bytes() == LARGE
    hub.drop_leftovers(folder)
    assert content(folder).keys() == {DATA, other}
    # What is there and has the right digest is not fetched again.
    (third,) = place.call([{"repository": "o/n", "only": DATA, "folder": str(folder)}])
    assert third["paths"] == [str(folder / DATA)]
    assert sum(each.path.endswith(DATA) and each.path.startswith("/lfs/") for each in place.hub.log) == 2
    hub.drop_leftovers(place.root / "nowhere")


def run_python(place: Place, program: str, *arguments: str) -> str:
    """Run a program with the stand-in as its hub; its output."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LEAK = """
import sys, huggingface_hub
from huggingface_hub import HfApi, constants, utils
from huggingface_hub.utils import logging
from data_prep import hub
from data_prep.errors import HubError
made = []
def factory():
    made.append(utils.httpx.Client(follow_redirects=True, timeout=7, headers={"X-Mine": "1"}))
    return made[-1]
huggingface_hub.set_client_factory(factory)
state = lambda: (logging.get_verbosity(), constants.HF_HUB_DISABLE_XET, utils.are_progress_bars_disabled())
before = state()
assert hub.resolve_commit("o/n", None, "r") == sys.argv[1]
try:
    hub.resolve_commit("o/none", None, "r")
except HubError:
    pass
assert state() == before
calls = len(made)
assert HfApi().dataset_info("o/n").sha == sys.argv[1]
assert len(made) == calls + 1
assert made[-1] is utils.get_session()
assert all(not hooks for hooks in made[-1].event_hooks.values())
print(len(made))
"""


def test_the_process_has_its_own_client_back_afterwards(place: Place) -> None:
    commit = place.add("o/n", FILES)
    assert run_python(place, LEAK, commit).split() == ["3"]


LOAD = """
import json, datasets
datasets.disable_progress_bars()
loaded = datasets.load_dataset("o/rows")
print(json.dumps({split: [row["text"] for row in rows] for split, rows in loaded.items()}))
"""


def test_the_stand_in_serves_the_datasets_library(place: Place) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = {"train": ["one", "two", "drei"], "test": ["four"]}
    for split, texts in rows.items():
        file = place.hub.root / f"datasets/o/rows/data/{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": texts}), file)
    place.add("o/rows", {README: b"# made up\n"})
    assert json.loads(run_python(place, LOAD)) == rows


def test_patience_is_for_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    from data_prep import hub_watch

    now = 1000.0
    monkeypatch.setattr("data_prep.hub_watch.time.monotonic", lambda: now)
    request = hub_watch.httpx.Request("GET", "https://hub.invalid/x")
    watch = hub_watch.Watch(new_at=now)
    megabyte = 1 << 20
    for position in range(megabyte, 4 * megabyte + 1, megabyte):
        now += 30
        watch.received(position, megabyte)
    # 4 MB in two minutes: each of them was new. Lost, and fetched once more as slowly: as long as it moves.
    assert watch.left_s() == 35
    watch.request(request)
    for position in (megabyte, 2 * megabyte):
        now += 30
        watch.received(position, megabyte)
        assert watch.left_s() == 35
    # Lost again before there was anything new: 60 s have brought nothing, whatever they moved.
    with pytest.raises(hub_watch.GaveUpError, match="less than 64 KiB of anything new in 35 s"):
        watch.request(request)
    watch.start_over()
    watch.received(megabyte, megabyte)
    now += 34
    watch.check()
    # A trickle of 63 KiB is not new enough.
    watch.received(megabyte + (63 << 10), 63 << 10)
    now += 1
    with pytest.raises(hub_watch.GaveUpError):
        watch.check()


def test_a_bug_is_not_called_a_hub_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fake(*_: object, **__: object) -> str:
        raise ZeroDivisionError("x")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fake)
    with pytest.raises(ZeroDivisionError):
        hub.download("o/r", "dataset", "a" * 40, "x.txt", "r", folder=tmp_path)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="full") as caught:
        hub.download("o/r", "dataset", "a" * 40, "x.txt", "r", folder=tmp_path)
    assert not isinstance(caught.value, HubError)
    assert not list(tmp_path.iterdir())


def test_the_command_line_ends_in_one_line_and_goes_on_later(place: Place) -> None:
    data = place.hub.root / "datasets/DKYoon/SlimPajama-6B/data"
    for split in ("train", "test"):
        rows = [prep_inputs.record(number) for number in range(60)]
        columns = {key: [row[key] for row in rows] for key in ("text", "meta")}
        prep_inputs.parquet(data / f"{split}-00000-of-00001.parquet", columns)
    vocab, out = prep_inputs.tokenizer_folder(place.root / "vocab"), place.root / "store"
    command = [sys.executable, "-m", "reproduce.cli", "prep", "slimpajama", "--tokenizer", str(vocab)]

    def run() -> tuple[int, str]:
        done = subprocess.run(
            [*command, "--revision", "main", "--out", str(out), "--workers", "1"],
            env={**place.environment, "HF_TOKEN": TOKEN},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        files = [
            path for folder in (out, place.root / "hf_home") for path in folder.rglob("*") if path.is_file()
        ]
        assert TOKEN not in done.stdout + done.stderr
        assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
        assert not [path for path in files if "parquet" in path.name or "incomplete" in path.name]
        return done.returncode, done.stderr

    place.hub.fault(path="^/lfs/", kind="short", after=100)
    code, line = run()
    assert code == 4
    commit = place.hub.commit("datasets", "DKYoon/SlimPajama-6B")
    assert re.fullmatch(
        rf"reweight: hub repository DKYoon/SlimPajama-6B at {commit}: .*incomplete; .*\n", line
    )
    place.hub.faults.clear()
    assert run()[0] == 0
    assert commit in (out / "manifest.json").read_text()

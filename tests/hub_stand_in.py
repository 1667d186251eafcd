"""A stand-in for the dataset hub on 127.0.0.1, small and with faults, for the real clients.

    root/datasets/OWNER/NAME/<files>      root/models/OWNER/NAME/<files>
    root/revisions/REVISION/datasets/OWNER/NAME/<files>

are the revisions of a repository: `main`, and others, as refs/pr/6, in whose name a slash is written %2F.
Each has a commit that follows from the content. As on the hub, large (LFS) files are answered with a
redirect to another origin, here localhost instead of 127.0.0.1.

    with HubStandIn(root) as hub:
        hub.fault(path=r"\\.parquet$", kind="reset", after=1 << 20, times=2)

Not there: Xet, uploads, loading by POST.
"""

import hashlib
import http.server
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS = (".parquet", ".zst", ".bin")
TOKEN = "hf_canary_0123456789abcdef"
"""The one token that opens what is gated."""


@dataclass
class Fault:
    """What goes wrong with the requests that match."""

    path: str
    """Regular expression, searched for in path?query."""
    kind: str
    """Instead of the answer: status, drop, silence, slow_head. In its head: header (adds `headers`). In the
    body of a file: reset, cut, short, drip and stall (after `after` bytes), flip, endless, no_range, and
    slow (`after` bytes at a time)."""
    times: int = -1
    """How often; -1 is for ever."""
    method: str = "GET|HEAD"
    skip: int = 0
    """Requests that are spared first."""
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: int = 0
    seconds: float = 0.5
    """Pause of drip and slow_head between bytes, of slow between blocks."""

    def strikes(self, method: str, target: str) -> bool:
        """Whether it takes this request; counts it."""
        if self.times == 0 or not re.fullmatch(self.method, method) or not re.search(self.path, target):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(frozen=True)
class Request:
    """One request, as it came."""

    method: str
    path: str
    range: str | None
    token: str | None
    host: str


@dataclass(frozen=True)
class File:
    """One file of a repository."""

    path: str
    data: bytes

    @cached_property
    def git_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def is_large(self) -> bool:
        return self.path.endswith(LFS)

    def entry(self) -> dict[str, object]:
        """As a listing shows it."""
        entry = {"type": "file", "path": self.path, "size": len(self.data), "oid": self.git_id}
        large = {"oid": self.sha256, "size": len(self.data), "pointerSize": 130}
        return {**entry, "lfs": large} if self.is_large else entry


def commit_of(files: Mapping[str, File]) -> str:
    """The commit of these files."""
    parts = (f"{file.path} {file.git_id}\n" for file in files.values())
    return hashlib.sha1("".join(parts).encode()).hexdigest()


class HubStandIn:
    """The server, in a thread of this process."""

    def __init__(self, root: Path, page_size: int = 1000) -> None:
        self.root, self.page_size = root, page_size
        self.gated: set[str] = set()
        self.refused: set[str] = set()
        """Gated repositories to which even TOKEN has no access."""
        self.faults: list[Fault] = []
        self.log: list[Request] = []
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._known: dict[tuple[Path, int, int], File] = {}
        handler = type("BoundHandler", (_Handler,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "HubStandIn":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def fault(self, **settings: object) -> Fault:
        """Add a Fault of these settings."""
        fault = Fault(**settings)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def note(self, request: Request, target: str) -> Fault | None:
        """Log a request; the fault that strikes it."""
        with self._lock:
            self.log.append(request)
            return next((each for each in self.faults if each.strikes(request.method, target)), None)

    def folder(self, kind: str, repository: str, revision: str = "main") -> Path:
        """Where the files of a revision lie."""
        root = self.root if revision == "main" else self.root / "revisions" / quote(revision, safe="")
        return root / kind / repository

    def revisions(self, kind: str, repository: str) -> list[str]:
        """The names of the revisions of a repository, of which there may be none."""
        others = sorted(unquote(path.name) for path in (self.root / "revisions").glob("*"))
        return [name for name in ["main", *others] if self.folder(kind, repository, name).is_dir()]

    def files(self, kind: str, repository: str, revision: str = "main") -> dict[str, File]:
        """The files of a repository by path; empty if there is none of this name."""
        folder = self.folder(kind, repository, revision)
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        return {file.path: file for file in (self._file(folder, path) for path in found)}

    def _file(self, folder: Path, path: Path) -> File:
        """Digests are worked out once for each content."""
        state = (path, path.stat().st_size, path.stat().st_mtime_ns)
        if state not in self._known:
            self._known[state] = File(path.relative_to(folder).as_posix(), path.read_bytes())
        return self._known[state]

    def commit(self, kind: str, repository: str, revision: str = "main") -> str:
        """The commit that a revision is at."""
        return commit_of(self.files(kind, repository, revision))


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients leave in the middle, and connections are reset on purpose; the rest is a bug."""
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handle_error(request, client_address)


class _RefusedError(Exception):
    """An answer in the hub's form of an error."""

    def __init__(self, status: int, code: str = "", commit: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.commit = status, code, commit


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: HubStandIn

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        host, span = self.headers.get("Host", ""), self.headers.get("Range")
        request = Request(self.command, address.path, span, token, host)
        self.fault = self.hub.note(request, self.path)
        try:
            if not self._early_fault():
                self._route([unquote(part) for part in address.path.split("/")[1:]], token)
        except _RefusedError as error:
            headers = {
                "X-Error-Code": error.code,
                "X-Error-Message": error.code,
                "X-Repo-Commit": error.commit,
            }
            self._send(error.status, b"{}", {key: value for key, value in headers.items() if value})

    do_HEAD = do_GET

    def _early_fault(self) -> bool:
        fault = self.fault
        if fault is None or fault.kind not in ("status", "drop", "silence", "slow_head"):
            return False
        if fault.kind == "status":
            self._send(fault.status, fault.body, fault.headers)
            return True
        if fault.kind == "silence":
            self.hub.stopping.wait(300)
        elif fault.kind == "slow_head":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            self._trickle(b"x" * 100_000, fault.seconds)
        self.close_connection = True
        return True

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _route(self, parts: list[str], token: str | None) -> None:
        if parts[0] == "lfs":
            kind, repository = parts[1], f"{parts[2]}/{parts[3]}"
            named = self.hub.revisions(kind, repository)
            large = (file for name in named for file in self.hub.files(kind, repository, name).values())
            self._body(next(file for file in large if file.sha256 == parts[4]), {})
            return
        if parts[0] == "api":
            _, kind, owner, name, *rest = parts
            verb, *rest = rest or ["revision", "main"]
        else:
            kind = parts.pop(0) if parts[0] == "datasets" else "models"
            owner, name, verb, *rest = parts
        repository = f"{owner}/{name}"
        self._open(kind, repository, token, verb == "resolve")
        for name in self.hub.revisions(kind, repository):
            files = self.hub.files(kind, repository, name)
            commit = commit_of(files)
            if rest[0] in (name, commit):
                break
        else:
            raise _RefusedError(404, "RevisionNotFound")
        path = "/".join(rest[1:])
        if verb == "revision":
            siblings = [{"rfilename": each} for each in files]
            document = {"id": repository, "sha": commit, "private": False, "tags": [], "siblings": siblings}
            self._send(200, json.dumps({**document, "downloads": 0, "likes": 0}).encode(), {})
        elif verb == "tree":
            self._tree(files, path, commit)
        elif path not in files:
            raise _RefusedError(404, "EntryNotFound", commit)
        else:
            self._resolve(kind, repository, commit, files[path])

    def _open(self, kind: str, repository: str, token: str | None, is_file: bool) -> None:
        if token is not None and token != TOKEN:
            raise _RefusedError(401)
        if not self.hub.revisions(kind, repository):
            raise _RefusedError(404 if token else 401, "RepoNotFound")
        if is_file and repository in self.hub.gated and token is None:
            raise _RefusedError(401, "GatedRepo")
        if is_file and repository in self.hub.refused:
            raise _RefusedError(403, "GatedRepo")

    def _tree(self, files: dict[str, File], folder: str, commit: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        start = f"{folder}/" if folder else ""
        below = [file for path, file in files.items() if path.startswith(start)]
        folders = {
            start + "/".join(part)
            for file in below
            for parts in [file.path.removeprefix(start).split("/")]
            for part in [parts[:n] for n in range(1, len(parts) if deep else min(2, len(parts)))]
        }
        if not below:
            raise _RefusedError(404, "EntryNotFound", commit)
        entries: list[dict[str, object]] = [
            {"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)
        ]
        entries += [file.entry() for file in below if deep or "/" not in file.path.removeprefix(start)]
        first = int(query.get("cursor", ["0"])[0])
        last = first + self.hub.page_size
        more = f"{self.hub.url}{urlsplit(self.path).path}?recursive={deep}&cursor={last}"
        headers = {"Link": f'<{more}>; rel="next"'} if last < len(entries) else {}
        self._send(200, json.dumps(entries[first:last]).encode(), headers)

    def _resolve(self, kind: str, repository: str, commit: str, file: File) -> None:
        headers = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(file.data))}
        if self.fault is not None and self.fault.kind == "header":
            headers |= self.fault.headers
        if not file.is_large:
            self._body(file, headers | {"ETag": f'"{file.git_id}"'})
            return
        place = f"http://localhost:{self.hub.port}/lfs/{kind}/{repository}/{file.sha256}/{quote(file.path)}"
        self._send(302, b"", headers | {"X-Linked-Etag": f'"{file.sha256}"', "Location": place})

    def _body(self, file: File, headers: dict[str, str]) -> None:
        fault = self.fault if self.command == "GET" else None
        kind = fault.kind if fault else ""
        data, start = file.data, 0
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and kind != "no_range":
            start = int(wanted[1])
            end = min(int(wanted[2]) + 1, len(data)) if wanted[2] else len(data)
            headers = headers | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
            data = data[start:end]
        if fault is not None and kind == "short":
            data = data[: fault.after]
        if kind == "flip":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        self.send_response(206 if "Content-Range" in headers else 200)
        for key, value in ({"ETag": f'"{file.sha256}"', "Accept-Ranges": "bytes"} | headers).items():
            self.send_header(key, value)
        if kind == "endless":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is None or kind in ("short", "flip", "no_range", "header"):
            self.wfile.write(data)
        elif kind == "slow":
            for first in range(0, len(data), fault.after):
                self.wfile.write(data[first : first + fault.after])
                self.hub.stopping.wait(fault.seconds)
        else:
            self._broken_body(data, fault)

    def _broken_body(self, data: bytes, fault: Fault) -> None:
        self.wfile.write(data[: fault.after])
        self.wfile.flush()
        self.close_connection = True
        if fault.kind == "stall":
            self.hub.stopping.wait(300)
        elif fault.kind == "drip":
            self._trickle(data[fault.after :], fault.seconds)
        elif fault.kind == "endless":
            while not self.hub.stopping.is_set():
                self.wfile.write(bytes(1 << 20))
        elif fault.kind == "reset":
            # Time for the client to read what came: a reset throws away what it has not.
            time.sleep(0.2)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _trickle(self, data: bytes, seconds: float) -> None:
        for byte in data:
            if self.hub.stopping.wait(seconds):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

"""A model hub on 127.0.0.1: as much of the hub's HTTP interface as its own client needs to fetch a snapshot."""

import contextlib
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a repository holds at a commit.

    Attributes:
        folder: the files.
        commit: 40 hex digits.
        token: who lacks it may list the files, but not read them: the repository is gated.
    """

    folder: Path
    commit: str
    token: str | None = None


class Refusal(Exception):  # noqa: N818  # an answer, not a fault
    """An answer without content, with the hub's code for the reason."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Hub:
    """The repositories of a server, and what it was asked for.

    Attributes:
        url: where it listens.
        asked: method and path of each request about a repository, in order.
        is_down: whether it answers everything with 503.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self.is_down = False
        self._snapshots: dict[str, dict[str, Snapshot]] = {}

    def add(self, repo: str, folder: Path, *, revision: str = "main", token: str | None = None) -> str:
        """Puts a folder into a repository as the newest commit of a branch or tag.

        Returns:
            the commit.
        """
        snapshot = Snapshot(folder, "", token)
        commit = hashlib.sha1(f"{repo} {revision} {folder} {_tree(snapshot)}".encode()).hexdigest()
        snapshot = dataclasses.replace(snapshot, commit=commit)
        self._snapshots.setdefault(repo, {}).update({revision: snapshot, commit: snapshot})
        return commit

    def files(self, repo: str) -> list[str]:
        """The files of a repository that were downloaded, each once."""
        start = f"GET /{repo}/resolve/"
        return sorted({line.rsplit("/", 1)[-1] for line in self.asked if line.startswith(start)})

    def find(self, repo: str, revision: str) -> Snapshot:
        """A repository's snapshot, as its branch, tag or commit.

        Raises:
            Refusal: when there is none; the hub does not tell strangers what is absent and what private.
        """
        if self.is_down:
            raise Refusal(503)
        if repo not in self._snapshots:
            raise Refusal(401, "RepoNotFound")
        if revision not in self._snapshots[repo]:
            raise Refusal(404, "RevisionNotFound")
        return self._snapshots[repo][revision]


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """A running hub without repositories, for as long as the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.hub = hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Answer(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # the base class's spelling
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *arguments: object) -> None:
        """Keeps quiet."""

    def _answer(self, *, with_body: bool) -> None:
        try:
            headers, body = self._content([unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")])
            status = 200
        except Refusal as refusal:
            status, headers, body = refusal.status, {"X-Error-Code": refusal.code}, b""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _content(self, parts: list[str]) -> tuple[dict[str, str], bytes]:
        """Headers and body for the path's parts."""
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        if parts[:2] == ["api", "models"]:
            hub.asked.append(f"{self.command} {self.path}")
            return {"Content-Type": "application/json"}, json.dumps(self._described(hub, parts[2:])).encode()
        if "resolve" not in parts:
            raise Refusal(404)
        hub.asked.append(f"{self.command} {self.path}")
        at = parts.index("resolve")
        snapshot = hub.find("/".join(parts[:at]), parts[at + 1])
        if snapshot.token is not None and self.headers.get("Authorization") != f"Bearer {snapshot.token}":
            raise Refusal(403 if "Authorization" in self.headers else 401, "GatedRepo")
        file = snapshot.folder.joinpath(*parts[at + 2 :])
        if not file.is_file():
            raise Refusal(404, "EntryNotFound")
        body = file.read_bytes()
        return {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": snapshot.commit}, body

    def _described(self, hub: Hub, parts: list[str]) -> object:
        """A repository, or the files in it."""
        for kind in ("tree", "revision"):
            if kind in parts:
                at = parts.index(kind)
                snapshot = hub.find("/".join(parts[:at]), parts[at + 1])
                return _tree(snapshot) if kind == "tree" else {"id": "/".join(parts[:at]), "sha": snapshot.commit}
        return {"id": "/".join(parts), "sha": hub.find("/".join(parts), "main").commit}


def _tree(snapshot: Snapshot) -> list[dict[str, object]]:
    files = sorted(path for path in snapshot.folder.rglob("*") if path.is_file())
    return [
        {
            "type": "file",
            "path": str(path.relative_to(snapshot.folder)),
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }
        for path in files
    ]

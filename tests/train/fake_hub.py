"""A server on this machine that speaks the routes of the Hugging Face Hub that its client uses for models."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub:
    """Its repositories: files by revision, by name.

    Attributes:
        cut: bytes after which the next download breaks off; 0: none does.
        damaged: whether downloads have another last byte.
        ranges: the Range headers of downloads.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.large: dict[str, bytes] = {}
        self.cut = 0
        self.damaged = False
        self.ranges: list[str | None] = []
        self.address = ""

    def create(self, name: str) -> tuple[int, Any]:
        known = name in self.repositories
        self.repositories.setdefault(name, {"main": {}})
        return (409 if known else 200), {"url": f"{self.address}/{name}", "error": "exists"}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, Any]:
        files = dict(self.repositories[name]["main"])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.repositories[name] |= {"main": files, digest: files}
        return 200, {"commitUrl": f"{self.address}/{name}/commit/{digest}", "commitOid": digest, "pullRequestUrl": None}


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        content = self.body()
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            self.answer(*self.hub.create(f"{asked['organization']}/{asked['name']}"))
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".onnx")) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(content)["files"]
            ]
            self.answer(200, {"files": files})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}}
                for one in json.loads(content)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            self.answer(*self.hub.commit(found[1], [json.loads(line) for line in content.splitlines()]))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tag/(.+)", self.path):
            repository = self.hub.repositories[found[1]]
            tag = json.loads(content)["tag"]
            if tag not in repository:
                repository[tag] = repository[found[2]]
                self.answer(200, {})
            else:
                self.answer(409, {"error": "tag exists"})
        else:
            self.answer(404, {"error": self.path})

    def do_PUT(self) -> None:
        content = self.body()
        name = self.path.removeprefix("/lfs/")
        right = hashlib.sha256(content).hexdigest() == name
        if right:
            self.hub.large[name] = content
        self.answer(200 if right else 400, {})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        files = self.hub.repositories.get(found[1], {}).get(found[2]) if found else None
        if found is None or files is None or found[3] not in files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if files is not None else "RevisionNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = files[found[3]]
        digest = hashlib.sha256(content).hexdigest()
        (commit,) = (key for key, value in self.hub.repositories[found[1]].items() if len(key) == 40 and value == files)
        first = 0
        if self.command == "GET":
            self.hub.ranges.append(self.headers.get("range"))
            if given := re.fullmatch(r"bytes=(\d+)-", self.headers.get("range") or ""):
                first = int(given[1])
        self.send_response(206 if first else 200)
        for name, value in {
            "X-Repo-Commit": commit,
            "ETag": f'"{digest}"',
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(content)),
            "Accept-Ranges": "bytes",
            "Content-Length": str(len(content) - first),
            **({"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if first else {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if self.hub.cut:
            self.wfile.write(content[first : self.hub.cut])
            self.wfile.flush()
            self.hub.cut, self.close_connection = 0, True
            self.connection.close()
            return
        self.wfile.write(content[first:])


@contextmanager
def serving() -> Iterator[FakeHub]:
    """Serve a hub without repositories; its address is in `address`."""
    hub = FakeHub()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub})) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()

"""nginx.conf, run on loopback in front of a server that says what has reached it."""

import json
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from nginx import free_ports, run_nginx

from serve.settings import Settings

FILE = Path(__file__).parents[2] / "deploy" / "nginx.conf"


@dataclass
class Upstream:
    """The server behind nginx."""

    port: int = 0
    connections: int = 0
    first_was_read: threading.Event = field(default_factory=threading.Event)


@dataclass
class Proxy:
    http: int
    https: int
    upstream: Upstream

    def ask(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        """The response, and its body as JSON if it is the upstream's."""
        connection = HTTPSConnection("127.0.0.1", self.https, timeout=30, context=ssl._create_unverified_context())
        try:
            connection.request("POST" if body is not None else "GET", path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
            return response, json.loads(content) if response.status == 200 else content
        finally:
            connection.close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    state = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            state.connections += 1
            super().setup()

        def do_GET(self) -> None:
            if self.path == "/gradio_api/queue/data":
                self._stream()
                return
            size = int(self.headers.get("content-length", 0))
            left = size
            while left:
                left -= len(self.rfile.read(min(left, 2**20)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            text = json.dumps({"path": self.path, "size": size, "headers": headers}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET  # noqa: N815  the library's name

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"9\r\ndata: 1\n\n\r\n")
            state.first_was_read.wait(25)
            self.wfile.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def proxy(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    folder = tmp_path_factory.mktemp("nginx")
    key, certificate = folder / "zoo.key", folder / "zoo.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=zoo.example.com -keyout {key} -out {certificate}",
        shell=True,
        check=True,
        capture_output=True,
    )
    http, https = free_ports(2)
    text = FILE.read_text()
    for old, new in {
        r"listen \[::\]:.*;": "",
        r"listen 80;": f"listen 127.0.0.1:{http};",
        r"listen 443 ": f"listen 127.0.0.1:{https} ",
        r"ssl_certificate .*;": f"ssl_certificate {certificate};",
        r"ssl_certificate_key .*;": f"ssl_certificate_key {key};",
        r"server 127\.0\.0\.1:8000;": f"server 127.0.0.1:{upstream.port};",
    }.items():
        text, count = re.subn(old, new, text)
        assert count, old
    with run_nginx(folder, text, http, https):
        yield Proxy(http, https, upstream)


def test_the_prefix_is_removed_and_told(proxy: Proxy) -> None:
    forged = {"Host": "zoo.example.com", "X-Forwarded-Prefix": "/evil", "X-Forwarded-Host": "evil", "Cookie": "a=b"}
    _, seen = proxy.ask("/zoo/classify/a.mnist?top_k=2", b"image", {**forged, "Authorization": "Bearer key"})
    assert seen["path"] == "/classify/a.mnist?top_k=2"
    headers = seen["headers"]
    assert headers["x-forwarded-prefix"] == "/zoo"
    assert headers["x-forwarded-host"] == "zoo.example.com"
    assert headers["x-forwarded-proto"] == "https"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["authorization"] == "Bearer key"
    # A server on loopback refuses names with a dot that it does not know.
    assert "." not in headers["host"]


@pytest.mark.parametrize("path", ["/zoo/gradio_api/run/models", "/zoo/", "/zoo/v2/health/ready", "/zoo/metrics/x"])
def test_every_location_tells_the_same(proxy: Proxy, path: str) -> None:
    _, seen = proxy.ask(path)
    assert seen["path"] == path.removeprefix("/zoo")
    told = {name for name in seen["headers"] if name.startswith("x-forwarded-")}
    assert told == {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-prefix"}


def test_what_the_server_must_answer_itself_reaches_it(proxy: Proxy) -> None:
    """Its own message says more than nginx's page."""
    size = Settings().max_body + 1
    _, seen = proxy.ask("/zoo/classify/a.mnist", bytes(size))
    assert seen["size"] == size


def test_larger_bodies_do_not_reach_it(proxy: Proxy) -> None:
    # The size alone, without the body: nginx refuses by the header.
    response, _ = proxy.ask("/zoo/classify/a.mnist", b"", {"Content-Length": str(64 * 2**20)})
    assert response.status == 413


def test_events_are_not_held_back(proxy: Proxy) -> None:
    context = ssl._create_unverified_context()
    with closing(HTTPSConnection("127.0.0.1", proxy.https, timeout=20, context=context)) as connection:
        connection.request("GET", "/zoo/gradio_api/queue/data")
        with connection.getresponse() as response:
            assert response.readline() == b"data: 1\n"  # the second event comes only after this
            proxy.upstream.first_was_read.set()
            assert response.read() == b"\ndata: 2\n\n"


def test_connections_to_the_server_are_kept(proxy: Proxy) -> None:
    proxy.ask("/zoo/")
    before = proxy.upstream.connections
    for _ in range(10):
        proxy.ask("/zoo/", b"x")
    assert proxy.upstream.connections == before


def test_they_are_closed_before_the_server_closes_them() -> None:
    """Otherwise a request meets a connection that is just being closed: 502."""
    (seconds,) = re.findall(r"keepalive_timeout (\d+)s;", FILE.read_text())
    assert int(seconds) < Settings().keep_alive


def test_plain_http_leads_to_tls(proxy: Proxy) -> None:
    connection = HTTPConnection("127.0.0.1", proxy.http, timeout=20)
    connection.request("GET", "/zoo/docs?a=b", headers={"Host": "zoo.example.com"})
    response = connection.getresponse()
    assert (response.status, response.headers["location"]) == (308, "https://zoo.example.com/zoo/docs?a=b")
    connection.close()


def test_the_prefix_without_a_slash_leads_to_the_page(proxy: Proxy) -> None:
    response, _ = proxy.ask("/zoo")
    assert (response.status, response.headers["location"]) == (308, "/zoo/")


@pytest.mark.parametrize("path", ["/zoo/metrics", "/", "/classify/a.mnist"])
def test_what_is_not_for_the_outside(proxy: Proxy, path: str) -> None:
    assert proxy.ask(path)[0].status == 404

"""Signals at any moment: no request is lost, and nothing keeps the process from ending."""

import asyncio
import gzip
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from watching import eventually, get, post, sample

pytestmark = pytest.mark.xdist_group("serve")

Encode = Callable[..., bytes]


# Each program is `python -m serve` with one step that never ends.
IMPORTING = """
import sys, time, types
from serve.__main__ import main

class Slow(types.ModuleType):
    def __getattr__(self, name):
        print("importing", flush=True)
        time.sleep(1e6)

sys.modules["serve.api"] = Slow("serve.api")
main()
"""
LOADING = """
import time, serve.engine.repository, serve.server
from serve.__main__ import main

async def startup(self, sockets=None, real=serve.server.Server.startup):
    await real(self, sockets)
    print("loading on http://%s:%d" % sockets[0].getsockname(), flush=True)

serve.server.Server.startup = startup
serve.engine.repository.load = lambda *arguments: time.sleep(1e6)
main()
"""
RUNNING = """
import time, serve.engine.batching, serve.engine.models, serve.server
from serve.__main__ import main

def run(self, session, images, real=serve.engine.models.Model._run):
    return time.sleep(1e6) if images.any() else real(self, session, images)

serve.engine.batching.BRIEF = 0
serve.engine.models.Model._run = run
serve.server.LAST_RESORT = 3  # uvicorn itself gives up after 2 seconds
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_it_begins_ends_it(tiny: Any, tmp_path: Path, running: Any, number: int) -> None:
    tiny(tmp_path / "model").write()
    with running("--models", tmp_path, program=("-c", IMPORTING)) as server:
        assert server.line == "importing"
        assert server.stop(number) == (0, "")


def test_a_signal_while_models_load_does_not_wait_for_them(tiny: Any, tmp_path: Path, running: Any) -> None:
    tiny(tmp_path / "model").write()
    arguments = ("--models", tmp_path, "--no-app", "--shutdown-timeout", 0, "--model-control", "explicit")
    responses: list[httpx.Response] = []
    with running(*arguments, program=("-c", LOADING)) as server:
        assert get(f"{server.url}/v2/health/live").status_code == 200
        responses.append(get(f"{server.url}/v2/health/ready"))
        responses.append(post(f"{server.url}/classify/model", content=b"x"))

        def load() -> None:
            responses.append(post(f"{server.url}/v2/repository/models/model/load", timeout=60))

        threads = [threading.Thread(target=load) for _ in range(40)]
        for thread in threads:
            thread.start()
        assert eventually(partial(in_flight, server.url, 41))
        # Requests that wait for the load do not take the thread that others need.
        index = f"{server.url}/v2/repository/index"
        states = post(index, content=gzip.compress(b"{}"), headers={"content-encoding": "gzip"}, timeout=60)
        assert [entry["state"] for entry in states.json()] == ["LOADING"]
        assert server.stop() == (0, "ERROR: Cancel 40 running task(s), timeout graceful shutdown exceeded\n")
        for thread in threads:
            thread.join()
    assert [response.status_code for response in responses] == [503] * 42
    assert all(int(response.headers["retry-after"]) >= 1 for response in responses)
    assert [response.json()["error"] for response in responses] == [
        "not ready: loading models",
        "model 'model' is not ready: loading",
        *["the server is shutting down"] * 40,
    ]


def test_a_run_that_hangs_does_not_keep_the_process(tiny: Any, tmp_path: Path, running: Any, encode: Encode) -> None:
    """Requests that wait for the run, for the next one, or for room for their bodies still get a response."""
    model = tiny(tmp_path / "model").write()
    arguments = ("--models", tmp_path, "--no-app", "--shutdown-timeout", 0, "--timeout", 1000)
    responses: list[httpx.Response] = []
    with running(*arguments, program=("-c", RUNNING)) as server:
        data = encode(model.images(1)[0])

        def ask(coding: str) -> None:
            content = gzip.compress(data) if coding == "gzip" else data
            headers = {"content-encoding": coding}
            responses.append(post(f"{server.url}/classify/model", content=content, headers=headers, timeout=60))

        threads = []
        for count, coding in enumerate(["gzip"] * 10 + ["identity"] * 10, 1):
            threads.append(threading.Thread(target=ask, args=(coding,)))
            threads[-1].start()
            assert eventually(partial(in_flight, server.url, count + 1))
        status, _ = server.stop()
        for thread in threads:
            thread.join()
    assert status == 1
    assert [response.status_code for response in responses] == [503] * 20
    assert {response.json()["error"] for response in responses} == {"the server is shutting down"}


@pytest.mark.skipif(sys.platform != "linux", reason="sets the limit of another process")
def test_without_file_descriptors_it_still_ends(tiny: Any, tmp_path: Path, running: Any) -> None:
    import resource

    tiny(tmp_path / "model").write()
    with running("--models", tmp_path, "--no-app") as server:
        pid = server.process.pid
        most = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 5
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
        # Numbers that are free below the highest are given out first.
        sockets = [server.connect() for _ in range(most)]
        assert eventually(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) == most)
        status, errors = server.stop()
        for client in sockets:
            client.close()
    assert status == 0
    assert "Traceback" not in errors


def in_flight(url: str, count: int) -> bool:
    """Return whether `count` requests are in flight, the one for the metrics included."""
    return sample(url, "serve_requests_in_flight") == count


class Load:
    """Clients in threads that send requests one after another, and the number of each outcome."""

    def __init__(self, url: str, model: Any, encode: Encode, clients: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.sent = 0
        self._url = f"{url}/classify/{model.name}"
        self._images = [(encode(p), model.best(p)) for p in model.images(16)]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send_requests, args=(index,)) for index in range(clients)]
        for thread in self._threads:
            thread.start()

    def _send_requests(self, index: int) -> None:
        with httpx.Client(timeout=30, verify=False) as client:
            while not self._stop.is_set():
                index += 1
                data, best = self._images[index % len(self._images)]
                with self._lock:
                    self.sent += 1
                try:
                    response = client.post(self._url, content=data)
                    outcome = str(response.status_code)
                    if response.status_code == 200 and response.json()["predictions"][0]["index"] != best:
                        outcome = "wrong"
                except httpx.ConnectError:
                    outcome = "turned away"
                except httpx.HTTPError as error:
                    outcome = f"lost: {error!r}"
                with self._lock:
                    self.outcomes[outcome] += 1
                if outcome == "turned away":
                    return

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_under_load_loses_nothing(
    tiny: Any, tmp_path: Path, running: Any, encode: Encode, number: int
) -> None:
    model = tiny(tmp_path / "model").write(cost=2)
    with running("--models", tmp_path, "--no-app", "--linger", 0.3) as server:
        load = Load(server.url, model, encode, clients=16)
        assert eventually(lambda: load.outcomes["200"] > 50)  # clients are slow to start on a busy machine
        server.process.send_signal(number)
        status, errors = _ended(server)
        load.stop()
    assert status == 0
    assert "Traceback" not in errors
    assert load.outcomes.total() == load.sent
    assert set(load.outcomes) <= {"200", "turned away"}, load.outcomes


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_connections_that_have_begun_are_accepted(family: int, address: str) -> None:
    from serve.http.listening import finish_listening

    async def accept(listener: socket.socket, count: int) -> list[bytes]:
        loop = asyncio.get_running_loop()
        requests = []
        for _ in range(count):
            await asyncio.sleep(0.1)  # long past the handshake's time for the last of them
            connection, _ = await loop.sock_accept(listener)
            requests.append(await loop.sock_recv(connection, 100))
            connection.close()
        return requests

    async def end(listener: socket.socket) -> list[bytes]:
        accepting = asyncio.create_task(accept(listener, 5))
        await finish_listening([listener])
        listener.close()
        return await asyncio.wait_for(accepting, 30)

    with socket.create_server((address, 0), family=family) as listener:
        listener.setblocking(False)
        clients = [socket.create_connection(listener.getsockname()[:2]) for _ in range(5)]
        for client in clients:
            client.sendall(b"request")
        assert asyncio.run(end(listener)) == [b"request"] * 5
        for client in clients:
            assert client.recv(1) == b""  # closed in good order; a reset would raise
            client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems round a backlog of 0 up")
@pytest.mark.parametrize("held", [0, 1])
def test_new_connections_are_turned_away(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """Where the system has no packet filter, the kernel holds one connection at most, as nobody accepts it."""
    from serve.http import listening

    monkeypatch.setattr(listening, "ACCEPTING", 0)
    if held:
        monkeypatch.setattr(listening, "_drop_handshakes", lambda _: False)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as clients:
        asyncio.run(listening.finish_listening([listener]))
        for _ in range(held):
            clients.enter_context(socket.create_connection(listener.getsockname(), timeout=30))
        with pytest.raises(TimeoutError):
            socket.create_connection(listener.getsockname(), timeout=0.3)


def test_it_does_not_wait_for_ever_for_what_cannot_be_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve.http import listening

    monkeypatch.setattr(listening, "ACCEPTING", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        asyncio.run(asyncio.wait_for(listening.finish_listening([listener]), 30))


def _ended(server: Any) -> tuple[int, str]:
    _, errors = server.process.communicate(timeout=60)
    return server.process.returncode, errors


def test_after_sigterm_it_is_not_ready_and_still_serves(
    tiny: Any, tmp_path: Path, running: Any, encode: Encode
) -> None:
    model = tiny(tmp_path / "model").write()
    (pixels,) = model.images(1)
    with running("--models", tmp_path, "--no-app", "--linger", 1000) as server:
        assert get(f"{server.url}/v2/health/ready").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: get(f"{server.url}/v2/health/ready").status_code == 503)
        ready = get(f"{server.url}/v2/health/ready")
        assert ready.status_code == 503
        assert ready.headers["connection"] == "close"
        assert get(f"{server.url}/v2/health/live").status_code == 200
        response = post(f"{server.url}/classify/model", content=encode(pixels))
        assert response.json()["predictions"][0]["index"] == model.best(pixels)
        # A second signal ends it long before it stops to linger.
        server.process.send_signal(signal.SIGTERM)
        status, _ = _ended(server)
        assert status == 0


def test_under_nohup_a_hangup_is_ignored(tiny: Any, tmp_path: Path, running: Any) -> None:
    tiny(tmp_path / "model").write()
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from serve.__main__ import main; main()"
    with running("--models", tmp_path, "--no-app", program=("-c", ignoring)) as server:
        server.process.send_signal(signal.SIGHUP)
        assert get(f"{server.url}/v2/health/ready").status_code == 200
        assert server.stop() == (0, "INFO: model is ready: fp32 on cpu\n")


def test_what_cannot_be_finished_in_time_gets_a_response(
    tiny: Any, tmp_path: Path, running: Any, encode: Encode
) -> None:
    model = tiny(tmp_path / "slow").write(cost=200)  # all of them take seconds, also on a fast machine
    data = encode(model.images(1)[0])
    arguments = ("--models", tmp_path, "--no-app", "--shutdown-timeout", 0.3, "--max-batch", 1, "--threads", 1)
    outcomes: list[int] = []
    with running(*arguments) as server:

        def ask() -> None:
            outcomes.append(post(f"{server.url}/classify/slow", content=data, timeout=60).status_code)

        threads = [threading.Thread(target=ask) for _ in range(24)]
        for thread in threads:
            thread.start()
        assert eventually(partial(in_flight, server.url, 25))
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        _ended(server)
    assert len(outcomes) == 24
    assert set(outcomes) == {200, 503}

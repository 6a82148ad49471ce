"""Starting, stopping, and standing more than can be done; always with real processes."""

import asyncio
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import onnxruntime
import pytest

from serve.settings import Settings, from_environment

ROOT = Path(__file__).parents[2]
Encode = Callable[..., bytes]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "serve", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_help_names_every_setting() -> None:
    done = command("--help")
    assert done.returncode == 0
    for name in Settings.__dataclass_fields__:
        shown = "SERVE_API_KEY" if name == "api_key" else "--" + name.replace("_", "-")
        assert shown in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--models", "nowhere"), "nowhere is no folder"),
        (("--models", "serve"), "serve holds no models; build one with: python train/export.py serve/NAME"),
        (("--device", "tpu"), "invalid choice: 'tpu'"),
        (("--max-batch", "0"), "max_batch is 0; it must be at least 1"),
        (("--port", "70000"), "port is 70000; valid are 0 to 65535"),
        (("--timeout", "nan"), "timeout is nan"),
        (("--max-delay", "1e10"), "max_delay is 10000000000.0; it must be at least 0, and at most 2147483648"),
        (("--models", "serve", "--host", "256.1.1.1"), "cannot listen on 256.1.1.1:8000"),
        (("--models", "serve", "--host", "a..b"), "cannot listen on a..b:8000: 'a..b' is no host name"),
        (("--max-images", "300"), "more than the 256 of max_queue"),
    ],
)
def test_a_wrong_start_says_why_in_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = command(*arguments)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_one_line(tiny: Any, tmp_path: Path) -> None:
    tiny(tmp_path / "model").write()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("--models", tmp_path, "--port", port)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port" in done.stderr


def test_the_environment_sets_what_flags_do_not() -> None:
    found = from_environment({"SERVE_PORT": "9", "SERVE_APP": "false", "SERVE_MODELS": "x", "SERVE_TIMEOUT": "1.5"})
    assert Settings(**found) == Settings(port=9, app=False, models=Path("x"), timeout=1.5)
    assert "secret" not in repr(Settings(api_key="secret"))
    for name, value in (("PORT", "many"), ("APP", "perhaps"), ("MAX_BATCH", "1.5")):
        with pytest.raises(ValueError, match=f"SERVE_{name} is '{value}'"):
            from_environment({f"SERVE_{name}": value})


def test_broken_folders_do_not_keep_the_others(tiny: Any, tmp_path: Path, running: Any) -> None:
    tiny(tmp_path / "good").write()
    tiny(tmp_path / "mislabelled", labels=["only one"]).write()
    for name, content in (("garbage", b"no model"), ("empty", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(content)
    (tmp_path / "unbuilt").mkdir()
    (tmp_path / "unbuilt" / "model.safetensors").touch()
    (tmp_path / "no model at all").mkdir()
    with running("--models", tmp_path, "--no-app") as server:
        assert server.line.startswith("Serving 1 model on ")
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
        status, errors = server.stop()
    assert status == 0
    assert f"build it with: python train/export.py {tmp_path / 'unbuilt'}" in errors
    for name in ("garbage", "empty", "mislabelled"):
        assert name in errors
    assert "no model at all" not in errors
    assert "Traceback" not in errors


def test_a_folder_that_cannot_be_read_does_not_keep_the_others(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve import models
    from serve.engine import Engine

    for name in ("good", "locked"):
        tiny(tmp_path / name).write()
    (tmp_path / "a file").touch()
    (tmp_path / "a link to nothing").symlink_to("nothing")

    def deny(real: Callable[..., Any]) -> Callable[..., Any]:
        # Not by its permissions, which the system's administrator passes by.
        def denied(path: Path) -> Any:
            if "locked" in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        return denied

    monkeypatch.setattr(models.os, "listdir", deny(models.os.listdir))
    monkeypatch.setattr(Path, "is_file", deny(Path.is_file))
    with Engine(Settings(models=tmp_path)) as engine:
        assert list(engine.models()) == ["good"]
        states = {entry.name: entry for entry in engine.repository.index()}
        assert list(states) == ["good", "locked"]
        assert states["locked"].state == "UNAVAILABLE"
        assert "Permission denied" in states["locked"].reason
    assert models.find(tmp_path / "nowhere") == models.find(tmp_path / "locked") == []


def test_without_any_model_it_ends(tmp_path: Path, running: Any) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no model")
    done = command("--models", tmp_path, "--port", 0, "--no-app")
    assert done.returncode == 1
    assert f"none of the models in {tmp_path} could be loaded" in done.stderr
    assert "does not load" in done.stderr
    assert done.stdout == ""


def test_precisions(tiny: Any, tmp_path: Path) -> None:
    from serve.cores import has_int8_dot_product
    from serve.engine import Engine

    tiny(tmp_path / "both").write().write("int8")
    tiny(tmp_path / "plain").write()
    usual = "int8" if has_int8_dot_product() else "fp32"
    for precision, expected in (
        ("auto", {"both": usual, "plain": "fp32"}),
        ("fp32", {"both": "fp32", "plain": "fp32"}),
        ("int8", {"both": "int8"}),
    ):
        with Engine(Settings(models=tmp_path, precision=precision, device="cpu")) as engine:
            assert {name: info.precision for name, info in engine.models().items()} == expected


@pytest.mark.parametrize("dot_product", [True, False])
def test_int8_is_computed_in_the_exact_way_only_where_the_fast_one_runs_over(
    dot_product: bool, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serve import models

    tiny(tmp_path / "model").write("int8")
    opened: list[Any] = []

    def session(path: Path, options: Any, **kwargs: Any) -> Any:
        opened.append(options)
        return onnxruntime.InferenceSession(path, options, **kwargs)

    fake = types.SimpleNamespace(SessionOptions=onnxruntime.SessionOptions, InferenceSession=session)
    monkeypatch.setattr(models, "onnxruntime", fake)
    monkeypatch.setattr(models, "has_int8_dot_product", lambda: dot_product)
    models.load(tmp_path / "model", Settings(precision="int8", device="cpu"))
    (options,) = opened
    if dot_product:  # where it would take twice the time
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.x64quantprecision")
    else:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"


@pytest.mark.parametrize("trouble", ["opening", "providers", "running", "none"])
@pytest.mark.parametrize("device", ["auto", "cuda", "cpu"])
def test_cuda_is_used_only_where_it_works(
    trouble: str,
    device: str,
    tiny: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from serve import models
    from serve.errors import ModelLoadError

    tiny(tmp_path / "model").write()

    class Session(onnxruntime.InferenceSession):
        """As on a machine with a GPU; it computes on the CPU."""

        def __init__(self, path: Path, options: Any, *, providers: list[Any], enable_fallback: bool) -> None:
            assert not enable_fallback, "it would change to the CPU by itself"
            self.on_gpu = providers[0] != "CPUExecutionProvider"
            if self.on_gpu and trouble == "opening":
                raise RuntimeError("CUDA failure 100")
            super().__init__(path, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            gpu = self.on_gpu and trouble != "providers"
            return ["CUDAExecutionProvider", "CPUExecutionProvider"] if gpu else ["CPUExecutionProvider"]

        def run(self, *arguments: Any) -> Any:
            if self.on_gpu and trouble == "running":
                raise RuntimeError("CUDA failure 100")
            return super().run(*arguments)

    monkeypatch.setattr(models.onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(models.onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(models, "has_cuda", lambda: True)
    settings = Settings(device=device)
    why = "CUDA provider did not load" if trouble == "providers" else "CUDA failure 100"
    if device == "cuda" and trouble != "none":
        with pytest.raises(ModelLoadError, match=f"device is 'cuda', but .*{why}"):
            models.load(tmp_path / "model", settings)
        return
    model = models.load(tmp_path / "model", settings)
    works = device != "cpu" and trouble == "none"
    assert model.info.device == ("cuda" if works else "cpu")
    assert (why in caplog.text) == (device == "auto" and not works)


def test_a_broken_file_is_not_laid_at_the_gpus_door(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from serve import models
    from serve.errors import ModelLoadError

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"no model")
    monkeypatch.setattr(models.onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(models, "has_cuda", lambda: True)
    with pytest.raises(ModelLoadError, match=r"does not load: .*Protobuf"):
        models.load(tmp_path / "model", Settings(device="auto"))
    monkeypatch.setattr(models, "has_cuda", lambda: False)
    with pytest.raises(ModelLoadError, match="no CUDA device"):
        models.load(tmp_path / "model", Settings(device="cuda"))


def test_nothing_of_training_is_imported(tiny: Any, tmp_path: Path) -> None:
    model = tiny(tmp_path / "model").write()
    program = f"""
import sys, asyncio, numpy as np
from pathlib import Path
from serve.api import create_app
from serve.settings import Settings
app = create_app(Settings(models=Path({str(tmp_path)!r})))
with app.state.engine as engine:
    asyncio.run(engine.infer({model.name!r}, np.zeros((1, 32, 32, 3), np.uint8)))
print(sorted({{"torch", "timm", "zoo", "train", "torchvision", "onnx"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


# Each is `python -m serve` after a change that makes a moment of its life last.
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
import time, serve.repository, serve.server
from serve.__main__ import main

async def startup(self, sockets=None, real=serve.server.Server.startup):
    await real(self, sockets)
    print("loading on http://%s:%d" % sockets[0].getsockname(), flush=True)

serve.server.Server.startup = startup
serve.repository.load = lambda *arguments: time.sleep(1e6)
main()
"""
RUNNING = """
import time, serve.engine, serve.models
from serve.__main__ import main

def run(self, images, real=serve.models.Model.run):
    return time.sleep(1e6) if images.any() else real(self, images)

serve.engine.BRIEF = 0
serve.models.Model.run = run
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_begins_ends_it(tiny: Any, tmp_path: Path, running: Any, number: int) -> None:
    tiny(tmp_path / "model").write()
    with running("--models", tmp_path, program=("-c", IMPORTING)) as server:
        assert server.line == "importing"
        assert server.stop(number) == (0, "")


def test_a_signal_while_models_load_does_not_wait_for_them(tiny: Any, tmp_path: Path, running: Any) -> None:
    tiny(tmp_path / "model").write()
    arguments = ("--models", tmp_path, "--no-app", "--shutdown-timeout", 0)
    answers: list[httpx.Response] = []
    with running(*arguments, program=("-c", LOADING)) as server:
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
        answers.append(httpx.get(f"{server.url}/v2/health/ready"))
        answers.append(httpx.post(f"{server.url}/classify/model", content=b"x"))

        def load() -> None:
            answers.append(httpx.post(f"{server.url}/v2/repository/models/model/load", timeout=60))

        threads = [threading.Thread(target=load) for _ in range(40)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: sample(server.url, "serve_requests_in_flight") == 41)
        # Those who wait for the load leave others a thread to work in.
        index = f"{server.url}/v2/repository/index"
        states = httpx.post(index, content=gzip.compress(b"{}"), headers={"content-encoding": "gzip"}, timeout=60)
        assert [entry["state"] for entry in states.json()] == ["LOADING"]
        assert server.stop() == (0, "ERROR: Cancel 40 running task(s), timeout graceful shutdown exceeded\n")
        for thread in threads:
            thread.join()
    assert [answer.status_code for answer in answers] == [503] * 42
    assert [answer.json()["error"] for answer in answers] == [
        "not ready: loading models",
        "model 'model' is not ready: loading",
        *["the server is shutting down"] * 40,
    ]


def test_a_run_that_hangs_does_not_keep_the_process(tiny: Any, tmp_path: Path, running: Any, encode: Encode) -> None:
    """Those who wait for the run, for the next one, and for room for their bodies are answered yet."""
    model = tiny(tmp_path / "model").write()
    arguments = ("--models", tmp_path, "--no-app", "--shutdown-timeout", 0, "--timeout", 1000)
    answers: list[httpx.Response] = []
    with running(*arguments, program=("-c", RUNNING)) as server:
        data = encode(model.images(1)[0])

        def ask(coding: str) -> None:
            content = gzip.compress(data) if coding == "gzip" else data
            headers = {"content-encoding": coding}
            answers.append(httpx.post(f"{server.url}/classify/model", content=content, headers=headers, timeout=60))

        threads = []
        for count, coding in enumerate(["gzip"] * 10 + ["identity"] * 10, 1):
            threads.append(threading.Thread(target=ask, args=(coding,)))
            threads[-1].start()
            assert eventually(lambda count=count: sample(server.url, "serve_requests_in_flight") == count + 1)
        status, _ = server.stop()
        for thread in threads:
            thread.join()
    assert status == 1
    assert [answer.status_code for answer in answers] == [503] * 20
    assert {answer.json()["error"] for answer in answers} == {"the server is shutting down"}


@pytest.mark.skipif(sys.platform != "linux", reason="sets the limit of another process")
def test_without_file_descriptors_it_still_ends(tiny: Any, tmp_path: Path, running: Any) -> None:
    import resource

    tiny(tmp_path / "model").write()
    with running("--models", tmp_path, "--no-app") as server:
        pid = server.process.pid
        host, port = server.url.removeprefix("http://").split(":")
        most = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()) + 5
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
        sockets = [socket.create_connection((host, int(port))) for _ in range(20)]
        assert eventually(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) == most)
        status, errors = server.stop()
        for client in sockets:
            client.close()
    assert status == 0
    assert "Traceback" not in errors


def test_another_server_can_host_the_application(tiny: Any, tmp_path: Path) -> None:
    tiny(tmp_path / "model").write()
    command = [sys.executable, "-m", "uvicorn", "--factory", "serve.api:create_app", "--port", "0"]
    environment = {**os.environ, "SERVE_MODELS": str(tmp_path), "SERVE_APP": "false"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "running on" in line)
            url = line.split("running on ")[1].split()[0]
            assert eventually(lambda: httpx.get(f"{url}/v2/health/ready").status_code == 200)
            process.terminate()
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "Application shutdown complete" in errors
    assert "Finished server process" in errors
    assert "Traceback" not in errors


class Load:
    """Clients in threads that ask one after the other, and the account of what became of every request."""

    def __init__(self, url: str, model: Any, encode: Encode, clients: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.sent = 0
        self._url = f"{url}/classify/{model.name}"
        self._pictures = [(encode(p), model.best(p)) for p in model.images(16)]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, index: int) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                index += 1
                data, best = self._pictures[index % len(self._pictures)]
                with self._lock:
                    self.sent += 1
                try:
                    answer = client.post(self._url, content=data)
                    outcome = str(answer.status_code)
                    if answer.status_code == 200 and answer.json()["predictions"][0]["index"] != best:
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_nothing(
    tiny: Any, tmp_path: Path, running: Any, encode: Encode, number: int
) -> None:
    model = tiny(tmp_path / "model").write(cost=2)
    with running("--models", tmp_path, "--no-app", "--linger", 1) as server:
        load = Load(server.url, model, encode, clients=16)
        time.sleep(1.5)
        server.process.send_signal(number)
        status, errors = _ended(server)
        load.stop()
    assert status == 0
    assert "Traceback" not in errors
    assert load.outcomes.total() == load.sent
    assert set(load.outcomes) <= {"200", "turned away"}, load.outcomes
    assert load.outcomes["200"] > 20


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's packet filter")
@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_who_has_come_is_accepted_and_nobody_else(family: int, address: str) -> None:
    from serve.listening import drop_handshakes, finish_listening

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
        assert accepting.done() or await asyncio.wait_for(accepting, 0.2)
        listener.close()
        return accepting.result()

    with socket.create_server((address, 0), family=family) as listener:
        listener.setblocking(False)
        clients = [socket.create_connection(listener.getsockname()[:2]) for _ in range(5)]
        for client in clients:
            client.sendall(b"request")
        assert drop_handshakes(listener)
        with pytest.raises(TimeoutError):
            socket.create_connection(listener.getsockname()[:2], timeout=0.1)
        assert asyncio.run(end(listener)) == [b"request"] * 5
        for client in clients:
            assert client.recv(1) == b""  # closed in good order; a reset would raise
            client.close()


def test_who_cannot_be_accepted_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    from serve import listening

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
    with running("--models", tmp_path, "--no-app", "--linger", 3) as server:
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        ready = httpx.get(f"{server.url}/v2/health/ready")
        assert ready.status_code == 503
        assert ready.headers["connection"] == "close"
        assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
        answer = httpx.post(f"{server.url}/classify/model", content=encode(pixels))
        assert answer.json()["predictions"][0]["index"] == model.best(pixels)
        # A second signal ends it at once.
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        status, _ = _ended(server)
        assert time.monotonic() - began < 3
        assert status == 0


def test_what_cannot_be_finished_in_time_is_answered(tiny: Any, tmp_path: Path, running: Any, encode: Encode) -> None:
    model = tiny(tmp_path / "slow").write(cost=300)
    data = encode(model.images(1)[0])
    arguments = ("--models", tmp_path, "--no-app", "--shutdown-timeout", 0.3, "--max-batch", 1)
    outcomes: list[int] = []
    with running(*arguments) as server:

        def ask() -> None:
            outcomes.append(httpx.post(f"{server.url}/classify/slow", content=data, timeout=60).status_code)

        threads = [threading.Thread(target=ask) for _ in range(24)]
        for thread in threads:
            thread.start()
        assert eventually(lambda: sample(server.url, "serve_requests_in_flight") == 25)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        _ended(server)
    assert len(outcomes) == 24
    assert set(outcomes) == {200, 503}


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether `condition` comes true in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def sample(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_clients_that_leave_cost_nothing(tiny: Any, tmp_path: Path, running: Any, encode: Encode) -> None:
    model = tiny(tmp_path / "slow").write(cost=60)
    data = encode(model.images(1)[0])
    head = f"POST /classify/slow HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    with running("--models", tmp_path, "--no-app", "--max-batch", 1) as server:
        address = server.url.removeprefix("http://").split(":")
        before = sample(server.url, "serve_batch_size_sum")
        sockets = [socket.create_connection((address[0], int(address[1]))) for _ in range(20)]
        for client in sockets:
            client.sendall(head + data)
        assert eventually(lambda: sample(server.url, "serve_requests_in_flight") > 20)
        for client in sockets:
            client.close()
        assert eventually(lambda: sample(server.url, "serve_requests_in_flight") == 1)
        assert sample(server.url, "serve_queue_images") == 0
        gone = sample(server.url, 'serve_requests_total{model="slow",outcome="gone"')
        assert gone >= 10
        assert sample(server.url, "serve_batch_size_sum") - before <= 20 - gone + 1


async def _flood(url: str, data: bytes, best: int, seconds: float, clients: int) -> tuple[int, Counter[str]]:
    """`clients` that never wait between requests; what was sent, and what became of it. On bare sockets: a library for
    clients would take more of the processor than the server."""
    address, _, path = url.removeprefix("http://").partition("/")
    host, port = address.split(":")
    request = f"POST /{path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
    outcomes: Counter[str] = Counter()
    sent = 0
    end = time.monotonic() + seconds

    async def ask() -> None:
        nonlocal sent
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.monotonic() < end:
            sent += 1
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            status = head.split()[1]
            if status == "503":
                assert int(headers["retry-after"]) >= 1
            right = status != "200" or body["predictions"][0]["index"] == best
            outcomes[status if right else "wrong"] += 1
        writer.close()

    await asyncio.gather(*(ask() for _ in range(clients)))
    return sent, outcomes


@pytest.mark.parametrize("seconds", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_overload_is_refused_and_accounted_for(
    tiny: Any, tmp_path: Path, running: Any, encode: Encode, seconds: int
) -> None:
    """The queue takes 16 images and a run 4; 80 clients ask without a pause: four times what can be held."""
    model = tiny(tmp_path / "slow").write(cost=10)
    (pixels,) = model.images(1)
    arguments = ("--max-queue", 16, "--max-images", 16, "--max-batch", 4, "--timeout", 20)
    with running("--models", tmp_path, "--no-app", *arguments) as server:
        url = f"{server.url}/classify/slow"
        asyncio.run(_flood(url, encode(pixels), model.best(pixels), 1, 80))
        idle = server.memory()
        before = sample(server.url, 'serve_requests_total{model="slow"')
        sent, outcomes = asyncio.run(_flood(url, encode(pixels), model.best(pixels), seconds, 80))
        assert sent == outcomes.total()
        assert set(outcomes) == {"200", "503"}, outcomes
        assert sent > 4 * outcomes["200"] > 20
        assert sample(server.url, 'serve_requests_total{model="slow"') - before == sent
        assert server.memory() - idle < 50e6
        assert sample(server.url, "serve_queue_images") == 0


def test_memory_comes_back_after_unload(tiny: Any, tmp_path: Path, running: Any) -> None:
    tiny(tmp_path / "small").write()
    with running("--models", tmp_path, "--no-app") as server:
        httpx.post(f"{server.url}/v2/repository/models/small/load")
        before = server.memory()
        tiny(tmp_path / "large").write(ballast=200_000_000)
        assert httpx.post(f"{server.url}/v2/repository/models/large/load", timeout=60).status_code == 200
        loaded = server.memory()
        assert loaded - before > 150e6
        for _ in range(3):
            httpx.post(f"{server.url}/v2/repository/models/large/load", timeout=60)
        assert server.memory() - loaded < 50e6
        assert httpx.post(f"{server.url}/v2/repository/models/large/unload").status_code == 200
        assert server.memory() - before < 40e6


@pytest.mark.parametrize(("app", "share"), [("--app", 0.01), ("--no-app", 0.001)])
def test_idle_it_uses_no_processor(
    tiny: Any, tmp_path: Path, running: Any, encode: Encode, app: str, share: float
) -> None:
    model = tiny(tmp_path / "model").write()
    with running("--models", tmp_path, app) as server:
        httpx.post(f"{server.url}/classify/model", content=encode(model.images(1)[0]))
        time.sleep(0.5)
        before = server.processor_seconds()
        time.sleep(3)
        assert server.processor_seconds() - before < 3 * share


def test_strangers_pictures_cost_less_than_300_megabytes(
    tiny: Any, tmp_path: Path, running: Any, encode: Encode
) -> None:
    """The largest pictures that are let in, and small ones with texts that unpack to a thousand times their size."""
    from PIL import Image, PngImagePlugin

    from serve.decoding import TINY_BYTES

    model = tiny(tmp_path / "model").write()
    (small,) = model.images(1)
    with running("--models", tmp_path, "--no-app", "--timeout", 60) as server:
        url = f"{server.url}/classify/model"
        assert httpx.post(url, content=encode(small)).status_code == 200
        idle = peak = server.memory()
        large = Image.effect_noise((5000, 5000), 10)
        texts = PngImagePlugin.PngInfo()
        for index in range(7):
            texts.add_text(f"key{index}", "x" * 1_000_000, zip=True)
        wordy = encode(Image.new("L", (1100, 1000)), pnginfo=texts)
        assert len(wordy) < TINY_BYTES
        pictures = [
            encode(Image.merge("RGBA", [Image.linear_gradient("L").resize((5000, 5000))] * 4), compress_level=1),
            encode(large, "JPEG", quality=30, progressive=True),
            encode(large.resize((3500, 3500)), "WEBP", quality=10),
            bytes(16 * 2**20),
        ]
        done: list[int] = []
        threads = [
            threading.Thread(
                target=lambda data=data: done.append(httpx.post(url, content=data, timeout=60).status_code)
            )
            for data in pictures * 2 + [wordy, wordy + bytes(TINY_BYTES)] * 15  # opened in two places
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, server.memory())
            time.sleep(0.005)
        assert sorted(done) == [200] * 36 + [415] * 2
        assert peak - idle < 300e6

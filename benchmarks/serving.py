"""Requests per second of this server, LitServe, Ray Serve, a plain FastAPI file, and a loop without HTTP.

`pip install -e ".[serve,bench]"`, `apt-get install wrk`, then `python benchmarks/serving.py [--seconds 10]`.

All run one after another on one machine, with the same ONNX file, the same PNG in every request, and the same client
(wrk, one thread). The bare loop decodes the PNG and calls `session.run` in one process: it is the upper limit, at batch
1 for one connection and at batch 32 for many. LitServe gets the PNG in a form, as it reads no raw bodies. Each server
must return the bare loop's class before it is measured, and warms up for two seconds. Responses other than 200 are
counted as failed. Of this server, the app's calls are measured too: in two requests (/call), and in one (/run).
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import serving_model
from PIL import Image

from serve.engine.models import FILES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PORT = 18700
BATCH = 32
OURS = "python -m serve"
LIMIT = f"bare loop, batch 1 / {BATCH}"
SERVERS = {
    OURS: None,
    "plain FastAPI": "serving_fastapi.py",
    "LitServe": "serving_litserve.py",
    "Ray Serve": "serving_ray.py",
}
NEEDS = {"LitServe": "litserve", "Ray Serve": "ray"}


@dataclass
class Measured:
    """wrk's results: responses with status 200 per second, percentiles of the latency in milliseconds, and failures."""

    rate: float
    median: float
    p99: float
    failed: int


# Each loop runs in its own process, as sessions keep their threads.
LOOP = """
import json, sys, time
import numpy as np
from serving_model import decode, run, session
data = open(sys.argv[1], "rb").read()
batch, seconds, reads = int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "decode"
network = session()
images = [decode(data)] * batch
def step():
    return run(network, [decode(data) for _ in range(batch)] if reads else images)
end = time.perf_counter() + min(2, seconds)
while time.perf_counter() < end:
    best = int(step()[0].argmax())
times = []
end = time.perf_counter() + seconds
while time.perf_counter() < end:
    began = time.perf_counter()
    step()
    times.append(time.perf_counter() - began)
print(json.dumps([batch * len(times) / sum(times), 1000 * float(np.median(times)), best]))
"""


def loop(environment: dict[str, str], image: Path, batch: int, seconds: float, what: str) -> tuple[float, float, int]:
    """Return images per second, the median milliseconds per batch, and the image's class."""
    command = [sys.executable, "-c", LOOP, str(image), str(batch), str(seconds), what]
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=True)
    rate, median, best = json.loads(done.stdout)
    return rate, median, best


def script(body: bytes, headers: dict[str, str]) -> str:
    """Write wrk's script for one request."""
    escaped = "".join(f"\\{byte:03d}" for byte in body)
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    return "\n".join(['wrk.method = "POST"', f'wrk.body = "{escaped}"', *lines])


def wrk(url: str, lua: str, connections: int, seconds: float) -> Measured:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(lua)
        file.flush()
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "--timeout",
            "10s",
            "--latency",
            "-s",
            file.name,
            url,
        ]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def milliseconds(percent: str) -> float:
        value, unit = re.findall(rf"{percent}%\s+([\d.]+)(us|ms|s|m)\b", text)[0]
        return float(value) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]

    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0])
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed = (int(bad[1]) if bad else 0) + (sum(map(int, errors.groups())) if errors else 0)
    return Measured(rate - (int(bad[1]) / seconds if bad else 0), milliseconds("50"), milliseconds("99"), failed)


def form(image: bytes, name: str = "file") -> tuple[bytes, str]:
    head = f'--frontier\r\nContent-Disposition: form-data; name="{name}"; filename="x.png"\r\n'.encode()
    head += b"Content-Type: image/png\r\n\r\n"
    return head + image + b"\r\n--frontier--\r\n", "multipart/form-data; boundary=frontier"


def best(url: str, body: bytes, headers: dict[str, str]) -> int:
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return int(json.loads(response.read())["predictions"][0]["index"])


def memory(process: int) -> int:
    """Return resident bytes of a process and its descendants. Shared pages count once per process."""
    total = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    for task in Path(f"/proc/{process}/task").iterdir():
        # Ray's workers start and end threads and processes all the time.
        with suppress(FileNotFoundError, ProcessLookupError):
            total += sum(memory(int(child)) for child in (task / "children").read_text().split())
    return total


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        # And its children: LitServe's worker would still run during the next measurement.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measure(
    name: str, model: Path, image: bytes, expected: int, environment: dict[str, str], given: argparse.Namespace
) -> dict[str, float]:
    """Start a server, check its result, and return its measurements."""
    body, headers = image, {"Content-Type": "image/png"}
    if name == "LitServe":
        body, kind = form(image)
        headers = {"Content-Type": kind}
    url = f"http://127.0.0.1:{PORT}/classify"
    command = [sys.executable, str(HERE / (SERVERS[name] or "")), str(PORT)]
    if name == OURS:
        command = [sys.executable, "-m", "serve", "--models", str(model.parent.parent), "--port", str(PORT)]
        command += ["--precision", given.precision, "--device", "cpu"]
        url += f"/{model.parent.name}"
    lua = script(body, headers)
    with started(command, environment) as process:
        began = time.monotonic()
        while True:
            try:
                found = best(url, body, headers)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() - began > 120:
                    raise SystemExit(f"{name} did not start: {' '.join(command)}") from None
                time.sleep(0.05)
        start = time.monotonic() - began
        if found != expected:
            raise SystemExit(f"{name} returns class {found}, the bare loop {expected}")
        wrk(url, lua, given.connections, min(2, given.seconds))
        one = wrk(url, lua, 1, given.seconds)
        many = wrk(url, lua, given.connections, given.seconds)
        measured = {
            "one": one.rate,
            "median": one.median,
            "many": many.rate,
            "p99": many.p99,
            "failed": one.failed + many.failed,
            "start": start,
            "memory": memory(process.pid) / 1e6,
        }
        if name == OURS:
            measured |= app(f"http://127.0.0.1:{PORT}/gradio_api", model.parent.name, image, expected, given.seconds)
            body, headers = tensor(image)
            target = f"http://127.0.0.1:{PORT}/v2/models/{model.parent.name}/infer"
            measured["v2"] = BATCH * wrk(target, script(body, headers), 4, given.seconds).rate
        return measured


# A call of the app in two requests: begin it, and read the event with its result.
CALLS = """
local event
request = function()
  if event then return wrk.format("GET", wrk.path .. "/" .. event, {}, "") end
  return wrk.format("POST", wrk.path, {["Content-Type"] = "application/json"}, %s)
end
response = function(status, headers, body)
  event = string.match(body, '^{"event_id":"(%%w+)"')
  if not event and not string.find(body, "event: complete", 1, true) then os.exit(1) end
end
"""


def app(url: str, model: str, image: bytes, expected: int, seconds: float) -> dict[str, float]:
    """Return the app's calls per second at one connection: in two requests each, and in one."""
    body, kind = form(image, "files")
    with urllib.request.urlopen(urllib.request.Request(f"{url}/upload", body, {"Content-Type": kind})) as response:
        (path,) = json.loads(response.read())
    call = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, model]}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/run/classify_picture", call, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        found = json.loads(response.read())["data"][0]["predictions"][0]["index"]
    if found != expected:
        raise SystemExit(f"the app returns class {found}, the bare loop {expected}")
    queued = wrk(f"{url}/call/classify_picture", CALLS % json.dumps(call.decode()), 1, seconds)
    direct = wrk(f"{url}/run/classify_picture", script(call, headers), 1, seconds)
    return {"queued": queued.rate / 2, "direct": direct.rate, "app_failed": queued.failed + direct.failed}


def tensor(image: bytes) -> tuple[bytes, dict[str, str]]:
    """Build a V2 request of 32 images in binary after the JSON."""
    pixels = serving_model.decode(image)
    raw = pixels.tobytes() * BATCH
    entry = {"name": "image", "datatype": "UINT8", "shape": [BATCH, *pixels.shape]}
    head = json.dumps(
        {
            "inputs": [{**entry, "parameters": {"binary_data_size": len(raw)}}],
            "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
        }
    ).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


def ratios(turn: dict[str, dict[str, float]]) -> None:
    """Add ratios to the measurements of a turn. Only within a turn, as the machine's speed changes."""
    bare, ours = turn[LIMIT], turn.get(OURS)
    for name, row in turn.items():
        row["to_bare"] = row["many"] / bare["many"]
        if ours and name != LIMIT:
            row["ours_one"], row["ours_many"] = ours["one"] / row["one"], ours["many"] / row["many"]
    if ours:
        ours["median_to_bare"] = ours["median"] / bare["median"]
        ours["v2_to_run"] = ours["v2"] / bare["run"]
        ours["queued_to_one"], ours["direct_to_one"] = ours["queued"] / ours["one"], ours["direct"] / ours["one"]


def table(turns: list[dict[str, dict[str, float]]], connections: int) -> str:
    """Format the medians over the turns as Markdown."""

    def middle(name: str, key: str, form: str = ".0f") -> str:
        values = [turn[name][key] for turn in turns if key in turn[name]]
        return format(statistics.median(values), form) if values else ""

    lines = [
        f"| | 1 connection: requests/s | median, ms | {connections} connections: requests/s | p99, ms "
        f"| share of the bare loop | ours / theirs, at 1 / {connections} connections | start, s | memory, MB "
        "| failed requests |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in turns[0]:
        times = (
            "" if name in (LIMIT, OURS) else f"{middle(name, 'ours_one', '.2f')}x / {middle(name, 'ours_many', '.2f')}x"
        )
        cells = [
            name,
            middle(name, "one"),
            middle(name, "median", ".2f"),
            middle(name, "many"),
            middle(name, "p99"),
            middle(name, "to_bare", ".2f"),
            times,
            middle(name, "start", ".1f"),
            middle(name, "memory"),
            middle(name, "failed"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if OURS in turns[0]:
        turned = ", ".join(f"{turn[OURS]['to_bare']:.2f}" for turn in turns)
        lines += [
            "",
            f"Share of the bare loop's rate at {connections} connections, per turn: {turned}. "
            f"The median latency of one connection is {middle(OURS, 'median_to_bare', '.2f')} times the bare loop's. "
            f"V2 requests of {BATCH} raw images, 4 connections: {middle(OURS, 'v2')} images/s, "
            f"{middle(OURS, 'v2_to_run', '.2f')} of `session.run` at batch {BATCH} ({middle(LIMIT, 'run')}). "
            f"Calls of the app, 1 connection: {middle(OURS, 'queued')} a second in two requests each, "
            f"{middle(OURS, 'queued_to_one', '.2f')} of the requests for /classify, and {middle(OURS, 'direct')} at "
            f"once, {middle(OURS, 'direct_to_one', '.2f')}; {middle(OURS, 'app_failed')} failed.",
        ]
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "model_cards" / "improved_resnet18.cifar10")
    parser.add_argument("--precision", choices=list(FILES), default="int8")
    parser.add_argument("--seconds", type=float, default=10, help="seconds per measurement")
    parser.add_argument("--turns", type=int, default=3, help="number of times that everything is measured")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS), metavar="NAME")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    file = given.model / FILES[given.precision]
    if not file.is_file():
        raise SystemExit(f"{file} does not exist; build it with: python train/export.py {given.model}")
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed; apt-get install wrk")
    missing = [name for name in given.servers if name in NEEDS and not importlib.util.find_spec(NEEDS[name])]
    if missing:
        raise SystemExit(f'{", ".join(missing)} not installed; pip install -e ".[serve,bench]"')
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "models" / given.model.name / file.name
        for copy in (model, model.parents[1] / "second" / file.name):  # our server serves a whole folder
            copy.parent.mkdir(parents=True)
            copy.symlink_to(file.resolve())
        image = Path(folder) / "image.png"
        Image.effect_mandelbrot((32, 32), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(image)
        paths = os.pathsep.join([str(HERE), str(ROOT)])
        environment = {**os.environ, "SERVING_MODEL": str(model), "PYTHONPATH": paths, "RAY_SERVE_LOG_TO_STDERR": "0"}
        data = image.read_bytes()
        turns = []
        for _ in range(given.turns):
            one, median, best_class = loop(environment, image, 1, given.seconds, "decode")
            many = loop(environment, image, BATCH, given.seconds, "decode")[0]
            run = loop(environment, image, BATCH, given.seconds, "ready")[0]
            turn = {LIMIT: {"one": one, "median": median, "many": many, "run": run}}
            for name in given.servers:
                turn[name] = measure(name, model, data, best_class, environment, given)
            ratios(turn)
            turns.append(turn)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    times = f"{given.seconds:g} s per measurement, median of {given.turns} turns"
    print(f"{given.model.name}, {given.precision}; {machine}; {len(data)} bytes of PNG; {times}\n")
    print(table(turns, given.connections))
    if given.json:
        given.json.write_text(json.dumps(turns, indent=1))


if __name__ == "__main__":
    main()

"""The clients: one request to check a response, wrk for HTTP, h2load for gRPC. Both are C with one thread."""

import re
import subprocess
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .messages import GRPC, Message

TIMEOUT = 30


@dataclass(frozen=True)
class Measured:
    """Good responses per second, percentiles of the latency in milliseconds, and the number of failed requests."""

    rate: float
    median: float
    p99: float
    failed: int


def ask(port: int, message: Message) -> bytes:
    """Send a message once, and return its response.

    Raises:
        OSError: nobody listens, or the response is an error.
    """
    if message.path == GRPC:
        import grpc

        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                return bytes(channel.unary_unary(GRPC)(message.body[5:], timeout=TIMEOUT))
            except grpc.RpcError as error:
                raise OSError(error.details()) from None
    request = urllib.request.Request(f"http://127.0.0.1:{port}{message.path}", message.body, message.headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return bytes(response.read())


def load(port: int, message: Message, connections: int, seconds: float, answer: int) -> Measured:
    """Send a message again and again: each connection sends it once it has the response to the last.

    Args:
        port: the server's, on the loopback address.
        message: what is sent.
        connections: how many there are.
        seconds: how long.
        answer: bytes of a good response. A response of gRPC that is an error has none.
    """
    if message.path == GRPC:
        return h2load(f"http://127.0.0.1:{port}{GRPC}", message, connections, seconds, answer + 5)
    return wrk(f"http://127.0.0.1:{port}{message.path}", script(message), connections, seconds)


def script(message: Message) -> str:
    """Write wrk's script for a message."""
    escaped = "".join(f"\\{byte:03d}" for byte in message.body)
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in message.headers.items()]
    return "\n".join(['wrk.method = "POST"', f'wrk.body = "{escaped}"', *lines])


def wrk(url: str, lua: str, connections: int, seconds: float) -> Measured:
    """Run wrk with a script."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(lua)
        file.flush()
        options = ["-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s", "--latency", "-s", file.name]
        text = subprocess.run(["wrk", *options, url], capture_output=True, text=True, check=True).stdout
    return read_wrk(text)


def read_wrk(text: str) -> Measured:
    """Read wrk's output. A response with another status than 200 is failed, and so is a socket's error."""

    def milliseconds(percent: str) -> float:
        value, unit = re.findall(rf"{percent}%\s+([\d.]+)(us|ms|s|m)\b", text)[0]
        return float(value) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]

    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0])
    total = int(re.findall(r"(\d+) requests in", text)[0])
    found = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    bad = int(found[1]) if found else 0
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed = bad + (sum(map(int, errors.groups())) if errors else 0)
    return Measured(rate * (total - bad) / total if total else 0.0, milliseconds("50"), milliseconds("99"), failed)


def h2load(url: str, message: Message, connections: int, seconds: float, answer: int) -> Measured:
    """Run h2load, a client for HTTP/2 that sends what a gRPC client would."""
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(message.body)
        command = ["h2load", "-t1", f"-c{connections}", "-m1", f"-D{seconds:g}", f"-d{body}", f"--log-file={log}"]
        command += [word for name, value in message.headers.items() for word in ("-H", f"{name}: {value}")]
        text = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
        return read_h2load(text, log.read_text(), seconds, answer)


def read_h2load(text: str, log: str, seconds: float, answer: int) -> Measured:
    """Read h2load's output and its log of requests: start, status, microseconds.

    A failed call has HTTP's status 200 too; what it lacks is a message. So the good responses are those that the bytes
    of all messages are enough for.
    """
    rows = [line.split("\t") for line in log.splitlines()]
    times = np.array([int(row[2]) / 1000 for row in rows if row[1] == "200"])
    received = int(re.findall(r"\((\d+)\) data", text)[0])
    good = min(len(times), received // answer)
    # What never got a response may be missing in the log.
    failed = max(len(rows) - good, int(re.findall(r"(\d+) failed", text)[0]))
    if not good:
        return Measured(0.0, float("nan"), float("nan"), failed)
    middle, high = np.percentile(times, [50, 99])
    return Measured(good / seconds, float(middle), float(high), failed)

"""Spans: of what each request waited for, below the client's own, and none unless the environment asks for them."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from watching import post

from serve import tracing
from serve.api import create_app
from serve.routes.grpc.server import GrpcServer
from serve.settings import Settings

ROOT = Path(__file__).parents[2]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    tracing.use(provider)
    yield found
    tracing.use(None)


def tree(spans: tuple[ReadableSpan, ...]) -> tuple[ReadableSpan, dict[str, ReadableSpan]]:
    """The request's span, and its children by name; checks that they lie within it."""
    (request,) = (span for span in spans if span.name not in ("decode", "queue", "run", "encode"))
    children = {span.name: span for span in spans if span is not request}
    for span in children.values():
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
        assert request.start_time <= span.start_time <= span.end_time <= request.end_time
    return request, children


async def ask(app: Any, path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
    with app.state.engine:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post(path, content=content, headers=headers)


@pytest.mark.parametrize("headers", [HEADERS, {}, {"traceparent": "00-nonsense"}])
def test_a_request_and_its_parts(
    two: list[Any], encode: Any, exporter: InMemorySpanExporter, headers: dict[str, str]
) -> None:
    app = create_app(Settings(models=two[0].folder.parent, app=False))
    response = asyncio.run(ask(app, "/classify/a", encode(two[0].images(1)[0]), headers))
    assert response.status_code == 200
    request, children = tree(exporter.get_finished_spans())
    assert request.name == "classify"
    assert request.attributes["serve.model"] == "a"
    assert request.attributes["http.response_status_code"] == 200
    assert list(children) == ["decode", "queue", "run", "encode"]
    assert children["run"].attributes["batch_size"] == 1
    assert children["decode"].end_time <= children["queue"].end_time <= children["run"].end_time
    if headers == HEADERS:
        assert f"{request.context.trace_id:032x}" == TRACE
        assert f"{request.parent.span_id:016x}" == PARENT
    else:
        assert request.parent is None


def test_a_client_that_does_not_sample_gets_no_spans(
    two: list[Any], encode: Any, exporter: InMemorySpanExporter
) -> None:
    app = create_app(Settings(models=two[0].folder.parent, app=False))
    headers = {"traceparent": HEADERS["traceparent"].removesuffix("01") + "00"}
    assert asyncio.run(ask(app, "/classify/a", encode(two[0].images(1)[0]), headers)).status_code == 200
    assert exporter.get_finished_spans() == ()


def test_grpc_has_the_same_spans(two: list[Any], exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = create_app(Settings(models=two[0].folder.parent, app=False, grpc_port=port))
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3]}
    message = pb.ModelInferRequest(
        model_name="a", inputs=[tensor], raw_input_contents=[np.zeros(3072, np.uint8).tobytes()]
    )

    async def work() -> None:
        server = GrpcServer(app.state.plane, app.state.bodies, app.state.accounts)
        with app.state.engine:
            await server.start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
                    message, metadata=tuple(HEADERS.items())
                )
            await server.drain(0)

    asyncio.run(work())
    request, children = tree(exporter.get_finished_spans())
    assert request.name == "grpc_infer"
    assert f"{request.context.trace_id:032x}" == TRACE
    assert list(children) == ["queue", "run", "encode"]


class Collector(BaseHTTPRequestHandler):
    received: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_spans_go_where_the_standard_variables_say(tiny: Any, tmp_path: Path, running: Any, encode: Any) -> None:
    """Also those of a moment before the end."""
    model = tiny(tmp_path / "model").write()
    Collector.received = []
    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
        with running("--models", tmp_path, "--no-app", environment=environment) as server:
            assert post(f"{server.url}/classify/model", content=encode(model.images(1)[0])).status_code == 200
            assert server.stop()[0] == 0
        collector.shutdown()
    ((path, body),) = Collector.received
    assert path == "/v1/traces"
    for word in (b"deep-image-zoo", b"classify", b"decode", b"queue", b"run", b"encode"):
        assert word in body


PROGRAM = """
import sys
{before}
import serve.server
from serve.__main__ import main

def run(self, sockets=None):
    print(any(name.startswith("opentelemetry.sdk") for name in sys.modules))
    raise SystemExit

serve.server.Server.run = run
main()
"""


@pytest.mark.parametrize(
    ("environment", "before", "out", "error"),
    [
        ({}, "", "False\n", ""),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, "", "False\n", ""),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, "", "False\n", ""),
        ({"OTEL_TRACES_EXPORTER": "console"}, "", "True\n", ""),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "", "", "OTEL_TRACES_EXPORTER is 'zipkin'; valid are otlp, console, none"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "", "", "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'; valid is http/protobuf",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, "sys.modules['opentelemetry.sdk'] = None",
            "", "pip install 'deep-image-zoo[otel]'",
        ),
    ],
)  # fmt: skip
def test_the_environment_decides(
    tiny: Any, tmp_path: Path, environment: dict[str, str], before: str, out: str, error: str
) -> None:
    import os

    tiny(tmp_path / "model").write()
    command = [sys.executable, "-c", PROGRAM.format(before=before), "--models", str(tmp_path), "--no-app"]
    ended = subprocess.run(
        [*command, "--port", "0"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert ended.stdout == out
    assert error in ended.stderr
    assert ended.stderr.count("\n") == (1 if error else 0)
    assert ended.returncode == (1 if error else 0)

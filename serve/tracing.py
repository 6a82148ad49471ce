"""Spans for OpenTelemetry: what each request waited for. Without its variables, nothing of it is loaded.

`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_EXPORTER` and the other standard variables say whether, where and how many
spans are sent. The extra `otel` brings the packages.
"""

import os
import threading
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTERS = ("otlp", "console", "none")
# Seconds to send the last spans at the end.
LAST_SPANS = 2.0
# Spans have the time of the clock, and the server measures with one that is never set.
OFFSET = time.time_ns() - time.perf_counter_ns()

# The span of the request that this task or thread works on; None if it is not recorded.
current: ContextVar[Any] = ContextVar("span", default=None)


class CannotTrace(Exception):
    """The environment asks for spans that cannot be made; the message is one line."""


class _Tracing:
    """The process's tracer, once there is one."""

    provider: Any = None
    tracer: Any = None


def start(environment: Mapping[str, str] = os.environ) -> None:
    """Begin to make spans if the standard variables ask for it.

    Raises:
        CannotTrace: The packages are missing, or a variable has no valid value.
    """
    default = "otlp" if any(environment.get(name) for name in ENDPOINTS) else "none"
    exporter = environment.get("OTEL_TRACES_EXPORTER") or default
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none" or _Tracing.provider:
        return
    if exporter not in EXPORTERS:
        raise CannotTrace(f"OTEL_TRACES_EXPORTER is {exporter!r}; valid are {', '.join(EXPORTERS)}")
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise CannotTrace(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; valid is http/protobuf")
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

        made: SpanExporter
        if exporter == "console":
            made = ConsoleSpanExporter()
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            made = OTLPSpanExporter()
    except ImportError as error:
        raise CannotTrace(
            f"tracing needs more packages: {error}; install: pip install 'deep-image-zoo[otel]'"
        ) from None
    name = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "deep-image-zoo"}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(made))
    use(provider)


def use(provider: Any) -> None:
    """Make spans with an SDK's tracer provider; None: no spans."""
    _Tracing.provider = provider
    _Tracing.tracer = provider.get_tracer("deep-image-zoo") if provider else None


def stop() -> None:
    """Send the last spans, for a short time at most, and make no more."""
    provider = _Tracing.provider
    use(None)
    if provider is not None:
        # In a thread of its own: a collector that does not answer must not hold up the end.
        sending = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(LAST_SPANS)


class Request:
    """The span of a request, a child of the client's if it sends a `traceparent`.

    All spans that are recorded until `end`, in the same task or in what it starts, are its children.
    """

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._span: Any = None
        if _Tracing.tracer is None:
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        names = (b"traceparent", b"tracestate")
        carrier = {name.decode(): value.decode("latin-1") for name, value in headers if name in names}
        context = TraceContextTextMapPropagator().extract(carrier)
        self._span = _Tracing.tracer.start_span("request", context, SpanKind.SERVER)
        self._token = current.set(self._span if self._span.is_recording() else None)

    def end(self, name: str, status: int, **attributes: str | int) -> None:
        """End the span.

        Args:
            name: Its name.
            status: The response's HTTP status, or what would be one.
            attributes: Others of the span; the first `_` of a name stands for a dot.
        """
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        current.reset(self._token)
        self._span.update_name(name)
        self._span.set_attributes({key.replace("_", ".", 1): value for key, value in attributes.items() if value})
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def record(span: Any, name: str, began: float, ended: float, **attributes: int) -> None:
    """Record a child of a request's span.

    Args:
        span: The request's span, as `current` has it.
        name: The child's name.
        began: When it began, on the clock `time.perf_counter`.
        ended: When it ended.
        attributes: Of the child.
    """
    if span is None or _Tracing.tracer is None:
        return
    from opentelemetry.trace import set_span_in_context

    child = _Tracing.tracer.start_span(
        name, set_span_in_context(span), start_time=OFFSET + int(began * 1e9), attributes=attributes
    )
    child.end(OFFSET + int(ended * 1e9))


class Part:
    """A context manager that records a part of the current request, even if it fails: `with Part("encode"):`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        record(current.get(), self._name, self._began, time.perf_counter())

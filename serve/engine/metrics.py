"""The metrics that Prometheus reads at /metrics. Each server has its own registry, so several fit in one process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
BATCHES = (1, 2, 4, 8, 16, 24, 32, 64, 128, 256)


class Metrics:
    """The counters and histograms of one server; times are in seconds, sizes in images."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "serve_requests", "Requests answered", ["route", "model", "outcome"], registry=self.registry
        )
        self.latency = Histogram(
            "serve_request_seconds", "From request to response", ["route"], buckets=LATENCIES, registry=self.registry
        )
        self.decode = Histogram(
            "serve_decode_seconds", "Decoding and fitting one image", buckets=LATENCIES, registry=self.registry
        )
        self.queued = Histogram(
            "serve_queue_seconds", "Waiting for a run", ["model"], buckets=LATENCIES, registry=self.registry
        )
        self.run = Histogram(
            "serve_run_seconds", "One run of a model", ["model"], buckets=LATENCIES, registry=self.registry
        )
        self.batch = Histogram(
            "serve_batch_size", "Images in a run", ["model"], buckets=BATCHES, registry=self.registry
        )
        self.depth = Gauge("serve_queue_images", "Images waiting for a run", registry=self.registry)
        self.in_flight = Gauge("serve_requests_in_flight", "Requests being answered", registry=self.registry)
        self.models = Gauge("serve_models_ready", "Models ready to run", registry=self.registry)

    def ran(self, model: str, images: int, seconds: float, waits: list[float]) -> None:
        """Record one run of `images` images, whose requests waited for `waits` seconds."""
        self.batch.labels(model).observe(images)
        self.run.labels(model).observe(seconds)
        queued = self.queued.labels(model)
        for wait in waits:
            queued.observe(wait)

    def render(self) -> bytes:
        """Write the text exposition format, version 0.0.4."""
        return generate_latest(self.registry)

"""Clients that leave while several requests of theirs are on one connection."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from watching import eventually, get, sample

Encode = Callable[..., bytes]


def test_leaving_a_pipeline_is_the_client_s_doing(tiny: Any, tmp_path: Path, running: Any, encode: Encode) -> None:
    """No response can be sent then: that is neither a failure of the server nor worth a line in the log."""
    model = tiny(tmp_path / "slow").write(cost=50)
    body = encode(model.images(1)[0])
    request = f"POST /classify/slow HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with running("--models", tmp_path, "--no-app", "--threads", 1) as server:
        for count in (1, 2, 5):
            with server.connect() as client:
                client.sendall(request * count)
                assert eventually(lambda: sample(server.url, "serve_requests_in_flight") > 1)
        assert eventually(lambda: sample(server.url, "serve_requests_in_flight") == 1)
        metrics = get(f"{server.url}/metrics").text
        outcomes = re.findall(r'serve_requests_total{model="slow",outcome="(\w+)"', metrics)
        assert "gone" in outcomes
        assert "failed" not in outcomes
        _, errors = server.stop()
    assert "Traceback" not in errors

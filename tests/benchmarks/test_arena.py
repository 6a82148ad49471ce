"""The arena's messages, the output of its clients, core-hours, its tables and the environments of peers."""

import http.server
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.arena import clients, measuring, messages, peers, processes, table
from benchmarks.arena.peers import BATCH, OURS

FILE = b"\x89PNG and so on"
PIXELS = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
WRK = """Running 3s test @ http://127.0.0.1:18700/classify
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    36.74ms    9.43ms 101.55ms   80.67%
    Req/Sec     1.75k   212.15     2.10k    66.67%
  Latency Distribution
     50%   35.70ms
     75%   40.10ms
     90%  950.00us
     99%    1.20s
  5000 requests in 2.50s, 1.68MB read
{more}Requests/sec:   2000.00
Transfer/sec:    571.77KB
"""


def test_wrk_counts_good_responses() -> None:
    """Those with status 200 alone are in the rate; everything else is failed."""
    assert clients.read_wrk(WRK.format(more="")) == clients.Measured(2000.0, 35.7, 1200.0, 0)
    more = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 1250\n"
    assert clients.read_wrk(WRK.format(more=more)) == clients.Measured(1500.0, 35.7, 1200.0, 1260)


def log(*times: int, status: int = 200) -> str:
    return "".join(f"{1000 + number}\t{status}\t{time}\n" for number, time in enumerate(times))


def test_h2load_counts_responses_with_a_message() -> None:
    """An error of gRPC has status 200 too, and no message."""
    text = (
        "requests: 5 total, 6 started, 5 done, 5 succeeded, {failed} failed, 0 errored, 0 timeout\n"
        "traffic: 12.34KB (12640) total, 1.1KB (1140) headers (space savings 95.13%), 9.77KB (500) data\n"
    )
    refused = clients.read_h2load(text.format(failed=64), "", 2.0, 100)
    assert (refused.rate, refused.failed) == (0.0, 64)
    text = text.format(failed=0)
    found = clients.read_h2load(text, log(1000, 2000, 3000, 4000, 5000), 2.0, 100)
    assert (found.rate, found.failed) == (2.5, 0)
    assert [found.median, found.p99] == pytest.approx([3.0, 4.96])
    assert clients.read_h2load(text, log(1000, 2000, 3000, 4000, 5000), 2.0, 250).failed == 3
    mixed = log(1000, 2000) + log(9000, 9000, status=-1)
    found = clients.read_h2load(text, mixed, 2.0, 100)
    assert (found.rate, found.median, found.failed) == (1.0, 1.5, 2)
    assert clients.read_h2load(text, log(9000, status=503), 2.0, 100).failed == 1


def test_wrks_script_holds_every_byte() -> None:
    message = messages.Message("/", b'\0"\\\n\xff1', {"A": "b"}, lambda _: [])
    assert clients.script(message).splitlines() == [
        'wrk.method = "POST"', 'wrk.body = "\\000\\034\\092\\010\\255\\049"', 'wrk.headers["A"] = "b"'
    ]  # fmt: skip


@pytest.mark.parametrize("pixels", [False, True])
def test_requests_of_the_protocol_are_those_of_its_server(pixels: bool) -> None:
    """The binary tensors come apart again as the server's own code reads them, and gRPC's as its messages do."""
    made = messages.v2("/v2/models/m/infer", pixels=pixels)(FILE, PIXELS)
    length = int(made.headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(made.body[:length])["inputs"]
    raw = made.body[length:]
    assert len(raw) == tensor["parameters"]["binary_data_size"]
    kind, shape, data = ("UINT8", [2, 4, 4, 3], PIXELS.tobytes()) if pixels else ("BYTES", [1], b"\x0e\0\0\0" + FILE)
    assert (tensor["datatype"], tensor["shape"], raw) == (kind, shape, data)
    service_pb2: Any = pytest.importorskip("tritonclient.grpc.service_pb2")
    called = messages.grpc("m", pixels=pixels)(FILE, PIXELS)
    assert called.body[:5] == b"\0" + (len(called.body) - 5).to_bytes(4, "big")
    request = service_pb2.ModelInferRequest.FromString(called.body[5:])
    assert (request.inputs[0].datatype, list(request.inputs[0].shape)) == (kind, shape)
    assert list(request.raw_input_contents) == [data]


def test_a_form_has_the_file_as_often_as_said() -> None:
    made = messages.form("/classify", name="images", copies=3)(FILE, PIXELS)
    assert made.body.count(FILE) == made.body.count(b'name="images"') == 3
    assert made.body.endswith(b"--frontier--\r\n")


def test_classes_are_read_from_each_form_of_response() -> None:
    scores = np.array([[0.1, 0.9, 0.0], [0.2, 0.1, 0.7]], np.float32)
    one = {"predictions": [{"index": 4, "label": "x", "probability": 1.0}, {"index": 2}]}
    assert messages.classes_of_json(json.dumps(one).encode()) == [4]
    assert messages.classes_of_json(json.dumps([one, one]).encode()) == [4, 4]
    assert messages.classes_of_json(json.dumps({"probabilities": scores.tolist()}).encode()) == [1, 2]
    output = {"name": "probabilities", "datatype": "FP32", "shape": [2, 3]}
    text = json.dumps({"outputs": [{**output, "data": scores.ravel().tolist()}]}).encode()
    assert messages.classes_of_v2(text) == [1, 2]
    head = json.dumps({"outputs": [{**output, "parameters": {"binary_data_size": 24}}]}).encode()
    assert messages.classes_of_v2(head + scores.tobytes()) == [1, 2]
    service_pb2: Any = pytest.importorskip("tritonclient.grpc.service_pb2")
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="probabilities", datatype="FP32", shape=[2, 3])
    response.raw_output_contents.append(scores.tobytes())
    assert messages.classes_of_grpc(response.SerializeToString()) == [1, 2]
    response.ClearField("raw_output_contents")
    response.outputs[0].contents.fp32_contents.extend(scores.ravel().tolist())
    assert messages.classes_of_grpc(response.SerializeToString()) == [1, 2]


def test_core_hours() -> None:
    assert table.core_hours(3600, 1_000_000) == 1
    assert table.core_hours(1.0, 1000) == pytest.approx(1000 / 3600)
    assert np.isnan(table.core_hours(1.0, 0))


def test_ticks_are_those_of_a_process_and_its_ended_children() -> None:
    """Whatever its name is."""
    assert processes.ticks_of("7 (a) b (c) S 1 7 7 0 -1 4194560 9 9 0 0 100 20 3 4 20 0 1 0 55 0 0") == 127


def test_a_tree_has_its_grandchildren(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert len(processes.tree(process.pid)) == 2
        assert processes.memory(process.pid) > 5
        assert processes.core_seconds(process.pid) > 0
        process.communicate(b"\n")
    assert processes.memory(process.pid) == 0


def turns() -> list[table.Turn]:
    """Two turns, in the second of which the machine is twice as fast."""
    found = []
    for speed in (1, 2):
        bare = {"one": 500.0, "median": 2.0 / speed, "many": 1000.0 * speed, "batches": 1200.0, "hours": 0.5}
        ours = {"one": 400.0 * speed, "median": 2.5 / speed, "p99_one": 3.0, "many": 800.0 * speed, "median_many": 70.0}
        ours |= {
            "p99": 90.0,
            "failed": 0.0,
            "batches": 1000.0 * speed,
            "hours": 0.6,
            "hours_batches": 0.5,
            "start": 2.0,
        }
        ours |= {"memory": 300.0}
        rest = {**ours, "one": 500.0 * speed, "many": 200.0 * speed, "hours": 1.2, "failed": 3.0}
        turn = {table.limit(BATCH): bare, OURS: ours, "Other": rest}
        table.ratios(turn, table.limit(BATCH))
        found.append(turn)
    return found


def test_tables() -> None:
    """Each row has as many cells as the head, and ratios are those of one turn."""
    text = table.tables(turns(), 64, BATCH)
    speed, cost, words = text.split("\n\n")
    for part in (speed, cost):
        assert len({line.count("|") for line in part.splitlines()}) == 1, part
    (other,) = [line for line in speed.splitlines() if line.startswith("| Other")]
    assert [cell.strip() for cell in other.strip("|").split("|")] == [
        "Other", "750", "1.88", "3.0", "300", "70", "90", "3", "0.20", "0.80x / 4.00x"
    ]  # fmt: skip
    (other,) = [line for line in cost.splitlines() if line.startswith("| Other")]
    assert [cell.strip() for cell in other.strip("|").split("|")] == [
        "Other", "1500", "1.00x", "1.20", "0.50", "2.00x", "300", "2.0"
    ]  # fmt: skip
    assert "per turn: 0.80, 0.80" in words
    assert "1.25 times the bare loop's" in words


def test_a_peer_that_is_faster_is_named() -> None:
    assert table.better(turns(), table.limit(BATCH)) == ["Other: requests/s at 1 connection, ours / theirs 0.80"]


def test_peers_share_environments_and_name_what_they_need(tmp_path: Path) -> None:
    found = peers.peers("m")
    assert next(iter(found)) == OURS
    for name, peer in found.items():
        assert peer.one(FILE, PIXELS).path.startswith("/"), name
        assert all("==" in need or "<" in need for need in peer.needs), name
        script = ".".join(peer.start[1].split(".")[1:])
        if peer.start[1].startswith(peers.SERVERS):
            assert (Path(peers.__file__).parents[1] / f"{script.replace('.', '/')}.py").is_file(), name
    assert peers.python_of(found[OURS], tmp_path) == Path(sys.executable)
    assert peers.python_of(found["Triton"], tmp_path) == peers.python_of(found["Triton, gRPC"], tmp_path)


def test_a_peer_that_does_not_install_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves nothing that would pass for an environment."""
    peer = peers.peers("m")["BentoML"]
    interrupted = peers.python_of(peer, tmp_path)
    interrupted.parent.mkdir(parents=True)
    interrupted.touch()
    assert not peers.installed(peer, tmp_path)
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)  # the interrupted one is gone
            python.touch()
            return subprocess.CompletedProcess(command, 0, "", "")
        text = "WARNING: slow\nERROR: Could not find a version\nERROR: No matching distribution found for bentoml\n"
        return subprocess.CompletedProcess(command, 1, "", text)

    monkeypatch.setattr(subprocess, "run", run)
    assert peers.install(peer, tmp_path) == "No matching distribution found for bentoml"
    assert not list(tmp_path.iterdir())
    assert {"bentoml==1.4.40", "pillow"} <= set(calls[-1])
    assert any(word.startswith("onnxruntime==") for word in calls[-1])


def test_a_server_that_still_loads_a_model_is_waited_for(tmp_path: Path) -> None:
    """It answers for one model before the other is there; one whose process has ended is not waited for."""
    asked: list[str] = []

    class Loading(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            self.send_response(200 if asked.count(self.path) == 3 else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    message = messages.Message("/second", b"x", {}, lambda _: [])
    with (
        http.server.HTTPServer(("127.0.0.1", 0), Loading) as server,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process,
    ):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            port, patience = server.server_port, time.monotonic() + 60
            assert measuring.first_response(port, message, process, patience, tmp_path) == b""
            assert asked == ["/second"] * 3
            process.communicate(b"\n")
            with pytest.raises(measuring.PeerError, match="did not answer"):
                measuring.first_response(port, message, process, patience, tmp_path)
        finally:
            server.shutdown()
            thread.join()

"""No library that is imported reports anything: no connection, no name look-up, no file in the home folder.

strace sees the system calls of all threads and child processes. What a library does at its import or later, such as
ONNX Runtime ten seconds after it, is seen as well.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

STRACE = shutil.which("strace")
ROOT = Path(__file__).parents[2]
# Seconds after which telemetry has begun: ONNX Runtime needs some 10.
LATE = 16

pytestmark = [
    pytest.mark.skipif(STRACE is None, reason="no strace on this machine"),
    pytest.mark.slow,
    pytest.mark.xdist_group("serve"),
]

# Once a program has done its work it waits, and then ends itself.
SERVER = """
import sys, threading
from pathlib import Path
import httpx
from serve.__main__ import main
from serve.server import Server

async def announce(self, real=Server._announce):
    await real(self)
    threading.Thread(target=infer, args=self._listeners[0].getsockname(), daemon=True).start()

def infer(host, port):
    with httpx.Client(base_url=f"http://{host}:{port}", verify=False, trust_env=False) as client:
        (model,) = client.post("/v2/repository/index").json()
        tensor = {"name": "image", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": [0] * 3072}
        client.post(f"/v2/models/{model['name']}/infer", json={"inputs": [tensor]}).raise_for_status()
        if "--no-app" not in sys.argv:
            client.get("/").raise_for_status()
            client.post("/gradio_api/run/models", json={"data": []}).raise_for_status()
    (Path.home().parent / "done").touch()

Server._announce = announce
main()
"""
EXPORT = """
import time
from pathlib import Path
import numpy as np, torch
from train import evaluate, export, fit, fit_all, publish, report, verify  # and with them all libraries
from train.onnx_export import graph, runtime
import timm
model = timm.create_model("vanilla_resnet18.mnist", pretrained=False).eval()
session = runtime.session(graph.build(model, (28, 28, 1)).SerializeToString())
session.run(None, {"image": np.zeros((2, 28, 28, 1), np.uint8)})
(Path.home().parent / "done").touch()
"""


def watched(folder: Path, program: str, *arguments: object) -> list[str]:
    """Run a program in an empty home folder until it has written `done` and LATE seconds more.

    Returns:
        The system calls that look up a name or reach another machine, and the files in the home folder.
    """
    home = folder / "home"
    home.mkdir()
    hiding = ("CI", "ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "GRADIO_ANALYTICS_ENABLED")
    environment = {name: value for name, value in os.environ.items() if name not in hiding}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(folder)}
    trace = folder / "trace"
    assert STRACE is not None
    # -D: the program and not strace is the child, so that the program can be ended.
    command = [STRACE, "-D", "-f", "-o", trace, "-e", "trace=connect,sendto,sendmsg,sendmmsg", sys.executable]
    with (
        (folder / "output").open("w") as output,
        subprocess.Popen(
            [*map(str, (*command, "-c", program, *arguments))],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            while not (folder / "done").exists():
                assert process.poll() is None, (folder / "output").read_text()
                time.sleep(0.1)
            time.sleep(LATE)
        finally:
            process.kill()
    calls = [line for line in trace.read_text().splitlines() if leaves(line)]
    return calls + [str(file.relative_to(home)) for file in home.rglob("*") if file.is_file()]


def leaves(call: str) -> bool:
    """Return whether a system call asks a name server or reaches another machine."""
    addresses = re.findall(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"', call)
    away = any((v4 and not v4.startswith("127.")) or (v6 and v6 != "::1") for v4, v6 in addresses)
    return away or "htons(53)" in call


def test_the_look_sees_what_leaves(tmp_path: Path) -> None:
    looking_up = "import socket\ntry: socket.getaddrinfo('name.invalid', 1)\nexcept OSError: pass\n"
    writing = "from pathlib import Path\n(Path.home() / 'file').touch()\n(Path.home().parent / 'done').touch()\n"
    waiting = "import time\ntime.sleep(1000)"
    found = watched(tmp_path, looking_up + writing + waiting)
    assert "file" in found
    assert len(found) > 1


@pytest.mark.parametrize("options", [(), ("--no-app",)])
def test_the_server_reports_nothing(tiny: type, tmp_path: Path, options: tuple[str, ...]) -> None:
    tiny(tmp_path / "models" / "model").write()
    assert watched(tmp_path, SERVER, "--models", tmp_path / "models", "--port", 0, *options) == []


def test_training_and_export_report_nothing(tmp_path: Path) -> None:
    assert watched(tmp_path, f"{EXPORT}\ntime.sleep(1000)") == []

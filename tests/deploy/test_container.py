"""The Dockerfile and what goes with it, as far as it can be told without Docker."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dockerfile
import pytest
import yaml

from serve import server
from serve.settings import OPTIONS, Settings, variable

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = ROOT / "docs" / "deployment.md"
STAGES = dockerfile.stages()
IMAGES = ["server", "server-with-models"]
# Seconds between SIGTERM and the end of the process, at most.
LAST = Settings().linger + Settings().shutdown_timeout + server.LAST_REQUESTS + server.LAST_RESORT


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_stages_name_what_exists() -> None:
    seen: set[str] = set()
    for stage in STAGES.values():
        assert stage.base in seen or re.fullmatch(r"python:3\.\d+-slim-\w+", stage.base), stage.base
        for copy in stage.of("COPY"):
            assert copy.flags.get("from", stage.base) in {stage.base, *seen}
        seen.add(stage.name)
    assert set(IMAGES) <= seen
    # Built if no target is named.
    assert list(STAGES)[-1] == "server-with-models"


def ignored(name: str) -> bool:
    """Whether .dockerignore leaves out a file at the top: the last pattern that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and pattern in ("*", name):
            out = not line.startswith("!")
    return out


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    sources = [
        source
        for stage in STAGES.values()
        for copy in stage.of("COPY")
        if "from" not in copy.flags
        for source in copy.words[:-1]
    ]
    assert {"serve", "zoo", "train", "model_cards"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source.partition("/")[0]), source
    for other in (".git", "runs", "build", "tests", ".venv"):
        assert ignored(other), other


def test_packages_and_data_of_the_project_are_copied() -> None:
    """What the wheel is built from, as `packages` copies it."""
    copied = {word for copy in STAGES["packages"].of("COPY") for word in copy.words[:-1]}
    text = (ROOT / "pyproject.toml").read_text()
    needed = re.findall(r'^(?:readme|license-files) = \[?"([^"]+)"', text, re.MULTILINE)
    (packages,) = re.findall(r"^include = (.*)$", text, re.MULTILINE)
    needed += re.findall(r'"(\w+)\*"', packages)
    assert {"README.md", "LICENSE", "zoo", "train", "serve"} <= set(needed)
    assert set(needed) <= copied


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_no_root_and_no_torch(name: str) -> None:
    instructions = [one for stage in dockerfile.lineage(name) for one in stage.instructions]
    user = [one.value for one in instructions if one.keyword == "USER"][-1]
    # A number: Kubernetes' runAsNonRoot cannot tell who a name is.
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    sources = {one.flags["from"] for one in instructions if "from" in one.flags}
    assert sources <= {"packages", "onnx"}
    assert not any("pip" in one.value for one in instructions if one.keyword == "RUN")
    (copied,) = {one.value for one in instructions if one.flags.get("from") == "packages"}
    assert copied == "/opt/venv /opt/venv"
    assert not {one.value for one in instructions if one.flags.get("from") == "onnx" and "venv" in one.value}


def test_packages_are_those_of_the_requirements() -> None:
    (install,) = (one.value for one in STAGES["packages"].of("RUN") if "-r deploy" in one.value)
    for file in re.findall(r"deploy/requirements\S+\.txt", install):
        assert (ROOT / file).is_file()
    assert "-r deploy/requirements-serve-cpu.txt" in install
    assert any("--no-deps ." in one.value for one in STAGES["packages"].of("RUN"))


def test_hadolint() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    hadolint = shutil.which("hadolint", path=path)
    if hadolint is None:
        pytest.skip("no hadolint on this machine")
    done = subprocess.run([hadolint, dockerfile.FILE], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_starts_the_server_and_asks_after_it() -> None:
    lines = [one for stage in dockerfile.lineage("server-with-models") for one in stage.instructions]
    (entry,) = (one.words for one in lines if one.keyword == "ENTRYPOINT")
    assert entry == ["python", "-m", "serve"]
    (check,) = (one for one in lines if one.keyword == "HEALTHCHECK")
    script = check.value.partition("CMD ")[2]
    assert script == '["python", "/opt/healthcheck.py"]'
    assert any(one.words == ["deploy/healthcheck.py", "/opt/healthcheck.py"] for one in lines if one.keyword == "COPY")


def test_compose_follows_the_specification(compose: dict[str, Any]) -> None:
    """Every key exists, every value has its key's form, and every network that a service names is defined."""
    specification = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    text = (DEPLOY / "compose.yaml").read_text()
    for wrong in (text.replace("cap_drop:", "cap_dropped:"), text.replace("networks: [zoo]", "networks: [nowhere]")):
        with pytest.raises(ValueError, match=r"cap_dropped|nowhere"):
            specification.PyCompose.from_yaml(wrong).validate()
    specification.PyCompose.from_yaml(text).validate()
    # Compose itself ignores limits that it does not know.
    assert set(compose["services"]["zoo"]["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}


def test_compose_confines_the_server(compose: dict[str, Any]) -> None:
    service = compose["services"]["zoo"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    (folder,) = service["tmpfs"]
    (environment,) = (one.value for one in STAGES["server"].of("ENV"))
    assert f"GRADIO_TEMP_DIR={folder.partition(':')[0]}" in environment.split()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["environment"][variable("api_key")].startswith("${ZOO_SERVE_API_KEY:?")


def test_compose_builds_this_dockerfile(compose: dict[str, Any]) -> None:
    build = compose["services"]["zoo"]["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert context == ROOT
    assert context / build["dockerfile"] == dockerfile.FILE
    assert build["target"] in STAGES
    (check,) = STAGES["server"].of("HEALTHCHECK")
    assert compose["services"]["zoo"]["healthcheck"]["test"][1:] == re.findall(r'"([^"]+)"', check.value)


def test_compose_trusts_its_gateway_and_nobody_else(compose: dict[str, Any]) -> None:
    (network,) = compose["networks"]["zoo"]["ipam"]["config"]
    assert compose["services"]["zoo"]["environment"][variable("forwarded_allow_ips")] == network["gateway"]


def test_both_wait_for_accepted_requests(compose: dict[str, Any]) -> None:
    """Docker and systemd send SIGKILL after that."""
    unit = (DEPLOY / "deep-image-zoo.service").read_text()
    assert float(compose["services"]["zoo"]["stop_grace_period"].removesuffix("s")) > LAST
    assert float(re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[0]) > LAST


@pytest.mark.parametrize("file", [*sorted(DEPLOY.glob("[!.]*.*")), dockerfile.FILE, PAGE], ids=lambda file: file.name)
def test_variables_exist(file: Path) -> None:
    used = set(re.findall(r"ZOO_SERVE_[A-Z_]+[A-Z]", file.read_text()))
    assert used <= {variable(name) for name in OPTIONS}


def test_flags_exist() -> None:
    flags = {f"--{name.replace('_', '-')}" for name in OPTIONS}
    flags |= {f"--no-{name.replace('_', '-')}" for name, (kind, _) in OPTIONS.items() if kind is bool}
    used = set(re.findall(r"`(--[a-z-]+)", PAGE.read_text())) - {
        "--build-arg",
        "--gpus",
        "--no-deps",
    }  # Docker's, pip's
    assert len(used) > 10
    assert used <= flags


def test_every_file_is_described() -> None:
    page = PAGE.read_text()
    for file in DEPLOY.iterdir():
        if not file.name.startswith(("_", ".")) and file.is_file():
            assert f"deploy/{file.name}" in page, file.name


@contextmanager
def answering(status: int) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/v2/health/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as stub:
        thread = threading.Thread(target=stub.serve_forever)
        thread.start()
        try:
            yield stub.server_address[1]
        finally:
            stub.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1), (500, 1)])
def test_health_check(
    status: int, expected: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # must not be asked
    main = runpy.run_path(str(DEPLOY / "healthcheck.py"))["main"]
    with answering(status) as port:
        monkeypatch.setenv("ZOO_SERVE_PORT", str(port))
        assert main() == expected
    assert bool(capsys.readouterr().out) == bool(expected)
    assert main() == 1  # nobody listens

"""The Dockerfile's steps, without Docker: in a Debian of this Python's version, which debootstrap makes.

What the steps install is downloaded before, by this machine's pip. Every program runs in a mount namespace of its own,
so that no mount is left behind. The stage that builds the ONNX files is left out: it is
`python train/export.py`, and needs gigabytes of torch.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dockerfile
import pytest
from dockerfile import ROOT, Stage

# Debian's releases by their Python.
RELEASES = {(3, 11): "bookworm", (3, 13): "trixie"}
MODEL = ROOT / "model_cards" / "improved_googlenet.mnist"
DIGIT = ROOT / "serve" / "examples" / "digit-4-of-mnist.png"
# Bytes of the environment with the CPU runtime: SciPy, Gradio, NumPy and ONNX Runtime for the most part.
MOST = 500e6

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xdist_group("serve")]


def run(*command: str | Path) -> None:
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no mount namespaces")
    if sys.version_info[:2] not in RELEASES:
        pytest.skip(f"no Debian has Python {sys.version_info[0]}.{sys.version_info[1]}")
    if not (MODEL / "model.onnx").exists():
        pytest.skip(f"{MODEL}/model.onnx was not built: make onnx")
    made = tmp_path_factory.mktemp("steps")
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    """What `python:...-slim` is to the Dockerfile: a Debian with Python, and `python` as its name."""
    root = folder / "base"
    packages = "--include=python3,python3-venv,ca-certificates"
    release = RELEASES[sys.version_info[:2]]
    run("unshare", "--mount", "debootstrap", "--variant=minbase", packages, release, root)
    return root


@pytest.fixture(scope="module")
def wheels(folder: Path) -> Path:
    """The packages that the steps install, and the one that builds this project's wheel."""
    to = folder / "wheels"
    requirements = ROOT / "deploy" / "requirements-serve-cpu.txt"
    run(sys.executable, "-m", "pip", "download", "--quiet", "--dest", to, "-r", requirements, "setuptools>=77")
    return to


@pytest.fixture(scope="module")
def image(folder: Path, base: Path, wheels: Path) -> tuple[Path, dict[str, str]]:
    """The root folder of the image `server`, and its environment."""
    built: dict[str, Path] = {}
    for name in ("packages", "server"):
        root = built[name] = folder / name
        run("cp", "-a", base, root)
        environment = build(dockerfile.stages()[name], root, built, wheels)
    return built["server"], environment


def build(stage: Stage, root: Path, built: dict[str, Path], wheels: Path) -> dict[str, str]:
    """Carry out a stage's instructions in `root`; return the environment at its end."""
    environment = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
    arguments: dict[str, str] = {}
    place = "/"
    for one in stage.instructions:
        if one.keyword == "ARG":
            name, equals, value = one.value.partition("=")
            if equals:
                arguments[name] = value
        elif one.keyword == "ENV":
            for pair in one.words:
                name, _, value = pair.partition("=")
                environment[name] = re.sub(r"\$(\w+)", lambda use: environment[use[1]], value)
        elif one.keyword == "WORKDIR":
            place = one.value
            inside(root, place).mkdir(parents=True, exist_ok=True)
        elif one.keyword == "COPY":
            *sources, target = one.words
            source_root = built[one.flags["from"]] if "from" in one.flags else ROOT
            to = inside(root, target) if target.startswith("/") else inside(root, place) / target
            copy([inside(source_root, source) for source in sources], to, into=target.endswith("/"))
        elif one.keyword == "RUN":
            offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels", "PIP_CONFIG_FILE": os.devnull}
            words = [f"{name}={value}" for name, value in {**environment, **arguments, **offline}.items()]
            enter(root, ["env", "-i", *words, "sh", "-c", f"cd {place} && {one.value}"], wheels)
    return environment


def inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def copy(sources: list[Path], to: Path, into: bool) -> None:
    """COPY: the content of a folder goes to `to`, a file to `to` or, with a slash at its end, into it."""
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, to, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            file = to / source.name if into else to
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, file)


def enter(root: Path, command: list[str], wheels: Path) -> None:
    """Run a command as root in `root`."""
    (root / "wheels").mkdir(exist_ok=True)
    mounts = 'mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount --bind "$1" "$0/wheels"'
    script = f'{mounts} && root=$0 && shift && exec chroot "$root" "$@"'
    run("unshare", "--mount", "--pid", "--fork", "sh", "-ec", script, root, wheels, *command)


@contextmanager
def container(root: Path, environment: dict[str, str], port: int) -> Iterator[subprocess.Popen[str]]:
    """The image's server, as compose.yaml runs it: a read-only root, /tmp in memory, a user without capabilities."""
    stages = dockerfile.lineage("server")
    (user,) = (one.value.split(":") for stage in stages for one in stage.of("USER"))
    (entry,) = (one.words for stage in stages for one in stage.of("ENTRYPOINT"))
    (root / "srv" / "models" / MODEL.name).mkdir(parents=True, exist_ok=True)
    mounts = (
        # The root first: it would hide what is mounted below it before.
        'mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"; '
        'mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"; '
        'mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmpfs "$0/tmp"; '
        'mount --bind "$1" "$0/srv/models/$2"; mount -o remount,ro,bind "$0/srv/models/$2"; '
        'root=$0; shift 2; exec chroot "$root" "$@"'
    )
    words = [f"{name}={value}" for name, value in environment.items()]
    confined = ["setpriv", f"--reuid={user[0]}", f"--regid={user[1]}", "--clear-groups", "--no-new-privs"]
    confined += ["--bounding-set=-all", "--inh-caps=-all"]
    where = [f"ZOO_SERVE_PORT={port}", "ZOO_SERVE_HOST=127.0.0.1"]
    command = ["env", "-i", *words, *where, *confined, *entry]
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-ec", mounts, root, MODEL, MODEL.name, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def get(url: str, body: bytes | None = None) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, body), timeout=30) as response:
        return bytes(response.read())


def healthy(root: Path, port: int) -> bool:
    """What the image's health check says."""
    environment = {**os.environ, "ZOO_SERVE_PORT": str(port)}
    command: list[str | Path] = [sys.executable, root / "opt" / "healthcheck.py"]
    return subprocess.run(command, check=False, env=environment, capture_output=True).returncode == 0


def test_it_is_small_and_holds_no_torch(image: tuple[Path, dict[str, str]]) -> None:
    root, _ = image
    (site,) = (root / "opt" / "venv" / "lib").glob("python3.*/site-packages")
    names = {entry.name for entry in site.iterdir()}
    assert {"serve", "zoo", "onnxruntime", "gradio"} <= names
    assert names.isdisjoint({"torch", "timm", "nvidia"})
    size = sum(file.lstat().st_size for file in (root / "opt" / "venv").rglob("*") if not file.is_dir())
    print(f"{size / 1e6:.0f} MB")
    assert size < MOST


def test_it_serves_without_root_and_without_a_disk(image: tuple[Path, dict[str, str]]) -> None:
    root, environment = image
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert not healthy(root, port)
    with container(root, environment, port) as process:
        while process.poll() is None and not healthy(root, port):
            time.sleep(0.2)
        assert process.poll() is None, process.communicate()[0]
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "0" not in re.findall(r"^[UG]id:\s+(.*)$", status, re.MULTILINE)[0].split()
        assert set(re.findall(r"^Cap(?:Eff|Prm|Bnd):\s+(\w+)$", status, re.MULTILINE)) == {"0" * 16}
        url = f"http://127.0.0.1:{port}"
        best = json.loads(get(f"{url}/classify/{MODEL.name}", DIGIT.read_bytes()))["predictions"][0]
        assert best["label"] == "4"
        assert b"gradio" in get(f"{url}/")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert "Traceback" not in output

"""nginx on loopback in front of a server."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from watching import eventually

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

CONFIGURATION = """
daemon off;
worker_processes 1;
{user}
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {http}
}}
"""
# As in the documentation.
PROXY = """
client_max_body_size 16m;
upstream zoo {{ server {upstream}; keepalive 64; }}
proxy_http_version 1.1;
proxy_set_header Connection "";
server {{
  listen 127.0.0.1:{port};
  {locations}
}}
"""


@contextmanager
def nginx(folder: Path, url: str, locations: str) -> Iterator[str]:
    """Run nginx in front of the server at `url`, its upstream `zoo`, and return its own address."""
    (port,) = free_ports(1)
    http = PROXY.format(port=port, upstream=url.removeprefix("http://"), locations=locations)
    with run_nginx(folder, http, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def run_nginx(folder: Path, http: str, *ports: int) -> Iterator[None]:
    """Run nginx with `http` in the block of that name, which listens on `ports`."""
    if NGINX is None:
        pytest.skip("no nginx on this machine")
    folder.mkdir(exist_ok=True)
    user = "user root;" if os.geteuid() == 0 else ""  # else its workers could not enter the folder
    (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder, user=user, http=http))
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    tested = subprocess.run([*command, "-t"], check=False, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert eventually(lambda: all(map(_listens, ports)) or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield
        finally:
            process.terminate()
            process.communicate(timeout=30)


def free_ports(count: int) -> list[int]:
    """Return free ports, all different."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0

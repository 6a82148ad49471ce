"""nginx on loopback in front of a server, as in the documentation."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from watching import eventually

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

CONFIGURATION = """
daemon off;
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
  client_max_body_size 16m;
  upstream zoo {{ server {upstream}; keepalive 64; }}
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  server {{
    listen 127.0.0.1:{port};
    {locations}
  }}
}}
"""


@contextmanager
def nginx(folder: Path, url: str, locations: str) -> Iterator[str]:
    """Run nginx in front of the server at `url`, its upstream `zoo`, and return its own address."""
    if NGINX is None:
        pytest.skip("no nginx on this machine")
    folder.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    upstream = url.removeprefix("http://")
    user = "user root;" if os.geteuid() == 0 else ""  # else its workers could not enter the folder
    text = CONFIGURATION.format(folder=folder, port=port, upstream=upstream, user=user, locations=locations)
    (folder / "nginx.conf").write_text(text)
    with subprocess.Popen(
        [NGINX, "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert eventually(lambda: _listens(port) or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=30)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0

"""A real proxy in front of the server: path prefixes, its headers, and connections that it keeps."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urljoin

import gradio_client
import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from nginx import nginx
from watching import get, post

# The proxy removes its prefix, or keeps it; it tells the prefix, or the server knows it; the header Host is the
# browser's, lacks the port, or is the name of the upstream.
LOCATIONS = """
location /removed/ {
  proxy_pass http://zoo/;
  proxy_set_header Host $http_host;
  proxy_set_header X-Forwarded-Prefix /removed;
}
location /kept/ {
  proxy_pass http://zoo;
  proxy_set_header Host $host;
  proxy_set_header X-Forwarded-Prefix /kept;
}
location /known/ {
  proxy_pass http://zoo/;
  proxy_set_header X-Forwarded-Host $http_host;
  proxy_set_header X-Forwarded-Proto https;
}
location / {
  proxy_pass http://zoo;
  proxy_set_header Host $http_host;
}
"""
PREFIXES = ["/removed", "/kept", "/known"]


@pytest.fixture(scope="module")
def proxied(models: list[Any], running: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    options = ("--models", models[0].folder.parent, "--root-path", "/known")
    folder = tmp_path_factory.mktemp("nginx")
    # Gradio would take its prefix from this variable.
    with (
        running(*options, environment={"GRADIO_ROOT_PATH": "/wrong"}) as server,
        nginx(folder, server.url, LOCATIONS) as url,
    ):
        yield url


@pytest.mark.parametrize("prefix", PREFIXES)
def test_api_and_documentation_have_the_prefix(
    proxied: str, prefix: str, models: list[Any], encode: Callable[..., bytes]
) -> None:
    (pixels,) = models[0].images(1)
    response = post(f"{proxied}{prefix}/classify/a.cifar10", content=encode(pixels))
    assert response.json()["predictions"][0]["index"] == models[0].best(pixels)
    assert get(f"{proxied}{prefix}/v2/health/live").json() == {"live": True}
    page = get(f"{proxied}{prefix}/docs").text
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    (described,) = re.findall(r"url: '([^']+)'", page)
    assert files
    for path in (*files, described):
        assert path.startswith(f"{prefix}/")
        assert get(f"{proxied}{path}").status_code == 200
    assert get(f"{proxied}{described}").json()["servers"] == [{"url": prefix}]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_page_s_files_are_there(proxied: str, prefix: str) -> None:
    """All addresses in the page are relative, or have the prefix."""
    page = get(f"{proxied}{prefix}/")
    assert page.status_code == 200
    assert f'"root":"{prefix}"' in page.text
    # Clients in JavaScript then take the address that they have called.
    assert get(f"{proxied}{prefix}/config").json()["root"] == ""
    files = set(re.findall(r'"(/[^"]*/file=[^"]+)"', page.text))
    assert len(files) > 5
    for file in (*files, *re.findall(r'(?:src|href)="(\./[^"]+)"', page.text)):
        assert get(urljoin(str(page.url), file)).status_code == 200, file
    assert "/wrong" not in page.text


@pytest.mark.parametrize("prefix", [*PREFIXES, ""])
def test_clients_work_behind_it(
    proxied: str, prefix: str, models: list[Any], encode: Callable[..., bytes], tmp_path: Any
) -> None:
    (pixels,) = models[0].images(1)
    with triton.InferenceServerClient(f"{proxied}{prefix}".removeprefix("http://")) as client:
        tensor = triton.InferInput("image", [1, *models[0].shape], "UINT8")
        tensor.set_data_from_numpy(pixels[None])
        np.testing.assert_array_equal(
            client.infer("a.cifar10", [tensor]).as_numpy("logits"), models[0].logits(pixels[None])
        )
    (tmp_path / "image.png").write_bytes(encode(pixels))
    app = gradio_client.Client(f"{proxied}{prefix}", verbose=False, analytics_enabled=False)
    try:
        image = gradio_client.handle_file(tmp_path / "image.png")
        result = app.predict(image, "a.cifar10", api_name="/classify_picture")
        assert result["predictions"][0]["index"] == models[0].best(pixels)
    finally:
        app.close()


def test_a_browser_s_own_page_is_no_stranger(proxied: str) -> None:
    """Plain HTTP: the browser sends Origin, and no Sec-Fetch-Site."""
    for prefix in PREFIXES:
        call = f"{proxied}{prefix}/gradio_api/run/models"
        assert post(call, json={"data": []}, headers={"origin": proxied}).status_code == 200
        assert post(call, json={"data": []}, headers={"origin": "http://evil.example"}).status_code == 403


@pytest.mark.slow
def test_a_connection_that_the_proxy_keeps_is_open(models: list[Any], running: Any, tmp_path: Any) -> None:
    """Nginx keeps idle connections for 60 s and sends a POST once; a server that closes them first gives 502."""
    with (
        running("--models", models[0].folder.parent, "--no-app") as server,
        nginx(tmp_path, server.url, "location / { proxy_pass http://zoo; }") as url,
        ThreadPoolExecutor(32) as pool,
        httpx.Client(verify=False, limits=httpx.Limits(max_connections=32)) as client,
    ):

        def ask(_: int) -> int:
            return client.post(f"{url}/v2/repository/index").status_code

        for _ in range(4):
            assert set(pool.map(ask, range(96))) == {200}
            time.sleep(5)  # uvicorn's own limit


def test_keep_alive(models: list[Any], running: Any) -> None:
    """An idle connection stays open for longer than nginx keeps one. uvicorn would close it after 5 s."""
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running("--models", models[0].folder.parent, "--no-app") as server, server.connect() as connection:
        for idle in (0, 6):
            time.sleep(idle)
            connection.sendall(request)
            assert connection.recv(2**16).endswith(b'{"live":true}')

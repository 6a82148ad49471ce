"""The page's own head and files, as browsers, search engines and messengers fetch them."""

import gzip
import json
import re
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
from PIL import Image

from serve.app.site import DESCRIPTION, FILES, STATIC, TITLE


@pytest.fixture(scope="module")
def client(shared: SimpleNamespace) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared.url) as client:
        yield client


def test_the_page_has_its_own_title_description_and_card(client: httpx.Client) -> None:
    page = client.get("/", headers={"host": "zoo", "x-forwarded-prefix": "/digits", "x-forwarded-proto": "https"}).text
    assert page.count("<title>") == 1
    assert f"<title>{TITLE}</title>" in page
    assert f'<meta name="description" content="{DESCRIPTION}" />' in page
    assert '<meta property="og:image" content="https://zoo/digits/card.png" />' in page
    assert page.count('property="og:title"') == 1
    head = page.partition("</head>")[0].partition("window.gradio_config")
    assert "gradio.app" not in head[0]
    assert "@Gradio" not in page
    assert page.count('rel="manifest"') == 1
    assert len(TITLE) <= 60
    assert len(DESCRIPTION) <= 160
    with Image.open(STATIC / "card.png") as card:
        assert card.size == (1200, 630)


@pytest.mark.parametrize(("name", "kind"), FILES.items())
def test_small_files_are_there_and_cached(client: httpx.Client, name: str, kind: str) -> None:
    response = client.get(f"/{name}")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(kind)
    assert "max-age=" in response.headers["cache-control"]
    assert response.content == (STATIC / ("icon.svg" if name == "favicon.ico" else name)).read_bytes()


def test_the_manifest_names_files_that_exist(client: httpx.Client) -> None:
    manifest = json.loads(client.get("/manifest.json").text)
    for icon in manifest["icons"]:
        assert client.get(f"/{icon['src']}").status_code == 200
    assert "Disallow: /gradio_api/" in client.get("/robots.txt").text


def test_the_page_is_compressed_and_its_files_are_cached_for_ever(client: httpx.Client) -> None:
    with client.stream("GET", "/", headers={"accept-encoding": "gzip"}) as response:
        packed = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["cache-control"] == "no-cache"
    assert "Accept-Encoding" in response.headers["vary"]
    plain = client.get("/", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert len(packed) < len(plain.content) / 4
    assert re.sub(rb'"session_hash":"\w+"', b"", gzip.decompress(packed))[:2000] == plain.content[:2000]
    asset = re.search(r"assets/index-[\w-]+\.js", plain.text)
    assert asset
    assert client.get(f"/{asset[0]}").headers["cache-control"] == "public, max-age=31536000, immutable"
    assert "cache-control" not in client.get("/assets/none-12345678.js").headers

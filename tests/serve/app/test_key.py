"""The app of a server that demands a key."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AuthenticationError

EXAMPLES = Path(__file__).parents[3] / "serve" / "examples"


@pytest.fixture(scope="module")
def url(running: type, tiny: type, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    tiny(folder / "improved_vgg16.mnist", shape=(28, 28, 1), labels=[str(digit) for digit in range(10)]).write()
    with running("--models", folder, environment={"ZOO_SERVE_API_KEY": "secret"}) as server:
        yield server.url
        assert "secret" not in server.stop()[1]


# gradio_client leaves sockets and its temporary files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_calls_accept_the_key(url: str) -> None:
    client = Client(url, headers={"Authorization": "Bearer secret"}, verbose=False)
    image = handle_file(EXAMPLES / "digit-4-of-mnist.png")
    answer = client.predict(image=image, api_name="/classify_digit")
    assert answer["model"] == "improved_vgg16.mnist"
    client.close()
    with pytest.raises(AuthenticationError):
        Client(url, verbose=False)


def test_nothing_on_the_way_keeps_files(url: str) -> None:
    key = {"x-api-key": "secret"}
    asset = re.search(r"assets/index-[\w-]+\.js", httpx.get(url, headers=key).text)
    assert asset
    assert httpx.get(f"{url}/{asset[0]}").status_code == 401
    kept = httpx.get(f"{url}/{asset[0]}", headers=key)
    assert kept.headers["cache-control"].startswith("private, ")


def test_a_browser_asks_its_user_for_the_key_as_a_password(url: str) -> None:
    for path in ("/", "/config"):
        assert httpx.get(f"{url}{path}").headers["www-authenticate"].startswith("Basic")
        assert httpx.get(f"{url}{path}", auth=("anybody", "secret")).status_code == 200

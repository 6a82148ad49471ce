"""Which paths reach the API's handlers, and which the application behind them."""

from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from serve.errors import Overloaded
from serve.http.routing import route_first


async def one(request: Request) -> Response:
    return PlainTextResponse(request.path_params["name"])


async def overloaded(request: Request) -> Response:
    raise Overloaded


async def broken(request: Request) -> Response:
    raise HTTPException(400, "broken form")


async def behind(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("behind")(scope, receive, send)


ROUTES = [
    Route("/v2/models/{name}", one, methods=["GET"]),
    Route("/v2/overloaded", overloaded, methods=["POST"]),
    Route("/v2/broken", broken, methods=["POST"]),
]


@pytest.fixture
def client() -> TestClient:
    app = route_first(ROUTES, behind)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "app": None}, receive, send)

    return TestClient(application)


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/v2/models/a", 200, "a"),
        ("HEAD", "/v2/models/a", 200, ""),  # the client drops the body
        ("GET", "/v2/models/a/", 404, {"error": "nothing is at '/v2/models/a/'; /docs lists the routes"}),
        ("GET", "/v2/", 404, {"error": "nothing is at '/v2/'; /docs lists the routes"}),
        ("PUT", "/v2/models/a", 405, {"error": "PUT is not allowed here; valid is GET"}),
        ("POST", "/v2/broken", 400, {"error": "broken form"}),
        ("POST", "/v2/overloaded", 503, {"error": "the queue is full"}),
        ("GET", "/", 200, "behind"),
        ("GET", "/v20", 200, "behind"),
        ("PUT", "/app/v2", 200, "behind"),
    ],
)
def test_paths(client: TestClient, method: str, path: str, status: int, text: Any) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert (response.json() if isinstance(text, dict) else response.text) == text
    assert response.headers.get("allow") == (text["error"].rpartition(" ")[2] if status == 405 else None)
    assert response.headers.get("retry-after") == ("1" if status == 503 else None)


def test_head_is_allowed_where_get_is(client: TestClient) -> None:
    response = client.head("/v2/broken")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def test_a_proxy_s_prefix_is_not_part_of_the_path() -> None:
    client = TestClient(route_first(ROUTES, behind), root_path="/zoo")
    assert client.get("/zoo/v2/models/a").text == "a"
    assert client.get("/zoo/other").text == "behind"


def test_websockets_reach_the_application_behind() -> None:
    kinds = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        kinds.append(scope["type"])
        await send({"type": "websocket.accept"})

    with TestClient(route_first(ROUTES, application)).websocket_connect("/v2/models/a"):
        assert kinds == ["websocket"]

"""Error responses: `{"error": message}` with the status of the exception."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve.errors import ApiError


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Build the response `{"error": message}`."""
    return Response(orjson.dumps({"error": message}), status, headers, "application/json")


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error.status, error.message, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _method_not_allowed(request.method, (error.headers or {}).get("Allow", ""))
    return error_response(error.status_code, str(error.detail), error.headers)


def _method_not_allowed(method: str, allow: str) -> Response:
    # HEAD is not listed: it is implied by GET. Starlette lists the methods in any order.
    methods = ", ".join(sorted(set(allow.split(", ")) - {"HEAD"}))
    return error_response(405, f"{method} is not allowed here; valid is {methods}", {"allow": methods})


EXCEPTION_HANDLERS: dict[Any, Any] = {ApiError: _api_error, HTTPException: _http_error}

"""Uploads when the disk is full."""

import asyncio
import errno
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.api import create_app
from serve.app.hardening import gradio_internals
from serve.settings import Settings


def full(error: int) -> Any:
    def refuse(**_: object) -> Any:
        raise OSError(error, "the disk says no")

    return refuse


async def upload(folder: Path) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(Settings(models=folder)))
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        return await client.post("/gradio_api/upload", files={"files": ("a.png", bytes(1000))})


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_in_one_line(
    tmp_path: Path, error: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gradio_internals, "NamedTemporaryFile", full(error))
    response = asyncio.run(upload(tmp_path))
    assert (response.status_code, response.headers["retry-after"]) == (507, "60")
    assert response.json() == {"error": "this server has no room for uploads at present"}
    (record,) = caplog.records
    assert "no room for an upload: the disk says no" in record.getMessage()
    assert record.exc_info is None


def test_another_error_of_the_disk_is_logged_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gradio_internals, "NamedTemporaryFile", full(errno.EIO))
    assert asyncio.run(upload(tmp_path)).status_code == 500
    assert caplog.records[0].exc_info is not None

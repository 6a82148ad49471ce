"""Forms from memory: their parts are what was sent, they need no disk, and others get their turn meanwhile."""

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from python_multipart.multipart import MultipartParser
from watching import post

from serve.errors import BadRequest
from serve.http import forms
from serve.http.forms import Part, read_form

KIND = "multipart/form-data; boundary=XXX"
END = b"--XXX--\r\n"


def part(content: bytes, disposition: bytes = b'form-data; name="file"; filename="a"') -> bytes:
    return b"--XXX\r\nContent-Disposition: " + disposition + b"\r\nX: y\r\n\r\n" + content + b"\r\n"


def read(body: bytes, kind: str = KIND, max_files: int = 3) -> list[Part]:
    return asyncio.run(read_form(body, kind, max_files=max_files))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 2**16])
def test_parts_are_what_was_sent_wherever_the_slices_end(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "SLICE", size)
    chance = random.Random(size)
    pieces = [b"\r\n", b"--", b"\r", b"\n--XX", b"\r\n--XX", b"\r\n--XXY", b"ab"]
    for _ in range(30):
        contents = [b"".join(chance.choices(pieces, k=chance.randrange(30))) for _ in range(chance.randrange(1, 4))]
        assert [found.content for found in read(b"".join(map(part, contents)) + END)] == contents


def test_names() -> None:
    body = part(b"1", b'form-data; name="plain"') + part(b"2", 'form-data; name="ф"; filename=""'.encode()) + END
    assert read(body) == [Part("plain", None, b"1"), Part("ф", "", b"2")]


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (part(b"x") + END, "multipart/form-data", "no boundary"),
        (part(b"x"), KIND, "closing boundary is missing"),
        (b"", KIND, "closing boundary is missing"),
        (b"--YYY\r\n", KIND, "the form is broken"),
        (part(b"x", b"form-data") + END, KIND, "has no name"),
        (part(b"x") * 4 + END, KIND, "more than 3 files"),
        (part(b"x", b'form-data; name="a"') * 9 + END, KIND, "more than 8 fields"),
    ],
)
def test_broken_forms_are_refused(body: bytes, kind: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        read(body, kind)


def test_other_requests_are_handled_while_a_large_form_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the parser does not continue before the event loop has done something else."""
    other_request_done = threading.Event()

    class Waiting(MultipartParser):
        def write(self, data: bytes) -> int:
            assert other_request_done.wait(20)
            return super().write(data)

    monkeypatch.setattr(forms, "MultipartParser", Waiting)

    async def both() -> list[Part]:
        parsing = asyncio.create_task(read_form(part(bytes(2**20)) + END, KIND, max_files=1))
        await asyncio.sleep(0)
        other_request_done.set()
        return await parsing

    assert len(asyncio.run(both())[0].content) == 2**20


# `python -m serve` where no temporary file can be made, as on a full or read-only disk.
DISKLESS = """
import tempfile
from serve.__main__ import main

tempfile.tempdir = "/no/such/folder"
main()
"""


def test_large_forms_need_no_disk(tiny: Any, tmp_path: Path, running: Any, encode: Any) -> None:
    model = tiny(tmp_path / "model").write()
    (pixels,) = model.images(1)
    with running("--models", tmp_path, "--no-app", program=("-c", DISKLESS)) as server:
        response = post(f"{server.url}/classify/model", files={"file": encode(pixels) + bytes(3_000_000)})
        assert response.json()["predictions"][0]["index"] == model.best(pixels)
        _, errors = server.stop()
    assert "Traceback" not in errors

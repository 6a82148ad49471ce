"""Clients that are half-way through the handshake when a server ends."""

import asyncio
import socket
from pathlib import Path

import pytest

from serve.http import listening

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(port: int, state: str) -> str:
    return (
        f"   1: 0100007F:{port:04X} 0100007F:D4F0 {state} 00000000:00000000 01:00000064 00000000     0        0 0 2\n"
    )


def test_they_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as Linux lists them; clients of other ports and whole connections do not count."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(listening, "TABLES", (tmp_path / "missing", tmp_path / "tcp"))
        others = HEADER + line(port, "01") + line(port, "0A") + line(port ^ 1, listening.HALF_WAY)
        (tmp_path / "tcp").write_text(others + line(port, listening.HALF_WAY))

        async def end() -> tuple[bool, bool]:
            ending = asyncio.create_task(listening.finish_listening([listener]))
            done, _ = await asyncio.wait([ending], timeout=2 * listening.HANDSHAKE)
            (tmp_path / "tcp").write_text(others)
            await asyncio.wait_for(ending, listening.ACCEPTING / 2)
            return bool(done), ending.done()

        assert asyncio.run(end()) == (False, True)


@pytest.mark.skipif(not listening.TABLES[0].exists(), reason="needs Linux")
def test_connections_of_this_machine_are_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        assert not listening._half_way({listener.getsockname()[1]})

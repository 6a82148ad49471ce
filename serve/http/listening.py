"""How to stop listening without losing a client."""

import asyncio
import ctypes
import selectors
import socket
import struct
import time

# From Linux's asm-generic/socket.h; Python has no name for it.
_SO_ATTACH_FILTER = 26
# Seconds that a client half-way through the handshake needs for the rest of it.
HANDSHAKE = 0.25
# The most seconds to accept those: without a free file descriptor it would not end.
ACCEPTING = 3.0

# Instructions of the kernel's packet filter, (code, jump if true, jump if false, operand), run on every packet that
# reaches a listening socket, from its TCP header on.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone, which begins a handshake:
    (0x06, 0, 0, 0),  # drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # else let it through
)


async def finish_listening(sockets: list[socket.socket]) -> None:
    """Have listening sockets begin no new connections, and return once those that had begun are accepted, or after
    ACCEPTING seconds.

    Closing a socket resets the connections that the kernel still holds for it, though their clients may have sent a
    request. So new ones are kept out first. Their clients try again a second later, when the closed port refuses them.
    """
    for entry in sockets:
        if not drop_handshakes(entry):
            entry.listen(0)  # as few as possible
    await asyncio.sleep(HANDSHAKE)
    end = time.monotonic() + ACCEPTING
    # The default selector needs a file descriptor, and there may be none left.
    with selectors.PollSelector() as waiting:
        for entry in sockets:
            waiting.register(entry, selectors.EVENT_READ)
        while waiting.select(0) and time.monotonic() < end:
            await asyncio.sleep(0.005)


def drop_handshakes(listener: socket.socket) -> bool:
    """Have the kernel drop what would begin a connection to a listening socket; False where it cannot (not Linux)."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in _DROP_SYN))
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_DROP_SYN), ctypes.addressof(program))
        )
    except OSError:
        return False
    return True

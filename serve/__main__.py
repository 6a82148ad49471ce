"""python -m serve"""

import argparse
import errno
import os
import signal
import socket
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from serve.settings import CHOICES, Settings, from_environment


def parser(defaults: dict[str, Any]) -> argparse.ArgumentParser:
    """Build the parser of the command line; `defaults` are what the environment says."""
    usual = {entry.name: entry.default for entry in fields(Settings)} | defaults
    top = argparse.ArgumentParser(
        prog="python -m serve",
        description="Serves the models of a folder over HTTP: an app at /, POST /classify/MODEL, the Open Inference "
        "Protocol under /v2, metrics at /metrics, and the API's description at /docs.",
        epilog="Every flag can be an environment variable: SERVE_PORT=9000 is --port 9000. SERVE_API_KEY is the key "
        "that requests must carry (Authorization: Bearer KEY; the app asks for it as a password); without it no key is "
        "needed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def add(group: Any, name: str, text: str, **more: Any) -> None:
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, default=usual[name], choices=CHOICES.get(name), help=text, **more)

    what = top.add_argument_group("what is served, and where")
    add(what, "models", "folder with one folder per model", type=Path, metavar="FOLDER")
    add(what, "host", "address to listen on; 0.0.0.0: all of them", metavar="ADDRESS")
    add(what, "port", "port to listen on; 0: a free one", type=int)
    add(what, "device", "auto: a GPU where one works, else the CPU")
    add(what, "precision", "auto: int8 on a CPU with AVX2 or 8-bit dot products, else fp32")
    add(what, "app", "the app at /", action=argparse.BooleanOptionalAction)

    limits = top.add_argument_group("batches and limits")
    add(limits, "threads", "cores for inference; 0: all this process may use", type=int, metavar="N")
    add(limits, "max_batch", "most images in one run of a model", type=int, metavar="N")
    add(limits, "max_delay", "seconds a run may wait for more images", type=float, metavar="SECONDS")
    add(limits, "max_queue", "most images that may wait; more are answered 503", type=int, metavar="N")
    add(limits, "max_images", "most images in a request; 0: 128, or --max-queue if that is less", type=int, metavar="N")
    add(limits, "timeout", "seconds until a request is answered 504", type=float, metavar="SECONDS")
    add(limits, "max_body", "most bytes of a request's body, also after decompression", type=int, metavar="BYTES")
    add(limits, "max_pixels", "most pixels of a picture", type=int, metavar="N")
    add(limits, "linger", "seconds to go on serving after SIGTERM, as not ready", type=float, metavar="SECONDS")
    add(limits, "shutdown_timeout", "seconds to finish accepted requests after that", type=float, metavar="SECONDS")

    logs = top.add_argument_group("logs")
    add(logs, "access_log", "log a line for every request", action=argparse.BooleanOptionalAction)
    add(logs, "log_format", "format of the log")
    return top


def settings(arguments: list[str] | None = None) -> Settings:
    """Read the environment and the command line; end the process with one line where they make no sense."""
    try:
        environment = from_environment()
        found = parser(environment).parse_args(arguments)
        return Settings(**{**environment, **vars(found)})
    except ValueError as error:
        fail(str(error), 2)


def fail(message: str, status: int = 1) -> NoReturn:
    """Print one line to stderr and exit."""
    print(f"python -m serve: {message}", file=sys.stderr)
    raise SystemExit(status)


def bind(host: str, port: int) -> socket.socket:
    """Take the listening address, before anything slow begins."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
            taken.listen()  # without it two processes that start at once could both bind
        except OSError:
            taken.close()
            raise
    except UnicodeError:
        fail(
            f"cannot listen on {host}:{port}: {host!r} is not a host name; valid are this machine's names and addresses"
        )
    except OSError as error:
        flag = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        hint = "" if flag == "--port" and not port else f"; choose another with {flag}"
        fail(f"cannot listen on {host}:{port}: {error.strerror or error}{hint}")
    return taken


def main() -> None:
    """Serve until a signal comes.

    The exit status is 0 after a signal, 1 where it cannot serve or cannot end in order, 2 for wrong arguments.
    """
    chosen = settings()
    # Until the server handles them: a container's first process would not even notice SIGTERM.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    if not os.path.isdir(chosen.models) or not os.access(chosen.models, os.R_OK | os.X_OK):
        fail(f"{chosen.models} is not a folder that can be read; name the folder that holds the models with --models")
    with bind(chosen.host, chosen.port) as listener:
        # Imported this late so that --help and a wrong flag are answered at once.
        from serve.api import create_app
        from serve.engine.models import find
        from serve.logs import configure
        from serve.server import Server

        if not find(chosen.models):
            fail(f"{chosen.models} holds no models; build one with: python train/export.py {chosen.models}/NAME")
        configure(chosen)
        server = Server(create_app(chosen), chosen)
        server.run([listener])
    if server.failed:
        fail(f"none of the models in {chosen.models} could be loaded")


if __name__ == "__main__":
    main()

"""The command line: python -m serve."""

import argparse
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from serve.default_models import default_models, user_models, with_models
from serve.logs import configure, start_line
from serve.settings import OPTIONS, PREFIX, Settings, Words, from_environment, variable
from serve.signals import ending_signals

# By `deep-image-zoo serve` or `python -m serve`.
NAME = f"{caller} serve" if (caller := Path(sys.argv[0]).stem) == "deep-image-zoo" else "python -m serve"
# Modules of the extra `serve`.
NEEDED = (
    "fastapi", "fastapi_offline", "filelock", "gradio", "httptools", "numpy", "onnxruntime", "orjson", "PIL",
    "platformdirs", "prometheus_client", "pydantic", "python_multipart", "starlette", "uvicorn",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line. It has a flag for each setting, and returns only those that were given."""
    top = argparse.ArgumentParser(
        prog=NAME,
        description="Serves the models of a folder over HTTP: an app at /, POST /classify/MODEL, the Open Inference "
        "Protocol under /v2, metrics at /metrics, and the API's description at /docs.",
        epilog=f"Each flag has an environment variable: {PREFIX}PORT=9000 is --port 9000. A flag takes precedence over "
        f"its variable. {variable('api_key')} has no flag: it is the key that requests must carry (Authorization: "
        "Bearer KEY; the app asks for it as a password). Without it, no key is needed.",
        argument_default=argparse.SUPPRESS,
    )
    groups: dict[str, Any] = {}
    for name, (kind, option) in OPTIONS.items():
        if not option.flag:
            continue
        if option.group not in groups:
            groups[option.group] = top.add_argument_group(option.group)
        kinds: dict[str, Any] = {"type": kind, "metavar": option.metavar, "choices": option.choices or None}
        if kind is bool:
            kinds = {"action": argparse.BooleanOptionalAction}
        elif kind is Words:
            kinds = {"action": "extend", "nargs": "+", "metavar": option.metavar}
        default = getattr(Settings, name)
        default = " ".join(default) if kind is Words else default
        shown = f"{option.help} (default: {'none' if default == '' else default}; {variable(name)})"
        groups[option.group].add_argument("--" + name.replace("_", "-"), help=shown, **kinds)
    return top


def settings(arguments: list[str] | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the command line and the environment; end the process with status 2 and one line if a value is not valid.

    A flag takes precedence over its variable, whatever that holds: Kubernetes sets variables of its own.
    """
    given = vars(parser().parse_args(arguments))
    flags: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    try:
        return Settings(**with_models({**from_environment(environment, ignore=flags), **flags}))
    except ValueError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def fail(message: str, chosen: Settings) -> NoReturn:
    """Print one line to stderr, in the format of the log, and exit."""
    print(start_line(f"{NAME}: {message}", chosen, logging.CRITICAL), file=sys.stderr)
    raise SystemExit(1)


def bind(chosen: Settings) -> socket.socket:
    """Bind the listening address, before anything slow starts."""
    host, port = chosen.host, chosen.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
            taken.listen()  # without it, two processes that start together could both bind
        except OSError:
            taken.close()
            raise
    except UnicodeError:
        fail(
            f"cannot listen on {host}:{port}: {host!r} is not a host name; use a name or address of this machine",
            chosen,
        )
    except OSError as error:
        flag = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        hint = "" if flag == "--port" and not port else f"; choose another with {flag}"
        fail(f"cannot listen on {host}:{port}: {error.strerror or error}{hint}", chosen)
    return taken


def with_build_decided(chosen: Settings) -> Settings:
    """Decide whether ONNX files are built, and end the process if no model can be served.

    `--build auto` builds in the default folder, if a model there has no ONNX files and the packages are installed.
    """
    # Imported here, so that --help and the checks of the arguments take no time.
    from serve.engine.building import INSTALL, installed, unbuilt
    from serve.engine.models import find

    folder, build = chosen.models, chosen.build == "yes"
    if chosen.build == "auto" and folder == default_models() and (waiting := unbuilt(folder)):
        build = installed()
        if not build and {*find(folder)} <= {*waiting}:
            fail(f"the models have no ONNX files, and building them needs more packages: {INSTALL}", chosen)
    elif build and not installed():
        fail(f"--build yes needs more packages: {INSTALL}", chosen)
    if not build and not find(folder):
        fail(f"{folder} holds no models; build one with: python train/export.py {folder}/NAME", chosen)
    return replace(chosen, build="yes" if build else "no")


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal arrives.

    The exit status is 0 after a signal, 1 if it cannot serve or cannot shut down in time, 2 for invalid arguments.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        print(f"{NAME}: {', '.join(missing)} not installed: pip install 'deep-image-zoo[serve]'", file=sys.stderr)
        return 1
    chosen = settings(argv)
    configure(chosen)
    # Until the server handles them: by default, a container's first process ignores SIGTERM.
    for number in ending_signals():
        signal.signal(number, lambda *_: os._exit(0))
    readable = chosen.models.is_dir() and os.access(chosen.models, os.R_OK | os.X_OK)
    if not readable and chosen.models != user_models():  # that one is made when it is needed
        fail(f"{chosen.models} is not a folder that can be read; set the folder with the models by --models", chosen)
    with bind(chosen) as listener:
        chosen = with_build_decided(chosen)
        # Imported here for the same reason.
        from serve.api import create_app
        from serve.http.listening import CannotListen
        from serve.server import Server
        from serve.tracing import CannotTrace

        if chosen.grpc_port:
            try:
                import serve.routes.grpc.server  # noqa: F401
            except (ImportError, RuntimeError) as error:  # tritonclient has the latter for a part of its packages
                fail(
                    f"--grpc-port needs more packages: {error}; install them with: pip install 'deep-image-zoo[grpc]'",
                    chosen,
                )
        try:
            server = Server(create_app(chosen), chosen)
            server.run([listener])
        except (CannotListen, CannotTrace) as error:
            fail(str(error), chosen)
    if server.failed:
        fail(f"none of the models in {chosen.models} could be loaded", chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The server's settings.

Each option is stated once, as a field of `Settings`. The command line, the environment variables, the checks and
`--help` all follow from these fields.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

PREFIX = "ZOO_SERVE_"
MAX_IMAGES = 128
# Threads cannot wait for much longer than this many seconds.
HIGHEST = 2**31

SERVED = "what is served, and where"
BROWSERS = "proxies and browsers"
LIMITS = "batches and limits"
LOGS = "logs"

VALID_PREFIX = re.compile(r"(/[\w.~-]+)+/?|/", re.ASCII)

Words = tuple[str, ...]


@dataclass(frozen=True)
class Option:
    """The description of a setting.

    Args:
        help: One line for `--help`.
        group: Heading in `--help`.
        metavar: Name of the value in `--help`.
        choices: Valid values; empty if there is no list of them.
        low: Smallest valid number.
        high: Largest valid number.
        flag: False for a secret. Other users can read a command line, so only the environment can set it.
    """

    help: str
    group: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float = HIGHEST
    flag: bool = True


@dataclass(frozen=True)
class Settings:
    """All settings of the server.

    Raises:
        ValueError: If a value is not valid. The message holds the name, the value and the valid values.
    """

    models: Annotated[Path, Option("folder with one folder per model", SERVED, "FOLDER")] = Path("model_cards")
    host: Annotated[str, Option("address to listen on; 0.0.0.0: all of them", SERVED, "ADDRESS")] = "127.0.0.1"
    port: Annotated[int, Option("port to listen on; 0: a free one", SERVED, "PORT", low=0, high=65535)] = 8000
    grpc_port: Annotated[
        int, Option("port for gRPC, on the same address; 0: off", SERVED, "PORT", low=0, high=65535)
    ] = 0
    device: Annotated[
        str, Option("auto: a GPU if one works, else the CPU", SERVED, choices=("auto", "cpu", "cuda"))
    ] = "auto"
    precision: Annotated[
        str,
        Option(
            "auto: int8 on a CPU with AVX2 or 8-bit dot products, else fp32", SERVED, choices=("auto", "fp32", "int8")
        ),
    ] = "auto"
    build: Annotated[
        str,
        Option(
            "yes: build ONNX files that are missing or out of date while serving; this needs the extra train. auto: if "
            "no folder is named and a model has none",
            SERVED,
            choices=("auto", "yes", "no"),
        ),
    ] = "auto"
    app: Annotated[bool, Option("the app at /", SERVED)] = True
    model_control: Annotated[
        str,
        Option(
            "explicit: requests may load and unload models under /v2/repository", SERVED, choices=("none", "explicit")
        ),
    ] = "none"

    root_path: Annotated[
        str,
        Option(
            "path prefix under which a proxy serves this, such as /zoo; the proxy may remove or keep it; a trusted "
            "proxy's X-Forwarded-Prefix takes precedence",
            BROWSERS,
            "PREFIX",
        ),
    ] = ""
    forwarded_allow_ips: Annotated[
        Words,
        Option(
            "addresses or networks of proxies whose X-Forwarded-For, -Proto, -Host and -Prefix count; *: all",
            BROWSERS,
            "ADDRESS",
        ),
    ] = ("127.0.0.1", "::1")
    allowed_host: Annotated[
        Words,
        Option(
            "names under which clients reach this server, such as zoo.example.com or *.example.com, besides IP "
            "addresses and names without a dot; *: any name. By default, any name if --host is not a loopback "
            "address. Otherwise none, so that no web page can reach this machine under its own name (DNS rebinding)",
            BROWSERS,
            "HOST",
        ),
    ] = ()
    allow_origin: Annotated[
        Words,
        Option(
            "origins whose web pages may use /classify and /v2, such as https://example.com; *: all of them (CORS). "
            "Loading and unloading models remains closed to them",
            BROWSERS,
            "ORIGIN",
        ),
    ] = ()

    threads: Annotated[int, Option("cores for inference; 0: all this process may use", LIMITS, "N", low=0)] = 0
    max_batch: Annotated[int, Option("most images in one run of a model", LIMITS, "N", low=1)] = 32
    max_delay: Annotated[float, Option("seconds a run may wait for more images", LIMITS, "SECONDS", low=0)] = 0.0
    max_queue: Annotated[int, Option("most images that may wait; beyond it, status 503", LIMITS, "N", low=1)] = 256
    max_images: Annotated[
        int, Option(f"most images in a request; 0: {MAX_IMAGES}, or --max-queue if that is less", LIMITS, "N", low=0)
    ] = 0
    timeout: Annotated[float, Option("seconds until a request gets status 504", LIMITS, "SECONDS", low=0.001)] = 10.0
    max_body: Annotated[
        int, Option("most bytes of a request's body, also after decompression", LIMITS, "BYTES", low=1)
    ] = 16 * 2**20
    max_pixels: Annotated[int, Option("most pixels of an image, width x height", LIMITS, "N", low=1)] = 25_000_000
    keep_alive: Annotated[
        int,
        Option(
            "seconds that an idle connection stays open; it must exceed the proxy's own limit", LIMITS, "SECONDS", low=1
        ),
    ] = 75
    linger: Annotated[
        float, Option("seconds to keep serving after SIGTERM, reported as not ready", LIMITS, "SECONDS", low=0)
    ] = 1.0
    shutdown_timeout: Annotated[
        float, Option("seconds to finish accepted requests after that", LIMITS, "SECONDS", low=0)
    ] = 30.0

    access_log: Annotated[bool, Option("log a line for every request", LOGS)] = False
    log_format: Annotated[str, Option("format of the log", LOGS, choices=("text", "json"))] = "text"
    api_key: Annotated[str | None, Option("key that requests must carry", SERVED, flag=False)] = field(
        default=None, repr=False
    )

    def __post_init__(self) -> None:
        for name, (_, option) in OPTIONS.items():
            _check(name, getattr(self, name), option)
        if self.max_images == 0:
            object.__setattr__(self, "max_images", min(MAX_IMAGES, self.max_queue))
        if self.max_images > self.max_queue:
            raise ValueError(f"max_images is {self.max_images}, more than the {self.max_queue} of max_queue")
        for name, valid in _VALID.items():
            for word in getattr(self, name):
                valid(word)
        object.__setattr__(self, "root_path", _checked_prefix(self.root_path))
        if self.api_key is not None:
            _check_key(self.api_key)


# Each setting's type and description.
OPTIONS: dict[str, tuple[Any, Option]] = {
    name: get_args(hint) for name, hint in get_type_hints(Settings, include_extras=True).items()
}


def from_environment(environment: Mapping[str, str] = os.environ, ignore: Collection[str] = ()) -> dict[str, Any]:
    """Read settings from environment variables: ZOO_SERVE_MODELS, ZOO_SERVE_MAX_BATCH, ZOO_SERVE_API_KEY and so on.

    Args:
        environment: The variables.
        ignore: Names of settings whose variables are not read, such as those that a flag sets.

    Returns:
        The value of each setting whose variable exists, by the setting's name.

    Raises:
        ValueError: If a value has the wrong type, or is empty.
    """
    return {
        name: _parse(variable(name), kind, environment[variable(name)])
        for name, (kind, _) in OPTIONS.items()
        if name not in ignore and variable(name) in environment
    }


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


def _parse(shown: str, kind: Any, text: str) -> Any:
    if kind is bool:
        words = {"1": True, "true": True, "0": False, "false": False}
        if text.lower() not in words:
            raise ValueError(f"{shown} is {text!r}; valid are {', '.join(words)}")
        return words[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"{shown} is {text!r}; it must be a number") from None
    if not text.strip():
        raise ValueError(f"{shown} is empty; remove it to use the default")
    if kind is Words:
        return tuple(text.replace(",", " ").split())
    return Path(text) if kind is Path else text


def _check(name: str, value: Any, option: Option) -> None:
    if option.choices and value not in option.choices:
        raise ValueError(f"{name} is {value!r}; valid are {', '.join(option.choices)}")
    # Written so that nan is refused.
    if option.low is not None and not option.low <= value <= option.high:
        raise ValueError(f"{name} is {value}; it must be at least {option.low}, and at most {option.high}")


def _check_host(word: str) -> None:
    if word != "*" and not re.fullmatch(r"(\*\.)?[\w-]+(\.[\w-]+)*\.?|[0-9a-fA-F:]+", word):
        raise ValueError(
            f"allowed_host is {word!r}; valid are names without a port, such as zoo.example.com, *.example.com, or *"
        )


def _check_origin(word: str) -> None:
    if word != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", word):
        raise ValueError(
            f"allow_origin is {word!r}; valid are origins without a path, such as https://example.com:8443, or *"
        )


def _check_address(word: str) -> None:
    if word == "*":
        return
    try:
        ipaddress.ip_network(word)
    except ValueError:
        raise ValueError(
            f"forwarded_allow_ips is {word!r}; valid are IP addresses, networks such as 10.0.0.0/8, or *"
        ) from None


_VALID: dict[str, Callable[[str], None]] = {
    "allowed_host": _check_host,
    "allow_origin": _check_origin,
    "forwarded_allow_ips": _check_address,
}


def _checked_prefix(prefix: str) -> str:
    """Return a path prefix without a slash at its end; "/" alone is no prefix."""
    if prefix and not VALID_PREFIX.fullmatch(prefix):
        raise ValueError(f"root_path is {prefix!r}; it must be a path such as /zoo, of letters, digits, and -._~")
    return prefix.rstrip("/")


def _check_key(key: str) -> None:
    if not key:
        raise ValueError("api_key is empty; remove it to serve everybody")
    if key != key.strip() or not key.isprintable():
        # Without the key itself: somebody else may see the message.
        raise ValueError("api_key starts or ends with white space, or holds an unprintable character")

"""Every setting of the server, in one place: command line, environment and tests all start from `Settings`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PREFIX = "SERVE_"
CHOICES = {
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "fp32", "int8"),
    "log_format": ("text", "json"),
}
LOWEST = {
    "threads": 0,
    "max_batch": 1,
    "max_delay": 0,
    "max_queue": 1,
    "max_images": 0,
    "timeout": 0.001,
    "max_body": 1,
    "max_pixels": 1,
    "linger": 0,
    "shutdown_timeout": 0,
}
MAX_IMAGES = 128
# Threads cannot wait for much longer than this many seconds.
HIGHEST = 2**31


@dataclass(frozen=True)
class Settings:
    """What the server can be told. A field that makes no sense raises ValueError, with its value and the valid ones."""

    models: Path = Path("model_cards")  # one folder per model
    host: str = "127.0.0.1"
    port: int = 8000  # 0: a free one
    device: str = "auto"
    precision: str = "auto"
    app: bool = True  # the app at /

    threads: int = 0  # cores for inference; 0: all that this process may use
    max_batch: int = 32  # images in one run
    max_delay: float = 0.0  # seconds that a run may wait for more images
    max_queue: int = 256  # images waiting
    max_images: int = 0  # images in one request; 0: 128, or `max_queue` where that is less
    timeout: float = 10.0  # seconds until 504
    max_body: int = 16 * 2**20  # bytes of a request, also after decompression
    max_pixels: int = 25_000_000  # of a picture, width x height
    linger: float = 1.0  # seconds to go on serving after SIGTERM
    shutdown_timeout: float = 30.0  # seconds to finish accepted work after that

    access_log: bool = False  # a line per request
    log_format: str = "text"
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, valid in CHOICES.items():
            if getattr(self, name) not in valid:
                raise ValueError(f"{name} is {getattr(self, name)!r}; valid are {', '.join(valid)}")
        for name, low in LOWEST.items():
            if not low <= getattr(self, name) <= HIGHEST:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {low}, and at most {HIGHEST}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; valid are 0 to 65535")
        if self.max_images == 0:
            object.__setattr__(self, "max_images", min(MAX_IMAGES, self.max_queue))
        if self.max_images > self.max_queue:
            raise ValueError(f"max_images is {self.max_images}, more than the {self.max_queue} of max_queue")
        if self.api_key == "":
            raise ValueError("api_key is empty; leave it out to serve everybody")
        if self.api_key is not None and (self.api_key != self.api_key.strip() or not self.api_key.isprintable()):
            # Without the key itself: somebody else may see the message.
            raise ValueError(
                "api_key begins or ends with white space, or holds what cannot be printed, as a line break"
            )


def from_environment(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Read the fields of `Settings` that variables give: SERVE_MODELS, SERVE_MAX_BATCH, SERVE_API_KEY and so on."""
    return {
        entry.name: _parse(entry.name, type(entry.default), text)
        for entry in fields(Settings)
        if (text := environment.get(PREFIX + entry.name.upper())) is not None
    }


def _parse(name: str, kind: type, text: str) -> Any:
    if kind is bool:
        words = {"1": True, "true": True, "0": False, "false": False}
        if text.lower() not in words:
            raise ValueError(f"{PREFIX}{name.upper()} is {text!r}; valid are {', '.join(words)}")
        return words[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"{PREFIX}{name.upper()} is {text!r}; it must be a number") from None
    if not text:
        raise ValueError(f"{PREFIX}{name.upper()} is empty; leave it out for the default")
    return Path(text) if kind is type(Path()) else text

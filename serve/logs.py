"""Log lines to stderr: text for people, JSON for machines."""

import json
import logging
import sys
import threading
import time
from types import TracebackType
from typing import Any

from serve.settings import Settings


class JsonFormatter(logging.Formatter):
    """One JSON object per line. If a record's arguments are a mapping, as in the access log, they become fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(record.args, dict):
            line.update(record.args)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(settings: Settings) -> None:
    """Configure the loggers of the whole process: the server's and its libraries'."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter() if settings.log_format == "json" else logging.Formatter("%(levelname)s: %(message)s")
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    if settings.log_format == "json":
        _log_what_python_prints()
    logging.getLogger("serve").setLevel(logging.INFO)
    # They warn of broken requests, by which anybody could fill the log.
    for name in ("uvicorn", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)


def start_line(message: str, settings: Settings, level: int = logging.INFO) -> str:
    """Return a line of the command itself, which is printed and not logged, in the format of the log."""
    if settings.log_format == "text":
        return message
    return JsonFormatter().format(logging.LogRecord("serve", level, __file__, 0, message, None, None))


def _log_what_python_prints() -> None:
    """Log the warnings and the uncaught exceptions that Python would print to stderr as plain text."""
    logging.captureWarnings(True)
    log = logging.getLogger("serve")

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("uncaught exception", exc_info=(kind, error, trace))

    def in_thread(arguments: "threading.ExceptHookArgs") -> None:
        value: Any = arguments.exc_value
        log.error("uncaught exception in a thread", exc_info=(arguments.exc_type, value, arguments.exc_traceback))

    def unraisable(arguments: "sys.UnraisableHookArgs") -> None:
        value: Any = arguments.exc_value
        message = arguments.err_msg or "exception ignored"
        log.error(message, exc_info=(arguments.exc_type, value, arguments.exc_traceback))

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_thread, unraisable

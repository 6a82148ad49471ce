"""Log lines to stderr: text for people, JSON for machines."""

import json
import logging
import time

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
    logging.getLogger("serve").setLevel(logging.INFO)
    # They warn of broken requests, by which anybody could fill the log.
    for name in ("uvicorn", "python_multipart"):
        logging.getLogger(name).setLevel(logging.ERROR)

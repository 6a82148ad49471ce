"""Errors of requests. Each has its HTTP status, so that all routes report it alike."""


class ApiError(Exception):
    """A request that fails.

    Args:
        status: The HTTP status.
        message: The text in `{"error": ...}`.
        retry_after: Seconds for the header Retry-After, if another attempt can succeed.

    Attributes:
        outcome: The outcome in the metrics; empty: that of the status.
    """

    outcome = ""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers: Retry-After (whole seconds) if another attempt can succeed."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


class BadRequest(ApiError):
    """400: the request itself is wrong; another attempt fails too."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


class Forbidden(ApiError):
    """403: the server is configured not to do this; the message says how to change that."""

    def __init__(self, message: str) -> None:
        super().__init__(403, message)


class BadImage(ApiError):
    """400 for a broken image, 413 for one that is too large, 415 for a format that is not accepted."""


class ModelNotFound(ApiError):
    """404: no model of that name is served."""

    def __init__(self, name: str, valid: list[str]) -> None:
        names = ", ".join(sorted(valid)) or "none"
        super().__init__(404, f"unknown model {name!r}; this server has: {names}")


class NoStudy(ApiError):
    """404: a model has no study file that could be looked into; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(404, message)


class NotReady(ApiError):
    """503: models are not loaded, or not yet."""

    outcome = "not_ready"

    def __init__(self, message: str) -> None:
        super().__init__(503, message, retry_after=1)


class ModelNotReady(NotReady):
    """503: the model is known, but not loaded at present."""

    def __init__(self, name: str, state: str) -> None:
        super().__init__(f"model {name!r} is not ready: {state}")


class Overloaded(ApiError):
    """503: the server has too much to do; the response is immediate, and the work never starts."""

    def __init__(self, message: str = "the queue is full") -> None:
        super().__init__(503, message, retry_after=1)


class DeadlineExceeded(ApiError):
    """504: the result is not ready in time; work that has not started by then never starts."""

    def __init__(self) -> None:
        super().__init__(504, "no result in time")


class ModelLoadError(ApiError):
    """400: a model's folder cannot be served; the message says what is wrong with it and how to fix it."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)

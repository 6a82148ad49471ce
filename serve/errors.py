"""What can go wrong on the way to an answer. Every error knows its HTTP status, so that all routes report it alike."""


class ApiError(Exception):
    """A request that gets no result. `status` is the HTTP status, `message` the text in `{"error": ...}`."""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers for the answer: Retry-After (whole seconds) where trying again can help."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


class BadRequest(ApiError):
    """400: the request itself is wrong; sending it again would give the same answer."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


class BadImage(ApiError):
    """400 a broken picture, 413 one that is too large, 415 one in a format that is not accepted."""


class ModelNotFound(ApiError):
    """404: no model of that name is served."""

    def __init__(self, name: str, valid: list[str]) -> None:
        names = ", ".join(sorted(valid)) or "none"
        super().__init__(404, f"unknown model {name!r}; this server has: {names}")


class ModelNotReady(ApiError):
    """503: the model is known, but not loaded now."""

    def __init__(self, name: str, state: str) -> None:
        super().__init__(503, f"model {name!r} is not ready: {state}", retry_after=1)


class Overloaded(ApiError):
    """503: there is too much to do; the answer comes at once, and the work is never begun."""

    def __init__(self, message: str = "the queue is full") -> None:
        super().__init__(503, message, retry_after=1)


class DeadlineExceeded(ApiError):
    """504: the result did not come in time; work that has not begun by then is never begun."""

    def __init__(self) -> None:
        super().__init__(504, "no result in time")


class ModelLoadError(ApiError):
    """400: a model's folder cannot be served; the message says what is wrong with it and how to mend it."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)

"""How many processes share the listening socket."""

import multiprocessing


def workers() -> int:
    """Return the number of worker processes of which this is one, as uvicorn or Hypercorn started it; otherwise 1.

    Both start each worker by `multiprocessing` and hand it their configuration. No environment variable tells a worker
    that it has siblings.
    """
    config = getattr(multiprocessing.current_process(), "_kwargs", {}).get("config")
    count = getattr(config, "workers", 1)
    return count if isinstance(count, int) else 1

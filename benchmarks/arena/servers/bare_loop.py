"""The upper limit: a loop without HTTP. It prints images/s, milliseconds a batch, core-hours, and the image's class.

`python -m benchmarks.arena.servers.bare_loop IMAGE BATCH SECONDS decode|ready`
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from .model import decode, run, session


def main() -> None:
    data = Path(sys.argv[1]).read_bytes()
    batch, seconds, decodes = int(sys.argv[2]), float(sys.argv[3]), sys.argv[4] == "decode"
    network = session()
    images = np.concatenate([decode(data)] * batch)

    def step() -> np.ndarray:
        return run(network, np.concatenate([decode(data) for _ in range(batch)]) if decodes else images)

    end = time.perf_counter() + min(2, seconds)
    while time.perf_counter() < end:
        best = int(step()[0].argmax())
    times: list[float] = []
    used = time.process_time()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    used = time.process_time() - used
    count = batch * len(times)
    print(
        json.dumps(
            {"rate": count / sum(times), "median": 1000 * float(np.median(times)), "cpu": used / count, "class": best}
        )
    )


if __name__ == "__main__":
    main()

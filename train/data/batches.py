"""Cut an epoch into batches, and batches into the shares of the processes.

All processes together train on the same images at each step, however many processes there are.
"""


def batches(n: int, batch_size: int) -> list[slice]:
    """Cut 0..n into consecutive batches; a remainder of less than half a batch is left out."""
    slices = [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    if len(slices) > 1 and 2 * (slices[-1].stop - slices[-1].start) < batch_size:
        slices.pop()
    return slices


def shares(batch: slice, micro_batches: int, processes: int, process: int) -> list[slice]:
    """Compute one process's share of each micro-batch of a global batch; the shares of all processes are the batch."""
    parts = micro_batches * processes
    n = batch.stop - batch.start
    edges = [batch.start + n * part // parts for part in range(parts + 1)]
    mine = range(process, parts, processes)
    return [slice(edges[part], edges[part + 1]) for part in mine]

"""Which images each process trains on at each step: the same ones together, however many processes there are."""


def batches(n: int, batch_size: int) -> list[slice]:
    """Consecutive batches of 0..n; a remainder counts as a batch from half a batch on, and is left out below."""
    slices = [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    if len(slices) > 1 and 2 * (slices[-1].stop - slices[-1].start) < batch_size:
        slices.pop()
    return slices


def shares(batch: slice, micro_batches: int, processes: int, process: int) -> list[slice]:
    """One process's share of each micro-batch of a global batch: together they are the batch, whatever the counts."""
    parts = micro_batches * processes
    n = batch.stop - batch.start
    edges = [batch.start + n * part // parts for part in range(parts + 1)]
    mine = range(process, parts, processes)
    return [slice(edges[part], edges[part + 1]) for part in mine]

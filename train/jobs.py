"""Work on several items in processes of their own."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

KILLED = "the process that built it, or one beside it, was killed; try --jobs 1"


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], jobs: int
) -> Iterator[tuple[Item, Result | None]]:
    """Do `work` on each item, `jobs` at a time, which share the cores; with one job or item, in this process.

    Yields:
        Each item with its result as soon as it is done; None where the process was killed, as when memory runs out.
    """
    if jobs == 1 or len(items) < 2:
        yield from ((item, work(item)) for item in items)
        return
    # torch starts threads, and a fork of a process with threads can hang.
    with ProcessPoolExecutor(jobs, get_context("spawn"), _share_cores, (jobs,)) as pool:
        tasks = {pool.submit(work, item): item for item in items}
        for task in as_completed(tasks):
            try:
                yield tasks[task], task.result()
            except BrokenExecutor:
                yield tasks[task], None


def _share_cores(jobs: int) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))


def first_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__

"""Whatever the number of processes and pieces, a step sees the same images."""

from hypothesis import given
from hypothesis import strategies as st

from train.data.batches import batches, shares


def images(piece: slice) -> list[int]:
    return list(range(piece.start, piece.stop))


@given(n=st.integers(1, 2000), size=st.integers(1, 300))
def test_batches_are_consecutive_and_leave_out_less_than_half_a_batch(n: int, size: int) -> None:
    plan = batches(n, size)
    seen = [i for batch in plan for i in images(batch)]
    assert seen == list(range(len(seen)))
    assert all(len(images(batch)) == size for batch in plan[:-1])
    left_out = n - len(seen)
    if n >= size:
        assert 2 * left_out < size
        assert size <= 2 * len(images(plan[-1])) <= 2 * size
    else:
        assert left_out == 0
        assert len(plan) == 1


@given(start=st.integers(0, 500), n=st.integers(1, 300), micro_batches=st.integers(1, 7), processes=st.integers(1, 9))
def test_shares_of_all_processes_are_the_batch(start: int, n: int, micro_batches: int, processes: int) -> None:
    batch = slice(start, start + n)
    pieces = [shares(batch, micro_batches, processes, process) for process in range(processes)]
    assert all(len(mine) == micro_batches for mine in pieces)
    everything = sorted(i for mine in pieces for piece in mine for i in images(piece))
    assert everything == images(batch)
    sizes = [len(images(piece)) for mine in pieces for piece in mine]
    assert max(sizes) - min(sizes) <= 1


@given(n=st.integers(1, 300), micro_batches=st.integers(1, 5), processes=st.integers(1, 5))
def test_a_micro_batch_of_many_is_a_run_of_the_batch(n: int, micro_batches: int, processes: int) -> None:
    """In turn over the processes, the micro-batches go through the batch from its first image to its last."""
    turns = [shares(slice(0, n), micro_batches, processes, process) for process in range(processes)]
    in_turn = [i for turn in zip(*turns, strict=True) for piece in turn for i in images(piece)]
    assert in_turn == list(range(n))

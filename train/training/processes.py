"""A run of several processes, on one machine or several: the end of one is the end of all."""

import torch.distributed

# How gloo and NCCL speak of a peer that has gone, or answers no more. gloo raises plain RuntimeErrors.
WORDS = ("gloo", "Connection closed by peer", "Connection reset by peer", "Socket closed", "timed out", "Timed out")
LOST = (
    "another process of this run has ended, and its output says why; the same command with --resume goes on, "
    "also with another number of processes"
)


def is_lost(error: RuntimeError) -> bool:
    """Tell whether an error comes from the connection to the run's other processes."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return False
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in WORDS)

"""Training steps as CUDA graphs: a step's hundreds of kernels, launched as one.

In batches of 128 small images, most kernels of these networks take a GPU less time than Python takes to launch them.
A graph is captured once for each input size and replayed from then on. It reads and writes the same memory each time,
so all that changes from step to step (which images, the learning rate) is copied there first.
"""

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from train.data.augment import Draws

# Before a capture: cuDNN chooses its algorithms, the optimiser allocates its momentum. They count as any other step.
STEPS_BEFORE = 3


class GraphError(RuntimeError):
    """A step that cannot be captured; its message is one line for the user."""


def possible(accelerator: Accelerator) -> bool:
    """Tell whether steps can be captured: one process on a CUDA device, and no step in which the host waits.

    fp16 is out: its loss scaling looks for infinities after each step.
    """
    one_gpu = accelerator.device.type == "cuda" and accelerator.num_processes == 1
    return bool(one_gpu and accelerator.mixed_precision != "fp16")


class Steps:
    """Runs each training step as it is, kernel by kernel."""

    def draws(self, draws: Draws) -> Draws:
        """Take an epoch's random numbers, and return those that the steps are to use."""
        return draws

    def rate(self, group: int, value: float) -> float | Tensor:  # noqa: ARG002  (graphs keep one tensor for each)
        """Return the learning rate as the optimiser's group is to hold it."""
        return value

    def run(self, step: Callable[[Tensor], None], rows: Tensor, size: tuple[int, int]) -> None:  # noqa: ARG002
        """Take a step on some rows of the training images.

        Args:
            step: what to do, given the rows.
            rows: int64 [b].
            size: height and width of the input.
        """
        step(rows)


class GraphedSteps(Steps):
    """Runs steps on whole batches as a graph, from the fourth of each input size on; a smaller rest runs as it is.

    A step must keep no tensor of its own for the next one and leave no gradients behind: a graph writes its gradients
    where those of its capture were.
    """

    def __init__(self, device: torch.device, batch_size: int) -> None:
        self._rows = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._draws: Draws | None = None
        self._rates: dict[int, Tensor] = {}
        self._size: tuple[int, int] | None = None
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def draws(self, draws: Draws) -> Draws:
        """Copy an epoch's random numbers into the memory of the first epoch's."""
        if self._draws is None:
            self._draws = draws
        else:
            for kept, drawn in zip(vars(self._draws).values(), vars(draws).values(), strict=True):
                kept.copy_(drawn)
        return self._draws

    def rate(self, group: int, value: float) -> Tensor:
        """Write the learning rate of one of the optimiser's groups, always into the same memory."""
        if group not in self._rates:
            self._rates[group] = torch.zeros((), device=self._rows.device)
        return self._rates[group].fill_(value)

    def run(self, step: Callable[[Tensor], None], rows: Tensor, size: tuple[int, int]) -> None:
        """Take a step; each input size gets a graph of its own.

        Raises:
            GraphError: the step cannot be captured.
        """
        if len(rows) != len(self._rows):
            step(rows)
            return
        if size != self._size:
            self._size, self._steps, self._graph = size, 0, None
        self._rows.copy_(rows)
        self._steps += 1
        if self._steps <= STEPS_BEFORE:
            # On the stream of the capture, which is not the default one.
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                step(self._rows)
            torch.cuda.current_stream().wait_stream(self._stream)
            return
        if self._graph is None:
            self._graph = self._capture(step)
        self._graph.replay()

    def _capture(self, step: Callable[[Tensor], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                step(self._rows)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise GraphError(f"the step cannot be captured as a CUDA graph ({reason}): add --no-cuda-graphs") from error
        return graph

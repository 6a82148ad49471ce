"""Train a model: `accelerate launch train/fit.py --model improved_googlenet --dataset cifar10 --recipe fast`.

The same command trains on a CPU, on one GPU, on several and on several machines: `accelerate config` or the flags of
`accelerate launch` say which. Plain `python train/fit.py` uses the GPU where there is one.
"""

import copy
import io
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # The imports take seconds, in which Ctrl-C would print a traceback. `main` takes over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from torch import nn

from train.cards import provenance
from train.errors import UserError
from train.onnx_export import graph
from train.paper import ablation
from train.speed.graphs import GraphError
from train.training import fitting, models
from train.training.arguments import parse
from train.training.progress import LossError
from train.training.runs import interrupt
from train.training.runs.checkpoint import CheckpointError


def export_problem(model: nn.Module) -> str | None:
    """Say why a model cannot be exported to ONNX; None where it can. Nothing but the export itself tells.

    It takes 5 s for `resnet18` and 9 s for `vit_tiny_patch16_224` on one core.
    """
    channels, *sides = models.pretrained_cfg(model)["input_size"]
    # The exporter prints pages of what it tried.
    with graph.quiet("torch"), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            graph.build(copy.deepcopy(model).eval(), (*sides, channels))
        except Exception as error:  # of nearly any type
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            return str(cause).strip().partition("\n")[0] or type(cause).__name__
    return None


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0, 2 for a mistake of the user's, 1 for a run that failed, 130 for one that was stopped.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt.follow_launcher()
    try:
        args = parse(argv)
        if args.variant:
            ablation.choose(args, *args.variant)
        earlier = provenance.earlier_runs(models.tagged(args.model, args.dataset), args.pretrained)
        fitting.fit(args, earlier, export_problem)
    except UserError as error:
        print(f"fit.py: {error}", file=sys.stderr)
        return 2
    except (LossError, GraphError, CheckpointError, OSError) as error:  # OSError: a full disk, for example
        print(f"fit.py: {error}", file=sys.stderr)
        return 1
    except interrupt.Interrupted as error:
        print(f"fit.py: {error}; the state is saved: the same command with --resume goes on", file=sys.stderr)
        return 130
    except KeyboardInterrupt:  # before the first step, or after the last
        print("fit.py: interrupted; where a run has begun, the same command with --resume goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
